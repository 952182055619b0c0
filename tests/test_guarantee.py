from math import factorial

import numpy as np
import pytest
from scipy import optimize, special, stats

from hybrid import configure, sweep
from hybrid.artifacts import OperatingPoint
from hybrid.errors import SpecError
from hybrid.guarantee import Certificate, Target, certify, resample, targets
from hybrid.paired import loss_p_value
from hybrid.specs import RunSpec, SweepSpec

LOSS = Target("max_loss", 0.005)


def examples(n, seed=0):
    """Uniform scores; the edge (88 %) errs where it is unsure, the cloud (93 %) less so, as on Fashion-MNIST."""
    rng = np.random.default_rng(seed)
    unsure = 1 - rng.random(n)
    lost = rng.random(n) < 0.4 * unsure**4.5
    won = ~lost & (rng.random(n) < 0.04 * unsure)
    both_wrong = rng.random(n) < 0.1 * unsure
    right = ~both_wrong
    scores = np.floor((1 - unsure) * 256).astype(int) - 128
    return scores, np.where(lost, False, won | right), np.where(won, False, lost | right)


# Pencil


def test_queries_by_hand():
    # Ten examples at scores 0 to 9; threshold t asks for t of them. P(Bin(10, 1/2) <= 2) = (1 + 10 + 45) / 1024 = 0.055
    # is at most 0.1, with 3 queries it is 176 / 1024 = 0.17: at most 2 queries are certified to stay under a half.
    nothing = np.zeros(10, dtype=bool)
    made = certify(range(10), nothing, ~nothing, [Target("max_queries", 0.5)], 0.9)
    assert (made.lowest, made.highest) == (-128, 2)
    assert made.threshold == 2  # each query here mends an error
    spared = certify(range(10), ~nothing, nothing, [Target("max_queries", 0.5)], 0.9)
    assert spared.threshold == -128  # each query would break an answer; of equal accuracies the highest coverage


def test_accuracy_by_hand():
    # The cloud is right on all ten: P(Bin(10, 0.7) >= 10) = 0.7^10 = 0.028. The edge errs at scores 0 and 1: keeping
    # the latter leaves 9 right, P(>= 9) = 0.028 + 10 * 0.7^9 * 0.3 = 0.149, above 0.1.
    edge = np.arange(10) > 1
    made = certify(range(10), edge, np.ones(10, dtype=bool), [Target("min_accuracy", 0.7)], 0.9)
    assert (made.threshold, made.lowest, made.highest) == (2, 2, 128)
    assert (made.n, made.confidence) == (10, 0.9)
    assert made.statement == "accuracy at least 70 %, with confidence 90 % over 10 calibration examples"


def test_statement_of_all_kinds():
    asked = (LOSS, Target("min_accuracy", 0.925), Target("max_queries", 0.2))
    made = Certificate(targets=asked, confidence=0.9, n=5000, threshold=0, lowest=0, highest=9)
    assert made.statement == (
        "accuracy at most 0.5 points below the cloud's, accuracy at least 92.5 %, at most 20 % queries, "
        "with confidence 90 % over 5,000 calibration examples"
    )


def test_loss_of_nothing_kept_needs_no_test():
    edge, cloud = np.zeros(20, dtype=bool), np.ones(20, dtype=bool)
    made = certify(range(20), edge, cloud, [LOSS], 0.9)
    assert (made.threshold, made.lowest, made.highest) == (128, 128, 128)


