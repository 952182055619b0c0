"""What a net costs on a device: MACs, flash and peak SRAM of an ArchSpec before any training, MACs of a flatbuffer.

Flash and SRAM are those of full int8 quantisation by the TFLite converter and of TFLite Micro. Batch normalisation
folds into its convolution and ReLU into the operator before it, so neither costs anything. The overhead constants below
were calibrated on 40 random specs, each converted by TensorFlow 2.21 and loaded by TFLite Micro's recording interpreter
on a 64-bit host; they are upper envelopes, so that an estimate is not below what was measured there. A 32-bit device
needs a little less SRAM, because its pointers are shorter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import numpy as np

from hybrid.artifacts import Device
from hybrid.cascade import DeviceProgram, Stage
from hybrid.errors import BudgetError
from hybrid.schema import schema
from hybrid.specs import ArchSpec, BlockSpec

MAC_KINDS = ("conv", "pointwise", "depthwise", "dense")

_CHANNEL_FLASH_BYTES = 28
"""An int32 bias, and for weight and bias a float32 scale and an int64 zero point each: 4 + 2 * (4 + 8)."""
_CHANNEL_SRAM_BYTES = 8
"""TFLite Micro prepares an int32 multiplier and an int32 shift per output channel."""
_WEIGHTED_OP_FLASH_BYTES, _NAME_FLASH_BYTES, _OTHER_OP_FLASH_BYTES, _FIXED_FLASH_BYTES = 612, 6, 60, 1050
_WEIGHTED_OP_SRAM_BYTES, _OTHER_OP_SRAM_BYTES, _FIXED_SRAM_BYTES = 252, 176, 930
_ALIGNMENT_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a net will cost; `peak_sram_bytes` is TFLite Micro's arena."""

    macs: int
    macs_by_kind: dict[str, int]
    parameters: int
    flash_bytes: int
    peak_sram_bytes: int


class _Op(NamedTuple):
    """One operator of the flatbuffer; op `i` writes tensor ``i + 1``, tensor 0 is the net's input."""

    kind: str
    inputs: tuple[int, ...]
    shape: tuple[int, int, int]
    """Of the output: height, width, channels."""
    macs: int = 0
    weights: int = 0


class _Walk:
    """Lists the operators of `hybrid.nets.build_net`, in an order of the converter.

    Where a residual block projects its shortcut, the converter writes the shortcut before or after the convolutions
    beside it, depending on the layers' automatic names (which count up in a process), and the memory plan follows.
    """

    def __init__(self, arch: ArchSpec, *, shortcut_first: bool = False) -> None:
        self.input_shape, self.shortcut_first = arch.input_shape, shortcut_first
        self.ops: list[_Op] = []
        x = 0
        for block in arch.blocks:
            for index in range(block.depth):
                x = _LAYERS[block.kind](self, x, block, block.stride if index == 0 else 1)
        channels = self.shape(x)[2]
        x = self._append(_Op("mean", (x,), (1, 1, channels)))
        weights = channels * arch.num_classes
        self._append(_Op("dense", (x,), (1, 1, arch.num_classes), weights, weights))

    def shape(self, x: int) -> tuple[int, int, int]:
        return self.ops[x - 1].shape if x else self.input_shape

    def _append(self, op: _Op) -> int:
        self.ops.append(op)
        return len(self.ops)

    def conv(self, x: int, width: int, kernel: int, stride: int) -> int:
        height, breadth, channels = self.shape(x)
        shape = (ceil(height / stride), ceil(breadth / stride), width)
        weights = kernel * kernel * channels * width
        kind = "pointwise" if kernel == 1 else "conv"
        return self._append(_Op(kind, (x,), shape, shape[0] * shape[1] * weights, weights))

    def depthwise(self, x: int, kernel: int, stride: int) -> int:
        height, breadth, channels = self.shape(x)
        shape = (ceil(height / stride), ceil(breadth / stride), channels)
        weights = kernel * kernel * channels
        return self._append(_Op("depthwise", (x,), shape, shape[0] * shape[1] * weights, weights))

    def add(self, x: int, y: int) -> int:
        return self._append(_Op("add", (x, y), self.shape(y)))


def _conv_layer(walk: _Walk, x: int, block: BlockSpec, stride: int) -> int:
    return walk.conv(x, block.width, block.kernel, stride)


def _ds_layer(walk: _Walk, x: int, block: BlockSpec, stride: int) -> int:
    return walk.conv(walk.depthwise(x, block.kernel, stride), block.width, 1, 1)


def _ib_layer(walk: _Walk, x: int, block: BlockSpec, stride: int) -> int:
    channels = walk.shape(x)[2]
    y = walk.conv(x, block.expansion * channels, 1, 1)
    y = walk.conv(walk.depthwise(y, block.kernel, stride), block.width, 1, 1)
    return walk.add(x, y) if stride == 1 and channels == block.width else y


def _res_layer(walk: _Walk, x: int, block: BlockSpec, stride: int) -> int:
    def project(x: int) -> int:
        same = stride == 1 and walk.shape(x)[2] == block.width
        return x if same else walk.conv(x, block.width, 1, stride)

    def convolve(x: int) -> int:
        return walk.conv(walk.conv(x, block.width, block.kernel, stride), block.width, block.kernel, 1)

    first, second = (project, convolve) if walk.shortcut_first else (convolve, project)
    return walk.add(first(x), second(x))


_LAYERS = {"conv": _conv_layer, "ds": _ds_layer, "ib": _ib_layer, "res": _res_layer}


