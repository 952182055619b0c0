"""What the device computes: int8 flatbuffers through TensorFlow Lite Micro's own interpreter.

Host runtimes round some outputs differently, so each figure that speaks of the device comes from here. The work is
shared among processes that run ``python -m hybrid.tflm``: the interpreter holds Python's lock while it computes.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import HybridError
from hybrid.progress import SILENT, Narrator

TICK = 100
"""Examples between two progress lines of a worker."""

ARENA_BYTES = 64 << 20
"""Memory offered to a model here, far beyond any microcontroller's."""


def run(flatbuffer: bytes, x: NDArray[np.uint8], *, narrator: Narrator = SILENT) -> list[NDArray[np.int8]]:
    """Run stored examples `x` ``(n, height, width, channels)`` one by one; the int8 input is ``x - 128``.

    Returns: one int8 array ``(n, ...)`` per output of the model, in its order.
    Raises: HybridError where the interpreter refuses the model.
    """
    workers = max(1, min(os.cpu_count() or 1, len(x) // TICK))
    with tempfile.TemporaryDirectory() as folder, narrator.track("TensorFlow Lite Micro", len(x)) as advance:
        model = Path(folder, "model.tflite")
        model.write_bytes(flatbuffer)
        slices = np.array_split(to_int8(x), workers)
        jobs = [_start(model, Path(folder, f"{i}"), part) for i, part in enumerate(slices)]
        try:
            parts = [_finish(job, Path(folder, f"{i}"), advance) for i, job in enumerate(jobs)]
        finally:
            for job in jobs:
                job.kill()
                job.wait()
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def to_int8(x: NDArray[np.uint8]) -> NDArray[np.int8]:
    """The device's input for stored examples: ``x - 128``.

    >>> to_int8(np.array([0, 128, 255], np.uint8))
    array([-128,    0,  127], dtype=int8)
    """
    return (x.astype(np.int16) - 128).astype(np.int8)


def measure_arena_bytes(flatbuffer: bytes) -> int:
    """Bytes that the recording interpreter allocates for the model, without any margin.

    The interpreter here has 64-bit pointers, so a 32-bit device needs no more than this.
    Raises: HybridError where the interpreter refuses the model.
    """
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model.tflite")
        model.write_bytes(flatbuffer)
        done = subprocess.run(_command("arena", model), capture_output=True, text=True, check=False)
    found = re.search(r"Arena allocation total (\d+) bytes", done.stdout + done.stderr)
    if done.returncode or not found:
        raise HybridError(f"TensorFlow Lite Micro refused the model: {_last_line(done.stderr)}")
    return int(found.group(1))


def _command(*args: object) -> list[str]:
    return [sys.executable, "-m", "hybrid.tflm", *map(str, args)]


def _start(model: Path, stem: Path, part: NDArray[np.int8]) -> "subprocess.Popen[str]":
    np.save(stem.with_suffix(".npy"), part)
    command = _command("run", model, stem.with_suffix(".npy"), stem.with_suffix(".npz"))
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment())


def _environment() -> dict[str, str]:
    """The worker finds this package wherever the caller did."""
    root = str(Path(__file__).resolve().parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}


def _finish(job: "subprocess.Popen[str]", stem: Path, advance: Any) -> list[NDArray[np.int8]]:
    for line in job.stdout or ():
        advance(int(line), "")
    errors = job.communicate()[1]
    if job.returncode:
        raise HybridError(f"TensorFlow Lite Micro refused the model: {_last_line(errors)}")
    with np.load(stem.with_suffix(".npz")) as arrays:
        return [arrays[name] for name in arrays.files]


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _interpreter(model: Path) -> Any:
    from tflite_micro.python.tflite_micro import runtime

    return runtime.Interpreter.from_file(str(model), arena_size=ARENA_BYTES)


def _work(argv: Sequence[str]) -> None:
    if argv[0] == "arena":
        _interpreter(Path(argv[1])).print_allocations()
        return
    interpreter, outputs = _interpreter(Path(argv[1])), []
    inputs = np.load(argv[2])
    for index, example in enumerate(inputs, 1):
        interpreter.set_input(example[None], 0)
        interpreter.invoke()
        outputs.append(_outputs(interpreter))
        if index % TICK == 0 or index == len(inputs):
            print((index - 1) % TICK + 1, flush=True)
    np.savez(argv[3], *(np.concatenate(arrays) for arrays in zip(*outputs, strict=True)))


def _outputs(interpreter: Any) -> list[NDArray[np.int8]]:
    arrays = []
    while True:
        try:
            arrays.append(interpreter.get_output(len(arrays)).copy())
        except IndexError:
            return arrays


if __name__ == "__main__":
    _work(sys.argv[1:])
