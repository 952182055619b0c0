"""Numbers at the ends of what the kernels' arithmetic holds: exact as TFLite Micro, or refused."""

import numpy as np
import pytest
from engine_build import Draft, single_op
from engine_models import random_examples, tflm_many

from firmware_export.engine.compile import compile_model
from firmware_export.engine.host import built
from firmware_export.host import has_c_compiler
from hybrid.errors import UnsupportedOpError
from hybrid.runtimes import device_engine

pytestmark = pytest.mark.skipif(
    device_engine() != "tflite-micro" or not has_c_compiler(), reason="needs tflite-micro and a C compiler"
)


def float32(value):
    return float(np.float32(value))


def is_exact(model, examples, **options):
    """Whether the compiled code gives TFLite Micro's answers, clean under sanitizers."""
    with built([compile_model(model, **options)], sanitize=True, optimise="-O1") as program:
        answers = zip(program.run(examples), tflm_many(model, examples), strict=True)
        return all(np.array_equal(a, b) for got, wanted in answers for a, b in zip(got, wanted, strict=True))


def test_sums_above_2_to_the_30_take_no_winograd_kernel_without_a_proof():
    """The form FIXED holds such sums with weights as they are, but not with the doubled ones of that kernel.

    9 * 1,864 products of 127 and up to 128 reach 272,710,656 on both sides of a bias that makes the largest sum 2^30
    and 1,000; a factor of about 2^-21 leaves one step from the least sum to the end of int8.
    """
    depth = 1864
    swing = 9 * depth * 127 * 128
    draft = Draft()
    x = draft.input((1, 3, 4, depth), scale=1.0, zero_point=0)
    scales = {"scales": (float32(1.0100259 * 2.0**-21),) * 2, "zero_points": (0, 0)}
    weights = draft.constant(np.full((2, 3, 3, depth), 127), "int8", **scales)
    bias = draft.constant(np.full(2, (1 << 30) + 1000 - swing), **scales)
    y = draft.tensor((1, 3, 4, 2), scale=1.0, zero_point=-128)
    draft.op("CONV_2D", [x, weights, bias], y, padding="SAME", stride_w=1, stride_h=1)
    examples = [[np.full((1, 3, 4, depth), value, np.int8)] for value in (-128, -127, -126, -100, 0, 127)]
    assert is_exact(draft.flatbuffer(y), examples, weights="int16")


def numbers(*values):
    return {"data": np.array(values, np.int32), "dtype": "int32"}


def resized(rows):
    """An image of one column to as many rows as it has."""
    image = {"shape": (1, rows, 1, 1), "scale": 1.0}
    return single_op("RESIZE_NEAREST_NEIGHBOR", [image, numbers(rows, 1)], image)


def test_rows_are_resized_as_far_as_their_indices_go():
    """The indices are of 16 bits: row 65,536 would be row 0."""
    most = resized(65536)
    assert is_exact(most, random_examples(most, np.random.default_rng(0), 1))
    with pytest.raises(UnsupportedOpError, match="allowed are 65,536 rows and columns at most"):
        compile_model(resized(65537))


def one_row(stride):
    """Row 2 of five, whose axis falls away."""
    given = [{"shape": (5, 3), "scale": 1.0}, numbers(2, 0), numbers(3, 3), numbers(stride, 1)]
    return single_op("STRIDED_SLICE", given, {"shape": (3,), "scale": 1.0}, shrink_axis_mask=1)


def test_a_row_taken_alone_is_taken_forwards():
    """TFLite Micro walks from it to the row behind it: with a stride below 0 that ends before the first value."""
    for stride in (1, 2):
        model = one_row(stride)
        assert is_exact(model, random_examples(model, np.random.default_rng(0), 2))
    with pytest.raises(UnsupportedOpError, match="takes one index of axis 0 backwards"):
        compile_model(one_row(-1))


def leaky(alpha):
    return single_op(
        "LEAKY_RELU", [{"shape": (1, 256), "scale": 1 - 2.0**-20}], {"shape": (1, 256), "scale": 1.0}, alpha=alpha
    )


def test_a_negative_slope_whose_mantissa_has_no_opposite_is_refused():
    """-(1 + 2^-20) (1 - 2^-20) = -1 + 2^-40 rounds to a mantissa of -2^31; that without its sign overflows."""
    values = [[np.arange(-128, 128).astype(np.int8).reshape(1, 256)]]
    assert is_exact(leaky(-1.0), values)
    assert is_exact(leaky(1 + 2.0**-20), values)
    with pytest.raises(UnsupportedOpError, match=r"LEAKY_RELU\): alpha -1.00000095 and scales give the factor -2\^0,"):
        compile_model(leaky(-1 - 2.0**-20))


def shares(*shape):
    return single_op(
        "SOFTMAX", [{"shape": shape, "scale": 0.5}], {"shape": shape, "scale": 1 / 256, "zero_point": -128}, beta=1.0
    )


def test_softmax_over_rows_for_which_its_sum_has_room():
    """8,192 equal values add up to 2^13 * 2^19 = 2^32, which wraps to 0 and has no reciprocal; a scalar has no row."""
    model = shares(1, 8191)
    assert is_exact(model, random_examples(model, np.random.default_rng(0), 2)[1:])
    for shape in ((1, 8192), ()):
        with pytest.raises(UnsupportedOpError, match="allowed are rows of 1 to 8,191 values"):
            compile_model(shares(*shape))


def test_one_channel_becomes_a_scalar():
    """What looks for channels that may be left out meets a tensor without axes."""
    draft = Draft()
    x = draft.input((1, 1, 1, 2), scale=0.5)
    weights = draft.constant(np.ones((1, 1, 1, 2)), "int8", scale=0.5)
    y = draft.tensor((1, 1, 1, 1), scale=0.5)
    draft.op("CONV_2D", [x, weights], y, padding="VALID", stride_w=1, stride_h=1)
    bare = draft.op("RESHAPE", [y], draft.tensor((), scale=0.5))
    model = draft.flatbuffer(draft.op("RELU", [bare], draft.tensor((), scale=0.5)))
    assert is_exact(model, random_examples(model, np.random.default_rng(0), 3))
