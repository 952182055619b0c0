"""Channels that have the same value for all inputs are left out, and what follows from them becomes bias.

Trained nets have many: a ReLU whose sums never rise above zero. Intervals of the channels' values, from the weights
alone, tell which. A channel that a convolution makes and that depthwise convolutions and pools carry on to a
convolution or fully connected layer is left out all the way; integer sums are the same in any order, so outputs are
exactly those of the whole model.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine.arithmetic import INT8_MAX, INT8_MIN, SAFE_SUM, output_of
from firmware_export.engine.filters import biases_of, limits_of, multipliers_of
from firmware_export.engine.graph import ABSENT, Graph, Op, Tensor

_Ints = NDArray[np.int64]
_POOLS = ("AVERAGE_POOL_2D", "MAX_POOL_2D")
_FOURS = 4
"""Channels stay a multiple of four where they are one, as the kernels ask for."""


@dataclass(frozen=True, eq=False)
class Interval:
    """Least and largest value of each channel ``(channels,)``."""

    low: _Ints
    high: _Ints

    def __getitem__(self, channels: _Ints) -> "Interval":
        return Interval(self.low[channels], self.high[channels])


def prune(graph: Graph) -> Graph:
    """Leave out channels whose values do not depend on the model's inputs; outputs stay the same bit by bit.

    Scales beyond the arithmetic are left for `firmware_export.engine.lower` to refuse by name.
    """
    known: dict[int, Interval] = {}
    for number in range(len(graph.ops)):
        if _is_plain_conv(graph, graph.ops[number]):
            with suppress(OverflowError):
                graph = _prune_chain(graph, graph.ops[number], known)
    return graph


def _prune_chain(graph: Graph, first: Op, known: dict[int, Interval]) -> Graph:
    """Leave out channels that `first` makes; `known` gets the intervals of the tensors that follow."""
    chain = _chain(graph, first)
    intervals = _intervals(graph, [first, *chain[:-1]], known)
    if not chain or not _is_end(graph, chain[-1]):
        return graph
    kept = _kept(graph, chain[-1], intervals[-1])
    if len(kept) == len(intervals[0].low):
        return graph
    edit = _Edit(graph)
    for op, interval in zip([first, *chain[:-1]], intervals, strict=True):
        known[op.outputs[0]] = interval[kept]
        edit.narrow_outputs(op, kept)
    edit.narrow_inputs(chain[-1], kept, intervals[-1])
    return edit.graph()


def _chain(graph: Graph, first: Op) -> list[Op]:
    """Operators behind `first` that keep channels apart, one after the other, and the one that comes then, if any."""
    chain: list[Op] = []
    tensor = first.outputs[0]
    while tensor not in graph.outputs:
        users = [op for op in graph.ops if tensor in op.inputs]
        if len(users) != 1 or users[0].inputs.index(tensor) != 0:
            return []
        chain.append(users[0])
        if not _keeps_channels(graph, users[0]):
            return chain
        tensor = users[0].outputs[0]
    return []


def _keeps_channels(graph: Graph, op: Op) -> bool:
    source, target = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
    if op.kind == "DEPTHWISE_CONV_2D":
        return source.shape[-1] == target.shape[-1] and _has_weights(graph, op)
    if op.kind == "RESHAPE":
        return (source.size,) == source.shape[-1:] == target.shape[-1:] == (target.size,)
    return op.kind in _POOLS


def _has_weights(graph: Graph, op: Op) -> bool:
    bias = op.inputs[2] if len(op.inputs) > 2 else ABSENT
    return graph.tensors[op.inputs[1]].data is not None and (bias == ABSENT or graph.tensors[bias].data is not None)


def _is_plain_conv(graph: Graph, op: Op) -> bool:
    return op.kind == "CONV_2D" and _has_weights(graph, op) and _depth(graph, op) == _last(graph, op.inputs[0])


def _is_end(graph: Graph, op: Op) -> bool:
    """Whether an operator multiplies all channels of its input by weights."""
    if op.kind == "FULLY_CONNECTED":
        source = graph.tensors[op.inputs[0]]
        return _has_weights(graph, op) and _depth(graph, op) == source.size == source.shape[-1]
    return _is_plain_conv(graph, op)


def _depth(graph: Graph, op: Op) -> int:
    return _last(graph, op.inputs[1])


def _last(graph: Graph, number: int) -> int:
    return graph.tensors[number].shape[-1]


def _intervals(graph: Graph, ops: Iterable[Op], known: dict[int, Interval]) -> list[Interval]:
    """Of each operator's output."""
    found = []
    for op in ops:
        target = graph.tensors[op.outputs[0]]
        source = known.get(op.inputs[0]) or _anything(_last(graph, op.inputs[0]))
        if op.kind in _POOLS:
            limits = limits_of(graph, op)
            known[target.number] = Interval(np.clip(source.low, *limits), np.clip(source.high, *limits))
        elif op.kind == "RESHAPE":
            known[target.number] = source
        else:
            known[target.number] = _weighted(graph, op, source)
        found.append(known[target.number])
    return found


def _anything(channels: int) -> Interval:
    return Interval(np.full(channels, INT8_MIN), np.full(channels, INT8_MAX))


