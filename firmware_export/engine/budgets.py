"""Which layers unpack their weights, and whether a model fits its device."""

from collections.abc import Sequence
from typing import Literal

from firmware_export.engine.graph import Graph
from firmware_export.engine.layer import Layer
from firmware_export.engine.lower import lower
from hybrid.errors import BudgetError

Weights = Literal["auto", "int8", "int16"]
_NAMED = 3


def choose_layers(
    graph: Graph, weights: Weights, flash_bytes: int | None, *, low_ram: bool = False
) -> tuple[Layer, ...]:
    """Lower a graph within a budget of flash for constants; `low_ram` prefers little scratch to few instructions.

    ``auto`` unpacks all weights and then takes back what costs most bytes for each multiplication that gains by it,
    until the rest fits.

    Raises: BudgetError naming the largest layers.
    """
    if weights != "auto":
        layers = list(lower(graph, weights=weights, low_ram=low_ram))
    else:
        layers = list(lower(graph, weights="int16", low_ram=low_ram))
        small = lower(graph, weights="int8", low_ram=low_ram)
        excess = _flash(layers) - flash_bytes if flash_bytes is not None else 0
        for place in sorted(range(len(layers)), key=lambda i: (_gain(layers[i], small[i]), i)):
            if excess <= 0:
                break
            excess -= layers[place].flash_bytes - small[place].flash_bytes
            layers[place] = small[place]
    if flash_bytes is not None and _flash(layers) > flash_bytes:
        remedy = f"weights and tables: {_largest([(n.flash_bytes, n) for n in layers])}; choose a smaller net"
        if weights == "int16":
            remedy += ", or weights auto"
        raise BudgetError("flash_bytes", _flash(layers), flash_bytes, "budget", remedy)
    return tuple(layers)


def check_ram(needed: int, ram_bytes: int | None, live: Sequence[tuple[int, Layer]]) -> None:
    """Raise BudgetError where the arena is too large; `live` says what each layer needs while it runs."""
    if ram_bytes is not None and needed > ram_bytes:
        raise BudgetError(
            "ram_bytes", needed, ram_bytes, "budget", f"while running: {_largest(live)}; choose a smaller net"
        )


def _flash(layers: Sequence[Layer]) -> int:
    return sum(layer.flash_bytes for layer in layers)


def _gain(wide: Layer, small: Layer) -> float:
    """Multiplications per byte that unpacking costs; fewer products gain about four times what unpacking does."""
    times = 4 if [call.kernel for call in wide.calls] != [call.kernel for call in small.calls] else 1
    return times * wide.macs / max(wide.flash_bytes - small.flash_bytes, 1)


def _largest(sizes: Sequence[tuple[int, Layer]]) -> str:
    ordered = sorted(sizes, key=lambda pair: -pair[0])[:_NAMED]
    return ", ".join(f"layer {layer.number} {layer.kind} {size:,}" for size, layer in ordered)
