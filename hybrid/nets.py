"""ArchSpec -> functional model, edge and cloud alike.

A net reads ``(x - 128) / 128`` (see `normalise`) and has two outputs, ``logits`` and penultimate ``features``. It is
written over a Keras module `k`, so that the same function builds the Keras 3 net and its tf_keras twin, layer by layer
and weight by weight.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.artifacts import Floats
from hybrid.specs import ArchSpec, BlockSpec

BATCH_NORM_MOMENTUM = 0.9
_NAME = "classifier"
"""Of every net: the converter orders operators by names, and the memory plan follows that order."""


def normalise(x: NDArray[np.uint8]) -> Floats:
    """Map stored examples to a net's input: uint8 0..255 to [-1, 127/128], so that the int8 input is ``x - 128``."""
    return (x.astype(np.float32) - 128.0) / 128.0


def build_net(arch: ArchSpec, k: Any = None) -> Any:
    """Build the classifier of `arch` with Keras module `k` (default: Keras 3).

    Returns: a model from ``(n, *input_shape)`` to ``[logits (n, num_classes), features (n, feature_width)]``.
    """
    if k is None:
        import keras

        k = keras
    inputs = k.Input(arch.input_shape, name="input")
    x = _blocks(k, seen(k, inputs, arch), arch.blocks)
    return k.Model(inputs, head(k, x, arch), name=_NAME)


def build_exit(arch: ArchSpec, after: int, k: Any = None) -> tuple[Any, Any]:
    """Cut the classifier of `arch` after so many blocks and give each half a head: an early exit.

    Returns: the near net from the image to ``[logits, features, trunk]``, and the far net from that trunk to
    ``[logits, features]``. After all blocks but the last, the two together cost one more dense layer than `arch`.
    """
    if k is None:
        import keras

        k = keras
    inputs = k.Input(arch.input_shape, name="input")
    trunk = _blocks(k, seen(k, inputs, arch), arch.blocks[:after])
    near = k.Model(inputs, [*head(k, trunk, arch), k.layers.Activation("linear", name="trunk")(trunk)], name=_NAME)
    resumed = k.Input(trunk.shape[1:], name="trunk_input")
    far = k.Model(resumed, head(k, _blocks(k, resumed, arch.blocks[after:]), arch), name=f"{_NAME}_exit")
    return near, far


def head(k: Any, x: Any, arch: ArchSpec) -> list[Any]:
    """Logits and pooled features of the last block's output."""
    features = k.layers.GlobalAveragePooling2D(name="features")(x)
    return [k.layers.Dense(arch.num_classes, name="logits")(features), features]


def seen(k: Any, x: Any, arch: ArchSpec) -> Any:
    """What the stem sees of the input: the mean over squares of pixels, then over the channels.

    The latter is a 1 x 1 convolution that starts as the mean, exact in int8 (equal weights are all 127), and may learn
    other shares; without batch normalisation, which would ask for one more range.
    """
    channels = x.shape[-1]
    if arch.input_pool > 1:
        x = k.layers.AveragePooling2D(_sides(x, arch.input_pool), padding="same")(x)
    if arch.grey and channels > 1:
        start = k.initializers.Constant(1 / channels)
        x = k.layers.Conv2D(1, 1, use_bias=False, kernel_initializer=start, name="grey")(x)
    return x


def _sides(x: Any, size: int) -> tuple[int, int]:
    """Height and width of a window of `size`; 1 on an axis of one pixel, which has nothing beside it."""
    height, width = (size if pixels > 1 else 1 for pixels in x.shape[1:3])
    return height, width


def _blocks(k: Any, x: Any, blocks: Sequence[BlockSpec]) -> Any:
    for block in blocks:
        x = _block(k, x, block)
    return x


def _block(k: Any, x: Any, block: BlockSpec) -> Any:
    for index in range(block.depth):
        x = layer(k, x, block, block.stride if index == 0 else 1)
    return x


def layer(k: Any, x: Any, block: BlockSpec, stride: int) -> Any:
    """One of a block's layers."""
    return _LAYERS[block.kind](k, x, block, stride)


def _normalisation(k: Any) -> Any:
    """The layer of Keras 3 that trains fast; tf_keras has its own."""
    if k.__name__ != "keras":
        return k.layers.BatchNormalization
    from hybrid.normalisation import FusedBatchNormalization

    return FusedBatchNormalization


def _normed(k: Any, x: Any, *, relu: bool = True) -> Any:
    x = _normalisation(k)(momentum=BATCH_NORM_MOMENTUM)(x)
    return k.layers.ReLU()(x) if relu else x


def _conv(k: Any, x: Any, width: int, kernel: int, stride: int, *, relu: bool = True) -> Any:
    x = k.layers.Conv2D(width, _sides(x, kernel), stride, padding="same", use_bias=False)(x)
    return _normed(k, x, relu=relu)


def _depthwise(k: Any, x: Any, kernel: int, stride: int) -> Any:
    x = k.layers.DepthwiseConv2D(_sides(x, kernel), stride, padding="same", use_bias=False)(x)
    return _normed(k, x)


def _conv_layer(k: Any, x: Any, block: BlockSpec, stride: int) -> Any:
    return _conv(k, x, block.width, block.kernel, stride)


def _ds_layer(k: Any, x: Any, block: BlockSpec, stride: int) -> Any:
    return _conv(k, _depthwise(k, x, block.kernel, stride), block.width, 1, 1)


def _rds_layer(k: Any, x: Any, block: BlockSpec, stride: int) -> Any:
    """Depthwise-separable, residual where the shape stays: not in a block's first layer if that changes it."""
    if stride > 1 or x.shape[-1] != block.width:
        return _ds_layer(k, x, block, stride)
    y = _conv(k, _depthwise(k, x, block.kernel, 1), block.width, 1, 1, relu=False)
    return k.layers.ReLU()(k.layers.Add()([x, y]))


def _ib_layer(k: Any, x: Any, block: BlockSpec, stride: int) -> Any:
    """Inverted bottleneck of MobileNetV2 (Sandler et al. 2018)."""
    y = _conv(k, x, block.expansion * x.shape[-1], 1, 1)
    y = _conv(k, _depthwise(k, y, block.kernel, stride), block.width, 1, 1, relu=False)
    return k.layers.Add()([x, y]) if stride == 1 and x.shape[-1] == block.width else y


def _res_layer(k: Any, x: Any, block: BlockSpec, stride: int) -> Any:
    """Residual pair of convolutions (He et al. 2016)."""
    y = _conv(k, _conv(k, x, block.width, block.kernel, stride), block.width, block.kernel, 1, relu=False)
    same = stride == 1 and x.shape[-1] == block.width
    shortcut = x if same else _conv(k, x, block.width, 1, stride, relu=False)
    return k.layers.ReLU()(k.layers.Add()([shortcut, y]))


_LAYERS = {"conv": _conv_layer, "ds": _ds_layer, "rds": _rds_layer, "ib": _ib_layer, "res": _res_layer}
