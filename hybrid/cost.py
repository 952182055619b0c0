"""What a net costs on a device: MACs, flash and peak SRAM of an ArchSpec before any training, MACs of a flatbuffer.

Flash and SRAM are those of full int8 quantisation by the TFLite converter and of TFLite Micro. Batch normalisation
folds into its convolution and ReLU into the operator before it, so neither costs anything.

The SRAM is TFLite Micro's own sum, allocation by allocation, on a 64-bit host. A 32-bit device needs a little less,
because its pointers are shorter. The flash adds up the flatbuffer's parts; what is not reckoned (alignment) is covered
by a constant, so that an estimate is not below what is measured. Both were read off 60 random nets converted by
TensorFlow 2.21; ``benchmarks/search_costs.py`` measures the errors on 50 others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from hybrid.artifacts import ArenaNeeds, Device
from hybrid.cascade import DeviceProgram, Stage
from hybrid.errors import BudgetError, SpecError
from hybrid.layers import WEIGHTED, Op, Walk, exit_walks
from hybrid.specs import ArchSpec
from hybrid.work import Task, Work, flatbuffer_work, ragged, total

_ALIGNMENT_BYTES = 16

_EVAL_TENSOR_BYTES, _NODE_BYTES, _SRAM_FIXED_BYTES = 24, 64, 960
"""TfLiteEvalTensor and NodeAndRegistration; allocator, interpreter's graph, and input and outputs as TfLiteTensor."""
_PARAMETER_BYTES = {"conv": 28, "pointwise": 28, "depthwise": 28, "add": 8, "pool": 40}
_FURTHER_PARAMETER_BYTES = 28
"""The operator's options as a C struct; of the mean and the dense layer together."""
_KERNEL_BYTES = {"conv": 80, "pointwise": 80, "depthwise": 80, "add": 64, "pool": 32, "quantize": 32}
"""What a kernel keeps from its preparation; the mean's and the dense layer's are in the fixed part."""
_AXES_BYTES = 32
"""Two small buffers of the mean."""
_TENSORS = {"conv": 3, "pointwise": 3, "depthwise": 3, "dense": 3, "mean": 2, "add": 1, "pool": 1, "quantize": 1}
"""Output, weights and bias; output and axes; output."""
_TRUNK_BYTES = 112
"""A third output as TfLiteTensor, allocated once the activations are planned."""

_PLAN_TENSOR_BYTES, _PLAN_BUFFER_BYTES, _PLAN_FIXED_BYTES = 32, 40, 24
"""While TFLite Micro plans the activations: for each tensor or buffer of the mean, for each of them that it places, and
once."""
_PREPARE_CHANNEL_BYTES = {"conv": 12, "pointwise": 12, "depthwise": 12, "dense": 8}
_PREPARE_FIXED_BYTES = {"conv": 528, "pointwise": 528, "depthwise": 528, "dense": 272}
"""While a layer is prepared: zero points of its weights and biases by channel, and its tensors."""

_CHANNEL_FLASH_BYTES = 28
"""An int32 bias, and for weight and bias a float32 scale and an int64 zero point each: 4 + 2 * (4 + 8)."""
_FLASH_FIXED_BYTES, _CODE_FLASH_BYTES = 1297, 76
"""Model, subgraph, signature, metadata, mean and dense layer, and 60 bytes for alignment; an operator code."""
_OP_FLASH_BYTES = {"conv": 347, "depthwise": 347, "add": 154, "pool": 152, "quantize": 132}
"""Tables and vectors of the operator, its tensors and their buffers."""
_TRUNK_FLASH_BYTES = 40
"""A third output: its name, and its entry in the signature."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a net, or all nets of a device together, will cost."""

    work: Work
    stage_work: tuple[Work, ...]
    """Of each net by itself, in the order in which they run."""
    parameters: int
    mixing_layers: int
    """Layers that mix channels, shortcuts among them: of the edge net, as its MACs are."""
    flash_bytes: int
    arena: ArenaNeeds

    @property
    def peak_sram_bytes(self) -> int:
        """TFLite Micro's arena, the least that works."""
        return self.arena.least_bytes

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return self.work.macs

    @property
    def mixing_macs(self) -> int:
        """Those of them that mix channels: of all layers but the depthwise ones."""
        return self.macs - self.macs_by_kind["depthwise"]

    @property
    def macs_by_kind(self) -> Mapping[str, int]:
        """The same by kind of layer."""
        return self.work.macs_by_kind


