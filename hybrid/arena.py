"""How much arena a model needs on TFLite Micro: what its recording interpreter reports, and the least that works.

The report is the memory in use after preparation. While kernels prepare, TFLite Micro also holds temporary tensors; in
a small net they, not the activations, set the least arena that works. So that is found by trying. Both come from
processes of their own, because TFLite Micro may crash in an arena that is far too small. Pointers here have 8 bytes:
a 32-bit device needs less for the same kernels.
"""

import re
import subprocess
import sys

from hybrid.artifacts import Footprint
from hybrid.cost import flatbuffer_macs
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
_TOTAL = re.compile(r"Arena allocation total (\d+) bytes")
_STEP_BYTES = 16
_MOST_BYTES = 256 << 20


def footprint(flatbuffer: bytes, *, router_macs: int, estimated_arena_bytes: int) -> Footprint:
    """Measure what a model takes; its arena is the estimate given where TFLite Micro is missing.

    Raises: UnsupportedOpError where TFLite Micro refuses the model.
    """
    measurable = device_engine() == "tflite-micro"
    return Footprint(
        macs=sum(flatbuffer_macs(flatbuffer).values()),
        router_macs=router_macs,
        flash_bytes=len(flatbuffer),
        measured_arena_bytes=recorded_arena_bytes(flatbuffer) if measurable else estimated_arena_bytes,
        least_arena_bytes=least_arena_bytes(flatbuffer) if measurable else estimated_arena_bytes,
        arena_source="measured" if measurable else "estimated",
    )


def least_arena_bytes(flatbuffer: bytes) -> int:
    """Find the least arena, in steps of 16 bytes, with which TFLite Micro prepares and runs the model here.

    Raises: UnsupportedOpError where no arena is enough.
    """
    command = [sys.executable, "-c", _SEARCH, str(_STEP_BYTES), str(_MOST_BYTES)]
    done = subprocess.run(command, input=flatbuffer, capture_output=True, check=False)
    if done.returncode != 0:
        raise UnsupportedOpError(f"model: TFLite Micro cannot run it in {_MOST_BYTES:,} bytes of arena")
    return int(done.stdout)


def recorded_arena_bytes(flatbuffer: bytes) -> int:
    """Ask TFLite Micro's recording interpreter what it allocates for the model, without margin.

    Raises: UnsupportedOpError with TFLite Micro's own words where it refuses the model.
    """
    command = [sys.executable, "-c", _RECORD, str(_MOST_BYTES)]
    done = subprocess.run(command, input=flatbuffer, capture_output=True, check=False)
    said = done.stderr.decode("utf-8", "replace")
    match = _TOTAL.search(said)
    if done.returncode or match is None:
        raise UnsupportedOpError(f"TFLite Micro refuses the model: {' '.join(said.split())[-300:]}")
    return int(match[1])
