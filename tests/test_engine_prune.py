"""Channels whose values do not depend on the input are left out, and outputs stay those of TFLite Micro."""

import numpy as np
import pytest
from engine_build import Draft, flatbuffer

from firmware_export.engine.compile import compile_model
from firmware_export.engine.prune import prune
from firmware_export.engine.reader import read
from firmware_export.engine.verify import verify
from firmware_export.host import has_c_compiler
from hybrid.runtimes import device_engine

DEAD = -(1 << 24)
"""A bias that no sum of these layers reaches."""
IN_SCALE, WEIGHT_SCALE = 0.02, 0.01


def layer(draft, kind, x, shape, bias, *, zero_point=-128, blank=(), **options):
    """A layer of random weights, those of the channels `blank` all 0; RELU, steps of one pixel."""
    rng, axis = np.random.default_rng(len(draft.tensors)), 3 if kind == "DEPTHWISE_CONV_2D" else 0
    data = rng.integers(-127, 128, shape).astype(np.int8)
    np.moveaxis(data, axis, 0)[list(blank)] = 0
    outputs, scale = shape[axis], float(np.float32(WEIGHT_SCALE))
    weights = draft.tensor(shape, data=data, scales=(scale,) * outputs, zero_points=(0,) * outputs, axis=axis)
    real = (float(np.float32(draft.tensors[x].scales[0] * scale)),) * outputs
    data = np.array(bias, np.int32)
    b = draft.tensor((outputs,), "int32", data=data, scales=real, zero_points=(0,) * outputs)
    height, width = draft.tensors[x].shape[1:3]
    y = draft.tensor((1, height, width, outputs), scale=0.05, zero_point=zero_point)
    more = {"depth_multiplier": 1} if axis else {}
    more |= {f"stride_{side}": 1 for side in "hw"} | {f"dilation_{side}_factor": 1 for side in "hw"} | options
    return draft.op(kind, [x, weights, b], y, padding="SAME", fused_activation_function="RELU", **more)


def net(last_kernel, *, zero_point=-128, pooled=False):
    """CONV_2D of 8 channels, 3 of them dead; a depthwise one, in which a fourth is dead and a fifth is constant."""
    draft = Draft()
    x = draft.input((1, 5, 5, 3), scale=IN_SCALE, zero_point=3)
    x = layer(draft, "CONV_2D", x, (8, 3, 3, 3), [DEAD, 0, DEAD, 500, DEAD, -90, 0, 7], zero_point=zero_point)
    depthwise_bias = [40, 0, 900, DEAD, -3, 2500, 10, 0]
    x = layer(draft, "DEPTHWISE_CONV_2D", x, (1, 3, 3, 8), depthwise_bias, zero_point=zero_point, blank=[5])
    x = layer(draft, "CONV_2D", x, (8, last_kernel, last_kernel, 8), [0, 9, DEAD, 0, 5, DEAD, DEAD, DEAD])
    if pooled:
        x = head(draft, x)
    return flatbuffer(draft.graph([x]))


def head(draft, x):
    affine = {"scale": draft.tensors[x].scales[0], "zero_point": draft.tensors[x].zero_points[0]}
    sizes = {"filter_height": 5, "filter_width": 5, "stride_h": 5, "stride_w": 5, "padding": "VALID"}
    y = draft.tensor((1, 1, 1, 8), **affine)
    x = draft.op("AVERAGE_POOL_2D", [x], y, fused_activation_function="NONE", **sizes)
    shape = draft.tensor((2,), "int32", data=np.array([1, 8], np.int32))
    x = draft.op("RESHAPE", [x, shape], draft.tensor((1, 8), **affine), new_shape=[1, 8])
    data = np.random.default_rng(0).integers(-127, 128, (3, 8)).astype(np.int8)
    weights = draft.tensor((3, 8), data=data, scale=0.01)
    return draft.op(
        "FULLY_CONNECTED", [x, weights], draft.tensor((1, 3), scale=0.1, zero_point=0), fused_activation_function="NONE"
    )


def channels(model):
    graph = prune(read(model))
    return [graph.tensors[op.outputs[0]].shape[-1] for op in graph.ops]


def test_constant_channels_are_left_out_as_far_as_channels_stay_in_fours():
    """Channels 0, 2, 4 are dead, 3 and 5 become so: 3 are left, filled up to 4. The last layer's are the model's."""
    assert channels(net(1)) == [4, 4, 8]


def test_the_macs_that_fall_away_are_told():
    """Of 25 pixels: 8 x 27 + 8 x 9 + 8 x 8 = 352 become 4 x 27 + 4 x 9 + 8 x 4 = 176 each."""
    compiled = compile_model(net(1))
    assert compiled.model_macs == 25 * 352
    assert sum(layer.macs for layer in compiled.layers) == 25 * 176


def test_a_constant_beside_padding_is_kept():
    """A 3x3 layer sees zeros of the padding beside what is constant but not zero: channels 0, 2, 5 stay with 1, 6, 7.

    Only channels 3 and 4 are zero throughout; of 8 channels 6 are left, filled up to 8.
    """
    assert channels(net(3)) == [8, 8, 8]


def test_a_pool_and_a_fully_connected_layer_end_a_chain():
    """The last convolution has 4 live channels of 8."""
    assert channels(net(1, pooled=True)) == [4, 4, 4, 4, 4, 3]


@pytest.mark.skipif(device_engine() != "tflite-micro" or not has_c_compiler(), reason="needs tflite-micro and gcc")
@pytest.mark.parametrize(("last_kernel", "pooled"), [(3, False), (1, True)])
def test_outputs_stay_the_same(last_kernel, pooled):
    model = net(last_kernel, zero_point=-100, pooled=pooled)
    assert verify(model, compile_model(model), 10) is None


def near_the_end(zero_point, bias, *, behind):
    """A factor of 1 - 2^-26 and sums so near to an end of int32 that the zero point makes some of them wrap."""
    draft, near = Draft(), 2.0**-13
    steps = {f"stride_{side}": 1 for side in "hw"} | {f"dilation_{side}_factor": 1 for side in "hw"}
    options = {"padding": "SAME", "fused_activation_function": "NONE", **steps}
    x = draft.input((1, 4, 4, 4), scale=1 + near, zero_point=0)
    weights = draft.constant(np.vstack([np.eye(4)] * 2).reshape(8, 1, 1, 4), "int8", scale=1 - near)
    biases = draft.constant([bias, bias, bias, bias, 0, 1, 2, 5], scale=(1 + near) * (1 - near))
    x = draft.op("CONV_2D", [x, weights, biases], draft.tensor((1, 4, 4, 8), scale=1, zero_point=zero_point), **options)
    if behind:
        ones = draft.constant(np.ones((4, 1, 1, 8)), "int8", scale=0.5)
        x = draft.op("CONV_2D", [x, ones], draft.tensor((1, 4, 4, 4), scale=4, zero_point=0), **options)
    return draft.flatbuffer(x)


@pytest.mark.skipif(device_engine() != "tflite-micro" or not has_c_compiler(), reason="needs tflite-micro and gcc")
@pytest.mark.parametrize("cpu", ["cortex-m4", "cortex-m0plus"])
@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(
    ("zero_point", "bias"), [(127, (1 << 31) - 128), (127, (1 << 31) - 130), (-128, -(1 << 31) + 128)]
)
def test_sums_that_wrap_with_the_zero_point_are_no_constants(zero_point, bias, behind, cpu):
    model = near_the_end(zero_point, bias, behind=behind)
    assert verify(model, compile_model(model, cpu=cpu), 20) is None
