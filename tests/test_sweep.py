from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid import policy, sweep
from hybrid.artifacts import Device, Link, OperatingPoint, Predictions
from hybrid.errors import SpecError
from hybrid.specs import SweepSpec
from hybrid.sweep import curve, nauc
from hybrid.work import Task, total

# Four examples, most trusted first. The edge is right on the first and the third, the cloud on all but the third.
SCORES = [4, 3, 2, 1]
EDGE = [True, False, True, False]
CLOUD = [True, True, False, True]

rights = st.lists(st.tuples(st.integers(-4, 4), st.booleans(), st.booleans()), min_size=1, max_size=30)


def columns(rows):
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def at(c, coverage):
    """Accuracy at a coverage between two thresholds: within a tie, by lot."""
    return np.interp(coverage, c.coverage[::-1], c.accuracy[::-1])


def test_curve_by_hand():
    c = curve(SCORES, EDGE, CLOUD)
    assert c.threshold.tolist() == [1, 2, 3, 4, np.inf]
    assert c.coverage.tolist() == [1, 3 / 4, 2 / 4, 1 / 4, 0]
    # Keep all: edge 2 right. Query the fourth: 3. The third too: loses it, 2. The second too: 3. All: cloud, 3.
    assert c.accuracy.tolist() == [2 / 4, 3 / 4, 2 / 4, 3 / 4, 3 / 4]


def test_tied_examples_are_kept_together():
    c = curve([1, 1, 1, 0], EDGE, CLOUD)
    assert c.threshold.tolist() == [0, 1, np.inf]
    assert c.coverage.tolist() == [1, 3 / 4, 0]
    assert c.accuracy.tolist() == [2 / 4, 3 / 4, 3 / 4]


def test_nauc_by_hand():
    # Areas by trapezoids of width 1/4: scores 1/4 * (5/8 + 5/8 + 5/8 + 6/8) = 21/32; random (2/4 + 3/4) / 2 = 20/32.
    # The oracle keeps the third (cloud wrong), then the first, and queries the others, which it gains, last:
    # accuracy 2/4, 4/4 at coverage 2/4 (one tie), 4/4, 3/4: 1/2 * 6/8 + 1/4 * 1 + 1/4 * 7/8 = 27/32.
    assert nauc(SCORES, EDGE, CLOUD) == pytest.approx((21 - 20) / (27 - 20))


def test_nauc_of_oracle_random_and_nothing_to_route():
    assert nauc(policy.oracle(EDGE, CLOUD), EDGE, CLOUD) == pytest.approx(1)
    assert nauc([0, 0, 0, 0], EDGE, CLOUD) == pytest.approx(0)
    assert nauc(SCORES, EDGE, EDGE) == 0


def test_no_examples_are_refused():
    with pytest.raises(SpecError, match="no examples"):
        curve([], [], [])


@settings(deadline=None)
@given(rights)
def test_ends_are_edge_and_cloud_alone(rows):
    scores, edge, cloud = columns(rows)
    c = curve(scores, edge, cloud)
    assert (c.coverage[0], c.accuracy[0]) == (1, edge.mean())
    assert (c.coverage[-1], c.accuracy[-1]) == (0, cloud.mean())


@settings(deadline=None)
@given(rights)
def test_every_threshold_is_exact(rows):
    scores, edge, cloud = columns(rows)
    c = curve(scores, edge, cloud)
    assert c.threshold[:-1].tolist() == sorted(set(scores.tolist()))
    for threshold, coverage, accuracy in zip(c.threshold, c.coverage, c.accuracy, strict=True):
        kept = policy.kept(scores, threshold)
        assert coverage == pytest.approx(kept.mean())
        assert accuracy == pytest.approx(np.where(kept, edge, cloud).mean())


@settings(deadline=None)
@given(rights)
def test_the_oracle_dominates_every_policy_at_equal_coverage(rows):
    scores, edge, cloud = columns(rows)
    c, best = curve(scores, edge, cloud), curve(policy.oracle(edge, cloud), edge, cloud)
    assert np.all(at(best, c.coverage) >= c.accuracy - 1e-9)


