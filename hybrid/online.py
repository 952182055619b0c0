"""Learning from the cloud's answers which scores can be kept: HI-LCB-lite, in integers.

Chattopadhyay, Sutar, Champati and Moharir 2025, "Low-Regret and Low-Complexity Learning for Hierarchical Inference"
(arXiv 2508.08985). Each bin of the score counts its queries and how often the cloud agreed with the edge. A bin is kept
where the lower confidence bound of being right reaches what a query costs,

    agreed / count - sqrt(alpha ln t / count) >= 1 - gamma,

at example t, with gamma the cost of a query in errors; else the cloud is asked and its answer is the feedback. That is
O(1) for each example ("lite": every bin for itself; HI-LCB lets a bin inherit the best bound below it).

``sharp`` is our one change, on by default: above a bar q = 1 - gamma >= 1/2 the variance of an answer is at most
q (1 - q), so that Chernoff's bound allows a radius smaller by the factor sqrt(4 q (1 - q)) where Hoeffding's asks for
the paper's. `OnlineControl` is mirrored bit for bit by hybrid_monitor.c.

No example is forgotten: in our trials decaying counts (discounted UCB) cost more while nothing drifts than they saved
after a drift, as ln t brings a kept bin back to be asked about; nor did the bounds of lower bins (HI-LCB) pay.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybrid.errors import SpecError

BINS = 16
_SHIFT = 4
_COST_ONE = 1 << 12
_MOST_COUNT = (1 << 16) - 1
_MOST_STEPS = (1 << 32) - 1


@dataclass(frozen=True, kw_only=True)
class OnlineRule:
    """Constants of the firmware."""

    bar: int
    """4096 (1 - gamma)."""
    radius: int
    """65536 ln(2) alpha, times 4 gamma (1 - gamma) where sharp: the squared radius for each unit of log2(t)."""
    count: tuple[int, ...]
    agreed: tuple[int, ...]
    """Where each bin starts, ``(16,)``: what calibration examples say, or zeros."""


def online_rule(gamma: float, *, alpha: float = 0.6, sharp: bool = True) -> OnlineRule:
    """Make the rule for queries that cost `gamma` errors each; the paper needs ``alpha`` above 1/2.

    Raises: SpecError where `gamma` is no cost at which both answers can pay, or `alpha` is outside its range.
    """
    if not 1 / _COST_ONE <= gamma <= 0.5:
        raise SpecError(f"online: got gamma {gamma}, allowed {1 / _COST_ONE} to 0.5 (errors that a query costs)")
    if not 0.5 < alpha <= 4:
        raise SpecError(f"online: got alpha {alpha}, allowed above 0.5 to 4")
    variance = 4 * gamma * (1 - gamma) if sharp else 1.0
    return OnlineRule(
        bar=round(_COST_ONE * (1 - gamma)),
        radius=max(1, round(65536 * log(2) * alpha * variance)),
        count=(0,) * BINS,
        agreed=(0,) * BINS,
    )


def warm(rule: OnlineRule, scores: ArrayLike, agreed: ArrayLike, most: int = 1024) -> OnlineRule:
    """Start from calibration examples: int8 scores ``(n,)`` and where the edge agreed with the cloud.

    A bin counts for at most `most` examples, so that the device's own feedback soon weighs as much.
    """
    place = (np.asarray(scores, dtype=np.int64) + 128) >> _SHIFT
    count = np.bincount(place, minlength=BINS)
    right = np.bincount(place[np.asarray(agreed, dtype=bool)], minlength=BINS)
    limited = np.minimum(count, most)
    return replace(
        rule, count=tuple(limited.tolist()), agreed=tuple((right * limited // np.maximum(count, 1)).tolist())
    )


def log2_q8(t: int) -> int:
    """256 log2(t) for t >= 1, with straight lines between the powers of two (at most 0.09 too low).

    >>> log2_q8(1), log2_q8(8), log2_q8(12)
    (0, 768, 896)
    """
    whole = t.bit_length() - 1
    return (whole << 8) + ((t << 8) >> whole) - 256


class OnlineControl:
    """Keep or ask, and learn from the answers; 4 bytes for each bin and 4 more on the device, 68 in all."""

    def __init__(self, rule: OnlineRule) -> None:
        self.rule = rule
        self.reset()

    def reset(self) -> None:
        """Go back to where the rule starts."""
        self._count, self._agreed = list(self.rule.count), list(self.rule.agreed)
        self._steps = 0

    def decide(self, score: int) -> bool:
        """Tell whether to keep the next example."""
        self._steps = min(self._steps + 1, _MOST_STEPS)
        place = (score + 128) >> _SHIFT
        n = self._count[place]
        above = self._agreed[place] * _COST_ONE - n * self.rule.bar
        return n > 0 and above >= 0 and above * above >= self.rule.radius * n * log2_q8(self._steps)

    def feedback(self, score: int, agreed: bool) -> None:
        """Learn whether the cloud's answer to a query was the edge's; a full counter is halved first."""
        place = (score + 128) >> _SHIFT
        if self._count[place] == _MOST_COUNT:
            self._count[place] >>= 1
            self._agreed[place] >>= 1
        self._count[place] += 1
        self._agreed[place] += agreed


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Costs of a stream in errors for each example: an error kept costs 1, a query gamma."""

    online: float
    fixed: float
    """Of the threshold that is best on the stream's first part, before any drift."""
    best: float
    """Of the decision by bin that is best at each moment, which nobody knows."""
    queries: float
    """Share of the examples that the online rule asks about."""


def simulate(
    rule: OnlineRule, gamma: float, parts: Sequence[NDArray[np.float64]], *, length: int, seed: int = 0
) -> list[Trial]:
    """Run `rule` over a stream of uniform scores, and say what each part of it cost.

    `parts` give P(edge agrees with the cloud) by score, ``(256,)``, one after the other, each for `length` examples.
    """
    rng = np.random.default_rng(seed)
    control = OnlineControl(rule)
    fixed = _best_keep(parts[0], gamma, 1)
    trials = []
    for chance in parts:
        place = rng.integers(0, 256, length)
        agrees = rng.random(length) < chance[place]
        kept = np.empty(length, dtype=bool)
        for i, (level, right) in enumerate(zip(place.tolist(), agrees.tolist(), strict=True)):
            kept[i] = control.decide(level - 128)
            if not kept[i]:
                control.feedback(level - 128, right)
        expected = [
            float(np.where(keep, 1 - chance[place], gamma).mean())
            for keep in (kept, fixed[place], _best_keep(chance, gamma, 256 // BINS)[place])
        ]
        trials.append(Trial(online=expected[0], fixed=expected[1], best=expected[2], queries=float((~kept).mean())))
    return trials


def _best_keep(chance: NDArray[np.float64], gamma: float, levels: int) -> NDArray[np.bool_]:
    """Where keeping pays, ``(256,)``: bins of `levels` scores each by itself; 1 level: above the best threshold."""
    if levels > 1:
        return np.repeat(chance.reshape(-1, levels).mean(axis=1) >= 1 - gamma, levels)
    saved = np.append(np.cumsum((chance - (1 - gamma))[::-1])[::-1], 0.0)
    return np.arange(256) >= int(np.argmax(saved))
