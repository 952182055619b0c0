"""Who answers and how long it takes, together: every threshold's operating point, and the choice of one.

Thresholds are swept on calibration data, chosen there, and confirmed on test data; see `choose` for the rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybrid import latency, policy
from hybrid.artifacts import Bools, Device, Link, OperatingPoint, Predictions
from hybrid.errors import SpecError
from hybrid.specs import SweepSpec
from hybrid.supervision import query_gain
from hybrid.work import Work

if TYPE_CHECKING:
    from hybrid.guarantee import Certificate

Array = NDArray[np.float64]

KEEP_ALL, KEEP_NONE = -128, 128
NAMED_COVERAGES = (0.9, 0.8, 0.7, 0.6, 0.5)
_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Accuracy against coverage at every distinct threshold, ascending; the first keeps all, the last (inf) none."""

    threshold: Array
    coverage: Array
    accuracy: Array


def curve(scores: ArrayLike, edge_right: ArrayLike, cloud_right: ArrayLike) -> Curve:
    """Sweep the threshold over all distinct `scores` ``(n,)``, exactly; tied examples are kept together.

    Raises: SpecError where there are no examples.
    """
    s = np.asarray(scores, dtype=np.float64)
    if not len(s):
        raise SpecError("sweep: got no examples; enlarge the split")
    order = np.argsort(s, kind="stable")
    s = s[order]
    gain = query_gain(np.asarray(edge_right), np.asarray(cloud_right)).astype(np.int64)[order]
    right = np.sum(edge_right) + np.concatenate([[0], np.cumsum(gain)])  # queried: the first i in order
    queried = np.concatenate([[0], np.flatnonzero(np.diff(s)) + 1, [len(s)]])
    return Curve(
        threshold=np.append(s[queried[:-1]], np.inf),
        coverage=1 - queried / len(s),
        accuracy=right[queried] / len(s),
    )


def nauc(scores: ArrayLike, edge_right: ArrayLike, cloud_right: ArrayLike) -> float:
    """Area between the accuracy-coverage curve and random routing, over the same for the oracle.

    Random routing gives 0, the oracle 1. It depends on edge and cloud: compare scores on the same edge only. Where no
    query changes anything there is nothing to route, and the result is 0.
    """
    reached = curve(scores, edge_right, cloud_right)
    best = curve(policy.oracle(edge_right, cloud_right), edge_right, cloud_right)
    random = (reached.accuracy[0] + reached.accuracy[-1]) / 2
    room = area(best) - random
    return float((area(reached) - random) / room) if room > _TOLERANCE else 0.0


def area(c: Curve) -> float:
    """Trapezoids over coverage; within a tie that means keeping by lot."""
    return float(np.sum((c.coverage[:-1] - c.coverage[1:]) * (c.accuracy[:-1] + c.accuracy[1:]) / 2))


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Where a hybrid runs: device, link and cloud with their costs."""

    device: Device
    link: Link
    cloud_name: str
    cloud_ms: float
    stage_work: tuple[Work, ...]
    """The work of each of the device's nets, routers included."""
    packing_ms: float = 0.0
    """The device's time to write a query, before it wakes the radio."""

    @property
    def stage_ms(self) -> Array:
        """Estimated time until each stage has answered, ``(num_stages,)``; those before it ran as well."""
        return np.cumsum([latency.edge_latency_ms(work, self.device) for work in self.stage_work])


@dataclass(frozen=True)
class _Meter:
    """Predictions with the cost of a query for each example, drawn once: every threshold sees the same network."""

    scenario: Scenario
    score: NDArray[np.int32]
    edge_ms: Array
    edge_right: Bools
    cloud_right: Bools
    query_ms: Array
    query_mj: Array

    def measure(self, name: str, threshold: int) -> OperatingPoint:
        kept = policy.kept(self.score, threshold)
        scenario = self.scenario
        ms = latency.latency_ms(kept, self.edge_ms, self.query_ms)
        mj = latency.energy_mj(kept, self.edge_ms, self.query_mj, scenario.device)
        p50, p95 = np.percentile(ms, [50, 95])
        return OperatingPoint(
            name=name,
            threshold=threshold,
            coverage=float(kept.mean()),
            accuracy=float(np.where(kept, self.edge_right, self.cloud_right).mean()),
            mean_latency_ms=float(ms.mean()),
            p50_latency_ms=float(p50),
            p95_latency_ms=float(p95),
            mean_energy_mj=float(mj.mean()),
            link=scenario.link.name,
            cloud=scenario.cloud_name,
        )