@settings(deadline=None)
@given(rights, st.randoms(use_true_random=False))
def test_order_of_examples_does_not_matter(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    a, b = curve(*columns(rows)), curve(*columns(shuffled))
    assert a.accuracy.tolist() == b.accuracy.tolist()
    assert a.coverage.tolist() == b.coverage.tolist()


def test_bootstrap_band_holds_the_curve_and_is_repeatable():
    rng = np.random.default_rng(1)
    scores, edge, cloud = rng.random(400), rng.random(400) < 0.7, rng.random(400) < 0.9
    coverages = np.linspace(0, 1, 5)
    low, high = sweep.bootstrap_band(scores, edge, cloud, coverages, seed=0)
    middle = at(curve(scores, edge, cloud), coverages)
    assert np.all((low < middle) & (middle < high))
    # 95 % of a share of 0.7 over 400: 2 * 1.96 * sqrt(0.7 * 0.3 / 400) = 0.090 wide.
    assert (high - low)[-1] == pytest.approx(0.090, abs=0.02)
    assert np.array_equal(sweep.bootstrap_band(scores, edge, cloud, coverages, seed=0), (low, high))


DEVICE = Device(
    name="d", title="", core="", clock_mhz=1, flash_bytes=1, sram_bytes=1, reserved_flash_bytes=0,
    reserved_sram_bytes=0, power_mw=100, sleep_power_mw=0, overhead_ms=0, latency_band=0.1, source="",
    cycles_per_mac={"dense": 1.0},
)  # fmt: skip
LINK = Link(
    name="l", title="", wake_ms=60, wake_mj=3, tail_mj=5, rtt_mean_ms=30, rtt_sd_ms=0, rtt_min_ms=1, uplink_kbps=8,
    mj_per_kilobyte=0, overhead_bytes=0, loss=0, source="",
)  # fmt: skip
# The edge takes 10,000 cycles at 1 MHz: 10 ms, 1 mJ. A query of 8 bytes: 60 + 8 + 30 + 2 = 100 ms, 3 + 5 = 8 mJ.


def dense(macs):
    return total([Task("dense", macs, 10, False)])


SCENARIO = sweep.Scenario(device=DEVICE, link=LINK, cloud_name="c", cloud_ms=2, stage_work=(dense(10_000),))
TWO_STAGES = replace(SCENARIO, stage_work=(dense(10_000), dense(30_000)))


def predictions(scores=SCORES, edge=EDGE, cloud=CLOUD, stage=None):
    """Label 0 throughout; a right answer is class 0, a wrong one class 1. One stage, where none are given."""
    as_logits = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    return Predictions(
        labels=np.zeros(len(scores), dtype=np.int32),
        edge_logits=as_logits[1 - np.array(edge, dtype=int)],
        router_score=np.array(scores, dtype=np.int32),
        cloud_scores=as_logits[1 - np.array(cloud, dtype=int)],
        stage=np.zeros(len(scores), dtype=np.int32) if stage is None else np.array(stage, dtype=np.int32),
    )


def points():
    return sweep.operating_points(predictions(), SCENARIO, payload_bytes=8, seed=0)


def test_operating_points_by_hand():
    got = points()
    assert [p.threshold for p in got] == [-128, 2, 3, 4, 128]
    assert [p.coverage for p in got] == [1, 3 / 4, 2 / 4, 1 / 4, 0]
    assert [p.accuracy for p in got] == [2 / 4, 3 / 4, 2 / 4, 3 / 4, 3 / 4]
    # 10 ms for all, and 100 ms for each of 0, 1, 2, 3, 4 of four queries.
    assert [p.mean_latency_ms for p in got] == [10, 35, 60, 85, 110]
    assert [p.mean_energy_mj for p in got] == [1, 3, 5, 7, 9]
    assert [p.p50_latency_ms for p in got] == [10, 10, 60, 110, 110]
    # 95 % of 10, 10, 10, 110 lies 0.85 of the way from the third to the fourth.
    assert got[1].p95_latency_ms == pytest.approx(10 + 0.85 * 100)
    assert {(p.link, p.cloud) for p in got} == {("l", "c")}


def test_two_stages_by_hand():
    """The second net runs where the first was unsure, on the last two of four, and takes three times as long."""
    assert TWO_STAGES.stage_ms.tolist() == [10, 40]  # until the second has answered, both ran: 10 + 30
    twice = predictions(stage=[0, 0, 1, 1])
    got = sweep.operating_points(twice, TWO_STAGES, payload_bytes=8, seed=0)
    # Keep all: (10 + 10 + 40 + 40) / 4 = 25 ms. Each of 1, 2, 3, 4 queries adds 100 ms / 4.
    assert [p.mean_latency_ms for p in got] == [25, 50, 75, 100, 125]
    # 100 mW for 10, 10, 40, 40 ms: 1 + 1 + 4 + 4 = 10 mJ, 2.5 in the mean; a query adds 8 mJ / 4.
    assert [p.mean_energy_mj for p in got] == [2.5, 4.5, 6.5, 8.5, 10.5]
    # Two queries: 10, 10, 140, 140; the middle of them is 75. The fixed overhead of an inference counts twice.
    assert got[2].p50_latency_ms == 75
    slow = replace(TWO_STAGES, device=replace(DEVICE, overhead_ms=1))
    assert slow.stage_ms.tolist() == [11, 42]


def test_accuracy_and_coverage_do_not_ask_which_stage_answered():
    once = sweep.operating_points(predictions(), TWO_STAGES, payload_bytes=8, seed=0)
    twice = sweep.operating_points(predictions(stage=[1, 1, 0, 1]), TWO_STAGES, payload_bytes=8, seed=0)
    assert [(p.coverage, p.accuracy) for p in once] == [(p.coverage, p.accuracy) for p in twice]
    # The second answers three of four: 25 + 3/4 * 30 - 2/4 * 30 = 32.5 where nobody is asked.
    assert twice[0].mean_latency_ms == 32.5


def test_payload_by_example_reaches_the_latency():
    got = sweep.operating_points(predictions(), SCENARIO, payload_bytes=[8, 8, 8, 48], seed=0)
    assert [p.mean_latency_ms for p in got] == [10, 45, 70, 95, 120]


def test_packing_takes_the_device_some_time_before_each_query():
    got = sweep.operating_points(predictions(), replace(SCENARIO, packing_ms=4), payload_bytes=8, seed=0)
    # A query takes 104 ms, and 100 mW for 4 of them, 0.4 mJ, beside its 8 mJ.
    assert [p.mean_latency_ms for p in got] == [10, 36, 62, 88, 114]
    assert [p.mean_energy_mj for p in got] == pytest.approx([1, 3.1, 5.2, 7.3, 9.4])


def test_confirm_measures_the_same_threshold_elsewhere():
    chosen = replace(points()[1], name="chosen")
    other = predictions(scores=[1, 1, 5, 0], edge=EDGE, cloud=CLOUD)
    got = sweep.confirm(chosen, other, SCENARIO, payload_bytes=8, seed=0)
    # Only the third is kept at threshold 2, rightly; the cloud is right on the other three.
    assert (got.name, got.threshold, got.coverage, got.accuracy) == ("chosen", 2, 1 / 4, 1)


def point(coverage, accuracy, ms=0.0):
    return OperatingPoint(
        name="p", threshold=0, coverage=coverage, accuracy=accuracy, mean_latency_ms=ms, p50_latency_ms=0,
        p95_latency_ms=0, mean_energy_mj=0, link="l", cloud="c",
    )  # fmt: skip


LINE = [point(1, 0.80, 10), point(0.7, 0.899, 40), point(0.5, 0.905, 60), point(0.3, 0.902, 80), point(0, 0.9, 110)]
CLOUD_ACCURACY = 0.9


@pytest.mark.parametrize(
    ("asked", "coverage"),
    [
        ({}, 0.7),  # within half a point of 0.900: 0.899
        ({"max_loss": 0.1}, 1),
        ({"no_excess_loss": True}, 0.5),
        ({"min_accuracy": 0.8}, 1),
        ({"min_accuracy": 0.8, "max_loss": 0.004}, 0.7),
        ({"max_latency_ms": 200, "max_loss": 0.004}, 0.7),
        ({"max_queries": 0.6, "max_loss": 0.1}, 1),
        ({"min_accuracy": 0.901, "max_latency_ms": 70}, 0.5),
        ({"max_latency_ms": 50}, 0.7),
        ({"max_latency_ms": 200}, 0.5),
        ({"min_coverage": 0.6}, 0.7),
        ({"min_coverage": 0.4, "max_latency_ms": 50}, 0.7),
    ],
)
def test_choose_by_hand(asked, coverage):
    assert sweep.choose(LINE, CLOUD_ACCURACY, SweepSpec(**asked)).coverage == coverage


def test_choose_breaks_ties_towards_coverage():
    flat = [point(0.2, 0.9), point(0.6, 0.9), point(0.4, 0.9)]
    assert sweep.choose(flat, 0.9, SweepSpec(max_latency_ms=1)).coverage == 0.6


def test_choose_says_what_can_be_reached():
    with pytest.raises(SpecError, match=r"holds max_latency_ms = 5; nearest: lowest mean_latency_ms 10; loosen"):
        sweep.choose(LINE, CLOUD_ACCURACY, SweepSpec(max_latency_ms=5))
    # Within 50 ms at most 0.899 is reached; accuracy 0.902 takes at least 60 ms.
    with pytest.raises(SpecError, match=r"lowest mean_latency_ms 60, highest accuracy 0.899"):
        sweep.choose(LINE, CLOUD_ACCURACY, SweepSpec(max_latency_ms=50, min_accuracy=0.902))
    # With 20 % of queries at most only keep-all is left, which loses ten points.
    with pytest.raises(SpecError, match=r"holds max_loss = 0.02, max_queries = 0.2; nearest: highest accuracy 0.8,"):
        sweep.choose(LINE, CLOUD_ACCURACY, SweepSpec(max_queries=0.2, max_loss=0.02))
    with pytest.raises(SpecError, match="no operating points"):
        sweep.choose([], CLOUD_ACCURACY, SweepSpec())


def test_named_points_by_hand():
    chosen = LINE[1]
    named = {p.name: p.coverage for p in sweep.named_points(LINE, chosen, CLOUD_ACCURACY)}
    assert named == {
        "edge_only": 1,
        "cloud_only": 0,
        "chosen": 0.7,
        "coverage_90": 1,
        "coverage_80": 1,
        "coverage_70": 0.7,
        "coverage_60": 0.7,
        "coverage_50": 0.5,
        "no_excess_loss": 0.5,
    }


@settings(deadline=None)
@given(rights)
def test_named_points_exist_for_any_predictions(rows):
    scores, edge, cloud = columns(rows)
    got = sweep.operating_points(predictions(scores, edge, cloud), SCENARIO, payload_bytes=8, seed=0)
    chosen = sweep.choose(got, cloud.mean(), SweepSpec())
    named = sweep.named_points(got, chosen, cloud.mean())
    assert len({p.name for p in named}) == len(named) == 9
    assert chosen.accuracy >= cloud.mean() - 0.005 - 1e-9
    latencies = [p.mean_latency_ms for p in got]
    assert latencies == sorted(latencies)


def test_a_full_int8_sweep_of_a_test_split_is_quick():
    rng = np.random.default_rng(0)
    n = 6000
    p = predictions(rng.integers(-128, 128, n), rng.random(n) < 0.8, rng.random(n) < 0.9)
    got = sweep.operating_points(p, SCENARIO, payload_bytes=784, seed=0)
    assert len(got) == 257
    expected = curve(p.router_score, p.edge_right, p.cloud_right)
    np.testing.assert_allclose([q.coverage for q in got], expected.coverage)
    np.testing.assert_allclose([q.accuracy for q in got], expected.accuracy)
