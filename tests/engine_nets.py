"""Random nets as they are built in earnest: inverted residuals, residual blocks, branches, and two heads."""

import numpy as np
from engine_build import Draft, flatbuffer
from engine_random import Rng

from firmware_export.engine.graph import Graph

RELU = {"fused_activation_function": "RELU"}
NONE = {"fused_activation_function": "NONE"}


def random_net(rng: Rng, blocks: int = 4) -> bytes:
    """Draw a net of this many blocks; its outputs are class scores, SOFTMAX or not, and a router's score."""
    return flatbuffer(net_graph(rng, blocks))


def net_graph(rng: Rng, blocks: int) -> Graph:
    """Draw the net of `random_net`."""
    draft = Draft()
    side, channels = int(rng.integers(9, 29)), int(rng.choice([1, 3]))
    x = draft.input((1, side, side, channels), scale=1 / 255, zero_point=-128)
    x = conv(draft, rng, x, int(rng.choice([4, 7, 8])), kernel=3, stride=2)
    for _ in range(blocks):
        block = (_inverted, _residual, _branches)[int(rng.choice(3, p=[0.6, 0.25, 0.15]))]
        x = block(draft, rng, x)
    features = _pooled(draft, rng, x)
    logits = dense(draft, rng, features, int(rng.integers(2, 12)))
    if rng.random() < 0.5:
        soft = draft.tensor(draft.tensors[logits].shape, scale=1 / 256, zero_point=-128)
        logits = draft.op("SOFTMAX", [logits], soft, beta=1.0)
    return draft.graph([logits, dense(draft, rng, features, 1)])


