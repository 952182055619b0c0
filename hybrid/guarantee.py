"""A threshold that holds a user's target with a stated confidence, whatever the data: learn-then-test.

Angelopoulos et al. 2021 ("Learn then Test", section 2.2): each threshold is a hypothesis "the target fails here" with
a p-value that is valid for finite n; they are tested one after another from the safest on, each at level
1 - confidence, until the first that cannot be rejected. All before it are certified together, so any of them may be
taken, by any rule.

What is guaranteed: over the draw of a calibration split that nothing else has touched, with at least the stated
probability, the threshold meets the target on the population that the split was drawn from. What is not: anything
after the data have drifted (see `hybrid.monitor`), latency and energy, which are models, and a single user's share.

What it costs: the loss at the threshold must lie about z(confidence) of its standard errors below the target, 1.28 at
90 %, whatever the test; divided by the slope of loss against coverage that is 3 to 5 points of coverage for half a
point of accuracy with 5,000 examples of Fashion-MNIST, 2 to 3 with 12,000. General bounds cost more: betting
(Waudby-Smith and Ramdas 2024) 1 to 3 points, and Hoeffding-Bentkus certifies nothing there.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from hybrid.errors import SpecError
from hybrid.paired import loss_p_value
from hybrid.specs import SweepSpec
from hybrid.sweep import KEEP_ALL, KEEP_NONE

Kind = Literal["max_loss", "min_accuracy", "max_queries"]
Array = NDArray[np.float64]
Counts = NDArray[np.int64]

MOST_CONFIDENCE = 0.999
"""Beyond it the p-values have no resolution left."""


@dataclass(frozen=True)
class Target:
    """What shall hold: at most `value` of the cloud's accuracy lost, at least `value` right, at most `value` asked."""

    kind: Kind
    value: float

    @property
    def statement(self) -> str:
        """The target in words."""
        return _WORDS[self.kind].format(f"{100 * self.value:.6g}")


