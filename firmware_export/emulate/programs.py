"""The programs of other people that an emulation needs, and how they are run."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from firmware_export.emulate.errors import ToolchainError

TARGET = Path(__file__).with_name("target")
"""C sources and linker script of the run-time, and the counting plugin's source."""
CROSS = "arm-none-eabi-"
_PACKAGES = {
    f"{CROSS}gcc": "gcc-arm-none-eabi and libnewlib-arm-none-eabi",
    f"{CROSS}size": "binutils-arm-none-eabi",
    f"{CROSS}addr2line": "binutils-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
}


def find(name: str) -> str:
    """Find a program. Raises: ToolchainError naming Debian's package of a missing one."""
    path = shutil.which(name)
    if path is None:
        raise ToolchainError(f"{name}: not found; install Debian's {_PACKAGES[name]}")
    return path


def missing() -> str | None:
    """Say which program is missing here, None where emulation is possible."""
    try:
        for name in (f"{CROSS}gcc", f"{CROSS}size", "qemu-system-arm"):
            find(name)
        need_library()
    except ToolchainError as exc:
        return str(exc)
    return None


def need_library() -> None:
    """Raise ToolchainError where the compiler has no C library, which is a package of its own."""
    if not Path(run([f"{CROSS}gcc", "-print-file-name=nosys.specs"], TARGET).stdout.strip()).is_absolute():
        raise ToolchainError("newlib: not found; install Debian's libnewlib-arm-none-eabi")


def run(command: Sequence[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a program in `folder` to its end, whatever its exit code."""
    path = find(command[0])
    return subprocess.run(
        [path, *command[1:]], cwd=folder, capture_output=True, text=True, errors="replace", check=False
    )
