"""Int8 flatbuffers on this computer, fast: for fitting and choosing. Figures of the device come from `hybrid.tflm`."""

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import HybridError
from hybrid.progress import Narrator
from hybrid.tflm import to_int8

RUNTIMES = ("tflite_runtime.interpreter", "ai_edge_litert.interpreter")


def interpreter(flatbuffer: bytes) -> Any:
    """An interpreter of the first runtime that is installed: tflite-runtime, else ai-edge-litert."""
    for name in RUNTIMES:
        try:
            return importlib.import_module(name).Interpreter(model_content=flatbuffer, num_threads=2)
        except ImportError:
            continue
    raise HybridError(f"no TFLite runtime: none of {', '.join(RUNTIMES)} can be imported; install ai-edge-litert")


def run(flatbuffer: bytes, x: NDArray[np.uint8], *, label: str, narrator: Narrator) -> list[NDArray[np.int8]]:
    """Run stored examples `x` one by one; returns one int8 array ``(n, ...)`` per output, in the model's order."""
    host = interpreter(flatbuffer)
    host.allocate_tensors()
    source = host.get_input_details()[0]["index"]
    numbers = [output["index"] for output in host.get_output_details()]
    results: list[list[NDArray[np.int8]]] = [[] for _ in numbers]
    with narrator.track(label, len(x)) as advance:
        for example in to_int8(x):
            host.set_tensor(source, example[None])
            host.invoke()
            for result, number in zip(results, numbers, strict=True):
                result.append(host.get_tensor(number))
            advance(1, "")
    return [np.concatenate(result) for result in results]