def estimate(arch: ArchSpec) -> Estimate:
    """Estimate what `arch` costs as an int8 flatbuffer under TFLite Micro."""
    return _estimate(Walk(arch))


def estimate_exit(arch: ArchSpec, after: int) -> tuple[Estimate, Estimate]:
    """Estimate near and far part of `arch`, cut after so many blocks.

    The far part is reckoned with the QUANTIZE that it nearly always begins with; its arena as without where that needs
    more, as it may: the planner is greedy.
    """
    near, far, direct = (_estimate(walk) for walk in exit_walks(arch, after))
    names = ("head_bytes", "tail_bytes", "least_bytes")
    worst = {name: max(getattr(part.arena, name) for part in (far, direct)) for name in names}
    return near, replace(far, arena=ArenaNeeds(**worst))


def _estimate(walk: Walk) -> Estimate:
    weighted = [op for op in walk.ops if op.weights]
    work = total(_task(walk, op) for op in walk.ops)
    return Estimate(
        work=work,
        stage_work=(work,),
        parameters=sum(op.weights + op.shape[2] for op in weighted),
        mixing_layers=sum(op.kind != "depthwise" for op in weighted),
        flash_bytes=_flash_bytes(walk),
        arena=_arena_needs(walk),
    )


def _task(walk: Walk, op: Op) -> Task:
    height, breadth, channels = op.shape
    if op.macs:
        return Task(op.kind, op.macs, height * breadth * channels, ragged(op.kind, op.channels_in, channels))
    before = walk.shape(op.inputs[0])
    return Task(op.kind, 0, max(height * breadth * channels, before[0] * before[1] * before[2]), False)