def estimate(arch: ArchSpec) -> Estimate:
    """Estimate what `arch` costs as an int8 flatbuffer under TFLite Micro."""
    walk = _Walk(arch)
    by_kind = dict.fromkeys(MAC_KINDS, 0)
    for op in walk.ops:
        if op.macs:
            by_kind[op.kind] += op.macs
    weighted = [op for op in walk.ops if op.weights]
    weights = sum(op.weights for op in weighted)
    channels = sum(op.shape[2] for op in weighted)
    others = len(walk.ops) - len(weighted)
    return Estimate(
        macs=sum(by_kind.values()),
        macs_by_kind=by_kind,
        parameters=weights + channels,
        flash_bytes=weights
        + _CHANNEL_FLASH_BYTES * channels
        + (_WEIGHTED_OP_FLASH_BYTES + _NAME_FLASH_BYTES * len(arch.name)) * len(weighted)
        + _OTHER_OP_FLASH_BYTES * others
        + _FIXED_FLASH_BYTES,
        peak_sram_bytes=_planned_peak_bytes(arch)
        + _CHANNEL_SRAM_BYTES * channels
        + _WEIGHTED_OP_SRAM_BYTES * len(weighted)
        + _OTHER_OP_SRAM_BYTES * others
        + _FIXED_SRAM_BYTES,
    )


def _planned_peak_bytes(arch: ArchSpec) -> int:
    """Give the peak over the activations, of the converter's two orders the worse."""
    orders = (False, True) if any(block.kind == "res" for block in arch.blocks) else (False,)
    return max(_planned_bytes(_Walk(arch, shortcut_first=order)) for order in orders)


def _planned_bytes(walk: _Walk) -> int:
    """Give the peak of TFLite Micro's greedy memory planner over the activations.

    It places the largest tensor first (of equals the last one) at the lowest address where nothing alive at the same
    time lies. A tensor lives from the operator that writes it to the last that reads it, a net's outputs to the end.
    """
    end = len(walk.ops)
    last = [0] * (end + 1)
    for index, op in enumerate(walk.ops):
        for x in op.inputs:
            last[x] = index
    last[end] = last[end - 1] = end - 1  # logits and features
    sizes = [_aligned(walk.shape(x)) for x in range(end + 1)]
    placed: list[tuple[int, int, int, int]] = []  # offset, end offset, first, last
    for x in sorted(range(end, -1, -1), key=sizes.__getitem__, reverse=True):
        first = max(x - 1, 0)
        offset = _first_gap([p for p in placed if p[2] <= last[x] and first <= p[3]], sizes[x])
        placed.append((offset, offset + sizes[x], first, last[x]))
    return max(p[1] for p in placed)


def _aligned(shape: tuple[int, int, int]) -> int:
    return -(-shape[0] * shape[1] * shape[2] // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def _first_gap(alive: list[tuple[int, int, int, int]], size: int) -> int:
    offset = 0
    for start, stop, *_ in sorted(alive):
        if start - offset >= size:
            break
        offset = max(offset, stop)
    return offset


def check_fits(costs: Estimate, device: Device) -> None:
    """Compare with the device.

    Raises: BudgetError where flash or SRAM exceeds what the device has left beside runtime and application.
    """
    budgets = (
        ("flash_bytes", costs.flash_bytes, device.flash_bytes - device.reserved_flash_bytes, "lower the widths"),
        ("peak_sram_bytes", costs.peak_sram_bytes, device.sram_bytes - device.reserved_sram_bytes, "stride earlier"),
    )
    for resource, needed, available, remedy in budgets:
        if needed > available:
            raise BudgetError(resource, needed, available, device.name, f"{remedy} or choose another device")


def flatbuffer_macs(flatbuffer: bytes) -> dict[str, int]:
    """Count the MACs of a .tflite by kind of layer; a 1x1 convolution is pointwise, other operators count none."""
    s = schema()
    model = s.ModelT.InitFromObj(s.Model.GetRootAs(flatbuffer, 0))
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    op = s.BuiltinOperator
    by_kind = dict.fromkeys(MAC_KINDS, 0)
    for graph in model.subgraphs:
        for node in graph.operators:
            code = codes[node.opcodeIndex]
            if code not in (op.CONV_2D, op.DEPTHWISE_CONV_2D, op.FULLY_CONNECTED):
                continue
            weights = graph.tensors[node.inputs[1]].shape
            output = graph.tensors[node.outputs[0]].shape
            if code == op.CONV_2D:
                kind = "pointwise" if tuple(weights[1:3]) == (1, 1) else "conv"
            else:
                kind = "depthwise" if code == op.DEPTHWISE_CONV_2D else "dense"
            by_kind[kind] += _macs(kind, weights, output)
    return by_kind


def stage_macs(stage: Stage) -> dict[str, int]:
    """Count the MACs of one stage of a device program by kind of layer, its router's among the dense ones."""
    by_kind = flatbuffer_macs(stage.flatbuffer)
    return by_kind | {"dense": by_kind["dense"] + stage.router.macs}


def program_flash_bytes(program: DeviceProgram) -> int:
    """Count the flash of all flatbuffers and of the routers' tables."""
    return sum(len(stage.flatbuffer) + stage.router.table_bytes for stage in program.stages)


def _macs(kind: str, weights: Sequence[int], output: Sequence[int]) -> int:
    """MACs for each output: height x width of a depthwise filter, else all of a filter but its output channels."""
    each = weights[1:3] if kind == "depthwise" else weights[1:]
    return int(np.prod(output, dtype=np.int64) * np.prod(each, dtype=np.int64))
