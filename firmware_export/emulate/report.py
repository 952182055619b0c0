"""What the run-time on the board reported, in words: regions, stack, exit code, faults."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from firmware_export.emulate import programs
from firmware_export.emulate.boards import Board
from firmware_export.emulate.counter import instructions_of
from firmware_export.emulate.errors import FaultError

_FAULT = ("exception", "exc_return", "cfsr", "hfsr", "mmfar", "bfar", "frame")
_FRAME = ("r0", "r1", "r2", "r3", "r12", "lr", "pc", "xpsr")
_CAUSES = {
    0: "instruction from a forbidden address",
    1: "data at a forbidden address",
    8: "instruction from an address where nothing is",
    9: "data at an address where nothing is",
    10: "data at an address where nothing is",
    16: "undefined instruction",
    17: "call of an address without the Thumb bit",
    18: "return to nowhere",
    19: "coprocessor or floating point that the core does not have",
    24: "unaligned access",
    25: "division by zero",
}
"""By bit of the Configurable Fault Status Register (Armv8-M Architecture Reference Manual, D1.2.45)."""
_ADDRESSES = {7: "mmfar", 15: "bfar"}
"""Which register holds the address, by the bit that says so."""
_STACK_CAUSES = (4, 12, 20)
"""Bits: the frame of an exception could not be put on the stack, or the stack's limit was passed."""


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


def check_fault(report: Report, board: Board, folder: Path) -> None:
    """Raise FaultError where the program on `board`, the image in `folder`, ran into a fault."""
    if "fault" in report.values:
        raise _fault(report, board, folder)


def _fault(report: Report, board: Board, folder: Path) -> FaultError:
    state = dict(zip(_FAULT, report.values["fault"], strict=True))
    frame = dict(zip(_FRAME, report.values.get("frame", ()), strict=False))
    parts = [_cause(state["cfsr"])]
    parts += [f"address 0x{state[name]:08x}" for bit, name in _ADDRESSES.items() if state["cfsr"] >> bit & 1]
    if frame:
        parts.append(f"in {_place(frame['pc'], folder)}")
    shown = {**frame, **{name: state[name] for name in ("cfsr", "hfsr")}}
    registers = " ".join(f"{name}={value:08x}" for name, value in shown.items())
    return FaultError(f"{board.name}: fault: {', '.join(parts)} ({registers})", {**frame, **state})


def _cause(cfsr: int) -> str:
    if any(cfsr >> bit & 1 for bit in _STACK_CAUSES):
        return "stack overflow; raise stack_bytes"
    return " and ".join(cause for bit, cause in _CAUSES.items() if cfsr >> bit & 1) or "unknown cause"


def _place(address: int, folder: Path) -> str:
    command = [f"{programs.CROSS}addr2line", "-f", "-s", "-e", "image.elf", f"0x{address:x}"]
    function, _, line = programs.run(command, folder).stdout.strip().partition("\n")
    return re.sub(r" \(.*\)$", "", f"{function} at {line}") if function else f"0x{address:08x}"
