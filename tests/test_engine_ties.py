"""Scales for which a result lies as near to a half as float32 allows: they tell in which precision factors are made.

The installed TFLite Micro multiplies and divides scales in float64 throughout; a factor rounded to float32 on the way
gives another table or another output for some of these models.
"""

import numpy as np
import pytest
from engine_build import Draft, flatbuffer
from engine_models import tflm_many

from firmware_export.engine.compile import compile_model
from firmware_export.engine.host import built
from firmware_export.host import has_c_compiler
from hybrid.runtimes import device_engine

pytestmark = pytest.mark.skipif(
    device_engine() != "tflite-micro" or not has_c_compiler(), reason="needs tflite-micro and a C compiler"
)
VALUES = np.arange(-128, 128).astype(np.int8).reshape(1, 256)
GRID = [side.astype(np.int8) for side in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128))]


def float32(value):
    return float(np.float32(value))


def near_half(rng):
    """Scales of input and output for which ``value * input / output`` is near a half."""
    output, value = float32(rng.uniform(0.01, 0.1)), int(rng.integers(3, 250))
    half = int(rng.integers(0, min(120, 4 * value - 1))) + 0.5
    return float32(output * half / value), output


def unary(kind, rng):
    source, target = near_half(rng)
    options = {}
    if kind == "LEAKY_RELU":
        options = {"alpha": float32(rng.choice([0.1, 0.3, 0.7]))}
        source = float32(source / options["alpha"])
    draft = Draft()
    x = draft.input((1, 256), scale=source, zero_point=int(rng.integers(-128, 128)))
    y = draft.tensor((1, 256), scale=target, zero_point=int(rng.integers(-100, 100)))
    draft.op(kind, [x], y, **options)
    return flatbuffer(draft.graph([y])), [VALUES]


def binary(kind, rng):
    source, target = near_half(rng)
    other = float32(source * 2.0 ** -float(rng.integers(0, 4)))
    draft = Draft()
    inputs = [
        draft.input((256, 256), scale=scale, zero_point=int(rng.integers(-128, 128))) for scale in (source, other)
    ]
    y = draft.tensor((256, 256), scale=target, zero_point=3)
    draft.op(kind, inputs, y, fused_activation_function="NONE")
    return flatbuffer(draft.graph([y])), GRID


def hard_swish(kind, rng):
    """A factor near the half between two mantissas of 16 bits."""
    source, mantissa = float32(rng.uniform(0.01, 0.1)), int(rng.integers(1 << 14, (1 << 15) - 1)) + 0.5
    target = float32(source / 128 / (mantissa / 2**15 * 2.0 ** int(rng.integers(-9, -5))))
    draft = Draft()
    x, y = (draft.tensor((1, 256), scale=scale, zero_point=-128) for scale in (source, target))
    draft.inputs.append(x)
    draft.op(kind, [x], y)
    return flatbuffer(draft.graph([y])), [VALUES]


def fully_connected(kind, rng):
    """Biases near 2^31 on the halves of a small factor; the only input is 0."""
    source, weight = (float32(rng.uniform(0.01, 0.1)) for _ in range(2))
    target = float32(rng.uniform(50_000, 100_000))
    real = source * weight / target
    most = min(120, int(2**31 * real) - 1)
    bias = np.round((rng.integers(-most, most, 40) + 0.5) / real).astype(np.int32)
    draft = Draft()
    x = draft.input((1, 1), scale=source, zero_point=0)
    weights = draft.tensor((40, 1), data=np.ones((40, 1), np.int8), scales=(weight,), zero_points=(0,))
    b = draft.tensor((40,), "int32", data=bias, scales=(float32(source * weight),), zero_points=(0,))
    y = draft.tensor((1, 40), scale=target, zero_point=0)
    draft.op(kind, [x, weights, b], y, fused_activation_function="NONE", keep_num_dims=False)
    return flatbuffer(draft.graph([y])), [np.zeros((1, 1), np.int8)]


DRAWS = {
    "RELU": unary,
    "QUANTIZE": unary,
    "LEAKY_RELU": unary,
    "ADD": binary,
    "SUB": binary,
    "FULLY_CONNECTED": fully_connected,
    "HARD_SWISH": hard_swish,
}


@pytest.mark.parametrize("count", [12, pytest.param(50, marks=pytest.mark.slow)])
def test_factors_are_computed_in_the_precision_of_tflite_micro(count):
    rng = np.random.default_rng(0)
    cases = [draw(kind, rng) for kind, draw in DRAWS.items() for _ in range(count)]
    models = [compile_model(model, prefix=f"m{number}", kernels="kernels") for number, (model, _) in enumerate(cases)]
    with built(models, optimise="-O1") as program:
        for number, (model, example) in enumerate(cases):
            (expected,), (got,) = tflm_many(model, [example]), program.run([example], number)
            assert np.array_equal(expected[0], got[0]), list(DRAWS)[number // count]
