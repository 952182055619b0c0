"""Int8 flatbuffers over many examples: in TensorFlow Lite Micro, as the device computes, or in a fast host runtime.

Host runtimes round some outputs differently from the device, so each figure that speaks of the device comes from
TensorFlow Lite Micro; the fast ones serve fitting and choosing. Its Python package exists for Linux only: elsewhere
LiteRT's reference kernels stand in (`device_engine` says which). Measured on five nets, 300 examples each, they
gave up to 0.6 % of the logits one int8 step off.

Worker processes (``python -m hybrid.runtimes``) share the examples: interpreters hold Python's lock while they compute,
and tflite-runtime fails beside a loaded TensorFlow.
"""

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import HybridError
from hybrid.progress import SILENT, Advance, Narrator
from hybrid.schema import schema

Engine = Literal["tflm", "host"]
"""``tflm``: as the device computes, by `device_engine`; ``host``: fast."""
DeviceEngine = Literal["tflite-micro", "litert-reference"]
Example = NDArray[np.int8]
Step = Callable[[Example], list[Example]]
"""Runs one example ``(1, h, w, c)``; gives the model's outputs in order."""

ENGINE_TITLES: dict[DeviceEngine, str] = {
    "tflite-micro": "TFLite Micro",
    "litert-reference": "LiteRT's reference kernels",
}
STAND_IN = (
    "TFLite Micro is missing here (its Python package is for Linux): LiteRT's reference kernels stand in for the "
    "device, and the arena is an estimate; `hybrid export` and `hybrid verify` with this run folder on Linux make "
    "both exact."
)

HOST_RUNTIMES = ("tflite_runtime.interpreter", "ai_edge_litert.interpreter")

TICK = 100
"""Examples between two progress lines of a worker."""

ARENA_BYTES = 64 << 20
"""Memory offered to a model in TensorFlow Lite Micro here, far beyond any microcontroller's."""


def run(
    flatbuffer: bytes,
    x: NDArray[np.uint8] | NDArray[np.int8],
    *,
    engine: Engine,
    label: str = "inference",
    narrator: Narrator = SILENT,
) -> list[NDArray[np.int8]]:
    """Run examples `x` ``(n, ...)`` one by one, `n` at least 1.

    Images are uint8 as stored, their int8 input is ``x - 128``; int8 examples, such as a trunk, are taken as they are.

    Returns: one int8 array ``(n, ...)`` per output of the model, in its order.
    Raises: HybridError where the engine refuses the model.
    """
    workers = max(1, min(os.cpu_count() or 1, len(x) // TICK))
    with tempfile.TemporaryDirectory() as folder, narrator.track(label, len(x)) as advance:
        model = Path(folder, "model.tflite")
        model.write_bytes(flatbuffer)
        stems = [Path(folder, f"part{index}") for index in range(workers)]
        parts = np.array_split(to_int8(x), workers)
        jobs = [_start(engine, model, stem, part) for stem, part in zip(stems, parts, strict=True)]
        try:
            done = [_finish(job, stem, advance) for job, stem in zip(jobs, stems, strict=True)]
        finally:
            for job in jobs:
                job.kill()
                job.communicate()
    return [np.concatenate(outputs) for outputs in zip(*done, strict=True)]


def to_int8(x: NDArray[np.uint8] | NDArray[np.int8]) -> NDArray[np.int8]:
    """The device's input for stored images: ``x - 128``; int8 examples stay as they are.

    >>> to_int8(np.array([0, 128, 255], np.uint8)), to_int8(np.array([-5], np.int8))
    (array([-128,    0,  127], dtype=int8), array([-5], dtype=int8))
    """
    return (x.astype(np.int16) - (128 if x.dtype == np.uint8 else 0)).astype(np.int8)


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "hybrid.runtimes", *map(str, arguments)]


def _environment() -> dict[str, str]:
    """Lets a worker find this package wherever the caller did."""
    root = str(Path(__file__).resolve().parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}


def _start(engine: Engine, model: Path, stem: Path, part: Example) -> "subprocess.Popen[str]":
    np.save(stem.with_suffix(".npy"), part)
    command = _command(engine, model, stem.with_suffix(".npy"), stem.with_suffix(".npz"))
    errors = stem.with_suffix(".err").open("w", encoding="utf-8")
    with errors:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=_environment())


def _finish(job: "subprocess.Popen[str]", stem: Path, advance: Advance) -> list[Example]:
    for line in job.stdout or ():
        advance(int(line), "")
    if job.wait():
        errors = stem.with_suffix(".err").read_text(encoding="utf-8")
        raise HybridError(f"the interpreter refused the model: {_last_line(errors)}")
    with np.load(stem.with_suffix(".npz")) as arrays:
        return [arrays[name] for name in arrays.files]


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


@cache
def device_engine() -> DeviceEngine:
    """Say what computes as the device does here: TFLite Micro, or LiteRT's reference kernels where it is missing."""
    try:
        importlib.import_module("tflite_micro")
    except ModuleNotFoundError:
        return "litert-reference"
    return "tflite-micro"


def device_step(flatbuffer: bytes) -> Step:
    """Prepare the model in `device_engine`. Raises: RuntimeError or ValueError where that refuses the model."""
    return {"tflite-micro": _tflm_step, "litert-reference": _reference_step}[device_engine()](flatbuffer)


def _tflm_step(flatbuffer: bytes) -> Step:
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(flatbuffer, arena_size=ARENA_BYTES)
    outputs = int(schema().Model.GetRootAsModel(flatbuffer, 0).Subgraphs(0).OutputsLength())

    def step(example: Example) -> list[Example]:
        interpreter.set_input(example, 0)
        interpreter.invoke()
        return [interpreter.get_output(index).copy() for index in range(outputs)]

    return step


def _reference_step(flatbuffer: bytes) -> Step:
    """LiteRT without optimised kernels and without delegates."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    reference = OpResolverType.BUILTIN_REF
    return _lite_step(Interpreter(model_content=flatbuffer, experimental_op_resolver_type=reference, num_threads=1))


def _host_step(flatbuffer: bytes) -> Step:
    """Optimised kernels without XNNPACK, which LiteRT brings: it rounds otherwise."""
    lite = _host_module()
    plain = lite.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return _lite_step(lite.Interpreter(model_content=flatbuffer, experimental_op_resolver_type=plain, num_threads=1))


def _lite_step(interpreter: Any) -> Step:
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    outputs = [output["index"] for output in interpreter.get_output_details()]

    def step(example: Example) -> list[Example]:
        interpreter.set_tensor(source, example)
        interpreter.invoke()
        return [interpreter.get_tensor(output) for output in outputs]

    return step


def _host_module() -> Any:
    for name in HOST_RUNTIMES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise HybridError(f"no TFLite runtime: none of {', '.join(HOST_RUNTIMES)} can be imported; install ai-edge-litert")


_STEPS = {"tflm": device_step, "host": _host_step}


def _work(argv: Sequence[str]) -> None:
    """Serve as a worker: ``ENGINE MODEL INPUTS.npy OUTPUTS.npz``, counts of finished examples on stdout."""
    step, results = _STEPS[argv[0]](Path(argv[1]).read_bytes()), []
    inputs = np.load(argv[2])
    for index, example in enumerate(inputs, 1):
        results.append(step(example[None]))
        if index % TICK == 0 or index == len(inputs):
            print((index - 1) % TICK + 1, flush=True)
    np.savez(argv[3], *(np.concatenate(arrays) for arrays in zip(*results, strict=True)))


if __name__ == "__main__":
    _work(sys.argv[1:])
