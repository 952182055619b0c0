"""Has the device's world drifted? A window of scores against those of the calibration split, in integers.

The int8 score is a rank among calibration examples, so bins that were equally full there stay equally full while the
examples are like those. Over each window of examples Pearson's statistic compares the bins, and the number of kept
examples is compared with what the threshold promised. `DriftMonitor` is mirrored bit for bit by hybrid_monitor.c.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import IntFlag
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from hybrid.errors import SpecError
from hybrid.online import OnlineRule

MOST_WINDOW = 4096
_LEAST_EXPECTED = 5
"""Examples that a bin expects in a window, for Pearson's statistic to follow its law."""
_WEIGHT_ONE = 1 << 16


class Drift(IntFlag):
    """What the last full window says."""

    NONE = 0
    SCORES = 1
    """The scores are spread otherwise than in the calibration split."""
    COVERAGE = 2
    """The edge keeps more or fewer examples than the threshold promised."""


@dataclass(frozen=True, kw_only=True)
class DriftReference:
    """What a window is compared with; constants of the firmware."""

    window: int
    """Examples until the next verdict."""
    edges: tuple[int, ...]
    """Lowest score of each bin but the first, ascending."""
    weights: tuple[int, ...]
    """Of each bin: 65536 over its share of the calibration split."""
    critical: int
    """The scores have drifted where the sum of weight * count^2 is above it."""
    least_kept: int
    most_kept: int
    """The coverage has drifted where a window keeps fewer or more."""
    false_alarm_rate: float
    """Of a window without drift, for the two verdicts together."""

    def statistic(self, counts: Sequence[int]) -> int:
        """Sum of weight * count^2: Pearson's chi-square is that over (65536 window), less the window."""
        return sum(weight * count * count for weight, count in zip(self.weights, counts, strict=True))

    def verdict(self, counts: Sequence[int], kept: int) -> Drift:
        """Judge a full window by the `counts` of its bins and the number `kept`."""
        scores = Drift.SCORES if self.statistic(counts) > self.critical else Drift.NONE
        coverage = Drift.NONE if self.least_kept <= kept <= self.most_kept else Drift.COVERAGE
        return scores | coverage


def drift_reference(
    scores: ArrayLike, threshold: int, *, window: int = 512, bins: int = 8, false_alarm_rate: float = 1e-3
) -> DriftReference:
    """Make the constants from calibration scores ``(n,)`` and the threshold in force.

    Each verdict gets half of the false alarms. Pearson's statistic follows chi-square with bins - 1 degrees of freedom,
    stretched by ``1 + window / n`` since the reference is itself a sample; the number kept follows the beta-binomial
    law that the calibration split predicts (Jeffreys prior). Scores that fill one bin only cannot be told from others:
    only the coverage is judged then.

    Raises: SpecError for a window that no test can be built on.
    """
    s = np.asarray(scores, dtype=np.int64)
    if not (0 < window <= MOST_WINDOW and 2 <= bins <= 16 and 0 < false_alarm_rate < 1):
        raise SpecError(
            f"drift: got window {window}, bins {bins}, false_alarm_rate {false_alarm_rate}; "
            f"allowed 1 to {MOST_WINDOW}, 2 to 16, and between 0 and 1"
        )
    edges = _even_edges(s, bins, _LEAST_EXPECTED / window)
    shares = np.bincount(np.searchsorted(edges, s, side="right"), minlength=len(edges) + 1) / len(s)
    quantile = special.chdtri(len(edges), false_alarm_rate / 2) * (1 + window / len(s)) if edges else 0.0
    least, most = _kept_bounds(int((s >= threshold).sum()), len(s), window, false_alarm_rate / 4)
    return DriftReference(
        window=window,
        edges=tuple(edges),
        weights=tuple(round(_WEIGHT_ONE / share) for share in shares.tolist()),
        critical=int((quantile + window) * window * _WEIGHT_ONE),
        least_kept=least,
        most_kept=most,
        false_alarm_rate=false_alarm_rate,
    )


def _even_edges(scores: NDArray[np.int64], bins: int, least: float) -> list[int]:
    """Cut ascending scores into at most `bins` of equal shares, none below `least`; equal scores stay together."""
    values, counts = np.unique(scores, return_counts=True)
    share = max(1 / bins, least) * len(scores)
    edges, filled, left = [], 0, len(scores)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        if filled >= share and left >= max(share / 2, least * len(scores)):
            edges.append(value)
            filled = 0
        filled, left = filled + count, left - count
    return edges


def _kept_bounds(kept: int, n: int, window: int, tail: float) -> tuple[int, int]:
    """Counts of a window that the beta-binomial law leaves with at most `tail` on either side."""
    k = np.arange(window + 1)
    a, b = kept + 0.5, n - kept + 0.5
    choose = -special.betaln(k + 1, window - k + 1) - np.log(window + 1)
    below = np.cumsum(np.exp(choose + special.betaln(k + a, window - k + b) - special.betaln(a, b)))
    return int(np.searchsorted(below, tail, side="right")), int(np.searchsorted(below, 1 - tail))


class DriftMonitor:
    """Counts one window at a time; 2 bytes for each bin and 5 more on the device, 21 with 8 bins."""

    def __init__(self, reference: DriftReference) -> None:
        self.reference = reference
        self.reset()

    def reset(self) -> None:
        """Forget the window and the verdict."""
        self.status = Drift.NONE
        self._start_window()

    def _start_window(self) -> None:
        self._counts = [0] * len(self.reference.weights)
        self._seen = self._kept = 0

    def observe(self, score: int, kept: bool) -> Drift:
        """Count one example and return the verdict on the last full window, which stands until the next one."""
        self._counts[sum(score >= edge for edge in self.reference.edges)] += 1
        self._kept += kept
        self._seen += 1
        if self._seen == self.reference.window:
            self.status = self.reference.verdict(self._counts, self._kept)
            self._start_window()
        return self.status


def alarm_shares(
    reference: DriftReference, scores: ArrayLike, threshold: int, *, windows: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """Draw windows from `scores` ``(n,)`` as the population: share with an alarm, by verdict and ``any``.

    Over 1 / share windows the first alarm comes, on average: false where the scores are those of the reference,
    the delay of detection where they have drifted.
    """
    rng = np.random.default_rng(seed)
    s = np.asarray(scores, dtype=np.int64)
    place = np.searchsorted(reference.edges, s, side="right")
    raised = []
    for _ in range(windows):
        rows = rng.integers(0, len(s), reference.window)
        counts = np.bincount(place[rows], minlength=len(reference.weights)).tolist()
        raised.append(reference.verdict(counts, int((s[rows] >= threshold).sum())))
    found = np.array(raised)
    shares = {
        flag.name.lower(): float((found & flag > 0).mean()) for flag in (Drift.SCORES, Drift.COVERAGE) if flag.name
    }
    return {**shares, "any": float((found > 0).mean())}


def monitor_values(reference: DriftReference, rule: OnlineRule) -> dict[str, Any]:
    """What fills the holes of hybrid_monitor.c and .h, besides ``banner``."""
    return {"drift": asdict(reference), "online": asdict(rule)}
