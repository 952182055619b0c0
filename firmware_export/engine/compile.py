"""A flatbuffer in, C sources out: the ahead-of-time engine's front door."""

import re
from dataclasses import dataclass, field

from firmware_export.engine.budgets import Weights, check_ram, choose_layers
from firmware_export.engine.emit import families_of, kernel_files, model_files
from firmware_export.engine.graph import Graph
from firmware_export.engine.layer import Layer, WeightWidth
from firmware_export.engine.memory import lay_out, live_layers
from firmware_export.engine.prune import prune
from firmware_export.engine.reader import read
from hybrid.errors import SpecError, UnsupportedOpError

_PREFIX = re.compile(r"[a-z][a-z0-9_]{0,40}")
_RIM_TYPES = ("int8", "uint8", "float32")


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """A row of the table of layers."""

    number: int
    kind: str
    shape: tuple[int, ...]
    macs: int
    kernel: str
    """Names of the kernels, empty where nothing is left to do."""
    weights: WeightWidth | None
    flash_bytes: int
    scratch_bytes: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Compiled:
    """A model as C."""

    prefix: str
    kernels: str
    """Prefix of the kernels' files."""
    graph: Graph
    families: frozenset[str]
    """Which kernels it needs."""
    sources: dict[str, str] = field(repr=False)
    """The model's own files."""
    layers: tuple[LayerCost, ...]
    ram_bytes: int
    """Static bytes; the stack comes in addition."""
    flash_bytes: int
    """Constants, without code."""

    @property
    def files(self) -> dict[str, str]:
        """All files by name, the kernels' among them."""
        return {**self.sources, **kernel_files(self.kernels, self.families)}


def compile_model(
    flatbuffer: bytes,
    *,
    prefix: str = "model",
    weights: Weights = "auto",
    ram_bytes: int | None = None,
    flash_bytes: int | None = None,
    kernels: str | None = None,
) -> Compiled:
    """Compile a model of int8.

    `ram_bytes` and `flash_bytes` are what the model may take: of static memory, and of flash for its constants; code
    and stack come on top. `weights` says how weights stand in flash, ``auto`` as int16 as far as `flash_bytes` allows.

    Models that go into one firmware may share their kernels: give them the same name `kernels`, and write
    `firmware_export.engine.emit.kernel_files` once for the families of all.

    Raises: SpecError for a damaged flatbuffer or an unusable prefix; UnsupportedOpError for what the engine lacks;
    BudgetError where the model does not fit.
    """
    for name in (prefix, kernels or prefix):
        if not _PREFIX.fullmatch(name):
            raise SpecError(f"prefix: got '{name}', allowed lower-case letters, digits and _, a letter first, up to 41")
    graph = prune(read(flatbuffer))
    _check_rim(graph)
    layers = choose_layers(graph, weights, flash_bytes)
    memory = lay_out(graph, layers)
    if ram_bytes is not None and memory.nbytes > ram_bytes:
        layers = choose_layers(graph, weights, flash_bytes, low_ram=True)
        memory = lay_out(graph, layers)
    check_ram(memory.nbytes, ram_bytes, live_layers(graph, layers))
    kernel_prefix = kernels or prefix
    sources = model_files(graph, layers, memory, prefix=prefix, kernels=kernel_prefix, title=prefix)
    operands = {n for layer in layers for call in layer.calls for n in call.reads if graph.tensors[n].data is not None}
    return Compiled(
        prefix=prefix,
        kernels=kernel_prefix,
        graph=graph,
        families=families_of(layers),
        sources=sources,
        layers=tuple(map(_cost, layers)),
        ram_bytes=max(memory.nbytes, 4),
        flash_bytes=sum(layer.flash_bytes for layer in layers) + sum(graph.tensors[n].size for n in operands),
    )


def _check_rim(graph: Graph) -> None:
    for word, numbers in (("input", graph.inputs), ("output", graph.outputs)):
        for number in numbers:
            tensor = graph.tensors[number]
            if tensor.dtype not in _RIM_TYPES:
                allowed = ", ".join(_RIM_TYPES)
                raise UnsupportedOpError(f"{word} '{tensor.name}': is {tensor.dtype}, allowed are {allowed}")
            if tensor.data is not None:
                raise UnsupportedOpError(f"{word} '{tensor.name}': is a constant; remove it from the model's {word}s")


def _cost(layer: Layer) -> LayerCost:
    return LayerCost(
        number=layer.number,
        kind=layer.kind,
        shape=layer.output_shape,
        macs=layer.macs,
        kernel=" + ".join(dict.fromkeys(call.kernel for call in layer.calls)),
        weights=layer.weights,
        flash_bytes=layer.flash_bytes,
        scratch_bytes=layer.scratch_bytes,
    )