def _meter(predictions: Predictions, scenario: Scenario, payload_bytes: ArrayLike, seed: int) -> _Meter:
    n = len(predictions.labels)
    if not n:
        raise SpecError("sweep: got no examples; enlarge the split")
    rng = np.random.default_rng(seed)
    ms = latency.query_latency_ms(n, payload_bytes, scenario.link, scenario.cloud_ms, rng)
    mj = latency.query_energy_mj(ms, payload_bytes, scenario.device, scenario.link)
    packing_mj = scenario.packing_ms * scenario.device.power_mw / 1000
    ms, mj = ms + scenario.packing_ms, mj + packing_mj
    edge_ms = scenario.stage_ms[predictions.stage]
    return _Meter(scenario, predictions.router_score, edge_ms, predictions.edge_right, predictions.cloud_right, ms, mj)


def operating_points(
    predictions: Predictions, scenario: Scenario, *, payload_bytes: ArrayLike, seed: int
) -> list[OperatingPoint]:
    """Measure every distinct threshold of the int8 score, ascending; the first keeps all, the last none.

    `payload_bytes` of a query is one figure or ``(n,)``. Raises: SpecError where there are no examples.
    """
    meter = _meter(predictions, scenario, payload_bytes, seed)
    thresholds = [KEEP_ALL, *np.unique(meter.score).tolist()[1:], KEEP_NONE]
    return [meter.measure(f"threshold_{threshold}", threshold) for threshold in thresholds]


def confirm(
    point: OperatingPoint, predictions: Predictions, scenario: Scenario, *, payload_bytes: ArrayLike, seed: int
) -> OperatingPoint:
    """Measure the threshold of `point` on other examples, such as the test split."""
    return _meter(predictions, scenario, payload_bytes, seed).measure(point.name, point.threshold)


def choose(
    points: Sequence[OperatingPoint], cloud_accuracy: float, spec: SweepSpec, certificate: "Certificate | None" = None
) -> OperatingPoint:
    """Choose the operating point that `spec` asks for; all of its limits must hold.

    With ``max_loss``, ``min_accuracy`` or ``no_excess_loss`` the highest coverage wins (ties: higher accuracy),
    otherwise the highest accuracy (ties: higher coverage). When nothing is asked, half a point may be lost against the
    cloud: near zero excess loss the curve is flat, so that "no loss at all" would follow the noise.

    With a `certificate` only its thresholds are taken: what it certifies then holds on the population, with its
    confidence, instead of on the examples that `points` were measured on. Among them the other limits (latency, which
    is a model, and no excess loss) still hold only as measured. Some of the thresholds of the calibration split are
    always certified; `points` measured on other examples may miss them.

    Raises: SpecError where no point holds all limits, with what can be reached.
    """
    spec = spec.completed
    limits = _limits(spec, cloud_accuracy)
    if certificate is not None:
        points = [point for point in points if certificate.covers(point.threshold)]
        limits = [limit for limit in limits if limit.kind not in {target.kind for target in certificate.targets}]
    fit = [p for p in points if all(limit.holds(p) for limit in limits)]
    if not fit:
        raise SpecError(_unreachable(points, limits))
    if spec.max_loss > 0 or spec.min_accuracy > 0 or spec.no_excess_loss:
        return max(fit, key=lambda p: (p.coverage, p.accuracy))
    return max(fit, key=lambda p: (p.accuracy, p.coverage))


