"""The ahead-of-time engine of a bundle: each net as plain C, one set of kernels and one arena for all of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from firmware_export.emulate import programs
from firmware_export.emulate.build import build
from firmware_export.engine.compile import Compiled, LayerCost, compile_model, program_files
from firmware_export.engine.cores import CORES, board_of, cpu_of
from hybrid.artifacts import Device
from hybrid.cascade import DeviceProgram
from hybrid.errors import BudgetError, UnsupportedOpError

Engines = Literal["auto", "tflm", "both"]
"""``auto``: TFLite Micro, and the ahead-of-time engine where it takes the nets; ``both``: refuse nets that it does not;
``tflm``: TFLite Micro alone."""
SHARED = "hybrid_aot"
"""With what the names of the engine's files and functions begin."""
CODE_FLAGS = ("-O2",)


@dataclass(frozen=True, kw_only=True, eq=False)
class AotEngine:
    """All nets of a bundle as C."""

    nets: Mapping[str, Compiled]
    """By the stages' names."""
    sources: Mapping[str, str] = field(repr=False)
    """By file name: the nets, their kernels and their arena."""
    arena_bytes: int
    """Of the one arena; the stack comes on top."""
    constant_bytes: int
    """Weights and tables of all nets, in flash."""
    code_bytes: int | None
    """Of nets, kernels and the C library's functions that they call, for the device's core; None: not measured."""

    def values(self) -> dict[str, Any]:
        """What the manifest says of it."""
        nets = {
            name: {
                "arena_bytes": net.ram_bytes,
                "constant_bytes": net.flash_bytes,
                "layers": [_layer_values(layer) for layer in net.layers],
            }
            for name, net in self.nets.items()
        }
        sizes = {"arena_bytes": self.arena_bytes, "constant_bytes": self.constant_bytes, "code_bytes": self.code_bytes}
        return {**sizes, "nets": nets}


def aot_engine(program: DeviceProgram, device: Device, engines: Engines) -> AotEngine | str:
    """Compile all nets for a device, their code not yet measured; a string says why there is no such engine.

    Weights are unpacked as far as the device's flash allows. Raises, for ``both``: UnsupportedOpError for what the
    engine lacks; BudgetError where the nets do not fit.
    """
    if engines == "tflm":
        return "not asked for, export.engines is tflm"
    try:
        nets = _compiled(program, device)
    except (UnsupportedOpError, BudgetError) as exc:
        if engines == "both":
            raise
        return str(exc)
    return AotEngine(
        nets=nets,
        sources=program_files(list(nets.values())),
        arena_bytes=max(net.ram_bytes for net in nets.values()),
        constant_bytes=sum(net.flash_bytes for net in nets.values()),
        code_bytes=None,
    )


def measured(engine: AotEngine, device: Device) -> AotEngine:
    """Build the nets for the device's core and count their code; left open where there is no compiler for it."""
    board = board_of(CORES[cpu_of(device.core)])
    if board is None or programs.missing() is not None:
        return engine
    prefixes = [net.prefix for net in engine.nets.values()]
    lines = [f'#include "{prefix}.h"' for prefix in prefixes]
    calls = [f"  {prefix}_run();" for prefix in prefixes]
    main = "\n".join([*lines, "int main(void) {", *calls, "  return 0;", "}", ""])
    image = build({**engine.sources, "main.c": main}, board, flags=CODE_FLAGS, counter="timer")
    return replace(engine, code_bytes=image.sections.text)


def prefix_of(name: str) -> str:
    """With what a net's own files and functions begin.

    >>> prefix_of("look_1")
    'hybrid_aot_look_1'
    """
    return f"{SHARED}_{name}"


def _compiled(program: DeviceProgram, device: Device) -> dict[str, Compiled]:
    """Each net, weights unpacked; where flash is short, the first ones first: they run on more examples."""
    tables = sum(stage.router.table_bytes for stage in program.stages)
    flash_bytes = device.flash_bytes - device.reserved_flash_bytes - tables
    ram_bytes, cpu = device.sram_bytes - device.reserved_sram_bytes, cpu_of(device.core)
    stages = dict(zip(program.names, program.stages, strict=True))

    def compiled(name: str, **budget: Any) -> Compiled:
        fixed: dict[str, Any] = {
            "prefix": prefix_of(name),
            "kernels": SHARED,
            "arena": SHARED,
            "cpu": cpu,
            "ram_bytes": ram_bytes,
        }
        return compile_model(stages[name].flatbuffer, **{**fixed, **budget})

    nets = {name: compiled(name) for name in stages}
    if sum(net.flash_bytes for net in nets.values()) <= flash_bytes:
        return nets
    later = {name: compiled(name, weights="int8").flash_bytes for name in stages}
    for name in stages:
        del later[name]
        nets[name] = compiled(name, flash_bytes=flash_bytes - sum(later.values()))
        flash_bytes -= nets[name].flash_bytes
    return nets


def _layer_values(layer: LayerCost) -> dict[str, Any]:
    return {
        "number": layer.number,
        "kind": layer.kind,
        "shape": list(layer.shape),
        "macs": layer.macs,
        "kernel": layer.kernel,
        "weights": layer.weights,
        "flash_bytes": layer.flash_bytes,
    }
