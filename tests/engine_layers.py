"""Layers that a random draw rarely meets: those that special kernels compute."""

from itertools import product

import numpy as np
from engine_build import Draft, flatbuffer


def quantised(rng, zero_points=(-128, 127, 0, 5)):
    return {"scale": float(np.float32(rng.uniform(0.01, 0.1))), "zero_point": int(rng.choice(zero_points))}


def convolution(seed, kernel, size, activation, inputs, outputs, *, winograd=False):
    """A convolution with factors as of trained nets, sums about as wide as outputs."""
    rng = np.random.default_rng([seed, *kernel, *size])
    padding, stride, dilation = str(rng.choice(["SAME", "VALID"])), rng.integers(1, 3, 2), rng.integers(1, 3, 2)
    dilation = np.where((rng.random(2) < 0.7) | (np.array(kernel) == 1), 1, dilation)
    if winograd:
        stride[1] = dilation[1] = 1
    extent = (np.array(kernel) - 1) * dilation + 1
    padding = "SAME" if (extent > size).any() else padding
    draft = Draft()
    x = draft.input((1, *size, inputs), **quantised(rng))
    spread = draft.tensors[x].scales[0] * 10_000 * np.sqrt(inputs * kernel[0] * kernel[1])
    y_affine = quantised(rng, (-128, -15, 5) if activation == "NONE" else (-128, -128, -15, 100))
    scales = tuple(float(np.float32(y_affine["scale"] * 255 / spread * f)) for f in rng.uniform(0.2, 2, outputs))
    data = rng.integers(-127, 128, (outputs, *kernel, inputs)).astype(np.int8)
    weights = draft.tensor(data.shape, data=data, scales=scales, zero_points=(0,) * outputs, axis=0)
    bias = rng.integers(-20_000, 20_000, outputs).astype(np.int32)
    real = tuple(float(np.float32(draft.tensors[x].scales[0] * scale)) for scale in scales)
    b = draft.tensor((outputs,), "int32", data=bias, scales=real, zero_points=(0,) * outputs)
    same = -(-np.array(size) // stride)
    sizes = same if padding == "SAME" else (np.array(size) - extent) // stride + 1
    y = draft.tensor((1, *map(int, sizes), outputs), **y_affine)
    options = {f"stride_{side}": int(stride[i]) for i, side in enumerate("hw")}
    options |= {f"dilation_{side}_factor": int(dilation[i]) for i, side in enumerate("hw")}
    draft.op("CONV_2D", [x, weights, b], y, padding=padding, fused_activation_function=activation, **options)
    return flatbuffer(draft.graph([y]))


def dense(seed, depth, outputs, activation):
    """A fully connected layer; every fifth has a weight of -128, which words of int8 cannot hold."""
    rng, draft = np.random.default_rng([seed, depth]), Draft()
    x = draft.input((1, depth), **quantised(rng))
    y_affine = quantised(rng, (-128, 5) if activation == "NONE" else (-128, -15))
    scale = float(np.float32(y_affine["scale"] * rng.choice([0.01, 0.1]) / draft.tensors[x].scales[0] / np.sqrt(depth)))
    data = rng.integers(-127, 128, (outputs, depth)).astype(np.int8)
    data[0, -1] = -128 if seed % 5 == 4 else -127
    weights = draft.tensor(data.shape, data=data, scale=scale)
    bias = rng.integers(-9000, 9000, outputs).astype(np.int32)
    b = draft.tensor((outputs,), "int32", data=bias, scale=float(np.float32(draft.tensors[x].scales[0] * scale)))
    y = draft.tensor((1, outputs), **y_affine)
    draft.op("FULLY_CONNECTED", [x, weights, b], y, fused_activation_function=activation)
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
ACTIVATIONS = ("NONE", "RELU", "RELU6")
TILES = [
    convolution(seed, kernel, size, ACTIVATIONS[seed % 3], inputs, outputs)
    for seed, (size, (kernel, inputs, outputs)) in enumerate(
        product(
            ((5, 5), (7, 6), (1, 21)),
            (
                ((1, 1), 16, 6),
                ((3, 3), 4, 5),
                ((2, 5), 8, 3),
                ((3, 3), 3, 1),
                ((4, 3), 6, 8),
                ((1, 1), 70, 4),
                ((1, 2), 4, 4),
            ),
        )
    )
]
"""Patches in more than one run of tiles, more than 16 quads, odd numbers of patches and channels."""
FEW = [
    convolution(seed, kernel, size, "RELU", inputs, outputs)
    for seed, ((kernel, inputs, outputs), size) in enumerate(
        product((((1, 1), 8, 4), ((1, 1), 12, 8), ((3, 3), 1, 8), ((2, 2), 2, 12), ((1, 3), 3, 4)), ((5, 5), (6, 7)))
    )
]
"""Patches of two or three quads."""
WINOGRAD = [
    convolution(seed, kernel, size, ACTIVATIONS[seed % 3], inputs, outputs, winograd=True)
    for seed, (size, (kernel, inputs, outputs)) in enumerate(
        product(((5, 4), (3, 8), (4, 6), (5, 22)), (((3, 3), 4, 2), ((1, 3), 8, 4), ((3, 3), 28, 6), ((2, 3), 4, 2)))
    )
]
"""Three columns wide by steps of one pixel; rows of 4, 8 or 20 outputs, and others, which tiles compute."""
DENSE = [
    dense(seed, depth, outputs, ACTIVATIONS[seed % 3])
    for seed, (depth, outputs) in enumerate(product((1, 6, 31, 40, 100), (1, 4, 6)))
]
"""Rows of one to thirteen eights of values."""
