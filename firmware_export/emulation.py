"""A bundle's own C with the ahead-of-time engine on an emulated board: what it answers, what it takes, what it asks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_export.answers import Answers, answering_sources, aot_sources, read_answers
from firmware_export.aot import CODE_FLAGS, prefix_of
from firmware_export.bundle import Bundle
from firmware_export.contents import contract_of, firmware_of
from firmware_export.emulate import programs
from firmware_export.emulate.boards import Board
from firmware_export.emulate.build import Sections
from firmware_export.emulate.counter import Counter
from firmware_export.emulate.gateway import Ask, Outcome, gateway_sources, serve_device
from firmware_export.emulate.machine import EmulationResult, run
from firmware_export.emulate.marks import WHOLE, profile_header
from firmware_export.emulate.report import Region
from firmware_export.emulate.uart import Uart
from hybrid.cascade import DeviceProgram
from hybrid.errors import HybridError
from hybrid.progress import SILENT, Advance, Narrator

LOOP = "loop.c"
_START_S, _EXAMPLE_S = 60.0, 1.0
"""Patience with the emulator: to begin with, and for each example more."""


@dataclass(frozen=True, kw_only=True)
class LayerCount:
    """What a layer of one of the nets took."""

    net: str
    number: int
    kind: str
    shape: tuple[int, ...]
    macs: int
    instructions: int
    """Each time that it ran."""
    runs: int
    """Examples on which it ran; none for a layer that only gives a tensor another shape."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Emulated:
    """What a bundle's device did with examples on a board."""

    board: Board
    answers: Answers
    counter: Counter
    instructions: int
    """Per example, the mean; marks around layers are not counted."""
    beside_layers: int
    """Of these, in no layer: the input, the router, the decision."""
    layers: tuple[LayerCount, ...]
    """Of all nets in order."""
    stack_bytes: int
    """High-water mark; the little main program's is among it."""
    sections: Sections
    """Of everything but start-up and counting; in .bss are buffers for one example and one query."""


def emulate_bundle(bundle: Bundle, program: DeviceProgram, board: Board, pixels: NDArray[np.uint8]) -> Emulated:
    """Run the device over stored images ``(n, h, w, c)``.

    Raises: HybridError where the bundle has no ahead-of-time engine; ToolchainError naming what to install;
    BudgetError where the board is too small; EmulationError.
    """
    nets = _nets(bundle)
    regions: dict[int, Region] = {}
    for first in range(0, max(sum(map(_width, nets.values())), 1), WHOLE):
        done = _run_marked(bundle, nets, board, pixels, first)
        whole = done.regions[WHOLE].instructions
        regions.update({first + number: region for number, region in done.regions.items() if number != WHOLE})
    return Emulated(
        board=board,
        answers=read_answers(contract_of(bundle, program), done.output, len(pixels)),
        counter=done.counter,
        instructions=whole // len(pixels),
        beside_layers=(whole - sum(region.instructions for region in regions.values())) // len(pixels),
        layers=tuple(_counts(nets, regions)),
        stack_bytes=done.stack_bytes,
        sections=done.sections,
    )


def _run_marked(
    bundle: Bundle, nets: Mapping[str, Any], board: Board, pixels: NDArray[np.uint8], first: int
) -> EmulationResult:
    """Run with marks around as many layers, from `first` on, as there are numbers."""
    headers = {
        _profile_name(net): profile_header(_guard(net), first, begin=begin).encode()
        for net, begin in _begins(nets).items()
    }
    sources = {**answering_sources(firmware_of(bundle)), **headers}
    flags = (*CODE_FLAGS, *(f'-D{_guard(net)}_PROFILE="{_profile_name(net)}"' for net in nets))
    done = run(sources, board, data=pixels.tobytes(), flags=flags, limit_s=_START_S + _EXAMPLE_S * len(pixels))
    _check_end(board, done)
    return done


def emulate_loop(
    bundle: Bundle, board: Board, pixels: NDArray[np.uint8], ask: Ask, *, narrator: Narrator = SILENT
) -> list[Outcome]:
    """Let the device classify stored images, keep or ask over its UART, and answer; `ask` is the cloud.

    Raises: as `emulate_bundle`.
    """
    _nets(bundle)
    main = {LOOP: (programs.TARGET / LOOP).read_bytes()}
    sources: dict[str, str | bytes] = {**aot_sources(firmware_of(bundle)), **gateway_sources(), **main}
    outcomes: list[Outcome] = []

    def talk(uart: Uart) -> None:
        with narrator.track(f"loop on {board.name}", len(pixels)) as advance:
            outcomes.extend(serve_device(uart, ask, _frames(pixels, advance)))

    _check_end(board, run(sources, board, flags=CODE_FLAGS, talk=talk))
    return outcomes


def _frames(pixels: NDArray[np.uint8], advance: Advance) -> Iterator[bytes]:
    for example in pixels:
        yield example.tobytes()
        advance(1, "")


def _nets(bundle: Bundle) -> Mapping[str, Any]:
    """What the manifest says of each net, in the order of the stages."""
    entry = bundle.manifest["engines"]["aot"]
    if reason := entry.get("refused"):
        raise HybridError(f"bundle: has no ahead-of-time engine ({reason}), and so nothing that can be emulated")
    names = sorted(entry["nets"], key=lambda name: (name != "edge", len(name), name))
    return {name: entry["nets"][name] for name in names}


def _begins(nets: Mapping[str, Any]) -> dict[str, int]:
    """The number of each net's layer 0 among those of all nets."""
    begins, begin = {}, 0
    for net, entry in nets.items():
        begins[net] = begin
        begin += _width(entry)
    return begins


def _width(entry: Mapping[str, Any]) -> int:
    return 1 + max((layer["number"] for layer in entry["layers"]), default=-1)


def _counts(nets: Mapping[str, Any], regions: Mapping[int, Region]) -> Iterator[LayerCount]:
    for net, begin in _begins(nets).items():
        for layer in nets[net]["layers"]:
            region = regions.get(begin + layer["number"], Region(instructions=0, entries=0))
            yield LayerCount(
                net=net,
                number=layer["number"],
                kind=layer["kind"],
                shape=tuple(layer["shape"]),
                macs=layer["macs"],
                instructions=region.instructions // max(region.entries, 1),
                runs=region.entries,
            )


def _guard(net: str) -> str:
    return prefix_of(net).upper()


def _profile_name(net: str) -> str:
    return f"profile_{net}.h"


def _check_end(board: Board, done: EmulationResult) -> None:
    if done.exit_code != 0:
        said = done.console.strip() or "no message"
        raise HybridError(f"{board.name}: the firmware ended with status {done.exit_code} (hybrid_status_t): {said}")