def score_statistic(lost, won, n, delta):
    """By maximising the likelihood numerically instead of by the quadratic equation."""

    def minus_log_likelihood(chance):
        rest = n - lost - won
        return -(
            special.xlogy(lost, chance + delta) + special.xlogy(won, chance) + rest * np.log1p(-2 * chance - delta)
        )

    bounds = (1e-12, (1 - delta) / 2 - 1e-12)
    chance = optimize.minimize_scalar(minus_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-11}).x
    return (lost - won - n * delta) / np.sqrt(n * (2 * chance + delta - delta**2))


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (0, 2), (2, 3)])
def test_p_value_is_the_greatest_tail_over_all_outcomes(lost, won):
    n, delta = 12, 0.3
    outcomes = [(a, b) for a in range(n + 1) for b in range(n + 1 - a)]
    bar = score_statistic(lost, won, n, delta) + 1e-6
    tail = [(a, b) for a, b in outcomes if score_statistic(a, b, n, delta) <= bar]
    ways = [factorial(n) // (factorial(a) * factorial(b) * factorial(n - a - b)) for a, b in tail]

    def probability(chance):
        chances = (chance + delta, chance, 1 - 2 * chance - delta)
        return sum(
            w * chances[0] ** a * chances[1] ** b * chances[2] ** (n - a - b)
            for w, (a, b) in zip(ways, tail, strict=True)
        )

    # Clopper-Pearson at 1e-4, from the other side of the law than the code.
    low = stats.binomtest(won, n).proportion_ci(1 - 1e-4, method="exact").low
    high = min(stats.binomtest(won, n).proportion_ci(1 - 1e-4, method="exact").high, (1 - delta) / 2)
    expected = max(probability(chance) for chance in np.linspace(low, high, 2001)) + 1e-4
    assert loss_p_value(lost, won, n, delta) == pytest.approx(min(expected, 1), rel=5e-3)


def test_p_value_grows_with_losses_and_falls_with_wins():
    p = [[loss_p_value(lost, won, 2000, 0.005) for lost in range(0, 30, 3)] for won in (0, 5, 10)]
    assert np.all(np.diff(p, axis=1) >= 0)
    assert np.all(np.diff(p, axis=0)[:, 3:] <= 0)
    assert p[0][0] < 0.01 < 0.9 < p[0][9]


def test_rejects_a_true_hypothesis_no_more_often_than_its_level():
    """Over all outcomes of 60 examples, for many chances of a win: exact sizes, no simulation."""
    n, delta = 60, 0.05
    outcomes = np.array([(a, b) for a in range(n + 1) for b in range(n + 1 - a)])
    p = np.array([loss_p_value(int(a), int(b), n, delta) for a, b in outcomes])
    for chance in (0.0, 0.001, 0.01, 0.03, 0.06, 0.1, 0.3):
        pmf = stats.multinomial.pmf(
            np.c_[outcomes, n - outcomes.sum(axis=1)], n, [chance + delta, chance, 1 - 2 * chance - delta]
        )
        for level in (0.2, 0.1, 0.05):
            assert pmf[p <= level].sum() <= level


def hoeffding_bentkus(lost, won, n, max_loss):
    """Bates et al. 2021, for the loss scaled from [-1, 1] to [0, 1]."""
    mean, bar = ((lost - won) / n + 1) / 2, (max_loss + 1) / 2
    relative = special.rel_entr(mean, bar) + special.rel_entr(1 - mean, 1 - bar)
    return min(np.exp(-n * relative), np.e * stats.binom.cdf(np.ceil(n * mean), n, bar))


def test_the_exact_test_sees_what_a_general_bound_cannot():
    # 10 of 5,000 lost on balance where 25 may be: 60 lost, 50 won. The general bound reckons with a variance of 1.
    assert loss_p_value(60, 50, 5000, 0.005) < 0.1
    assert hoeffding_bentkus(60, 50, 5000, 0.005) > 0.9


# The guarantee itself


@pytest.mark.parametrize(
    ("asked", "confidence"),
    [
        ([LOSS], 0.9),
        ([LOSS], 0.7),
        ([Target("min_accuracy", 0.9)], 0.9),
        ([Target("max_queries", 0.3)], 0.8),
        ([LOSS, Target("max_queries", 0.4)], 0.9),
    ],
)
def test_holds_in_its_share_of_resampled_splits(asked, confidence):
    repeats = 400
    got = resample(*examples(20_000), asked, confidence, n=2000, repeats=repeats)
    noise = np.sqrt(confidence * (1 - confidence) / repeats)
    assert got.held_share >= confidence - 2 * noise
    assert got.unguarded_held_share < got.held_share or asked[0].kind == "max_queries"
    assert got.refused_share < 0.3


def test_the_price_of_the_guarantee_falls_with_the_split():
    population = examples(50_000)
    price = [
        got.unguarded_coverage - got.coverage
        for got in (resample(*population, [LOSS], 0.9, n=n, repeats=60) for n in (1000, 5000))
    ]
    assert 0 < price[1] < price[0] / 2


def test_two_targets_are_certified_with_half_the_error_each():
    columns = examples(5000)
    queries = Target("max_queries", 0.4)
    both = certify(*columns, [LOSS, queries], 0.9)
    loss, asked = (certify(*columns, [target], 0.95) for target in (LOSS, queries))
    assert (both.lowest, both.highest) == (loss.lowest, asked.highest)
    assert both.threshold == both.lowest < both.highest


def test_targets_of_one_end_are_certified_together():
    columns = examples(5000)
    accuracy = Target("min_accuracy", 0.9)
    lowest = [certify(*columns, [target], 0.9).lowest for target in (LOSS, accuracy)]
    assert certify(*columns, [LOSS, accuracy], 0.9).lowest == max(lowest)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([Target("min_accuracy", 0.99)], r"the cloud alone reaches 0\.9\d+: min_accuracy = 0\.9\d* would do"),
        ([LOSS, Target("max_queries", 0.05)], r"the accuracy takes about \d\d% queries; loosen one"),
        ([], "no target"),
        ([Target("max_loss", 1.5)], "max_loss: got 1.5"),
    ],
)
def test_says_what_would_do(asked, message):
    with pytest.raises(SpecError, match=message):
        certify(*examples(3000), asked, 0.9)


def test_says_how_many_examples_would_do():
    scores, edge, cloud = examples(3000)
    value = cloud.mean() - 0.002
    with pytest.raises(SpecError, match=r"about ([\d,]+) examples") as caught:
        certify(scores, edge, cloud, [Target("min_accuracy", value)], 0.9)
    needed = int(str(caught.value).split("about ")[1].split(" examples")[0].replace(",", ""))
    right = round(cloud.mean() * needed)
    assert stats.binom.sf(right - 1, needed, value) == pytest.approx(0.1, abs=0.01)


