"""Layers that a random draw rarely meets: those that special kernels compute."""

from itertools import product

import numpy as np
from engine_build import Draft, flatbuffer


def quantised(rng, zero_points=(-128, 127, 0, 5)):
    return {"scale": float(np.float32(rng.uniform(0.01, 0.1))), "zero_point": int(rng.choice(zero_points))}


def convolution(seed, kernel, size, activation):
    """A convolution in steps of one pixel over a multiple of four channels, whose columns are unpacked once."""
    rng = np.random.default_rng([seed, *kernel, *size])
    inputs, outputs = 4 * int(rng.integers(1, 4)), int(rng.integers(1, 10))
    padding = str(rng.choice(["SAME", "VALID"]))
    stride_h, dilation_h = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    extent = (kernel[0] - 1) * dilation_h + 1
    if extent > size[0]:
        padding = "SAME"
    draft = Draft()
    x = draft.input((1, *size, inputs), **quantised(rng))
    scales = tuple(float(np.float32(scale)) for scale in rng.uniform(0.001, 0.01, outputs))
    data = rng.integers(-127, 128, (outputs, *kernel, inputs)).astype(np.int8)
    weights = draft.tensor(data.shape, data=data, scales=scales, zero_points=(0,) * outputs, axis=0)
    same = (-(-size[0] // stride_h), size[1])
    sizes = same if padding == "SAME" else ((size[0] - extent) // stride_h + 1, size[1] - kernel[1] + 1)
    y = draft.tensor((1, *sizes, outputs), **quantised(rng))
    options = {"stride_h": stride_h, "stride_w": 1, "dilation_h_factor": dilation_h, "dilation_w_factor": 1}
    draft.op("CONV_2D", [x, weights], y, padding=padding, fused_activation_function=activation, **options)
    return flatbuffer(draft.graph([y]))


def depthwise(seed, stride, size, activation="NONE", kernel=(3, 3), times=1, dilation=1):
    """A depthwise layer, `times` outputs per input; some channels are nearly dead, so that their shifts differ."""
    rng = np.random.default_rng([seed, *stride, *size])
    inputs, padding = int(rng.choice([1, 3, 4, 8, 10, 12])), str(rng.choice(["SAME", "VALID"]))
    channels, extents = inputs * times, [(k - 1) * dilation + 1 for k in kernel]
    if extents[0] > size[0] or extents[1] > size[1]:
        padding = "SAME"
    draft = Draft()
    x = draft.input((1, *size, inputs), **quantised(rng))
    dead = rng.choice([1.0, 2.0**-12, 3.0], channels, p=[0.8, 0.1, 0.1]) if rng.random() < 0.5 else 1.0
    scales = tuple(float(np.float32(scale)) for scale in rng.uniform(0.001, 0.02, channels) * dead)
    data = rng.integers(-127, 128, (1, *kernel, channels)).astype(np.int8)
    weights = draft.tensor(data.shape, data=data, scales=scales, zero_points=(0,) * channels, axis=3)
    bias = rng.integers(-20_000, 20_000, channels).astype(np.int32)
    real = tuple(float(np.float32(draft.tensors[x].scales[0] * scale)) for scale in scales)
    b = draft.tensor((channels,), "int32", data=bias, scales=real, zero_points=(0,) * channels)
    fitting = zip(size, stride, extents, strict=True)
    sizes = [-(-n // s) if padding == "SAME" else (n - extent) // s + 1 for n, s, extent in fitting]
    y = draft.tensor((1, *sizes, channels), **quantised(rng))
    options = {"stride_h": stride[0], "stride_w": stride[1], "fused_activation_function": activation}
    dilations = {"dilation_h_factor": dilation, "dilation_w_factor": dilation}
    draft.op("DEPTHWISE_CONV_2D", [x, weights, b], y, padding=padding, depth_multiplier=times, **options, **dilations)
    return flatbuffer(draft.graph([y]))


PLANES = [
    depthwise(seed, stride, size, ("RELU", "NONE", "RELU6")[seed % 3])
    for seed, (stride, size) in enumerate(
        product(((1, 1), (2, 2)), ((1, 4), (3, 3), (4, 7), (9, 5), (8, 8), (13, 2), (7, 6), (5, 1), (6, 11), (15, 5)))
    )
]
PLANES_ANY = [
    depthwise(seed, stride, size, activation, kernel, times, dilation)
    for seed, (stride, size, activation, kernel, times, dilation) in enumerate(
        [
            ((1, 1), (7, 7), "RELU", (5, 5), 1, 1),
            ((1, 1), (8, 9), "NONE", (7, 7), 1, 1),
            ((2, 2), (9, 8), "RELU", (5, 5), 1, 1),
            ((2, 2), (11, 4), "RELU6", (3, 3), 2, 1),
            ((1, 1), (16, 1), "RELU", (5, 1), 1, 1),
            ((1, 1), (1, 13), "RELU", (1, 7), 3, 1),
            ((2, 1), (20, 3), "NONE", (7, 1), 1, 1),
            ((1, 2), (5, 6), "RELU", (3, 3), 1, 1),
            ((3, 3), (10, 10), "RELU", (4, 2), 1, 1),
            ((1, 1), (9, 9), "RELU", (3, 3), 1, 2),
            ((1, 1), (12, 3), "RELU", (3, 1), 4, 3),
            ((2, 3), (13, 10), "RELU6", (10, 8), 2, 1),
            ((1, 1), (3, 3), "RELU", (1, 1), 1, 1),
            ((1, 1), (2, 2), "RELU", (6, 6), 1, 1),
        ]
    )
]
COLUMNS = [
    convolution(seed, kernel, size, activation)
    for seed, (kernel, size, activation) in enumerate(
        product(((1, 2), (3, 3), (2, 5), (5, 3)), ((5, 5), (7, 6), (1, 9)), ("NONE", "RELU", "RELU6"))
    )
]
