"""What a net gives a processor to do, of which latency follows: the same of a spec and of the flatbuffer it becomes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from hybrid.schema import schema

MAC_KINDS = ("conv", "pointwise", "depthwise", "dense")
_LANES = 4
"""Int8 kernels for Cortex-M take four channels at once; the rest goes one by one."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work of one inference."""

    macs_by_kind: Mapping[str, int]
    """Multiply-accumulates by kind of layer: conv, pointwise (1 x 1), depthwise, dense."""
    ragged_macs_by_kind: Mapping[str, int]
    """Those of them in layers that read or write channels in a number that is no multiple of four (not dense ones)."""
    outputs: int
    """Numbers that these layers write, each of which is brought to its int8 scale."""
    elements: int
    """Numbers that all other operators (additions, pooling) read or write, whichever is more."""
    operators: int

    @property
    def macs(self) -> int:
        """All multiply-accumulates."""
        return sum(self.macs_by_kind.values())

    def with_dense(self, macs: int) -> "Work":
        """The same with a further dense layer, outside the net, of so many MACs."""
        return replace(self, macs_by_kind={**self.macs_by_kind, "dense": self.macs_by_kind["dense"] + macs})


class Task(NamedTuple):
    """One operator's share of the work; `kind` is one of `MAC_KINDS`, or any other word."""

    kind: str
    macs: int
    elements: int
    """Written; of operators without weights read or written, whichever is more."""
    ragged: bool


def ragged(kind: str, *channels: int) -> bool:
    """Whether four channels at once leave a rest.

    >>> ragged("conv", 3, 16), ragged("pointwise", 8, 16), ragged("dense", 3, 10)
    (True, False, False)
    """
    return kind != "dense" and any(count % _LANES for count in channels)


def total(tasks: Iterable[Task]) -> Work:
    """Add up the operators of a net."""
    macs, rest = dict.fromkeys(MAC_KINDS, 0), dict.fromkeys(MAC_KINDS, 0)
    outputs = elements = operators = 0
    for kind, count, size, uneven in tasks:
        operators += 1
        if kind not in macs:
            elements += size
            continue
        outputs += size
        macs[kind] += count
        if uneven:
            rest[kind] += count
    return Work(macs_by_kind=macs, ragged_macs_by_kind=rest, outputs=outputs, elements=elements, operators=operators)


def flatbuffer_work(flatbuffer: bytes) -> Work:
    """Count the work of a .tflite; a reshape is none."""
    s = schema()
    model = s.ModelT.InitFromObj(s.Model.GetRootAs(flatbuffer, 0))
    op = s.BuiltinOperator
    weighted = {op.CONV_2D: "conv", op.DEPTHWISE_CONV_2D: "depthwise", op.FULLY_CONNECTED: "dense"}
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    tasks = []
    for graph in model.subgraphs:
        for node in graph.operators:
            code = codes[node.opcodeIndex]
            read, written = ([int(n) for n in graph.tensors[ts[0]].shape] for ts in (node.inputs, node.outputs))
            if code in weighted:
                weights = [int(n) for n in graph.tensors[node.inputs[1]].shape]
                tasks.append(_weighted(weighted[code], weights, read, written))
            elif code != op.RESHAPE:
                tasks.append(Task("other", 0, max(_size(read), _size(written)), False))
    return total(tasks)


def _weighted(kind: str, weights: list[int], read: list[int], written: list[int]) -> Task:
    """MACs for each output: height x width of a depthwise filter, else all of a filter but its output channels."""
    each = weights[1:3] if kind == "depthwise" else weights[1:]
    if kind == "conv" and weights[1:3] == [1, 1]:
        kind = "pointwise"
    return Task(kind, _size(written) * _size(each), _size(written), ragged(kind, read[-1], written[-1]))


def _size(shape: list[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))