def conv(draft: Draft, rng: Rng, x: int, filters: int, *, kernel: int = 1, stride: int = 1, act: bool = True) -> int:
    """CONV_2D with SAME padding, followed or not by RELU in the same operator."""
    _, height, width, depth = draft.tensors[x].shape
    inputs, affine = _linear(draft, rng, x, (filters, kernel, kernel, depth), 0, act=act)
    y = draft.tensor((1, -(-height // stride), -(-width // stride), filters), **affine)
    return draft.op("CONV_2D", inputs, y, padding="SAME", stride_h=stride, stride_w=stride, **(RELU if act else NONE))


def depthwise(draft: Draft, rng: Rng, x: int, *, kernel: int = 3, stride: int = 1) -> int:
    """DEPTHWISE_CONV_2D with SAME padding and RELU."""
    _, height, width, depth = draft.tensors[x].shape
    inputs, affine = _linear(draft, rng, x, (1, kernel, kernel, depth), 3, act=True)
    y = draft.tensor((1, -(-height // stride), -(-width // stride), depth), **affine)
    strides = {"stride_h": stride, "stride_w": stride}
    return draft.op("DEPTHWISE_CONV_2D", inputs, y, padding="SAME", depth_multiplier=1, **strides, **RELU)


def dense(draft: Draft, rng: Rng, x: int, units: int) -> int:
    """FULLY_CONNECTED without an activation."""
    inputs, affine = _linear(draft, rng, x, (units, draft.tensors[x].shape[-1]), 0, act=False)
    return draft.op("FULLY_CONNECTED", inputs, draft.tensor((1, units), **affine), **NONE)


def add(draft: Draft, rng: Rng, x: int, y: int) -> int:
    """ADD of two tensors of the same shape."""
    scale = 1.3 * max(draft.tensors[x].scales[0], draft.tensors[y].scales[0])
    made = draft.tensor(draft.tensors[x].shape, scale=scale, zero_point=int(rng.integers(-20, 20)))
    return draft.op("ADD", [x, y], made, **NONE)


def _linear(draft: Draft, rng: Rng, x: int, shape: tuple[int, ...], axis: int, *, act: bool) -> tuple[list[int], dict]:
    """Weights per channel as training leaves them: bell-shaped, channels of various sizes, now and then a dead one.

    Real values stay around 2 from layer to layer.
    """
    channels, source = shape[axis], draft.tensors[x]
    data = np.clip(np.rint(rng.normal(size=shape) * 45), -127, 127).astype(np.int8)
    gain = 2 / (45 * 60 * np.sqrt(data.size / channels) * source.scales[0])
    scales = (gain * np.exp(rng.normal(size=channels) * 0.5)).astype(np.float32)
    dead = rng.random(channels) < 0.05
    scales[dead] = 1e-9
    np.moveaxis(data, axis, 0)[dead] = 0
    real = tuple(map(float, scales))
    products = scales * np.float32(source.scales[0])
    typical = float(np.median(products)) * 45 * 60 * np.sqrt(data.size / channels)
    bias = np.where(dead, rng.normal(size=channels) * 2.0**30, rng.normal(size=channels) * typical / products / 2)
    zeros = (0,) * channels
    weights = draft.tensor(shape, data=data, scales=real, zero_points=zeros, axis=axis)
    biases = draft.constant(
        np.clip(bias, -(2.0**31) + 1, 2.0**31 - 129), scales=tuple(map(float, products)), zero_points=zeros
    )
    zero_point = -128 if act else int(rng.integers(-30, 30))
    return [x, weights, biases], {"scale": typical * (2.5 if act else 4) / 255, "zero_point": zero_point}


def _inverted(draft: Draft, rng: Rng, x: int) -> int:
    """Expand, depthwise, project; added to `x` where the shape stays."""
    depth = draft.tensors[x].shape[3]
    stride, filters = int(rng.choice([1, 1, 2])), int(rng.choice([depth, depth, depth + 5, 16]))
    wide = conv(draft, rng, x, depth * int(rng.choice([1, 2, 3])))
    narrow = conv(draft, rng, depthwise(draft, rng, wide, stride=stride), filters, act=False)
    return add(draft, rng, narrow, x) if draft.tensors[narrow].shape == draft.tensors[x].shape else narrow


def _residual(draft: Draft, rng: Rng, x: int) -> int:
    """Two convolutions beside a shortcut, which is a convolution itself where the shape changes."""
    depth = draft.tensors[x].shape[3]
    stride, filters = int(rng.choice([1, 2])), int(rng.choice([depth, 8, 12]))
    long = conv(draft, rng, conv(draft, rng, x, filters, kernel=3, stride=stride), filters, kernel=3, act=False)
    same = draft.tensors[long].shape == draft.tensors[x].shape
    return add(draft, rng, x if same else conv(draft, rng, x, filters, stride=stride, act=False), long)


def _branches(draft: Draft, rng: Rng, x: int) -> int:
    """Two convolutions joined, brought to one quantisation as converters do."""
    one, other = conv(draft, rng, x, 5), conv(draft, rng, x, 6, kernel=3)
    affine = {"scales": draft.tensors[one].scales, "zero_points": draft.tensors[one].zero_points}
    alike = draft.op("QUANTIZE", [other], draft.tensor(draft.tensors[other].shape, **affine))
    joined = draft.tensor((*draft.tensors[one].shape[:3], 11), **affine)
    return draft.op("CONCATENATION", [one, alike], joined, axis=3)


def _pooled(draft: Draft, rng: Rng, x: int) -> int:
    """Features ``(1, channels)``: by MEAN, or by AVERAGE_POOL_2D and RESHAPE."""
    source = draft.tensors[x]
    affine, (_, height, width, depth) = {"scales": source.scales, "zero_points": source.zero_points}, source.shape
    if rng.random() < 0.5:
        made = draft.tensor((1, depth), scale=source.scales[0] / 2, zero_point=source.zero_points[0])
        return draft.op("MEAN", [x, draft.constant([1, 2])], made, keep_dims=False)
    window = {"filter_height": height, "filter_width": width, "stride_h": height, "stride_w": width}
    pooled = draft.tensor((1, 1, 1, depth), **affine)
    draft.op("AVERAGE_POOL_2D", [x], pooled, padding="VALID", **window, **NONE)
    return draft.op("RESHAPE", [pooled, draft.constant([1, depth])], draft.tensor((1, depth), **affine))
