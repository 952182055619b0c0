"""What can go wrong on an emulated board."""

from collections.abc import Mapping

from hybrid.errors import HybridError


class EmulationError(HybridError):
    """A program could not be built, or did not come to its end."""


class ToolchainError(EmulationError):
    """A program that this machine needs is missing."""


class EmulationTimeoutError(EmulationError):
    """The program was still running at the end of its time."""


class FaultError(EmulationError):
    """The program ran into a fault; `registers` by name, empty where the stack itself was lost."""

    def __init__(self, message: str, registers: Mapping[str, int]) -> None:
        self.registers = dict(registers)
        super().__init__(message)