def test_confidence_and_examples_have_their_ranges():
    with pytest.raises(SpecError, match=r"confidence: got 1\.0"):
        certify(*examples(100), [LOSS], 1.0)
    with pytest.raises(SpecError, match="no calibration examples"):
        certify([], [], [], [LOSS], 0.9)


# What of a spec is guaranteed, and the choice among what is certified


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, (LOSS,)),
        ({"max_loss": 0.0}, (LOSS,)),
        ({"max_loss": 0.02}, (Target("max_loss", 0.02),)),
        ({"max_loss": 0.02, "max_queries": 0.3}, (Target("max_loss", 0.02), Target("max_queries", 0.3))),
        ({"max_loss": 0.02, "max_latency_ms": 100.0}, (Target("max_loss", 0.02),)),
        ({"max_loss": 0.02, "min_accuracy": 0.9}, (Target("max_loss", 0.02), Target("min_accuracy", 0.9))),
        ({"confidence": 0.0}, ()),
        ({"min_accuracy": 0.9}, (Target("min_accuracy", 0.9),)),
        ({"max_queries": 0.2, "min_coverage": 0.75}, (Target("max_queries", 0.2),)),
        ({"min_coverage": 0.75, "min_accuracy": 0.9}, (Target("min_accuracy", 0.9), Target("max_queries", 0.25))),
        ({"max_latency_ms": 100.0}, ()),
        ({"no_excess_loss": True}, ()),
    ],
)
def test_targets_of_a_spec(asked, expected):
    assert targets(SweepSpec(**asked)) == expected


@pytest.mark.parametrize(("key", "value"), [("max_loss", -0.1), ("max_queries", 1.5), ("confidence", 1.0)])
def test_configure_bounds(key, value):
    with pytest.raises(SpecError, match=f"sweep.{key}: got {value}"):
        configure.check(RunSpec(sweep=SweepSpec(**{key: value})))


def point(threshold, coverage, accuracy, ms=0.0):
    return OperatingPoint(
        name="p", threshold=threshold, coverage=coverage, accuracy=accuracy, mean_latency_ms=ms, p50_latency_ms=0,
        p95_latency_ms=0, mean_energy_mj=0, link="l", cloud="c",
    )  # fmt: skip


LINE = [point(-128, 1, 0.8, 10), point(0, 0.7, 0.897, 40), point(50, 0.5, 0.895, 60), point(128, 0, 0.9, 110)]


@pytest.mark.parametrize(
    ("asked", "certified", "threshold"),
    [
        ({"max_loss": 0.004}, (0, 128), 0),  # the highest coverage
        (
            {"max_loss": 0.004},
            (20, 128),
            50,
        ),  # not certified at 0; 0.895 is below 0.9 - 0.004 as measured, no matter
        ({"min_accuracy": 0.9}, (20, 128), 50),
        ({"min_accuracy": 0.9, "max_latency_ms": 50.0}, (-10, 128), 0),  # the latency as measured, among them
        ({"max_queries": 0.6}, (-128, 50), 0),  # the highest accuracy
        ({"max_queries": 0.6, "max_loss": 0.004}, (0, 50), 0),  # the highest coverage
        ({"max_latency_ms": 70.0, "max_loss": 0.004}, (20, 128), 50),
    ],
)
def test_choose_among_the_certified(asked, certified, threshold):
    spec = SweepSpec(**asked)
    made = Certificate(
        targets=targets(spec), confidence=0.9, n=9, threshold=certified[0], lowest=certified[0], highest=certified[1]
    )
    assert sweep.choose(LINE, 0.9, spec, made).threshold == threshold


def test_choose_refuses_where_no_certified_point_holds_the_rest():
    spec = SweepSpec(min_accuracy=0.85, max_latency_ms=20)
    made = Certificate(targets=targets(spec), confidence=0.9, n=9, threshold=0, lowest=0, highest=128)
    with pytest.raises(SpecError, match=r"holds max_latency_ms = 20; nearest: lowest mean_latency_ms 40"):
        sweep.choose(LINE, 0.9, spec, made)


def test_the_chosen_threshold_is_one_of_the_points_of_the_split():
    scores, edge, cloud = examples(4000)
    made = certify(scores, edge, cloud, [LOSS, Target("max_queries", 0.5)], 0.9)
    assert any(made.covers(threshold) for threshold in (sweep.KEEP_ALL, sweep.KEEP_NONE, *scores.tolist()))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_targets_at_the_ends_of_their_range(value):
    columns = examples(500)
    loss, queries = (certify(*columns, [Target(kind, value)], 0.9) for kind in ("max_loss", "max_queries"))
    if value:  # anything goes
        assert (loss.lowest, queries.highest) == (-128, 127)
    else:  # only what needs no data
        assert (loss.lowest, queries.highest) == (128, -128)
    with pytest.raises(SpecError, match="would do"):
        certify(*columns, [Target("min_accuracy", 1.0)], 0.9)
