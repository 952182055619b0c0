"""How instructions are counted: by a plugin of QEMU, exactly, or by a timer of the board, within a few."""

import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Literal

from firmware_export.emulate import programs
from firmware_export.host import compile_c
from hybrid.errors import HybridError

Counter = Literal["plugin", "timer"]
SHIFT = 8
"""With the timer an instruction takes 2^SHIFT ns of the emulated time."""
PLUGIN = "count.so"
COUNTS = "counts.txt"
_PROBE_S = 30.0


def best_counter() -> Counter:
    """Choose the plugin where there is a compiler for it and QEMU takes it, else the timer."""
    return "timer" if plugin() is None else "plugin"


@cache
def plugin() -> bytes | None:
    """Build the plugin for this machine and let QEMU try it; None where either refuses or is missing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            _build(folder)
            works = _is_taken(folder)
        except HybridError:
            return None
        return (folder / PLUGIN).read_bytes() if works else None


def _build(folder: Path) -> None:
    arguments = ("-O2", "-fPIC", "-shared", str(programs.TARGET / "count.c"))
    compile_c(folder, PLUGIN, arguments, "the counting plugin")


def _is_taken(folder: Path) -> bool:
    options = ("-machine", "none", "-display", "none", "-monitor", "stdio", *plugin_options())
    try:
        done = subprocess.run(
            [programs.find("qemu-system-arm"), *options],
            cwd=folder,
            input=b"quit\n",
            capture_output=True,
            timeout=_PROBE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and (folder / COUNTS).is_file()


def plugin_options() -> tuple[str, ...]:
    """QEMU's options for a folder that holds the plugin."""
    return ("-plugin", f"./{PLUGIN},out={COUNTS}")


def timer_options() -> tuple[str, ...]:
    """QEMU's options that bind the emulated time to the number of instructions."""
    return ("-icount", f"shift={SHIFT}")


def instructions_of(ticks: int, hz: int) -> int:
    """Convert ticks of a timer.

    >>> instructions_of(6400, 25_000_000)  # 40 ns a tick, 256 ns an instruction
    1000
    """
    return round(ticks * 10**9 / (hz << SHIFT))
