"""The cores that models are compiled for, as data."""

from dataclasses import dataclass
from typing import Literal, get_args

from firmware_export.emulate.boards import BOARDS, Board
from hybrid.configure import did_you_mean
from hybrid.errors import SpecError

Cpu = Literal["cortex-m4", "cortex-m7", "cortex-m33", "cortex-m3", "cortex-m0plus", "host"]
"""``host``: any other, whose instructions nobody counts."""
CPUS: tuple[Cpu, ...] = get_args(Cpu)


@dataclass(frozen=True, kw_only=True)
class Core:
    """A core, and where it is emulated."""

    board: str | None
    """Name of the emulated board; None where there is none."""
    has_dsp: bool
    """Has the instructions for which unpacked weights pay; cores without them get kernels and weights of their own."""


CORES: dict[Cpu, Core] = {
    "cortex-m4": Core(board="mps2-an386", has_dsp=True),
    "cortex-m7": Core(board="mps2-an500", has_dsp=True),
    "cortex-m33": Core(board="mps2-an505", has_dsp=True),
    "cortex-m3": Core(board="mps2-an385", has_dsp=False),
    "cortex-m0plus": Core(board="mps2-an385-m0plus", has_dsp=False),
    "host": Core(board=None, has_dsp=False),
}


def core_named(cpu: str) -> Core:
    """Find a core. Raises: SpecError for an unknown name."""
    for name, core in CORES.items():
        if name == cpu:
            return core
    raise SpecError(f"cpu: unknown {cpu!r}, allowed {', '.join(CPUS)}{did_you_mean(cpu, list(CPUS))}")


def cpu_of(core: str) -> Cpu:
    """How a device's core is named here; any that is not among them counts as host.

    >>> cpu_of("Cortex-M4F"), cpu_of("Cortex-M0+"), cpu_of("Xtensa LX7")
    ('cortex-m4', 'cortex-m0plus', 'host')
    """
    name = core.lower().replace("0+", "0plus").removesuffix("f")
    return next((cpu for cpu in CORES if cpu == name), "host")


def board_of(core: Core) -> Board | None:
    """The emulated board of a core."""
    return None if core.board is None else BOARDS[core.board]
