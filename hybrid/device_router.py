"""The router as the device computes it: integers in, an int8 score out, the same bits in Python and in C.

What an int8 edge net says, its stored features and logits, becomes a short vector of small integers
(`router_inputs`). A linear form or one hidden layer makes a number of them (`RouterNet` in floating point,
`IntegerRouter` with sums that cannot overflow), and 255 ascending cuts make an int8 score of that
number: the score is the rank among the examples that the cuts were taken from, so that no 8-bit step is wasted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hybrid.artifacts import Floats, Ints

MAX_GAP = 255
LUT_BITS = 12
"""exp(-beta * gap) is stored as a share of ``1 << LUT_BITS``."""
CONFIDENCE_BITS = 12
"""A confidence is stored as a share of ``1 << CONFIDENCE_BITS``."""
CUTS = 255
HIDDEN_BITS = 14
"""A hidden unit is stored in so many bits."""
HIDDEN_MAX = (1 << HIDDEN_BITS) - 1
OUT_MAX = (1 << 15) - 1
SUM_MAX = (1 << 31) - 1
BLOCK_ROWS = 1 << 14
"""So many examples are scored at a time, because more leave the processor's cache."""


@dataclass(frozen=True, kw_only=True)
class StoredOutputs:
    """What an int8 net says about `n` examples, as stored: `logits` ``(n, num_classes)``, `features` ``(n, width)``.

    In a cascade, `logits` are the combined ones and `features` those of all stages so far.
    """

    logits: NDArray[np.int8]
    features: NDArray[np.int8]

    def take(self, rows: NDArray[np.intp] | slice) -> "StoredOutputs":
        """Some of the examples."""
        return StoredOutputs(logits=self.logits[rows], features=self.features[rows])


@dataclass(frozen=True, kw_only=True)
class RouterInputs:
    """Which integers a router reads; in this order in the vector ``v``.

    `features`: each stored feature + 128, in [0, 255]. `gaps`: for each class, largest logit less its own, in
    [0, 255]. `top`: the `top` smallest gaps beside the answer's own, ascending (top = 1: the margin of the two best).
    `betas`: for each, the answer's share of ``sum over classes of exp(-beta * gap)``, in [0, 4096]: the largest softmax
    probability, beta being that of one stored step. `classes`: one-hot of the answer.
    """

    features: bool = False
    gaps: bool = False
    top: int = 0
    betas: tuple[float, ...] = ()
    classes: bool = False

    def highest(self, num_features: int, num_classes: int) -> NDArray[np.int64]:
        """The largest value that each input can take, ``(d,)``."""
        return np.concatenate(
            [
                np.full(num_features * self.features, 255),
                np.full(num_classes * self.gaps, MAX_GAP),
                np.full(self.top, MAX_GAP),
                np.full(len(self.betas), 1 << CONFIDENCE_BITS),
                np.full(num_classes * self.classes, 1),
            ]
        ).astype(np.int64)


def exponentials(beta: float) -> NDArray[np.int64]:
    """``exp(-beta * gap)`` for gaps 0 to `MAX_GAP`, as stored, ``(256,)``.

    >>> exponentials(0.6931471805599453)[:3]
    array([4096, 2048, 1024])
    """
    return np.rint(np.exp(-beta * np.arange(MAX_GAP + 1)) * (1 << LUT_BITS)).astype(np.int64)