def _weighted(graph: Graph, op: Op, source: Interval) -> Interval:
    """What a convolution makes of its input's intervals; padding is the input's zero point."""
    zero = graph.tensors[op.inputs[0]].zero_points[0]
    low, high = source.low - zero, source.high - zero
    if _is_padded(graph, op):
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    weights = _by_output(graph, op)
    if op.kind == "DEPTHWISE_CONV_2D":
        low, high = low[:, None, None, None], high[:, None, None, None]
    products = np.stack([weights * low, weights * high])
    sums = products.min(axis=0).sum(axis=(1, 2, 3)), products.max(axis=0).sum(axis=(1, 2, 3))
    bias = biases_of(graph, op, len(weights))
    return _rescaled(graph, op, sums[0] + bias, sums[1] + bias)


def _is_padded(graph: Graph, op: Op) -> bool:
    return op.options.get("padding") == "SAME" and graph.tensors[op.inputs[1]].shape[1:3] != (1, 1)


def _by_output(graph: Graph, op: Op) -> _Ints:
    """Weights ``(outputs, height, width, inputs)``, a depthwise convolution's of one input each."""
    weights = np.asarray(graph.tensors[op.inputs[1]].data, np.int64)
    return weights.transpose(3, 1, 2, 0) if op.kind == "DEPTHWISE_CONV_2D" else weights


def _rescaled(graph: Graph, op: Op, least: _Ints, most: _Ints) -> Interval:
    """Outputs of the least and the largest sum of each channel; all of int8 where the arithmetic may wrap."""
    limits, zero = limits_of(graph, op), graph.tensors[op.outputs[0]].zero_points[0]
    ends = []
    for factor, *pair in zip(multipliers_of(graph, op, len(least)), least.tolist(), most.tolist(), strict=True):
        sane = factor.shift <= 0 and -SAFE_SUM < pair[0] <= pair[1] < SAFE_SUM
        ends.append([output_of(acc, factor, zero, limits) for acc in pair] if sane else list(limits))
    low, high = np.array(ends, np.int64).T
    return Interval(low, high)


def _kept(graph: Graph, end: Op, interval: Interval) -> _Ints:
    """The channels that `end` has to read."""
    weights = _end_weights(graph, end).reshape(-1, len(interval.low))
    zero = graph.tensors[end.inputs[0]].zero_points[0]
    constant = interval.low == interval.high
    if end.kind == "CONV_2D" and _is_padded(graph, end):
        constant &= interval.low == zero
    spare = np.flatnonzero(constant | (weights == 0).all(axis=0))
    needed = np.setdiff1d(np.arange(len(constant)), spare)
    least = max(len(needed), 1)
    if not len(constant) % _FOURS:
        least = -(-least // _FOURS) * _FOURS
    return np.sort(np.concatenate([needed, spare[: least - len(needed)]]))


def _end_weights(graph: Graph, op: Op) -> _Ints:
    """Weights ``(..., inputs)`` as they are multiplied: only one scale for all brings a zero point with it."""
    filters = graph.tensors[op.inputs[1]]
    regarded = op.kind == "FULLY_CONNECTED" and len(filters.scales) == 1
    return np.asarray(filters.data, np.int64) - (filters.zero_points[0] if regarded else 0)


class _Edit:
    """A graph in which tensors get fewer channels."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._tensors = list(graph.tensors)
        self._ops = {op.number: op for op in graph.ops}

    def graph(self) -> Graph:
        """With all changes."""
        ops = tuple(self._ops[op.number] for op in self._graph.ops)
        return replace(self._graph, tensors=tuple(self._tensors), ops=ops)

    def narrow_outputs(self, op: Op, kept: _Ints) -> None:
        """Let an operator make the channels `kept` only."""
        target = self._tensors[op.outputs[0]]
        self._tensors[target.number] = replace(target, shape=(*target.shape[:-1], len(kept)))
        if op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            axis = 3 if op.kind == "DEPTHWISE_CONV_2D" else 0
            inputs = [op.inputs[0], self._part(op.inputs[1], kept, axis)]
            inputs += [number if number == ABSENT else self._part(number, kept, 0) for number in op.inputs[2:3]]
            self._ops[op.number] = replace(op, inputs=tuple(inputs))

    def narrow_inputs(self, op: Op, kept: _Ints, interval: Interval) -> None:
        """Let an operator read the channels `kept` only, all others have one value and go into its bias."""
        weights = _end_weights(self._graph, op)
        left_out = np.setdiff1d(np.arange(weights.shape[-1]), kept)
        values = interval.low[left_out] - self._graph.tensors[op.inputs[0]].zero_points[0]
        sums = (weights[..., left_out] * values).reshape(len(weights), -1).sum(axis=1)
        bias = (biases_of(self._graph, op, len(weights)) + sums).astype(np.int32)
        number = self._add(Tensor(number=0, name="bias", shape=bias.shape, dtype="int32", data=bias))
        inputs = (op.inputs[0], self._part(op.inputs[1], kept, weights.ndim - 1), number)
        self._ops[op.number] = replace(op, inputs=inputs)

    def _part(self, number: int, kept: _Ints, axis: int) -> int:
        tensor = self._tensors[number]
        values = np.asarray(tensor.data)
        data = np.take(values.ravel() if values.dtype == np.int32 else values, kept, axis=axis)
        scales, zeros = tensor.scales, tensor.zero_points
        if len(scales) > 1 and tensor.axis == axis:
            scales = tuple(scales[channel] for channel in kept)
            zeros = tuple(zeros[channel] for channel in kept) if len(zeros) > 1 else zeros
        return self._add(replace(tensor, shape=data.shape, scales=scales, zero_points=zeros, data=data))

    def _add(self, tensor: Tensor) -> int:
        self._tensors.append(replace(tensor, number=len(self._tensors)))
        return len(self._tensors) - 1
