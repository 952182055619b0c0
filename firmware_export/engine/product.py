"""Everything about one model at once: compiled, verified against TFLite Micro, measured on an emulated board."""

from dataclasses import dataclass, field

import numpy as np

from firmware_export.bundle import sha256
from firmware_export.emulate.boards import Board
from firmware_export.emulate.errors import EmulationTimeoutError, ToolchainError
from firmware_export.engine.budgets import Weights
from firmware_export.engine.compile import Compiled, compile_model
from firmware_export.engine.cores import Cpu, board_of, core_named
from firmware_export.engine.host import Values
from firmware_export.engine.measure import Measured, measure
from firmware_export.engine.verify import Mismatch, compare, random_examples, verify
from hybrid.errors import BudgetError, MismatchError
from hybrid.progress import SILENT, Narrator

MEASURE_FLAGS = ("-O2",)
"""How the code is built that is measured."""
SEED = 0
_ON_BOARD = 4
"""Verified examples that run on the emulated board, too."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """On how many random inputs the compiled code gives the same bits as TFLite Micro."""

    examples: int
    """On this machine."""
    on_board: int
    """Those of them that ran on the emulated board, too."""
    seed: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Product:
    """A compiled model and what is known of it."""

    compiled: Compiled
    model_sha256: str
    model_bytes: int
    cpu: Cpu
    board: Board | None
    """Where it is measured."""
    measured: Measured | None
    unmeasured: str
    """Why nothing was measured; empty where it was."""
    verified: Verified | None = field(default=None)
    """None where it was not asked for."""


def make(
    flatbuffer: bytes,
    *,
    prefix: str = "model",
    weights: Weights = "auto",
    cpu: Cpu = "cortex-m4",
    ram_bytes: int | None = None,
    flash_bytes: int | None = None,
    examples: int = 0,
    narrator: Narrator = SILENT,
) -> Product:
    """Compile a model, verify it on `examples` random inputs, and measure it where the board of `cpu` can be emulated.

    Raises: what `compile_model` and `verify` raise; MismatchError for the first output value that differs;
    EmulationError where the code fails on the board.
    """
    board = board_of(core_named(cpu))
    compiled = compile_model(
        flatbuffer, prefix=prefix, weights=weights, cpu=cpu, ram_bytes=ram_bytes, flash_bytes=flash_bytes
    )
    if examples:
        _insist(verify(flatbuffer, compiled, examples, seed=SEED, narrator=narrator), "on this machine")
    given = random_examples(compiled, min(max(examples, 1), _ON_BOARD), np.random.default_rng(SEED))
    measured, unmeasured = _measured(compiled, board, given, narrator)
    if examples and measured and board:
        _insist(compare(flatbuffer, compiled, given, measured.outputs), f"on the emulated {board.name}")
    on_board = len(given) if measured else 0
    return Product(
        compiled=compiled,
        model_sha256=sha256(flatbuffer),
        model_bytes=len(flatbuffer),
        cpu=cpu,
        board=board,
        measured=measured,
        unmeasured=unmeasured,
        verified=Verified(examples=examples, on_board=on_board, seed=SEED) if examples else None,
    )


def _insist(mismatch: Mismatch | None, where: str) -> None:
    if mismatch is not None:
        raise MismatchError(
            f"the compiled code is not exact {where}: {mismatch} (random inputs of seed {SEED}); nothing was written"
        )


def _measured(
    compiled: Compiled, board: Board | None, examples: list[Values], narrator: Narrator
) -> tuple[Measured | None, str]:
    """What was measured, or why nothing could be: a missing program, a model beyond board or patience."""
    if board is None:
        return None, "no board is emulated for host; choose another cpu to count instructions"
    try:
        with narrator.track(f"on the emulated {board.name}", 1) as advance:
            done = measure(compiled, board, examples, flags=MEASURE_FLAGS)
            advance(1, "")
    except (ToolchainError, EmulationTimeoutError, BudgetError) as exc:
        return None, str(exc)
    return done, ""