def router_inputs(outputs: StoredOutputs, inputs: RouterInputs) -> Ints:
    """The vector ``v`` of each example, ``(n, d)``; see `RouterInputs`. Of equal logits the lowest class answers.

    >>> stored = StoredOutputs(logits=np.array([[10, 30, 25]], np.int8), features=np.array([[-128, 2]], np.int8))
    >>> router_inputs(stored, RouterInputs(features=True, gaps=True, top=1, classes=True))
    array([[  0, 130,  20,   0,   5,   5,   0,   1,   0]], dtype=int32)
    """
    logits = outputs.logits.astype(np.int32)
    gaps = logits.max(axis=1, keepdims=True) - logits
    parts: list[Ints] = []
    if inputs.features:
        parts.append(outputs.features.astype(np.int32) + 128)
    if inputs.gaps:
        parts.append(gaps)
    if inputs.top:
        parts.append(np.sort(gaps, axis=1)[:, 1 : inputs.top + 1])
    for beta in inputs.betas:
        total = exponentials(beta)[gaps].sum(axis=1, keepdims=True)
        parts.append(((1 << (LUT_BITS + CONFIDENCE_BITS)) // total).astype(np.int32))
    if inputs.classes:
        parts.append((np.arange(logits.shape[1]) == logits.argmax(axis=1)[:, None]).astype(np.int32))
    return np.concatenate(parts, axis=1)


@dataclass(frozen=True, kw_only=True)
class RouterNet:
    """``out . relu(weights^T v + bias) + out_bias``, or ``weights^T v + bias`` where `out` is None; higher: keep.

    `weights` ``(d, hidden)``, `bias` ``(hidden,)``, `out` ``(hidden,)``; without `out`, hidden is 1.
    """

    inputs: RouterInputs
    weights: Floats
    bias: Floats
    out: Floats | None = None
    out_bias: float = 0.0

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return self.weights.size + self.bias.size + (0 if self.out is None else self.out.size + 1)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one score."""
        return self.weights.size + (0 if self.out is None else self.out.size)

    def raw(self, outputs: StoredOutputs) -> Floats:
        """The score before cuts, ``(n,)``."""
        total = router_inputs(outputs, self.inputs).astype(np.float32) @ self.weights + self.bias
        if self.out is None:
            return total[:, 0]
        return np.maximum(total, 0.0) @ self.out + np.float32(self.out_bias)


@dataclass(frozen=True, kw_only=True)
class IntegerRouter:
    """`RouterNet` in integers, as the firmware has it.

    hidden = min(max(weights^T v + bias, 0) >> shift, 2^14 - 1); raw = out . hidden + out_bias; without `out`, raw is
    ``weights^T v + bias``. The score is the number of `cuts` at or below raw, less 128. `weights` int32
    ``(d, hidden)``, `bias` int32 ``(hidden,)``, `out` int16 ``(hidden,)``, `cuts` ``(255,)`` ascending; every number
    and every sum fits 32 bits, whatever the inputs.
    """

    inputs: RouterInputs
    weights: NDArray[np.int32]
    bias: NDArray[np.int32]
    shift: int
    out: NDArray[np.int16] | None
    out_bias: int
    cuts: NDArray[np.int64]

    @property
    def parameters(self) -> int:
        """Number of weights and biases; the cuts are the score's quantisation."""
        return self.weights.size + self.bias.size + (0 if self.out is None else self.out.size + 1)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one score."""
        return self.weights.size + (0 if self.out is None else self.out.size)

    @property
    def table_bytes(self) -> int:
        """Flash that its numbers take in the firmware: weights and biases, tables of exponentials, cuts."""
        out = 0 if self.out is None else self.out.nbytes
        tables = len(self.inputs.betas) * (MAX_GAP + 1) * 2
        return self.weights.nbytes + self.bias.nbytes + out + tables + CUTS * 4

    def raw(self, outputs: StoredOutputs) -> NDArray[np.int64]:
        """The number that the cuts are held against, ``(n,)``."""
        starts = range(0, max(len(outputs.logits), 1), BLOCK_ROWS)
        return np.concatenate([self._raw(outputs.take(np.s_[start : start + BLOCK_ROWS])) for start in starts])

    def _raw(self, outputs: StoredOutputs) -> NDArray[np.int64]:
        """In doubles, which hold every sum exactly, as none reaches 2^53, and which numpy multiplies faster."""
        v = router_inputs(outputs, self.inputs).astype(np.float64)
        total = (v @ self.weights.astype(np.float64)).astype(np.int64) + self.bias
        if self.out is None:
            return total[:, 0]
        hidden = np.minimum(np.maximum(total, 0) >> self.shift, HIDDEN_MAX)
        return (hidden @ self.out.astype(np.float64)).astype(np.int64) + self.out_bias

    def score(self, outputs: StoredOutputs) -> NDArray[np.int8]:
        """The int8 score, ``(n,)``; higher: the edge can answer."""
        return cut(self.raw(outputs), self.cuts)


def cut(raw: NDArray[np.int64], cuts: NDArray[np.int64]) -> NDArray[np.int8]:
    """Number of `cuts` ``(255,)`` at or below each raw score, less 128.

    >>> cut(np.array([-1, 0, 254, 999]), np.arange(255))
    array([-128, -127,  127,  127], dtype=int8)
    """
    return (np.searchsorted(cuts, raw, side="right") - 128).astype(np.int8)


def even_cuts(raw: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Cuts ``(255,)``, values of `raw` ``(n,)``, at which each int8 score is as frequent as any other among them."""
    return np.quantile(raw, np.arange(1, CUTS + 1) / (CUTS + 1), method="inverted_cdf").astype(np.float64)


def integer_router(net: RouterNet, examples: StoredOutputs, cuts: Floats | None = None) -> IntegerRouter:
    """Quantise a router; `examples` set the range of its hidden units.

    `cuts` ``(255,)`` are in units of ``net.raw``, ascending; by default they are `even_cuts` on the examples.
    """
    made, unit = _in_integers(net, examples)
    wanted = even_cuts(made.raw(examples) * unit) if cuts is None else cuts.astype(np.float64)
    return _with_cuts(made, wanted / unit)


def program_routers(nets: Sequence[RouterNet], examples: Sequence[StoredOutputs]) -> tuple[IntegerRouter, ...]:
    """Quantise the routers of all stages of a program so that they share one score scale.

    `nets` estimate the same thing in the same unit, such as the log-odds of a right answer; ``examples[k]`` are those
    on which stage `k` is the last. The cuts are `even_cuts` on all of them together, so that every int8 score is as
    frequent as any other among the scores that decide.
    """
    made = [_in_integers(net, outputs) for net, outputs in zip(nets, examples, strict=True)]
    raw = [router.raw(outputs) * unit for (router, unit), outputs in zip(made, examples, strict=True)]
    cuts = even_cuts(np.concatenate(raw))
    return tuple(_with_cuts(router, cuts / unit) for router, unit in made)


def _in_integers(net: RouterNet, examples: StoredOutputs) -> tuple[IntegerRouter, float]:
    """Give `net` in integers, cuts aside, and the real value of one step of its raw score."""
    highest = net.inputs.highest(examples.features.shape[1], examples.logits.shape[1])
    weights, bias = net.weights.astype(np.float64), net.bias.astype(np.float64)
    reach = highest @ np.abs(weights) + np.abs(bias)
    unit = max(float(reach.max()) / (SUM_MAX - highest.sum()), 1e-12)
    made = IntegerRouter(
        inputs=net.inputs,
        weights=np.rint(weights / unit).astype(np.int32),
        bias=np.rint(bias / unit).astype(np.int32),
        shift=0,
        out=None,
        out_bias=0,
        cuts=np.zeros(CUTS, np.int64),
    )
    if net.out is None:
        return made, unit
    largest = (router_inputs(examples, net.inputs).astype(np.float64) @ made.weights + made.bias).max()
    shift = max(0, int(max(largest, 1.0)).bit_length() - HIDDEN_BITS)
    unit *= 2**shift
    most = float(np.abs(net.out).sum()) * HIDDEN_MAX + abs(net.out_bias) / unit
    room = SUM_MAX - HIDDEN_MAX * net.out.size - 1
    out_unit = max(float(np.abs(net.out).max()) / OUT_MAX, most / room, 1e-12)
    unit *= out_unit
    out = np.rint(net.out / out_unit).astype(np.int16)
    return replace(made, shift=shift, out=out, out_bias=round(net.out_bias / unit)), unit


def _with_cuts(router: IntegerRouter, cuts: NDArray[np.float64]) -> IntegerRouter:
    """Set cuts in steps of the raw score; those beyond its reach are held at its ends, to the same effect."""
    return replace(router, cuts=np.clip(np.rint(cuts), -SUM_MAX, SUM_MAX).astype(np.int64))
