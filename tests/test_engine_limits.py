"""Scales and sizes that the reader refuses are those that TFLite Micro refuses."""

import numpy as np
import pytest
from engine_models import Draft, RefusedError, random_examples, single_op, tflm_many

from firmware_export.engine.reader import read
from hybrid.errors import UnsupportedOpError

KINDS = ("ADD", "SUB", "HARD_SWISH", "SOFTMAX", "FULLY_CONNECTED", "MUL", "LEAKY_RELU", "LOGISTIC", "RELU6", "QUANTIZE")
NEAR = (0.5, 1 - 1e-7, 1.0, 1 + 1e-7, 2.0)
"""Factors around a limit: the neighbours of 1 among floats are 6e-8 and 1.2e-7 away."""


def scale(rng: np.random.Generator) -> float:
    return float(np.float32(2.0 ** rng.uniform(-30, 10)))


def drawn(kind: str, rng: np.random.Generator) -> bytes:
    """A model of one operator with scales from 2^-30 to 2^10, or close to a limit."""
    given = [{"shape": (1, 4), "scale": scale(rng)}]
    made, near, options = scale(rng), float(rng.choice(NEAR)), {}
    if kind in ("ADD", "SUB", "MUL"):
        given.append({"shape": (1, 4), "scale": scale(rng)})
        largest = max(part["scale"] for part in given)
        made = largest * 2.0**-19 * near if rng.random() < 0.5 else made
    if kind == "HARD_SWISH":
        made = given[0]["scale"] / 128 * near if rng.random() < 0.5 else made
    if kind == "FULLY_CONNECTED":
        weights, bias = np.ones((4, 4), np.int8), np.ones(4, np.int32)
        given.append({"data": weights, "scale": scale(rng)})
        product = given[0]["scale"] * given[1]["scale"]
        given.append({"data": bias, "dtype": "int32", "scale": product * rng.choice([1, 1.1, 0.5, 3])})
    if kind == "SOFTMAX":
        made, options = 1 / 256, {"beta": float(rng.choice([1, 0.5, 0, -1, 2.0**-10]))}
    point = -128 if kind in ("SOFTMAX", "LOGISTIC") else 0
    return single_op(kind, given, {"shape": (1, 4), "scale": made, "zero_point": point}, **options)


def refused_by_tflm(flatbuffer: bytes, rng: np.random.Generator) -> bool:
    try:
        tflm_many(flatbuffer, random_examples(flatbuffer, rng, 1))
    except RefusedError:
        return True
    return False


def refused_by_reader(flatbuffer: bytes) -> bool:
    try:
        read(flatbuffer)
    except UnsupportedOpError:
        return True
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_scales_are_refused(kind):
    pytest.importorskip("tflite_micro")
    refused = 0
    for seed in range(60):
        rng = np.random.default_rng([seed, *kind.encode()])
        flatbuffer = drawn(kind, rng)
        refused += refused_by_reader(flatbuffer)
        assert refused_by_reader(flatbuffer) == refused_by_tflm(flatbuffer, rng)
    assert (5 < refused < 55) if kind in KINDS[:5] else refused == 0


def test_the_complaint_tells_the_limit():
    """An output scale of 1e-7 under sums of 1.0: 2 / 2^20 = 1.90735e-06 is the limit."""
    given = [{"shape": (1, 4), "scale": 1.0}, {"shape": (1, 4), "scale": 0.5}]
    with pytest.raises(
        UnsupportedOpError, match=r"operator 0 ADD .* scales 1, 0.5 and .* 1e-07, .* above 1.90735e-06;"
    ):
        read(single_op("ADD", given, {"shape": (1, 4), "scale": 1e-7}))


def moves(kind: str, rank: int) -> bytes:
    """A model that leaves a tensor of this many axes as it is."""
    shape, draft = (1, 2, 1, 3, 1, 2)[:rank], Draft()
    x, y = draft.input(shape, scale=1.0), draft.tensor(shape, scale=1.0)
    numbers = {"PAD": [[[0, 0]] * rank], "TRANSPOSE": [range(rank)], "STRIDED_SLICE": [[0] * rank, shape, [1] * rank]}
    return draft.flatbuffer(draft.op(kind, [x, *(draft.constant(list(part)) for part in numbers[kind])], y))


@pytest.mark.parametrize(("kind", "most"), [("PAD", 5), ("TRANSPOSE", 5), ("STRIDED_SLICE", 4)])
def test_the_same_numbers_of_axes_are_refused(kind, most):
    pytest.importorskip("tflite_micro")
    rng = np.random.default_rng(0)
    for rank in (2, 3, 4, 5, 6):
        flatbuffer = moves(kind, rank)
        assert refused_by_reader(flatbuffer) == refused_by_tflm(flatbuffer, rng) == (rank > most)


def test_the_same_numbers_of_joined_tensors_are_refused():
    pytest.importorskip("tflite_micro")
    rng = np.random.default_rng(0)
    for count in (2, 10, 11):
        flatbuffer = single_op(
            "CONCATENATION", [{"shape": (1, 1), "scale": 1.0}] * count, {"shape": (1, count), "scale": 1.0}, axis=1
        )
        assert refused_by_reader(flatbuffer) == refused_by_tflm(flatbuffer, rng) == (count > 10)