def _flash_bytes(walk: Walk) -> int:
    size = _FLASH_FIXED_BYTES + _CODE_FLASH_BYTES * len({_code(op) for op in walk.ops})
    size += _TRUNK_FLASH_BYTES if len(walk.outputs) > 2 else 0
    for op in walk.ops:
        size += _OP_FLASH_BYTES.get(_code(op), 0)
        if op.weights:
            size += -(-op.weights // 4) * 4 + _CHANNEL_FLASH_BYTES * op.shape[2]
    return size


def _code(op: Op) -> str:
    return "conv" if op.kind == "pointwise" else op.kind


def _arena_needs(walk: Walk) -> ArenaNeeds:
    """What stays, and beside it the activations or, in a net of small images, what only its preparation needs."""
    tensors = 1 + sum(_TENSORS[op.kind] for op in walk.ops)
    planning = _PLAN_TENSOR_BYTES * (tensors + 2) + _PLAN_BUFFER_BYTES * (len(walk.ops) + 3) + _PLAN_FIXED_BYTES
    head, tail = _planned_bytes(walk), _persistent_bytes(walk.ops, tensors)
    further = _TRUNK_BYTES if len(walk.outputs) > 2 else 0
    beside = max(head + further, _aligned(planning), _preparing_bytes(walk.ops))
    return ArenaNeeds(head_bytes=head, tail_bytes=tail + further, least_bytes=tail + beside)


def _preparing_bytes(ops: Sequence[Op]) -> int:
    """What the layer that takes most takes while it is prepared, less what the layers behind it allocate for good."""
    most = behind = 0
    for op in reversed(ops):
        if op.kind in WEIGHTED:
            taken = _PREPARE_CHANNEL_BYTES[op.kind] * op.shape[2] + _PREPARE_FIXED_BYTES[op.kind]
            most = max(most, _aligned(taken) - behind)
            behind += _rescaling_bytes(op)
    return most


def _persistent_bytes(ops: Sequence[Op], tensors: int) -> int:
    """What TFLite Micro allocates for good: graph, operators' options, what kernels prepare, multiplier and shift."""
    options, prepared = _FURTHER_PARAMETER_BYTES, _SRAM_FIXED_BYTES
    for op in ops:
        options += _PARAMETER_BYTES.get(op.kind, 0)
        prepared += _KERNEL_BYTES.get(op.kind, 0)
        if op.kind in WEIGHTED:
            prepared += _rescaling_bytes(op)
    return _aligned(_EVAL_TENSOR_BYTES * tensors + _NODE_BYTES * len(ops) + options) + prepared


def _rescaling_bytes(op: Op) -> int:
    """Multiplier and shift of each channel."""
    return 2 * _aligned(4 * op.shape[2])


def _planned_bytes(walk: Walk) -> int:
    """Give the peak of TFLite Micro's greedy memory planner over the activations.

    It places the largest tensor first (of equals the last one, see `Graph.latest_first`) at the lowest address where
    nothing alive at the same time lies. A tensor lives from the operator that writes it to the last that reads it, a
    net's outputs to the end. While the mean runs, its int32 sums and axes are the last buffer.
    """
    end = len(walk.ops)
    last = [0] * (end + 1)
    for index, op in enumerate(walk.ops):
        for x in op.inputs:
            last[x] = index
    for x in walk.outputs:
        last[x] = end - 1
    sizes = [_aligned(h * w * c) for h, w, c in (walk.input_shape, *(op.shape for op in walk.ops))]
    sizes.append(_aligned(4 * walk.ops[-2].shape[2]) + _AXES_BYTES)
    starts = [0, *range(end), end - 2]
    last.append(end - 2)
    placed: list[tuple[int, int, int, int]] = []  # offset, end offset, first, last
    for x in sorted((end + 1, *range(end + 1)), key=sizes.__getitem__, reverse=True):
        first, final = starts[x], last[x]
        offset = _first_gap([p for p in placed if p[2] <= final and first <= p[3]], sizes[x])
        placed.append((offset, offset + sizes[x], first, final))
    return max(p[1] for p in placed)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def _first_gap(alive: list[tuple[int, int, int, int]], size: int) -> int:
    offset = 0
    for start, stop, *_ in sorted(alive):
        if start - offset >= size:
            break
        offset = max(offset, stop)
    return offset


def arena_bytes(least_bytes: int, margin: float) -> int:
    """Count the bytes to reserve: the least that works and a share of margin, rounded up to the alignment.

    >>> arena_bytes(1000, 0.1)
    1104
    """
    if not 0 <= margin <= 10:
        raise SpecError(f"export.arena_margin: got {margin}, allowed 0 to 10")
    return _aligned(least_bytes + ceil(least_bytes * margin))


def check_fits(costs: Estimate, device: Device, *, arena_margin: float) -> None:
    """Compare with the device: the flash, and the arena with the share of margin that the export will add.

    Raises: BudgetError where either exceeds what the device has left beside runtime and application.
    """
    flash, sram = device.flash_bytes - device.reserved_flash_bytes, device.sram_bytes - device.reserved_sram_bytes
    arena = arena_bytes(costs.peak_sram_bytes, arena_margin)
    for resource, needed, available, remedy in (
        ("flash_bytes", costs.flash_bytes, flash, "lower the widths"),
        ("arena_bytes", arena, sram, "stride earlier, lower export.arena_margin"),
    ):
        if needed > available:
            raise BudgetError(resource, needed, available, device.name, f"{remedy} or choose another device")


def flatbuffer_macs(flatbuffer: bytes) -> dict[str, int]:
    """Count the MACs of a .tflite by kind of layer; a 1x1 convolution is pointwise, other operators count none."""
    return dict(flatbuffer_work(flatbuffer).macs_by_kind)


def stage_work(stage: Stage) -> Work:
    """Count the work of one stage of a device program, its router's MACs among the dense ones."""
    return flatbuffer_work(stage.flatbuffer).with_dense(stage.router.macs)


def program_flash_bytes(program: DeviceProgram) -> int:
    """Count the flash of all flatbuffers and of the routers' tables."""
    return sum(len(stage.flatbuffer) + stage.router.table_bytes for stage in program.stages)
