"""Which layers unpack their weights, and whether a model fits its device."""

from collections.abc import Sequence
from typing import Literal, NoReturn

from firmware_export.engine.graph import Graph
from firmware_export.engine.layer import Layer
from firmware_export.engine.lower import lower
from hybrid.errors import BudgetError

Weights = Literal["auto", "int8", "int16"]
"""How weights shall stand in flash; ``auto``: each layer as it does best within the budget."""
_NAMED = 5
"""Layers in a message."""


def choose_layers(
    graph: Graph, weights: Weights, flash_bytes: int | None, *, low_ram: bool = False, lean: bool = False
) -> tuple[Layer, ...]:
    """Lower a graph within a budget of flash for constants; `low_ram` prefers little scratch to few instructions.

    `lean` is for cores without DSP instructions.

    ``auto`` unpacks all weights and then takes back what costs most bytes for each multiplication that gains by it,
    until the rest fits.

    Raises: BudgetError naming the largest layers.
    """
    if weights != "auto":
        layers = list(lower(graph, weights=weights, low_ram=low_ram, lean=lean))
    else:
        layers = list(lower(graph, weights="int16", low_ram=low_ram, lean=lean))
        small = lower(graph, weights="int8", low_ram=low_ram, lean=lean)
        excess = constant_bytes(graph, layers) - flash_bytes if flash_bytes is not None else 0
        for place in sorted(range(len(layers)), key=lambda i: (_gain(layers[i], small[i]), i)):
            if excess <= 0:
                break
            excess -= layers[place].flash_bytes - small[place].flash_bytes
            layers[place] = small[place]
    if flash_bytes is not None and constant_bytes(graph, layers) > flash_bytes:
        _refuse_flash(graph, layers, weights, flash_bytes)
    return tuple(layers)


def check_ram(needed: int, ram_bytes: int | None, live: Sequence[tuple[int, Layer]]) -> None:
    """Raise BudgetError where the arena is too large; `live` says what each layer needs while it runs."""
    if ram_bytes is None or needed <= ram_bytes:
        return
    beyond = [(size, layer) for size, layer in live if size > ram_bytes]
    gaps = "" if beyond else ", and gaps between what outlives them"
    remedy = f"while running: {_largest(beyond or live)}{gaps}; choose a smaller net"
    raise BudgetError("ram_bytes", needed, ram_bytes, "", remedy)


def constant_bytes(graph: Graph, layers: Sequence[Layer]) -> int:
    """Bytes of flash for all constants: weights, tables, and tensors of the model that kernels read as they are."""
    read = {n for layer in layers for call in layer.calls for n in call.reads if graph.tensors[n].data is not None}
    return sum(layer.flash_bytes for layer in layers) + sum(graph.tensors[number].size for number in read)


def _refuse_flash(graph: Graph, layers: Sequence[Layer], weights: Weights, flash_bytes: int) -> NoReturn:
    remedy = f"weights and tables: {_largest([(layer.flash_bytes, layer) for layer in layers])}; choose a smaller net"
    if weights == "int16":
        remedy += ", or weights auto"
    raise BudgetError("flash_bytes", constant_bytes(graph, layers), flash_bytes, "", remedy)


def _gain(wide: Layer, small: Layer) -> float:
    """Multiplications per byte that unpacking costs."""
    return wide.macs / max(wide.flash_bytes - small.flash_bytes, 1)


def _largest(sizes: Sequence[tuple[int, Layer]]) -> str:
    ordered = sorted(sizes, key=lambda pair: -pair[0])
    shown = ", ".join(f"layer {layer.number} {layer.kind} {size:,}" for size, layer in ordered[:_NAMED])
    return shown if len(ordered) <= _NAMED else f"{shown}, and {len(ordered) - _NAMED} more"
