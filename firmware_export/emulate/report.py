"""What the run-time on the board reported, in words: regions, stack, exit code, faults."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from firmware_export.emulate import programs
from firmware_export.emulate.boards import Board
from firmware_export.emulate.counter import instructions_of
from firmware_export.emulate.errors import EmulationError, FaultError

_FAULT = ("exception", "exc_return", "cfsr", "hfsr", "bfar", "frame")
_FRAME = ("r0", "r1", "r2", "r3", "r12", "lr", "pc", "xpsr")
_CAUSES = {
    0: "instruction from a forbidden address",
    1: "data at a forbidden address",
    4: "no room on the stack",
    8: "instruction from an address where nothing is",
    9: "data at an address where nothing is",
    10: "data at an address where nothing is",
    12: "no room on the stack",
    16: "undefined instruction",
    17: "call of an address without the Thumb bit",
    18: "return to nowhere",
    19: "coprocessor or floating point that the core does not have",
    20: "no room on the stack",
    24: "unaligned access",
    25: "division by zero",
}
"""By bit of the Configurable Fault Status Register (Armv8-M Architecture Reference Manual, D1.2.45)."""
_ADDRESS_VALID = 1 << 15
_STACK_CAUSES = (4, 12, 20)


@dataclass(frozen=True)
class Region:
    """What was counted between a pair of marks, all entries together."""

    instructions: int
    entries: int


@dataclass(frozen=True)
class Report:
    """Values by the word that begins a line; `regions` holds the lines of that word, which may be many."""

    values: Mapping[str, tuple[int, ...]]
    regions: tuple[tuple[int, ...], ...]


def read_report(folder: Path) -> Report:
    """Read what there is; a program that never began has reported nothing."""
    path = folder / "report.txt"
    lines = [line.split() for line in path.read_text().splitlines()] if path.is_file() else []
    rows = [(word, tuple(int(value, 16) for value in values)) for word, *values in lines]
    regions = tuple(values for word, values in rows if word == "region")
    return Report(values={word: values for word, values in rows if word != "region"}, regions=regions)


def regions_of_plugin(text: str) -> dict[int, Region]:
    """Read what the plugin wrote."""
    rows = (map(int, line.split()) for line in text.splitlines())
    return {number: Region(instructions=count, entries=entries) for number, entries, count in rows}


def regions_of_timer(report: Report, board: Board) -> dict[int, Region]:
    """Convert what the run-time read from the board's timer."""
    return {
        number: Region(instructions=instructions_of((high << 32) + low, board.timer.hz), entries=entries)
        for number, entries, high, low in report.regions
    }


def signed(word: int) -> int:
    """Read 32 bits as the board does.

    >>> signed(0xFFFFFFFF)
    -1
    """
    return word - (1 << 32) if word >> 31 else word


def check_end(report: Report, board: Board, folder: Path, console: str) -> None:
    """Raise FaultError where there was a fault, EmulationError where the program did not come to its end."""
    if "fault" in report.values:
        raise _fault(report, board, folder)
    if "exit" not in report.values or "stack" not in report.values:
        raise EmulationError(f"{board.name}: the emulation ended before the program did: {console or 'no message'}")


def _fault(report: Report, board: Board, folder: Path) -> FaultError:
    state = dict(zip(_FAULT, report.values["fault"], strict=True))
    frame = dict(zip(_FRAME, report.values.get("frame", ()), strict=False))
    causes = [bit for bit in _CAUSES if state["cfsr"] >> bit & 1]
    parts = [" and ".join(dict.fromkeys(_CAUSES[bit] for bit in causes)) or "unknown cause"]
    if state["cfsr"] & _ADDRESS_VALID:
        parts.append(f"address 0x{state['bfar']:08x}")
    if set(causes) & set(_STACK_CAUSES):
        parts.append("raise stack_bytes")
    elif frame:
        parts.append(f"in {_place(frame['pc'], folder)}")
    shown = {**frame, **{name: state[name] for name in ("cfsr", "hfsr")}}
    registers = " ".join(f"{name}={value:08x}" for name, value in shown.items())
    return FaultError(f"{board.name}: fault: {', '.join(parts)} ({registers})", {**frame, **state})


def _place(address: int, folder: Path) -> str:
    command = [f"{programs.CROSS}addr2line", "-f", "-s", "-e", "image.elf", f"0x{address:x}"]
    function, _, line = programs.run(command, folder).stdout.strip().partition("\n")
    return re.sub(r" \(.*\)$", "", f"{function} at {line}") if function else f"0x{address:08x}"
