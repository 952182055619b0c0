"""A flatbuffer in, C sources out: the ahead-of-time engine's front door."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from firmware_export.engine.budgets import Weights, constant_bytes, fit
from firmware_export.engine.cores import Cpu, core_named
from firmware_export.engine.emit import arena_files, families_of, kernel_files, model_files
from firmware_export.engine.graph import Graph
from firmware_export.engine.layer import Layer, WeightWidth
from firmware_export.engine.lower import folded, macs_of
from firmware_export.engine.prune import prune
from firmware_export.engine.reader import read
from hybrid.errors import SpecError, UnsupportedOpError

_PREFIX = re.compile(r"[a-z][a-z0-9_]{0,40}")
_C_HEADERS = """assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdarg stdbool
stddef stdint stdio stdlib string strings tgmath time wchar wctype"""
_TAKEN = frozenset([*_C_HEADERS.split(), "emulate", "harness", "main", "profile"])
"""Names whose files would hide others: of C, and of the programs that run a model to verify and to measure it."""


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
    """Bytes of RAM that it needs beside its tensors."""
    live_bytes: int
    """Bytes of RAM in use while it runs: all tensors that are needed then or later, and its scratch."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Compiled:
    """A model as C."""

    prefix: str
    kernels: str
    """Prefix of the kernels' files."""
    arena: str | None
    """Prefix of the files of a buffer that it shares with others."""
    graph: Graph
    families: frozenset[str]
    """Which kernels it needs."""
    sources: dict[str, str] = field(repr=False)
    """The model's own files."""
    layers: tuple[LayerCost, ...]
    model_macs: int
    """Of the model as it was given: those of channels that no input changes are not among the layers'."""
    ram_bytes: int
    """Static bytes; the stack comes in addition."""
    bound_bytes: int
    """No plan of memory takes less; so the plan is optimal where it takes as much."""
    flash_bytes: int
    """Constants, without code."""

    @property
    def files(self) -> dict[str, str]:
        """All files by name, the kernels' among them, and those of a shared buffer."""
        return program_files([self])


def compile_model(
    flatbuffer: bytes,
    *,
    prefix: str = "model",
    weights: Weights = "auto",
    cpu: Cpu = "cortex-m4",
    ram_bytes: int | None = None,
    flash_bytes: int | None = None,
    kernels: str | None = None,
    arena: str | None = None,
) -> Compiled:
    """Compile a model of int8.

    `ram_bytes` and `flash_bytes` are what the model may take: of static memory, and of flash for its constants; code
    and stack come on top. `weights` says how weights stand in flash, ``auto`` as int16 as far as `flash_bytes` allows
    where `cpu` gains by it. Cores without DSP instructions get kernels of their own for int8 weights. The files run on
    every core, whatever `cpu` is.

    Models that go into one firmware may share their kernels: give them the same name `kernels`. Those that never run
    at the same time may share their memory, too, by the same name `arena`; what one says must then be copied before the
    next one runs. `program_files` writes what several share.

    Raises: SpecError for a damaged flatbuffer or an unusable prefix; UnsupportedOpError for what the engine lacks;
    BudgetError where the model does not fit.
    """
    for name in (prefix, kernels or prefix, arena or prefix):
        _check_prefix(name)
    whole = folded(read(flatbuffer))
    graph = prune(whole)
    _check_outputs(graph)
    has_dsp = core_named(cpu).has_dsp
    if weights == "auto" and not has_dsp:
        weights = "int8"
    lean = weights == "int8" and not has_dsp
    layers, memory = fit(graph, weights, ram_bytes, flash_bytes, lean=lean)
    kernel_prefix = kernels or prefix
    sources = model_files(graph, layers, memory, prefix=prefix, kernels=kernel_prefix, arena=arena, title=prefix)
    return Compiled(
        prefix=prefix,
        kernels=kernel_prefix,
        arena=arena,
        graph=graph,
        families=families_of(layers),
        sources=sources,
        layers=tuple(map(_cost, layers, memory.live)),
        model_macs=sum(macs_of(whole, op) for op in whole.ops),
        ram_bytes=max(memory.nbytes, 4),
        bound_bytes=max(memory.bound_bytes, 4),
        flash_bytes=constant_bytes(graph, layers),
    )


def program_files(models: Sequence[Compiled]) -> dict[str, str]:
    """All files of models that go into one program, by name; what they share comes once."""
    files: dict[str, str] = {}
    for name in sorted({model.kernels for model in models}):
        families = [model.families for model in models if model.kernels == name]
        files.update(kernel_files(name, frozenset[str]().union(*families)))
    for name in sorted({model.arena for model in models if model.arena is not None}):
        files.update(arena_files(name, max(model.ram_bytes for model in models if model.arena == name)))
    for model in models:
        files.update(model.sources)
    return files


def _check_prefix(name: str) -> None:
    """Raise SpecError where a prefix cannot begin the names of C files and functions."""
    if not _PREFIX.fullmatch(name):
        raise SpecError(f"prefix: got '{name}', allowed lower-case letters, digits and _, a letter first, up to 41")
    if name in _TAKEN:
        raise SpecError(f"prefix: got '{name}', which names another file in C; choose another, such as {name}_net")


def _check_outputs(graph: Graph) -> None:
    """Raise UnsupportedOpError for an output that became constant by folding; the reader knows of all others."""
    for tensor in (graph.tensors[number] for number in graph.outputs):
        if tensor.data is not None:
            raise UnsupportedOpError(f"output '{tensor.name}': is a constant; remove it from the model's outputs")


def _cost(layer: Layer, live_bytes: int) -> LayerCost:
    return LayerCost(
        number=layer.number,
        kind=layer.kind,
        shape=layer.output_shape,
        macs=layer.macs,
        kernel=" + ".join(dict.fromkeys(call.kernel for call in layer.calls)),
        weights=layer.weights,
        flash_bytes=layer.flash_bytes,
        scratch_bytes=layer.scratch_bytes,
        live_bytes=live_bytes,
    )
