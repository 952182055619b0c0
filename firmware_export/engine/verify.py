"""Compiled code against TFLite Micro, bit by bit, on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine.compile import Compiled
from firmware_export.engine.graph import Tensor
from firmware_export.engine.host import Values, built
from firmware_export.engine.oracle import Oracle
from hybrid.progress import SILENT, Narrator

_CHUNK = 64
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

    Raises: UnsupportedOpError where TFLite Micro refuses the model or aborts on it; HybridError where it is not
    installed, or where the compiled code does not build or fails.
    """
    rng = np.random.default_rng(seed)
    with (
        Oracle(flatbuffer, len(compiled.graph.outputs)) as oracle,
        built([compiled], sanitize=sanitize) as program,
        narrator.track("against TFLite Micro", count) as advance,
    ):
        for start in range(0, count, _CHUNK):
            examples = random_examples(compiled, min(_CHUNK, count - start), rng)
            if found := _first_difference(oracle.answers(examples), program.run(examples), start):
                return found
            advance(len(examples), "")
    return None


def compare(
    flatbuffer: bytes, compiled: Compiled, examples: Sequence[Values], outputs: Sequence[Values]
) -> Mismatch | None:
    """Compare what `compiled` said somewhere else, on a board for example; gives the first difference, if any.

    Raises: UnsupportedOpError where TFLite Micro refuses the model or aborts on it; HybridError where it is not
    installed.
    """
    with Oracle(flatbuffer, len(compiled.graph.outputs)) as oracle:
        return _first_difference(oracle.answers(examples), outputs, 0)


def _first_difference(expected: Sequence[Values], got: Sequence[Values], start: int) -> Mismatch | None:
    pairs = enumerate(zip(expected, got, strict=True), start)
    return next(filter(None, (_difference(place, *pair) for place, pair in pairs)), None)


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
