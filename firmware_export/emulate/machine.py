"""An image and its input -> what it did on the emulated board."""

import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from firmware_export.emulate import programs
from firmware_export.emulate.boards import Board
from firmware_export.emulate.build import STACK_BYTES, Image, Sections, build
from firmware_export.emulate.counter import COUNTS, PLUGIN, Counter, plugin, plugin_options, timer_options
from firmware_export.emulate.errors import EmulationError, EmulationTimeoutError
from firmware_export.emulate.report import Region, check_fault, read_report, regions_of_plugin, regions_of_timer, signed
from firmware_export.emulate.uart import Uart

LIMIT_S = 60.0
_CONSOLE_SHOWN = 500
_OUTPUT_LIMIT_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True)
class EmulationResult:
    """What a program did that came to its end."""

    exit_code: int
    """What main() returned."""
    output: bytes
    """What it wrote with emulate_write()."""
    console: str
    """What it wrote with emulate_print()."""
    regions: Mapping[int, Region]
    """By the numbers of the marks, ascending."""
    counter: Counter
    stack_bytes: int
    """The deepest stack of main() and what it called."""
    sections: Sections


Talk = Callable[[Uart], None]
"""The host's part of a conversation over the serial line."""


def run(
    sources: Mapping[str, str | bytes],
    board: Board,
    *,
    data: bytes = b"",
    talk: Talk | None = None,
    limit_s: float = LIMIT_S,
    flags: Sequence[str] = ("-O2",),
    stack_bytes: int = STACK_BYTES,
    counter: Counter | None = None,
) -> EmulationResult:
    """Build a program and run it once: see `build` and `run_image`."""
    image = build(sources, board, flags=flags, stack_bytes=stack_bytes, counter=counter)
    return run_image(image, data=data, talk=talk, limit_s=limit_s)


def run_image(
    image: Image, *, data: bytes = b"", talk: Talk | None = None, limit_s: float = LIMIT_S
) -> EmulationResult:
    """Run a program to its end, `data` its input; `talk` is called meanwhile with the other end of its serial line.

    Raises: FaultError with the registers; EmulationTimeoutError after `limit_s` seconds, or when the program kept
    `talk` waiting so long; ToolchainError; EmulationError where the emulation ended otherwise.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "image.elf").write_bytes(image.elf)
        (folder / "input.bin").write_bytes(data)
        if image.counter == "plugin":
            (folder / PLUGIN).write_bytes(_plugin())
        try:
            _emulate(image, folder, talk, limit_s)
        except EmulationError as exc:
            check_fault(read_report(folder), image.board, folder)  # the reason of a line that broke
            words = _last_words(folder)
            raise type(exc)(f"{exc}; it said: {words}" if words else str(exc)) from exc
        return _result(image, folder)


def _emulate(image: Image, folder: Path, talk: Talk | None, limit_s: float) -> None:
    with ExitStack() as stack:
        uart = None if talk is None else stack.enter_context(Uart(limit_s))
        process = stack.enter_context(_started(_command(image, "null" if uart is None else uart.option), folder))
        stack.callback(process.kill)
        if talk is not None and uart is not None:
            talk(uart)
        _wait(process, image.board, limit_s)


def _command(image: Image, serial: str) -> list[str]:
    counting = plugin_options() if image.counter == "plugin" else timer_options()
    fixed = ("-display", "none", "-monitor", "none", "-semihosting-config", "enable=on,target=native")
    return ["-machine", image.board.machine, *fixed, "-serial", serial, *counting, "-kernel", "image.elf"]


def _plugin() -> bytes:
    content = plugin()
    if content is None:
        raise EmulationError("the image counts by a plugin that QEMU refuses here; build it with counter='timer'")
    return content


def _started(arguments: Sequence[str], folder: Path) -> "subprocess.Popen[bytes]":
    command = [programs.find("qemu-system-arm"), *arguments]
    with (folder / "console.txt").open("wb") as console:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT
        )
    if sys.platform == "linux":
        with suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (_OUTPUT_LIMIT_BYTES, _OUTPUT_LIMIT_BYTES))
    return process


def _wait(process: "subprocess.Popen[bytes]", board: Board, limit_s: float) -> None:
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired as exc:
        limit = f"{board.name}: the program still ran after {limit_s:g} s"
        raise EmulationTimeoutError(f"{limit}; raise limit_s or look for an endless loop") from exc


def _last_words(folder: Path) -> str:
    """Choose one line: QEMU's own complaint, which registers may follow, or the end of what the program said."""
    console = _console(folder)
    complaints = [line for line in console.splitlines() if line.startswith("qemu")]
    return " ".join((complaints[0] if complaints else console).split())[-_CONSOLE_SHOWN:]


def _console(folder: Path) -> str:
    return _bytes(folder / "console.txt").decode("utf-8", "replace")


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _result(image: Image, folder: Path) -> EmulationResult:
    report = read_report(folder)
    check_fault(report, image.board, folder)
    if not {"exit", "stack"} <= report.values.keys():
        said = _last_words(folder) or "no message"
        raise EmulationError(f"{image.board.name}: the emulation ended before the program did: {said}")
    counted_by_plugin = image.counter == "plugin"
    regions = (
        regions_of_plugin((folder / COUNTS).read_text()) if counted_by_plugin else regions_of_timer(report, image.board)
    )
    return EmulationResult(
        exit_code=signed(report.values["exit"][0]),
        output=_bytes(folder / "output.bin"),
        console=_console(folder),
        regions=regions,
        counter=image.counter,
        stack_bytes=report.values["stack"][0],
        sections=image.sections,
    )
