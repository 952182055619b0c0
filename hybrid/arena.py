"""How much arena a model needs on TFLite Micro: what its recording interpreter reports, and the least that works.

The report is the memory in use after preparation. While kernels prepare, TFLite Micro also holds temporary tensors; in
a small net they, not the activations, set the least arena that works. So that is found by trying. Both come from
processes of their own, because TFLite Micro may crash in an arena that is far too small. Pointers here have 8 bytes:
a 32-bit device needs less for the same kernels.

Several nets share one arena: each keeps its persistent part (the report's tail), and the rest (the head: activations,
scratch) is used by one after the other. TFLite Micro's Python package cannot put two nets into one arena, so what they
need together is added up of what each needs alone: see `shared_arena_bytes`.
"""

import re
import subprocess
import sys
from collections.abc import Sequence

from hybrid.artifacts import ArenaNeeds, Footprint
from hybrid.cascade import DeviceProgram
from hybrid.cost import flatbuffer_macs, program_flash_bytes
from hybrid.errors import UnsupportedOpError
from hybrid.runtimes import device_engine

_SEARCH = """
import os, sys
from tflite_micro import runtime

model, step, most = sys.stdin.buffer.read(), int(sys.argv[1]), int(sys.argv[2])
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

def works(steps):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            runtime.Interpreter.from_bytes(model, arena_size=steps * step).invoke()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0

low, high = 0, 1
while not works(high):
    low, high = high, 2 * high
    if low * step > most:
        sys.exit("no arena is enough")
while high - low > 1:
    middle = (low + high) // 2
    low, high = (low, middle) if works(middle) else (middle, high)
print(high * step)
"""
_RECORD = """
import sys
from tflite_micro import runtime

interpreter = runtime.Interpreter.from_bytes(sys.stdin.buffer.read(), arena_size=int(sys.argv[1]))
interpreter.invoke()
interpreter.print_allocations()
"""
_PART = re.compile(r"Arena allocation (head|tail) (\d+) bytes")
_STEP_BYTES = 16
_MOST_BYTES = 256 << 20


def footprint(program: DeviceProgram, *, estimated_arena_bytes: int) -> Footprint:
    """Measure what a program takes; its arena is the estimate given where TFLite Micro is missing.

    Raises: UnsupportedOpError where TFLite Micro refuses a net.
    """
    measured = least = estimated_arena_bytes
    measurable = device_engine() == "tflite-micro"
    if measurable:
        needs = [arena_needs(stage.flatbuffer) for stage in program.stages]
        measured, least = recorded_arena_bytes(needs), shared_arena_bytes(needs)
    return Footprint(
        macs=sum(sum(flatbuffer_macs(stage.flatbuffer).values()) for stage in program.stages),
        router_macs=sum(stage.router.macs for stage in program.stages),
        flash_bytes=program_flash_bytes(program),
        measured_arena_bytes=measured,
        least_arena_bytes=least,
        arena_source="measured" if measurable else "estimated",
    )


def least_arena_bytes(program: DeviceProgram) -> int:
    """Find an arena in which TFLite Micro prepares and runs all nets; of one net, the least. See `shared_arena_bytes`.

    Raises: UnsupportedOpError where no arena is enough.
    """
    return shared_arena_bytes([arena_needs(stage.flatbuffer) for stage in program.stages])


def shared_arena_bytes(needs: Sequence[ArenaNeeds]) -> int:
    """Add up an arena for several nets, prepared in this order.

    Each is prepared beside the tails of those before it; at the end all tails lie beside the largest head. The
    allocator itself is counted with each net, so that this is a little more than the least; of one net, the least.

    >>> small, large = (ArenaNeeds(head_bytes=h, tail_bytes=t, least_bytes=n) for h, t, n in ((1, 4, 7), (9, 5, 15)))
    >>> shared_arena_bytes([small, large]), shared_arena_bytes([large, small])  # 4 + 15, 5 + 4 + 9, up to 16
    (32, 32)
    """
    if len(needs) == 1:
        return needs[0].least_bytes
    tails = [sum(need.tail_bytes for need in needs[:index]) for index in range(len(needs))]
    preparing = max(tail + need.least_bytes for tail, need in zip(tails, needs, strict=True))
    return _aligned(max(preparing, recorded_arena_bytes(needs)))


def recorded_arena_bytes(needs: Sequence[ArenaNeeds]) -> int:
    """Add up what stays in use: all tails, and the largest head."""
    return sum(need.tail_bytes for need in needs) + max(need.head_bytes for need in needs)


def shared_needs(needs: Sequence[ArenaNeeds]) -> ArenaNeeds:
    """What several nets need together."""
    return ArenaNeeds(
        head_bytes=max(need.head_bytes for need in needs),
        tail_bytes=sum(need.tail_bytes for need in needs),
        least_bytes=shared_arena_bytes(needs),
    )


def arena_needs(flatbuffer: bytes) -> ArenaNeeds:
    """Measure one net. Raises: UnsupportedOpError where TFLite Micro refuses it or no arena is enough."""
    parts = _recorded(flatbuffer)
    return ArenaNeeds(head_bytes=parts["head"], tail_bytes=parts["tail"], least_bytes=_least(flatbuffer))


def _aligned(size: int) -> int:
    return -(-size // _STEP_BYTES) * _STEP_BYTES


def _least(flatbuffer: bytes) -> int:
    """Find the least arena, in steps of 16 bytes, with which TFLite Micro prepares and runs the net here."""
    command = [sys.executable, "-c", _SEARCH, str(_STEP_BYTES), str(_MOST_BYTES)]
    done = subprocess.run(command, input=flatbuffer, capture_output=True, check=False)
    if done.returncode != 0:
        raise UnsupportedOpError(f"model: TFLite Micro cannot run it in {_MOST_BYTES:,} bytes of arena")
    return int(done.stdout)


def _recorded(flatbuffer: bytes) -> dict[str, int]:
    """Ask TFLite Micro's recording interpreter what it allocates for the net: head and tail."""
    command = [sys.executable, "-c", _RECORD, str(_MOST_BYTES)]
    done = subprocess.run(command, input=flatbuffer, capture_output=True, check=False)
    said = done.stderr.decode("utf-8", "replace")
    parts = {name: int(size) for name, size in _PART.findall(said)}
    if done.returncode or len(parts) != 2:
        raise UnsupportedOpError(f"TFLite Micro refuses the model: {' '.join(said.split())[-300:]}")
    return parts
