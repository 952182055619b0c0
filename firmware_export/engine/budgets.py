"""Which layers unpack their weights or spare memory, and whether a model fits its device."""

from collections.abc import Container, Sequence
from typing import Literal, NoReturn

from firmware_export.engine.graph import Graph
from firmware_export.engine.layer import Layer, WeightWidth
from firmware_export.engine.lower import lower
from firmware_export.engine.memory import Memory, lay_out
from hybrid.errors import BudgetError

Weights = Literal["auto", "int8", "int16"]
"""How weights shall stand in flash; ``auto``: each layer as it does best within the budget."""
_NAMED = 5
"""Layers in a message."""


def fit(
    graph: Graph, weights: Weights, ram_bytes: int | None, flash_bytes: int | None, *, lean: bool = False
) -> tuple[tuple[Layer, ...], Memory]:
    """Lower a graph and lay out its memory within both budgets, of memory and of flash for constants.

    Layers take little scratch instead of few instructions where `ram_bytes` asks for it: first those that exceed it
    while they run, and should gaps remain, all. `lean` is for cores without DSP instructions.

    Raises: BudgetError naming layers and what they need.
    """
    layers = choose_layers(graph, weights, flash_bytes, lean=lean)
    memory = lay_out(graph, layers)
    if ram_bytes is None or memory.nbytes <= ram_bytes:
        return layers, memory
    beyond = {place for place, nbytes in enumerate(memory.live) if nbytes > ram_bytes}
    for low_ram in (beyond, range(len(layers))):
        layers = choose_layers(graph, weights, flash_bytes, low_ram, lean=lean)
        memory = lay_out(graph, layers)
        if memory.nbytes <= ram_bytes:
            return layers, memory
    raise _beyond_ram(layers, memory, ram_bytes)


def choose_layers(
    graph: Graph, weights: Weights, flash_bytes: int | None, low_ram: Container[int] = (), *, lean: bool = False
) -> tuple[Layer, ...]:
    """Lower a graph within a budget of flash for constants; layers at places in `low_ram` take little scratch.

    `lean` is for cores without DSP instructions.

    ``auto`` unpacks all weights and then takes back what costs most bytes for each multiplication that gains by it,
    until the rest fits.

    Raises: BudgetError naming the largest layers.
    """
    if weights != "auto":
        layers = _lowered(graph, weights, low_ram, lean)
    else:
        layers, small = _lowered(graph, "int16", low_ram, lean), _lowered(graph, "int8", low_ram, lean)
        excess = constant_bytes(graph, layers) - flash_bytes if flash_bytes is not None else 0
        for place in sorted(range(len(layers)), key=lambda i: (_gain(layers[i], small[i]), i)):
            if excess <= 0:
                break
            excess -= layers[place].flash_bytes - small[place].flash_bytes
            layers[place] = small[place]
    if flash_bytes is not None and constant_bytes(graph, layers) > flash_bytes:
        _refuse_flash(graph, layers, weights, flash_bytes)
    return tuple(layers)


def _lowered(graph: Graph, weights: WeightWidth, low_ram: Container[int], lean: bool) -> list[Layer]:
    layers = list(lower(graph, weights=weights, lean=lean))
    tight = [place for place in range(len(layers)) if place in low_ram]
    if tight:
        small = lower(graph, weights=weights, low_ram=True, lean=lean)
        for place in tight:
            layers[place] = small[place]
    return layers


def _beyond_ram(layers: Sequence[Layer], memory: Memory, ram_bytes: int) -> BudgetError:
    live = list(zip(memory.live, layers, strict=True))
    beyond = [(nbytes, layer) for nbytes, layer in live if nbytes > ram_bytes]
    gaps = "" if beyond else ", and gaps between what outlives them"
    remedy = f"while running: {_largest(beyond or live)}{gaps}; choose a smaller net"
    return BudgetError("ram_bytes", memory.nbytes, ram_bytes, "", remedy)


def constant_bytes(graph: Graph, layers: Sequence[Layer]) -> int:
    """Bytes of flash for all constants: weights, tables, and tensors of the model that kernels read as they are."""
    read = {n for layer in layers for call in layer.calls for n in call.reads if graph.tensors[n].data is not None}
    return sum(layer.flash_bytes for layer in layers) + sum(graph.tensors[number].nbytes for number in read)


def _refuse_flash(graph: Graph, layers: Sequence[Layer], weights: Weights, flash_bytes: int) -> NoReturn:
    remedy = f"weights and tables: {_largest([(layer.flash_bytes, layer) for layer in layers])}; choose a smaller net"
    if weights == "int16":
        remedy += ", or weights auto"
    raise BudgetError("flash_bytes", constant_bytes(graph, layers), flash_bytes, "", remedy)


def _gain(wide: Layer, small: Layer) -> float:
    """Multiplications per byte that unpacking costs; fewer products gain about four times what unpacking does."""
    times = 4 if [call.kernel for call in wide.calls] != [call.kernel for call in small.calls] else 1
    return times * wide.macs / max(wide.flash_bytes - small.flash_bytes, 1)


def _largest(sizes: Sequence[tuple[int, Layer]]) -> str:
    ordered = sorted(sizes, key=lambda pair: -pair[0])
    shown = ", ".join(f"layer {layer.number} {layer.kind} {size:,}" for size, layer in ordered[:_NAMED])
    return shown if len(ordered) <= _NAMED else f"{shown}, and {len(ordered) - _NAMED} more"