_WORDS: Mapping[Kind, str] = {
    "max_loss": "accuracy at most {} points below the cloud's",
    "min_accuracy": "accuracy at least {} %",
    "max_queries": "at most {} % queries",
}


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Thresholds that hold all `targets` together, with probability `confidence` over the draw of `n` examples."""

    targets: tuple[Target, ...]
    confidence: float
    n: int
    """Examples of the calibration split."""
    threshold: int
    """The most useful of the certified ones: see `certify`."""
    lowest: int
    highest: int
    """Every threshold from `lowest` to `highest` is certified, all together: any rule may choose among them."""

    @property
    def statement(self) -> str:
        """What is guaranteed, in words, for manifest and report."""
        held = ", ".join(target.statement for target in self.targets)
        return f"{held}, with confidence {100 * self.confidence:.6g} % over {self.n:,} calibration examples"

    def covers(self, threshold: int) -> bool:
        """Whether `threshold` is certified."""
        return self.lowest <= threshold <= self.highest


def targets(spec: SweepSpec) -> tuple[Target, ...]:
    """What of `spec` can be guaranteed; empty where it asks for nothing of the kind, or for no confidence.

    The loss (of half a point where nothing at all is asked), the accuracy and the queries (``min_coverage`` is
    ``max_queries`` the other way round). Latency is a model and "no excess loss" has no margin to test: both stay
    limits on what was measured, which `hybrid.sweep.choose` applies among the certified thresholds.
    """
    if spec.confidence == 0:
        return ()
    spec = spec.completed
    queries = [q for q in (spec.max_queries, 1 - spec.min_coverage if spec.min_coverage else 0.0) if q > 0]
    asked = [Target("max_loss", spec.max_loss)] if spec.max_loss > 0 else []
    asked += [Target("min_accuracy", spec.min_accuracy)] if spec.min_accuracy > 0 else []
    asked += [Target("max_queries", min(queries))] if queries else []
    return tuple(asked)


def certify(
    scores: ArrayLike,
    edge_right: ArrayLike,
    cloud_right: ArrayLike,
    targets: Sequence[Target],
    confidence: float,
) -> Certificate:
    """Certify thresholds on a calibration split, ``(n,)`` int8 scores and who is right.

    Nothing that makes the scores may have seen these examples, the router's cuts included.

    Accuracies are tested from keep-none upwards in coverage, queries from keep-all downwards. Targets with the same
    safe end are tested together, by the largest of their p-values; the two groups share the error probability in
    halves, and what both certify holds them all. Among the certified thresholds the highest coverage is taken where an
    accuracy is asked, else the highest accuracy here.

    Raises: SpecError where no threshold can be certified, with what would do.
    """
    counts = _count(scores, edge_right, cloud_right)
    _check(targets, confidence, counts.n)
    groups = [[t for t in targets if _KINDS[t.kind].safe == safe] for safe in (KEEP_NONE, KEEP_ALL)]
    groups = [group for group in groups if group]
    level = (1 - confidence) / len(groups)
    sets = [_fixed_sequence(counts, group, level) for group in groups]
    certified = sorted(set.intersection(*map(set, sets)))
    if not certified:
        raise SpecError(_nothing(counts, groups, sets, level, confidence))
    return Certificate(
        targets=tuple(targets),
        confidence=confidence,
        n=counts.n,
        threshold=_most_useful(counts, certified, targets),
        lowest=certified[0],
        highest=certified[-1],
    )


class _Counts(NamedTuple):
    """What each threshold does to `n` examples; arrays ``(257,)`` from keep-all to keep-none."""

    n: int
    kept: Counts
    lost: Counts
    """Kept, edge wrong, cloud right."""
    won: Counts
    """Kept, edge right, cloud wrong."""
    right: Counts
    """Right answers of edge and cloud together."""


def _count(scores: ArrayLike, edge_right: ArrayLike, cloud_right: ArrayLike) -> _Counts:
    place = np.asarray(scores, dtype=np.int64) - KEEP_ALL
    edge, cloud = np.asarray(edge_right, dtype=bool), np.asarray(cloud_right, dtype=bool)
    if not len(place):
        raise SpecError("guarantee: got no calibration examples; enlarge data.calibration_fraction")

    def from_threshold(chosen: NDArray[np.bool_]) -> Counts:
        histogram = np.bincount(place[chosen], minlength=KEEP_NONE - KEEP_ALL + 1)
        return histogram[::-1].cumsum()[::-1]

    lost, won = from_threshold(cloud & ~edge), from_threshold(edge & ~cloud)
    kept = from_threshold(np.ones(len(place), dtype=bool))
    return _Counts(n=len(place), kept=kept, lost=lost, won=won, right=cloud.sum() - lost + won)


class _Rule(NamedTuple):
    """How a kind of target is measured and tested."""

    safe: int
    """The threshold at which testing starts."""
    trivial: bool
    """The target holds at the safe end whatever the data: asking for everything loses nothing."""
    figure: Callable[[_Counts], Array]
    sign: int
    """1 where the figure shall be at least the target, -1 at most."""
    p_value: Callable[[_Counts, int, float], float]
    """P-value of "the target fails" at a place of the counts."""


_KINDS: Mapping[Kind, _Rule] = {
    "max_loss": _Rule(
        KEEP_NONE, True, lambda c: (c.lost - c.won) / c.n, -1,
        lambda c, i, value: loss_p_value(int(c.lost[i]), int(c.won[i]), c.n, value),
    ),
    "min_accuracy": _Rule(
        KEEP_NONE, False, lambda c: c.right / c.n, 1,
        lambda c, i, value: float(special.bdtrc(c.right[i] - 1.0, c.n, value)),
    ),
    "max_queries": _Rule(
        KEEP_ALL, True, lambda c: 1 - c.kept / c.n, -1,
        lambda c, i, value: float(special.bdtr(float(c.n - c.kept[i]), c.n, value)),
    ),
}  # fmt: skip


def _check(targets: Sequence[Target], confidence: float, n: int) -> None:
    if not 0 < confidence <= MOST_CONFIDENCE:
        raise SpecError(f"sweep.confidence: got {confidence}, allowed above 0 and up to {MOST_CONFIDENCE}")
    if not targets:
        raise SpecError("guarantee: got no target; ask for max_loss, min_accuracy or max_queries")
    for target in targets:
        if not 0 <= target.value <= 1:
            raise SpecError(f"sweep.{target.kind}: got {target.value}, allowed 0 to 1")


def _fixed_sequence(counts: _Counts, group: Sequence[Target], level: float) -> list[int]:
    """Thresholds from the safe end on, up to the first that cannot be certified."""
    rules = [_KINDS[target.kind] for target in group]
    step = -1 if rules[0].safe == KEEP_NONE else 1
    certified = []
    for threshold in range(rules[0].safe, KEEP_ALL + KEEP_NONE - rules[0].safe + step, step):
        tested = zip(rules, group, strict=True)
        if not all(
            (rule.trivial and threshold == rule.safe)
            or rule.p_value(counts, threshold - KEEP_ALL, target.value) <= level
            for rule, target in tested
        ):
            break
        certified.append(threshold)
    return certified


def _most_useful(counts: _Counts, thresholds: Iterable[int], targets: Sequence[Target]) -> int:
    if any(_KINDS[target.kind].safe == KEEP_NONE for target in targets):
        return min(thresholds)
    return max(thresholds, key=lambda t: (counts.right[t - KEEP_ALL], -t))


def _nothing(
    counts: _Counts, groups: Sequence[Sequence[Target]], sets: Sequence[Sequence[int]], level: float, confidence: float
) -> str:
    asked = " and ".join(f"{t.kind} = {t.value:.4g}" for group in groups for t in group)
    said = f"sweep: {asked} cannot be certified with confidence {confidence:.4g} on {counts.n:,} calibration examples; "
    if all(sets):
        queries = 1 - counts.kept[sets[0][-1] - KEEP_ALL] / counts.n
        return f"{said}the accuracy takes about {queries:.0%} queries; loosen one of them or enlarge the split"
    value = next(t.value for t in groups[0] if t.kind == "min_accuracy")
    right = int(counts.right[-1])
    bound = float(special.betaincinv(right, counts.n - right + 1, level)) if right else 0.0
    would_do = f"min_accuracy = {math.floor(bound * 1e4) / 1e4} would do"
    accuracy = right / counts.n
    if accuracy > value:
        z = float(special.ndtri(1 - level))
        needed = math.ceil(z**2 * accuracy * (1 - accuracy) / (accuracy - value) ** 2)
        would_do = f"about {needed:,} examples or {would_do}"
    return f"{said}the cloud alone reaches {accuracy:.4f}: {would_do}"


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """How a certificate fares over many calibration splits from one population; shares and means over the splits."""

    held_share: float
    """Certified threshold holds all targets on the population, or nothing was certified."""
    refused_share: float
    """Nothing could be certified."""
    coverage: float
    """On the population, at the certified threshold; 0 where refused."""
    unguarded_held_share: float
    unguarded_coverage: float
    """The same for the threshold that just meets the targets on the split."""


def resample(
    scores: ArrayLike,
    edge_right: ArrayLike,
    cloud_right: ArrayLike,
    targets: Sequence[Target],
    confidence: float,
    *,
    n: int,
    repeats: int = 1000,
    seed: int = 0,
) -> Resampled:
    """Draw `repeats` calibration splits of `n` and judge each certificate.

    The examples given are taken as the whole population and the splits are drawn from it with replacement. So the
    truth is known exactly, and the draws are independent, as the guarantee assumes. Without replacement the split would
    be part of the truth it is judged by (flattering); judged on what it left out, a threshold could fail by the noise
    of those examples, which no certificate speaks of.
    """
    s, edge, cloud = np.asarray(scores), np.asarray(edge_right, dtype=bool), np.asarray(cloud_right, dtype=bool)
    population = _count(s, edge, cloud)
    holds = _holding(population, targets)
    rng = np.random.default_rng(seed)
    guarded, unguarded = [], []
    for _ in range(repeats):
        rows = rng.integers(0, population.n, n)
        unguarded.append(_unguarded(_count(s[rows], edge[rows], cloud[rows]), targets) - KEEP_ALL)
        with suppress(SpecError):
            made = certify(s[rows], edge[rows], cloud[rows], targets, confidence)
            guarded.append(made.threshold - KEEP_ALL)
    refused = repeats - len(guarded)
    return Resampled(
        held_share=(int(holds[guarded].sum()) + refused) / repeats,
        refused_share=refused / repeats,
        coverage=float(population.kept[guarded].sum()) / population.n / repeats,
        unguarded_held_share=float(holds[unguarded].mean()),
        unguarded_coverage=float(population.kept[unguarded].mean()) / population.n,
    )


def _holding(counts: _Counts, targets: Sequence[Target]) -> NDArray[np.bool_]:
    rules = [(_KINDS[target.kind], target.value) for target in targets]
    return np.all([rule.sign * (rule.figure(counts) - value) >= -1e-12 for rule, value in rules], axis=0)


def _unguarded(counts: _Counts, targets: Sequence[Target]) -> int:
    thresholds = np.flatnonzero(_holding(counts, targets)) + KEEP_ALL
    return _most_useful(counts, thresholds.tolist() or [_KINDS[targets[0].kind].safe], targets)
