"""Compiled code against TFLite Micro, bit by bit, on this machine."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine.compile import Compiled
from firmware_export.engine.graph import Tensor
from firmware_export.engine.host import Values, built
from hybrid.errors import HybridError, UnsupportedOpError
from hybrid.progress import SILENT, Narrator
from hybrid.runtimes import ARENA_BYTES, device_engine

_REFUSALS = (RuntimeError, ValueError, TypeError, struct.error)
"""Of TFLite Micro, and of its package, which reads more of a flatbuffer than is run."""
_CHUNK = 256
"""Examples that are held in memory at a time."""


@dataclass(frozen=True)
class Mismatch:
    """The first value that differs."""

    example: int
    """Place among the random inputs, from 0."""
    output: int
    index: tuple[int, ...]
    expected: float
    got: float

    def __str__(self) -> str:
        place = f"input {self.example}, output {self.output}, index {list(self.index)}"
        return f"{place}: TFLite Micro gives {self.expected:g}, the compiled code {self.got:g}"


def verify(
    flatbuffer: bytes,
    compiled: Compiled,
    count: int,
    *,
    seed: int = 0,
    sanitize: bool = False,
    narrator: Narrator = SILENT,
) -> Mismatch | None:
    """Run `count` random inputs through `compiled` and through TFLite Micro; gives the first difference, if any.

    With `sanitize` the compiled code runs under AddressSanitizer and UndefinedBehaviorSanitizer.

    Raises: UnsupportedOpError where TFLite Micro refuses the model; HybridError where it is not installed, or where
    the compiled code does not build or fails.
    """
    oracle, rng = _Oracle(flatbuffer, compiled), np.random.default_rng(seed)
    with built([compiled], sanitize=sanitize) as program, narrator.track("against TFLite Micro", count) as advance:
        for start in range(0, count, _CHUNK):
            examples = random_examples(compiled, min(_CHUNK, count - start), rng)
            for place, got in enumerate(program.run(examples)):
                if found := _difference(start + place, oracle.outputs(examples[place]), got):
                    return found
                advance(1, "")
    return None


def compare(
    flatbuffer: bytes, compiled: Compiled, examples: Sequence[Values], outputs: Sequence[Values]
) -> Mismatch | None:
    """Compare what `compiled` said somewhere else, on a board for example; gives the first difference, if any.

    Raises: UnsupportedOpError where TFLite Micro refuses the model; HybridError where it is not installed.
    """
    oracle = _Oracle(flatbuffer, compiled)
    pairs = enumerate(zip(examples, outputs, strict=True))
    found = (_difference(place, oracle.outputs(example), got) for place, (example, got) in pairs)
    return next(filter(None, found), None)


def random_examples(compiled: Compiled, count: int, rng: np.random.Generator) -> list[Values]:
    """Draw inputs; with the generator of a seed the first ones are those of `verify` with that seed."""
    tensors = [compiled.graph.tensors[number] for number in compiled.graph.inputs]
    return [[random_input(tensor, rng) for tensor in tensors] for _ in range(count)]


def random_input(tensor: Tensor, rng: np.random.Generator) -> NDArray[Any]:
    """Draw values over the whole range of an input's type, float ones normally distributed around 0."""
    if tensor.dtype == "float32":
        return rng.normal(0.0, 2.0, tensor.shape).astype(np.float32)
    limits = np.iinfo(tensor.dtype)
    return rng.integers(limits.min, limits.max, tensor.shape, tensor.dtype, endpoint=True)


def _difference(example: int, expected: Values, got: Values) -> Mismatch | None:
    for output, (a, b) in enumerate(zip(expected, got, strict=True)):
        wanted = a.reshape(b.shape)
        unequal = np.argwhere(_bits(wanted) != _bits(b))
        if len(unequal):
            index = tuple(map(int, unequal[0]))
            return Mismatch(example, output, index, float(wanted[index]), float(b[index]))
    return None


def _bits(values: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(values).view(f"u{values.itemsize}")


def _line(exc: Exception) -> str:
    return " ".join(str(exc).split())


class _Oracle:
    """TFLite Micro's interpreter."""

    def __init__(self, flatbuffer: bytes, compiled: Compiled) -> None:
        if device_engine() != "tflite-micro":
            raise HybridError("TFLite Micro is missing, and nothing else tells what is exact; verify on Linux")
        from tflite_micro import runtime

        self._outputs = len(compiled.graph.outputs)
        try:
            self._interpreter = runtime.Interpreter.from_bytes(flatbuffer, arena_size=ARENA_BYTES)
        except _REFUSALS as exc:
            raise UnsupportedOpError(f"model: TFLite Micro refuses it: {_line(exc)}") from exc

    def outputs(self, example: Values) -> Values:
        """One example through the interpreter."""
        for index, value in enumerate(example):
            self._interpreter.set_input(value, index)
        try:
            self._interpreter.invoke()
        except RuntimeError as exc:
            raise UnsupportedOpError(f"model: TFLite Micro fails on it: {_line(exc)}") from exc
        return [self._interpreter.get_output(index).copy() for index in range(self._outputs)]
