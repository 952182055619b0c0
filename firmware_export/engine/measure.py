"""Compiled models on emulated boards: exact counts of instructions, stack and sizes, and the outputs themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from firmware_export.emulate.boards import Board
from firmware_export.emulate.build import Sections
from firmware_export.emulate.counter import Counter
from firmware_export.emulate.machine import LIMIT_S, run
from firmware_export.emulate.marks import WHOLE, profile_header
from firmware_export.engine.compile import Compiled
from firmware_export.engine.emit import measure_file
from firmware_export.engine.host import Values, join_inputs, split_outputs
from hybrid.errors import HybridError


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """What a model takes on a board."""

    instructions: int
    """Per inference, the mean of the examples; marks around layers are not counted."""
    layers: Mapping[int, int]
    """Instructions per inference by the number of the operator, where there is anything to do."""
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
    """Build a compiled model for a board, and run it over `examples`; again for every 255 layers beyond the first.

    Raises: ToolchainError naming what to install; BudgetError where the board is too small; EmulationError.
    """
    data = join_inputs(examples)
    flags = (*flags, f'-D{compiled.prefix.upper()}_PROFILE="profile.h"')
    layers: dict[int, int] = {}
    for first in range(0, max((layer.number for layer in compiled.layers), default=0) + 1, WHOLE):
        done = run(_sources(compiled, len(examples), first), board, data=data, flags=flags, limit_s=limit_s)
        if done.exit_code != 0:
            raise HybridError(f"{board.name}: the compiled model ended with {done.exit_code}: {done.console.strip()}")
        counts = {number: region.instructions // len(examples) for number, region in done.regions.items()}
        instructions = counts.pop(WHOLE)
        layers.update({first + number: count for number, count in counts.items()})
    return Measured(
        instructions=instructions,
        layers=layers,
        stack_bytes=done.stack_bytes,
        sections=done.sections,
        counter=done.counter,
        outputs=split_outputs(compiled.graph, done.output, len(examples)),
    )


def _sources(compiled: Compiled, examples: int, first: int) -> dict[str, str]:
    """A program with marks around as many layers, from `first` on, as there are numbers."""
    main = measure_file(compiled.prefix, compiled.graph, examples, WHOLE)
    return {"main.c": main, "profile.h": profile_header(compiled.prefix.upper(), first), **compiled.files}