class _Limit(NamedTuple):
    """A bound on one figure of an operating point; `sign` 1 wants at least the bound, -1 at most."""

    option: str
    asked: float
    """As the user says it; 0 where it is not asked for."""
    kind: str
    """Of the target that can certify it; empty where none can."""
    figure: str
    bound: float
    sign: int

    def holds(self, point: OperatingPoint) -> bool:
        return self.sign * (getattr(point, self.figure) - self.bound) >= -_TOLERANCE

    def best(self, points: Sequence[OperatingPoint]) -> str:
        value = max(self.sign * getattr(p, self.figure) for p in points) * self.sign
        return f"{'highest' if self.sign > 0 else 'lowest'} {self.figure} {value:.4g}"


def _limits(spec: SweepSpec, cloud_accuracy: float) -> list[_Limit]:
    no_loss = cloud_accuracy if spec.no_excess_loss else 0.0
    limits = (
        _Limit("max_loss", spec.max_loss, "max_loss", "accuracy", cloud_accuracy - spec.max_loss, 1),
        _Limit("max_latency_ms", spec.max_latency_ms, "", "mean_latency_ms", spec.max_latency_ms, -1),
        _Limit("min_accuracy", spec.min_accuracy, "min_accuracy", "accuracy", spec.min_accuracy, 1),
        _Limit("min_coverage", spec.min_coverage, "max_queries", "coverage", spec.min_coverage, 1),
        _Limit("max_queries", spec.max_queries, "max_queries", "coverage", 1 - spec.max_queries, 1),
        _Limit("no_excess_loss", no_loss, "", "accuracy", no_loss, 1),
    )
    return [limit for limit in limits if limit.asked > 0]


def _unreachable(points: Sequence[OperatingPoint], limits: Sequence[_Limit]) -> str:
    """Say for each limit how near the points come that hold all others (or any point, where none does)."""
    if not points:
        return "sweep: got no operating points to choose from; sweep first"
    asked = ", ".join(f"{limit.option} = {limit.asked:.4g}" for limit in limits)
    nearest = []
    for limit in limits:
        others = [p for p in points if all(other.holds(p) for other in limits if other is not limit)]
        nearest.append(limit.best(others or points))
    return f"sweep: no operating point holds {asked}; nearest: {', '.join(nearest)}; loosen a limit"


def named_points(
    points: Sequence[OperatingPoint], chosen: OperatingPoint, cloud_accuracy: float
) -> tuple[OperatingPoint, ...]:
    """Give the table that the firmware carries: both ends, the chosen point, fixed coverages, and no excess loss.

    ``coverage_90`` is the point of smallest coverage that is at least 90 %; names are unique, thresholds may repeat.
    """
    by_coverage = sorted(points, key=lambda p: (p.coverage, p.accuracy))
    named = {"edge_only": by_coverage[-1], "cloud_only": by_coverage[0], "chosen": chosen}
    for target in NAMED_COVERAGES:
        enough = (p for p in by_coverage if p.coverage >= target - _TOLERANCE)
        named[f"coverage_{target * 100:.0f}"] = next(enough)
    lossless = (p for p in reversed(by_coverage) if p.accuracy >= cloud_accuracy - _TOLERANCE)
    named["no_excess_loss"] = next(lossless, by_coverage[0])
    return tuple(replace(point, name=name) for name, point in named.items())


def bootstrap_band(
    scores: ArrayLike,
    edge_right: ArrayLike,
    cloud_right: ArrayLike,
    coverages: ArrayLike,
    seed: int,
    n: int = 200,
) -> tuple[Array, Array]:
    """Draw the examples anew `n` times: 2.5 % and 97.5 % quantiles of the accuracy at `coverages` ``(m,)``."""
    s, edge, cloud = np.asarray(scores), np.asarray(edge_right), np.asarray(cloud_right)
    rng = np.random.default_rng(seed)
    at = np.asarray(coverages, dtype=np.float64)
    accuracies = []
    for _ in range(n):
        rows = rng.integers(0, len(s), len(s))
        drawn = curve(s[rows], edge[rows], cloud[rows])
        accuracies.append(np.interp(at, drawn.coverage[::-1], drawn.accuracy[::-1]))
    low, high = np.quantile(accuracies, [0.025, 0.975], axis=0)
    return low, high
