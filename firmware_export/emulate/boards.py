"""The boards of Arm that QEMU emulates, as data.

Addresses are of Arm's application notes AN385, AN386, AN500, AN505 and AN547, those of the secure world where a core
has two: programs run in the state that the core starts in.
"""

from dataclasses import dataclass

from hybrid.configure import did_you_mean
from hybrid.errors import SpecError

_KIB = 1024
_MIB = 1024 * _KIB


@dataclass(frozen=True, kw_only=True)
class Memory:
    """A range of addresses."""

    origin: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Timer:
    """A counter that runs as the emulated time does."""

    control: int
    """Address; 1 starts it."""
    value: int
    """Address."""
    hz: int
    down: bool
    """Counts down from what is written to `value`, else up from 0."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """What a program for a board is compiled, linked and started with."""

    name: str
    title: str
    machine: str
    """Name in QEMU."""
    cpu: str
    """Name in GCC."""
    hard_float: bool
    vectors: int
    """Where the core looks for its start."""
    flash: Memory
    ram: Memory
    uart: int
    timer: Timer

    @property
    def flags(self) -> tuple[str, ...]:
        """GCC's options for the core."""
        return (f"-mcpu={self.cpu}", "-mthumb", f"-mfloat-abi={'hard' if self.hard_float else 'soft'}")


_CMSDK_TIMER = Timer(control=0x4000_0000, value=0x4000_0004, hz=25_000_000, down=True)


def _mps2(name: str, title: str, cpu: str, hard_float: bool, machine: str = "") -> Board:
    return Board(
        name=name,
        title=title,
        machine=machine or name,
        cpu=cpu,
        hard_float=hard_float,
        vectors=0,
        flash=Memory(origin=0x400, size_bytes=4 * _MIB - 0x400),
        ram=Memory(origin=0x2000_0000, size_bytes=4 * _MIB),
        uart=0x4000_4000,
        timer=_CMSDK_TIMER,
    )


_ALL = (
    # QEMU's boards of this size have no Cortex-M0+. A Cortex-M3 runs its instructions, a subset, in the same number;
    # the start-up code makes it refuse unaligned access, as a Cortex-M0+ does.
    _mps2(
        "mps2-an385-m0plus",
        "Cortex-M3 running code for a Cortex-M0+",
        "cortex-m0plus",
        hard_float=False,
        machine="mps2-an385",
    ),
    _mps2("mps2-an385", "Cortex-M3", "cortex-m3", hard_float=False),
    _mps2("mps2-an386", "Cortex-M4F", "cortex-m4", hard_float=True),
    _mps2("mps2-an500", "Cortex-M7", "cortex-m7", hard_float=True),
    Board(
        name="mps2-an505",
        title="Cortex-M33, secure state",
        machine="mps2-an505",
        cpu="cortex-m33",
        hard_float=True,
        vectors=0x1000_0000,
        flash=Memory(origin=0x1000_0400, size_bytes=4 * _MIB - 0x400),
        ram=Memory(origin=0x3800_0000, size_bytes=4 * _MIB),
        uart=0x5020_0000,
        timer=Timer(control=0x5000_0000, value=0x5000_0004, hz=20_000_000, down=True),
    ),
    Board(
        name="mps3-an547",
        title="Cortex-M55 with Helium, secure state",
        machine="mps3-an547",
        cpu="cortex-m55",
        hard_float=True,
        vectors=0x1000_0000,
        flash=Memory(origin=0x1100_0000, size_bytes=2 * _MIB),
        ram=Memory(origin=0x3100_0000, size_bytes=4 * _MIB),
        uart=0x5930_3000,
        timer=Timer(control=0x5810_0000, value=0x5810_0008, hz=32_000_000, down=False),
    ),
)
BOARDS = {board.name: board for board in _ALL}


def board_named(name: str) -> Board:
    """Find a board. Raises: SpecError for an unknown name."""
    if name not in BOARDS:
        raise SpecError(f"board: unknown {name!r}{did_you_mean(name, list(BOARDS))}")
    return BOARDS[name]
