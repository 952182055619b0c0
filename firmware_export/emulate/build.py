"""C sources and a board -> an image that the board can run."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from firmware_export.emulate import programs
from firmware_export.emulate.boards import Board, Memory
from firmware_export.emulate.counter import Counter, best_counter
from firmware_export.emulate.errors import EmulationError
from firmware_export.host import C_FLAGS
from hybrid.errors import BudgetError

STACK_BYTES = 16 * 1024
_SECTIONS = "-ffunction-sections", "-fdata-sections"
_RUNTIME_FLAGS = (*C_FLAGS, "-O2", *_SECTIONS, "-fno-tree-loop-distribute-patterns", "-mgeneral-regs-only")
_LINK = ("-nostartfiles", "--specs=nosys.specs", "-Wl,--gc-sections", "-Wl,--no-warn-rwx-segments", "-T", "memory.ld")
_COMPLAINT = re.compile(r"[Ee]rror: |undefined reference|multiple definition")
_OVERFLOW = re.compile(r"region `(\w+)' overflowed by (\d+) bytes")


@dataclass(frozen=True, kw_only=True)
class Sections:
    """Bytes of the program under test and the C library's functions that it calls.

    Start-up, serial line and counting are not among them.
    """

    text: int
    rodata: int
    data: int
    bss: int

    @property
    def flash_bytes(self) -> int:
        """What lies in flash, initial values of variables among it."""
        return self.text + self.rodata + self.data

    @property
    def static_ram_bytes(self) -> int:
        """All variables; the stack comes on top."""
        return self.data + self.bss


@dataclass(frozen=True, kw_only=True)
class Image:
    """A program built for one board; as often as wanted it can be run, with other inputs."""

    board: Board
    elf: bytes
    sections: Sections
    stack_bytes: int
    """What is reserved."""
    counter: Counter
    """What the marks in the code were built for."""


def build(
    sources: Mapping[str, str | bytes],
    board: Board,
    *,
    flags: Sequence[str] = ("-O2",),
    stack_bytes: int = STACK_BYTES,
    counter: Counter | None = None,
) -> Image:
    """Compile every ``.c`` among `sources` (relative path -> text) with all warnings as errors, and link them.

    Headers may lie in folders, the sources' own and the root are searched. `flags` go to the compiler, after those
    for the core and the warnings. `counter` is by default the best one here.

    Raises: ToolchainError naming what to install; BudgetError where the board's memories are too small;
    EmulationError with the compiler's words.
    """
    programs.need_library()
    chosen = counter or best_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        units = _write(sources, folder)
        common = _common_flags(board, chosen)
        objects = [_compile(unit, [*C_FLAGS, *_SECTIONS, *common, "-I.", *flags], folder) for unit in units]
        runtime = _runtime(board, chosen)
        for path, content in runtime.items():
            (folder / path).write_bytes(content)
        (folder / "memory.ld").write_text(_memory_script(board, stack_bytes))
        _link([*board.flags, *_LINK, *objects, *runtime], board, folder)
        return Image(
            board=board,
            elf=(folder / "image.elf").read_bytes(),
            sections=_sections(folder),
            stack_bytes=stack_bytes,
            counter=chosen,
        )


@cache
def _runtime(board: Board, counter: Counter) -> Mapping[str, bytes]:
    """Give the objects of the start-up code and its helpers, the same for all programs."""
    with tempfile.TemporaryDirectory() as name:
        folder, flags = Path(name), [*_RUNTIME_FLAGS, *_common_flags(board, counter)]
        objects = [_compile(str(unit), flags, folder) for unit in sorted(programs.TARGET.glob("runtime_*.c"))]
        return {path: (folder / path).read_bytes() for path in objects}


def _common_flags(board: Board, counter: Counter) -> list[str]:
    return [*board.flags, "-g1", f"-I{programs.TARGET}", *_defines(board, counter)]


def _write(sources: Mapping[str, str | bytes], folder: Path) -> list[str]:
    for path, text in sources.items():
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or path.startswith("runtime_"):
            raise EmulationError(f"source {path!r}: expected a relative path that does not start with runtime_")
        target = folder / pure
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode() if isinstance(text, str) else text)
    units = sorted(path for path in sources if path.endswith(".c"))
    if not units:
        raise EmulationError(f"sources: got {sorted(sources)}, expected one or more .c files")
    return units


def _defines(board: Board, counter: Counter) -> list[str]:
    defines = [f"-DEMULATE_UART=0x{board.uart:x}u"]
    if counter == "timer":
        timer = board.timer
        defines += [f"-DEMULATE_TIMER_CONTROL=0x{timer.control:x}u", f"-DEMULATE_TIMER_VALUE=0x{timer.value:x}u"]
        defines += ["-DEMULATE_TIMER", f"-DEMULATE_TIMER_DOWN={int(timer.down)}"]
    return defines


def _compile(unit: str, flags: Sequence[str], folder: Path) -> str:
    name = unit.removesuffix(".c") if not Path(unit).is_absolute() else Path(unit).stem
    done = programs.run([f"{programs.CROSS}gcc", *flags, "-c", unit, "-o", f"{name}.o"], folder)
    if done.returncode != 0:
        raise EmulationError(f"{unit}: does not compile: {_first_complaint(done.stderr)}")
    return f"{name}.o"


def _memory_script(board: Board, stack_bytes: int) -> str:
    memories = {"VECTORS": Memory(origin=board.vectors, size_bytes=1024), "FLASH": board.flash, "RAM": board.ram}
    lines = [
        f"  {name} : ORIGIN = 0x{memory.origin:x}, LENGTH = 0x{memory.size_bytes:x}"
        for name, memory in memories.items()
    ]
    script = programs.TARGET / "image.ld"
    return "\n".join(["MEMORY", "{", *lines, "}", f"link_stack_bytes = {stack_bytes};", f'INCLUDE "{script}"', ""])


def _link(arguments: Sequence[str], board: Board, folder: Path) -> None:
    done = programs.run([f"{programs.CROSS}gcc", *arguments, "-o", "image.elf"], folder)
    if done.returncode == 0:
        return
    for region, overflow in _OVERFLOW.findall(done.stderr):
        resource, memory = ("ram_bytes", board.ram) if region == "RAM" else ("flash_bytes", board.flash)
        remedy = "make the program smaller or choose another board"
        raise BudgetError(resource, memory.size_bytes + int(overflow), memory.size_bytes, board.name, remedy)
    if "reference to `end'" in done.stderr:
        raise EmulationError(
            f"{board.name}: the program does not link: it calls malloc, printf or the like; no heap here"
        )
    raise EmulationError(f"{board.name}: the program does not link: {_first_complaint(done.stderr)}")


def _first_complaint(stderr: str) -> str:
    """Choose the line that says what is wrong among those that say where it came from."""
    lines = stderr.strip().splitlines() or ["no message"]
    return next((line for line in lines if _COMPLAINT.search(line)), lines[0])


def _sections(folder: Path) -> Sections:
    done = programs.run([f"{programs.CROSS}size", "-A", "-d", "image.elf"], folder)
    sizes = dict(re.findall(r"^(\.\S+)\s+(\d+)", done.stdout, re.MULTILINE))
    return Sections(**{name: int(sizes.get(f".{name}", 0)) for name in ("text", "rodata", "data", "bss")})
