"""Compiled models on emulated boards: exact counts of instructions, stack and sizes, and the outputs themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from firmware_export.emulate.boards import Board
from firmware_export.emulate.build import Sections
from firmware_export.emulate.counter import Counter
from firmware_export.emulate.machine import LIMIT_S, run
from firmware_export.engine.compile import Compiled
from firmware_export.engine.emit import measure_file
from firmware_export.engine.host import Values, split_outputs
from hybrid.errors import HybridError

WHOLE = 255
"""The number under which a whole inference is counted; layers have their operators' numbers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """What a model takes on a board."""

    instructions: int
    """Per inference, the mean of the examples; marks around layers are not counted."""
    layers: Mapping[int, int]
    """Instructions per inference by the number of the operator; empty for models of more than 255 operators."""
    stack_bytes: int
    """The deepest stack, the little main program's among it."""
    sections: Sections
    counter: Counter
    """What counted: the plugin exactly, the timer within a few per cent."""
    outputs: list[Values]
    """Of each example."""


def measure(
    compiled: Compiled,
    board: Board,
    examples: Sequence[Values],
    *,
    flags: Sequence[str] = ("-O2",),
    limit_s: float = LIMIT_S,
) -> Measured:
    """Build a compiled model for a board, and run it over `examples`.

    Raises: ToolchainError naming what to install; BudgetError where the board is too small; EmulationError.
    """
    marked = max((layer.number for layer in compiled.layers), default=0) < WHOLE
    sources = {"main.c": measure_file(compiled.prefix, compiled.graph, len(examples), WHOLE), **compiled.files}
    if marked:
        sources["profile.h"] = _profile(compiled.prefix.upper())
        flags = (*flags, f'-D{compiled.prefix.upper()}_PROFILE="profile.h"')
    data = b"".join(np.ascontiguousarray(value).tobytes() for example in examples for value in example)
    done = run(sources, board, data=data, flags=flags, limit_s=limit_s)
    if done.exit_code != 0:
        raise HybridError(f"{board.name}: the compiled model ended with {done.exit_code}: {done.console.strip()}")
    counts = {number: region.instructions // len(examples) for number, region in done.regions.items()}
    return Measured(
        instructions=counts.pop(WHOLE),
        layers=counts,
        stack_bytes=done.stack_bytes,
        sections=done.sections,
        counter=done.counter,
        outputs=split_outputs(compiled.graph, done.output, len(examples)),
    )


def _profile(guard: str) -> str:
    return (
        '#include "emulate.h"\n'
        f"#define {guard}_LAYER_BEGIN(number) EMULATE_REGION_START(number);\n"
        f"#define {guard}_LAYER_END(number) EMULATE_REGION_STOP(number);\n"
    )
