"""TFLite Micro's Python package as the judge of a model's outputs, in a process that may die without harm.

A worker (``python tests/engine_oracle.py``) stays for thousands of models. It answers in a child of its own; where a
model makes TFLite Micro abort, the next one gets a fresh child, for which nothing is loaded anew.
"""

import atexit
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.schema import schema

ARENA_BYTES = 4 << 20
_TYPES = {0: np.float32, 2: np.int32, 3: np.uint8, 9: np.int8}

Values = list[NDArray[Any]]


class RefusedError(Exception):
    """TFLite Micro refuses the model, fails on it, or aborts."""


class Oracle:
    """One worker process."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - lives as long as the worker
        command = [sys.executable, __file__]
        pipe = subprocess.PIPE
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
        self._worker = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._errors, env=environment)
        atexit.register(self._stop)

    def _stop(self) -> None:
        self._worker.kill()
        self._worker.communicate()

    def run(self, flatbuffer: bytes, examples: Sequence[Sequence[NDArray[Any]]]) -> list[Values]:
        """Give the outputs of the model for each example; an example is one array per input of the model."""
        self._errors.seek(0)
        self._errors.truncate()
        pickle.dump((flatbuffer, [list(example) for example in examples]), self._worker.stdin)
        self._worker.stdin.flush()
        answer = pickle.load(self._worker.stdout)
        if isinstance(answer, str):
            raise RefusedError(f"{answer}: {self._said()}")
        return answer

    def _said(self) -> str:
        self._errors.seek(0)
        return " ".join(self._errors.read().decode("utf-8", "replace").split())[-400:]


@cache
def oracle() -> Oracle:
    """Give this process's worker."""
    return Oracle()


def tflm(flatbuffer: bytes, inputs: Sequence[NDArray[Any]]) -> Values:
    """Give TFLite Micro's outputs for one example, in the model's order. Raises: RefusedError."""
    return oracle().run(flatbuffer, [inputs])[0]


def tflm_many(flatbuffer: bytes, examples: Sequence[Sequence[NDArray[Any]]]) -> list[Values]:
    """Give TFLite Micro's outputs for several examples. Raises: RefusedError."""
    return oracle().run(flatbuffer, examples)


def random_examples(flatbuffer: bytes, rng: np.random.Generator, count: int) -> list[Values]:
    """Draw inputs for a model: uniform, with one example of extremes in front."""
    subgraph = schema().Model.GetRootAsModel(flatbuffer, 0).Subgraphs(0)
    sources = [subgraph.Tensors(subgraph.Inputs(index)) for index in range(subgraph.InputsLength())]
    return [[_draw(source, rng, extreme=index == 0) for source in sources] for index in range(count)]


def _draw(source: Any, rng: np.random.Generator, *, extreme: bool) -> NDArray[Any]:
    shape, dtype = tuple(source.Shape(axis) for axis in range(source.ShapeLength())), _TYPES[source.Type()]
    if dtype is np.float32:
        return (rng.normal(size=shape) * (30 if extreme else 1)).astype(np.float32)
    info = np.iinfo(dtype)
    if extreme:
        return rng.choice(np.array([info.min, info.max], dtype), size=shape)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def _serve() -> None:
    """Have jobs on standard input answered by children until it ends."""
    from tflite_micro import runtime  # noqa: F401 - once for all children

    while True:
        child = os.fork()
        if child == 0:
            _answer()
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            return
        _write("aborted")


def _answer() -> None:
    """Answer jobs until the input ends."""
    while True:
        try:
            flatbuffer, examples = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer: list[Values] | str = _run(flatbuffer, examples)
        except (RuntimeError, ValueError, IndexError) as exc:
            answer = str(exc)
        _write(answer)


def _write(answer: list[Values] | str) -> None:
    pickle.dump(answer, sys.stdout.buffer)
    sys.stdout.buffer.flush()


def _run(flatbuffer: bytes, examples: list[Values]) -> list[Values]:
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(flatbuffer, arena_size=ARENA_BYTES)
    outputs = schema().Model.GetRootAsModel(flatbuffer, 0).Subgraphs(0).OutputsLength()
    answers = []
    for example in examples:
        for index, values in enumerate(example):
            interpreter.set_input(values, index)
        interpreter.invoke()
        answers.append([interpreter.get_output(index).copy() for index in range(outputs)])
    return answers


if __name__ == "__main__":
    _serve()
