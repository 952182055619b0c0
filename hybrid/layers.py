"""The operators that an ArchSpec becomes on a device, without building the net."""

from dataclasses import replace
from math import ceil
from typing import NamedTuple

from hybrid.specs import ArchSpec, BlockSpec

WEIGHTED = frozenset({"conv", "pointwise", "depthwise", "dense"})
Shape = tuple[int, int, int]


class Op(NamedTuple):
    """One operator of the flatbuffer; op `i` writes tensor ``i + 1``, tensor 0 is the net's input."""

    kind: str
    """One of `WEIGHTED`, or ``add``, ``pool``, ``mean``, ``quantize``."""
    inputs: tuple[int, ...]
    shape: Shape
    """Of the output: height, width, channels."""
    channels_in: int
    macs: int = 0
    weights: int = 0
    layers: int = 0
    """Keras layers that became this operator: of a convolution three with normalisation and ReLU, two without ReLU."""


class Walk:
    """Lists the operators of `hybrid.nets.build_net`, in the order of the converter.

    Where a residual block projects its shortcut, the converter writes first whichever comes first in the alphabet, the
    shortcut or the convolutions beside it; see `_res_layer`. The memory plan follows that order.
    """

    def __init__(self, arch: ArchSpec, *, trunk: bool = False, convolutions: int = 0, quantize: bool = False) -> None:
        """List them, after so many `convolutions` of a net before; the parts of an exit have more.

        With `trunk` the last block's output is one of the net's, with `quantize` the input is first brought to another
        scale.
        """
        self.input_shape = arch.input_shape
        self.ops: list[Op] = []
        self.convolutions = convolutions
        """Of them that have a number in their names: all but the grey one and the depthwise ones."""
        channels = arch.input_shape[2]
        x = self._append(Op("quantize", (0,), self.input_shape, channels)) if quantize else 0
        x = self._seen(arch, x)
        for block in arch.blocks:
            layer = _LAYERS[block.kind]
            for index in range(block.depth):
                x = layer(self, x, block, block.stride if index == 0 else 1)
        channels = self.shape(x)[2]
        x = self._append(Op("mean", (x,), (1, 1, channels), channels))
        weights = channels * arch.num_classes
        self._append(Op("dense", (x,), (1, 1, arch.num_classes), channels, weights, weights))
        self.outputs = (x + 1, x, *self.ops[-2].inputs) if trunk else (x + 1, x)
        """Tensors: logits, features and, where there is one, the trunk."""

    def shape(self, x: int) -> Shape:
        """Height, width and channels of a tensor."""
        return self.ops[x - 1].shape if x else self.input_shape

    def _append(self, op: Op) -> int:
        self.ops.append(op)
        return len(self.ops)

    def _seen(self, arch: ArchSpec, x: int) -> int:
        height, breadth, channels = arch.input_shape
        if arch.input_pool > 1:
            shape = (ceil(height / arch.input_pool), ceil(breadth / arch.input_pool), channels)
            x = self._append(Op("pool", (x,), shape, channels))
        return self._conv(x, 1, 1, 1, layers=1) if arch.grey and channels > 1 else x

    def conv(self, x: int, width: int, kernel: int, stride: int, *, relu: bool = True) -> int:
        """Append a convolution; an axis of one pixel has a kernel of one."""
        self.convolutions += 1
        return self._conv(x, width, kernel, stride, layers=2 + relu)

    def _conv(self, x: int, width: int, kernel: int, stride: int, *, layers: int) -> int:
        height, breadth, channels = self.shape(x)
        high, wide = (-(-height // stride), -(-breadth // stride))
        taps = (kernel if height > 1 else 1) * (kernel if breadth > 1 else 1)
        weights = taps * channels * width
        kind = "pointwise" if taps == 1 else "conv"
        return self._append(Op(kind, (x,), (high, wide, width), channels, high * wide * weights, weights, layers))

    def depthwise(self, x: int, kernel: int, stride: int) -> int:
        """Append a depthwise convolution; kernels as in `conv`."""
        height, breadth, channels = self.shape(x)
        high, wide = (-(-height // stride), -(-breadth // stride))
        weights = (kernel if height > 1 else 1) * (kernel if breadth > 1 else 1) * channels
        shape = (high, wide, channels)
        return self._append(Op("depthwise", (x,), shape, channels, high * wide * weights, weights, 3))

    def add(self, x: int, y: int) -> int:
        """Append an addition."""
        return self._append(Op("add", (x, y), self.shape(y), self.shape(y)[2]))


def _conv_layer(walk: Walk, x: int, block: BlockSpec, stride: int) -> int:
    return walk.conv(x, block.width, block.kernel, stride)


def _ds_layer(walk: Walk, x: int, block: BlockSpec, stride: int) -> int:
    return walk.conv(walk.depthwise(x, block.kernel, stride), block.width, 1, 1)


def _rds_layer(walk: Walk, x: int, block: BlockSpec, stride: int) -> int:
    if stride > 1 or walk.shape(x)[2] != block.width:
        return _ds_layer(walk, x, block, stride)
    return walk.add(x, walk.conv(walk.depthwise(x, block.kernel, 1), block.width, 1, 1, relu=False))


def _ib_layer(walk: Walk, x: int, block: BlockSpec, stride: int) -> int:
    channels = walk.shape(x)[2]
    y = walk.conv(x, block.expansion * channels, 1, 1)
    y = walk.conv(walk.depthwise(y, block.kernel, stride), block.width, 1, 1, relu=False)
    return walk.add(x, y) if stride == 1 and channels == block.width else y


def _res_layer(walk: Walk, x: int, block: BlockSpec, stride: int) -> int:
    """Two convolutions, ``conv2d_8`` and ``conv2d_9``, and where the shape changes the shortcut's, ``conv2d_10``.

    That one would come first here, as its name does in the alphabet.
    """
    number = walk.convolutions
    if stride == 1 and walk.shape(x)[2] == block.width:
        return walk.add(x, _pair(walk, x, block, stride))
    if str(number + 2) < str(number):
        shortcut = walk.conv(x, block.width, 1, stride, relu=False)
        return walk.add(shortcut, _pair(walk, x, block, stride))
    y = _pair(walk, x, block, stride)
    return walk.add(walk.conv(x, block.width, 1, stride, relu=False), y)


def _pair(walk: Walk, x: int, block: BlockSpec, stride: int) -> int:
    y = walk.conv(x, block.width, block.kernel, stride)
    return walk.conv(y, block.width, block.kernel, 1, relu=False)


_LAYERS = {"conv": _conv_layer, "ds": _ds_layer, "rds": _rds_layer, "ib": _ib_layer, "res": _res_layer}


def exit_walks(arch: ArchSpec, after: int) -> tuple[Walk, Walk, Walk]:
    """List the operators of `hybrid.nets.build_exit`: of the near part, and of the far part with and without QUANTIZE.

    That operator comes first where the two are quantised differently, which only their ranges tell.
    """
    near = Walk(replace(arch, blocks=arch.blocks[:after]), trunk=True)
    shape = near.shape(near.outputs[2])
    rest = replace(arch, input_shape=shape, blocks=arch.blocks[after:], input_pool=1, grey=False)
    requantised = Walk(rest, convolutions=near.convolutions, quantize=True)
    return near, requantised, Walk(rest, convolutions=near.convolutions)
