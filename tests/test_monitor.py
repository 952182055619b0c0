import ctypes
import subprocess
from dataclasses import replace
from math import log, sqrt

import numpy as np
import pytest
from tiny_edge import sources

from firmware_export.host import C_FLAGS, c_compiler
from firmware_export.tflm import render
from hybrid.errors import SpecError
from hybrid.monitor import Drift, DriftMonitor, DriftReference, alarm_shares, drift_reference, monitor_values
from hybrid.online import OnlineControl, log2_q8, online_rule, simulate, warm

RANKS = np.arange(-128, 128)
THRESHOLD = -50

# Drift

TWO_BINS = DriftReference(
    window=4, edges=(0,), weights=(2 * 65536, 2 * 65536), critical=65536 * 4 * (4 + 3), least_kept=1, most_kept=4,
    false_alarm_rate=0.5,
)  # fmt: skip


def test_drift_by_hand():
    # Two bins of one half each, windows of 4. Counts 3 and 1: (3 - 2)^2 / 2 * 2 = 1, below 3. Counts 4 and 0: 4, above.
    monitor = DriftMonitor(TWO_BINS)
    assert [monitor.observe(score, True) for score in (-1, 0, -5, -7)] == [Drift.NONE] * 4
    assert [monitor.observe(score, True) for score in (3, 9, 0, 127)] == [Drift.NONE] * 3 + [Drift.SCORES]
    # The verdict stands until the next window is full: counts 2 and 2, but nothing kept.
    assert [monitor.observe(score, False) for score in (-1, -1, 0, 0)] == [Drift.SCORES] * 3 + [Drift.COVERAGE]
    assert [monitor.observe(-1, False) for _ in range(4)][-1] == Drift.SCORES | Drift.COVERAGE
    monitor.observe(0, True)
    monitor.reset()
    assert monitor.status == Drift.NONE
    assert [monitor.observe(score, True) for score in (-1, -1, 0, 0)][-1] == Drift.NONE


def test_statistic_is_pearsons():
    reference = drift_reference(np.repeat(RANKS, 20), THRESHOLD, window=512)
    assert reference.edges == (-96, -64, -32, 0, 32, 64, 96)
    assert reference.weights == (8 * 65536,) * 8
    counts = [70, 60, 64, 64, 50, 78, 61, 65]
    pearson = sum((count - 64) ** 2 / 64 for count in counts)
    assert reference.statistic(counts) / (65536 * 512) - 512 == pytest.approx(pearson)
    # 5,120 examples: the reference's own noise stretches the law by 1 + 512 / 5120; 7 degrees, upper 0.0005: 26.02.
    assert reference.critical / (65536 * 512) - 512 == pytest.approx(26.02 * 1.1, rel=1e-3)


def test_bins_follow_lumps():
    lumps = np.repeat([-128, -127, 0, 127], [500, 10, 300, 190])
    reference = drift_reference(lumps, 0, window=256)
    assert reference.edges == (-127, 127)  # the ten at -127 are too few to be a bin; those at 0 join them
    assert reference.weights == tuple(round(65536 * 1000 / count) for count in (500, 310, 190))
    with pytest.raises(SpecError, match="window 5000"):
        drift_reference(lumps, 0, window=5000)


def test_scores_of_one_bin_leave_the_coverage_to_judge():
    reference = drift_reference(np.repeat([0, 1], [997, 3]), 1, window=256)
    assert (reference.edges, reference.weights) == ((), (65536,))
    assert reference.verdict([256], 0) == Drift.NONE
    assert reference.verdict([256], 256) == Drift.COVERAGE


@pytest.mark.parametrize(("threshold", "share"), [(-128, 1.0), (128, 0.0), (0, 0.5)])
def test_promised_coverage(threshold, share):
    reference = drift_reference(np.repeat(RANKS, 20), threshold, window=400)
    assert reference.least_kept <= 400 * share <= reference.most_kept
    # Half kept of 400: a standard deviation of 10, stretched by the noise of 5,120 examples to 10.4; 3.5 of them.
    assert share != 0.5 or (reference.least_kept, reference.most_kept) == (164, 236)


@pytest.mark.parametrize("n", [1000, 6000])
def test_false_alarms_keep_their_rate_over_calibration_splits(n):
    """Not for one lucky calibration split, but on average over many, each with its own noise."""
    rng = np.random.default_rng(1)
    rates = []
    for seed in range(30):
        reference = drift_reference(rng.choice(RANKS, n), THRESHOLD, window=512, false_alarm_rate=0.05)
        rates.append(alarm_shares(reference, RANKS, THRESHOLD, windows=200, seed=seed)["any"])
    assert 0.025 < np.mean(rates) < 0.06


def test_a_shift_of_ranks_is_found_within_a_few_windows():
    reference = drift_reference(np.random.default_rng(2).choice(RANKS, 5000), THRESHOLD)
    rank = (RANKS + 128.5) / 256
    less_sure = np.floor(256 * rank**1.3).astype(int) - 128
    found = alarm_shares(reference, less_sure, THRESHOLD, windows=500)
    assert found["any"] > 0.8
    assert found["coverage"] > 0.5
    assert alarm_shares(reference, RANKS, THRESHOLD, windows=2000)["any"] < 0.005


# Online control


def test_online_by_hand():
    # gamma 1/2: the bar is 1/2; sharp is the paper's rule there. At example 4, after 3 answers that agree in one bin:
    # 3 - 3/2 = 1.5 against sqrt(0.6 ln(4) 3) = 1.58: still asked. At example 5, after 4: 2 against
    # sqrt(0.6 ln(5) 4) = 1.93, as the logarithm is straight between 4 and 8: ln 2 (2 + 1/4) = 1.56.
    control = OnlineControl(online_rule(0.5))
    for _ in range(4):
        assert not control.decide(100)
        control.feedback(100, True)
    assert control.decide(96)  # the same bin, 96 to 111
    assert not control.decide(95)
    control.feedback(100, False)
    assert not control.decide(100)  # 4 of 5: 1.5 against sqrt(0.6 ln(8) 5) = 2.5
    control.reset()
    assert not control.decide(100)


def test_online_agrees_with_the_formula():
    rng = np.random.default_rng(3)
    for sharp in (False, True):
        gamma, alpha = 0.125, 0.75
        shrink = 4 * gamma * (1 - gamma) if sharp else 1
        for _ in range(300):
            count, steps = (
                int(rng.integers(1, 5000)),
                2 ** int(rng.integers(1, 20)),
            )  # powers of two: an exact logarithm
            agreed = int(count * rng.uniform(0.8, 1))
            rule = online_rule(gamma, alpha=alpha, sharp=sharp)
            control = OnlineControl(replace(rule, count=(count,) * 16, agreed=(agreed,) * 16))
            control._steps = steps - 1
            bound = agreed / count - sqrt(alpha * shrink * log(steps) / count)
            assert control.decide(0) == (bound >= 1 - gamma) or abs(bound - 1 + gamma) < 1e-5


def test_log2_is_near_and_never_above():
    t = np.unique(np.logspace(0, 32, 500, base=2).astype(np.int64))
    error = np.log2(t) - np.array([log2_q8(int(value)) for value in t]) / 256
    assert error.min() >= -1e-12
    assert error.max() < 0.09 + 1 / 256


def test_warm_start_limits_what_a_bin_counts_for():
    scores = np.repeat([-128, -100, 127], [3000, 10, 5])
    rule = warm(online_rule(0.1), scores, scores > -128, most=1000)
    assert rule.count == (1000, 10, *(0,) * 13, 5)
    assert rule.agreed == (0, 10, *(0,) * 13, 5)


def test_a_full_counter_is_halved():
    full = replace(online_rule(0.1), count=(65535,) * 16, agreed=(65535,) * 16)
    control = OnlineControl(full)
    control.feedback(0, False)
    assert (control._count[8], control._agreed[8]) == (32768, 32767)


@pytest.mark.parametrize(("gamma", "alpha"), [(0.0, 0.6), (0.6, 0.6), (0.1, 0.5)])
def test_online_ranges(gamma, alpha):
    with pytest.raises(SpecError, match=f"got (gamma {gamma}|alpha {alpha})"):
        online_rule(gamma, alpha=alpha)


def test_online_learns_and_follows_a_drift():
    rank = (np.arange(256) + 0.5) / 256
    before, after = 1 - 0.55 * (1 - rank) ** 3.2, 0.95 - 0.55 * (1 - rank) ** 3.2 - 0.15 * (1 - rank)
    cold = simulate(online_rule(0.1), 0.1, [before, before, after, after], length=8000)
    paper = simulate(online_rule(0.1, sharp=False), 0.1, [before], length=8000)
    regret = [trial.online - trial.best for trial in cold]
    assert all(one >= 0 for one in regret)
    assert regret[1] < regret[0] / 1.5  # it learns
    assert regret[0] < paper[0].online - paper[0].best  # and faster than with the paper's radius
    assert cold[3].online < cold[3].fixed  # the fixed threshold does not notice the drift
    rng = np.random.default_rng(4)
    level = rng.integers(0, 256, 5000)
    started = warm(online_rule(0.1), level - 128, rng.random(5000) < before[level])
    assert simulate(started, 0.1, [before], length=8000)[0].online < cold[0].online


# The C


def compiled(folder, reference, rule):
    values = {**monitor_values(reference, rule), "banner": "test"}
    (folder / "hybrid_decide.h").write_bytes(sources()["hybrid_decide.h"])
    for name in ("hybrid_monitor.h", "hybrid_monitor.c"):
        (folder / name).write_text(render(name, values))
    command = [c_compiler(), *C_FLAGS, "-O1", "-shared", "-fPIC", "-o", "monitor.so", "hybrid_monitor.c"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(folder / "monitor.so"))


def test_c_drift_agrees_over_a_long_stream(tmp_path):
    reference = drift_reference(
        np.random.default_rng(5).choice(RANKS, 4000), THRESHOLD, window=128, false_alarm_rate=0.2
    )
    library, monitor = compiled(tmp_path, reference, online_rule(0.1)), DriftMonitor(reference)
    rng = np.random.default_rng(6)
    stream = np.r_[rng.choice(RANKS, 20_000), rng.choice(RANKS[60:], 20_000), rng.choice(RANKS[:1], 2000)]
    seen = set()
    for score in stream.tolist():
        expected = monitor.observe(score, score >= THRESHOLD)
        assert library.hybrid_monitor_observe(ctypes.c_int8(score), int(score >= THRESHOLD)) == expected
        seen.add(expected)
    assert seen == {Drift.NONE, Drift.SCORES, Drift.COVERAGE, Drift.SCORES | Drift.COVERAGE}
    assert library.hybrid_monitor_status() == monitor.status != Drift.NONE
    library.hybrid_monitor_reset()
    assert library.hybrid_monitor_status() == Drift.NONE


def test_c_drift_of_one_bin_agrees(tmp_path):
    reference = drift_reference(np.zeros(1000), 0, window=64)
    library, monitor = compiled(tmp_path, reference, online_rule(0.1)), DriftMonitor(reference)
    seen = set()
    for score in [0] * 64 + [-5] * 64:
        seen.add(monitor.observe(score, score >= 0))
        assert library.hybrid_monitor_observe(ctypes.c_int8(score), int(score >= 0)) == monitor.status
    assert seen == {Drift.NONE, Drift.COVERAGE}


@pytest.mark.parametrize("start", ["cold", "warm", "full"])
def test_c_online_agrees_over_a_long_stream(tmp_path, start):
    rng = np.random.default_rng(7)
    rule = online_rule(0.2, alpha=0.51)
    rank = (RANKS + 128.5) / 256
    if start == "warm":
        rule = warm(rule, RANKS.repeat(20), rng.random(256 * 20) < rank.repeat(20), most=300)
    if start == "full":
        rule = replace(rule, count=(65535,) * 16, agreed=(65535, 50000) * 8)
    library, control = compiled(tmp_path, TWO_BINS, rule), OnlineControl(rule)
    kept = []
    for _ in range(2):
        for score in rng.choice(RANKS, 15_000).tolist():
            keep = control.decide(score)
            assert library.hybrid_online_decide(ctypes.c_int8(score)) == keep
            kept.append(keep)
            if not keep:
                agreed = bool(rng.random() < 0.3 + 0.7 * rank[score + 128])
                control.feedback(score, agreed)
                library.hybrid_online_feedback(ctypes.c_int8(score), int(agreed))
        control.reset()
        library.hybrid_online_reset()
    assert 0.05 < np.mean(kept) < 0.95


def test_c_takes_the_memory_it_states(tmp_path):
    reference = drift_reference(RANKS.repeat(20), THRESHOLD)
    compiled(tmp_path, reference, online_rule(0.1))
    header = (tmp_path / "hybrid_monitor.h").read_text()
    assert "#define HYBRID_MONITOR_RAM_BYTES 21" in header
    assert "#define HYBRID_ONLINE_RAM_BYTES 68" in header
    source = (tmp_path / "hybrid_monitor.c").read_text()
    check = (
        "\ntypedef char stated_drift[sizeof drift - HYBRID_MONITOR_RAM_BYTES <= 1 ? 1 : -1];"
        "\ntypedef char stated_online[sizeof online == HYBRID_ONLINE_RAM_BYTES ? 1 : -1];\n"
    )
    (tmp_path / "hybrid_monitor.c").write_text(source + check)
    subprocess.run([c_compiler(), *C_FLAGS, "-c", "hybrid_monitor.c"], cwd=tmp_path, check=True)
    assert not any(word in source for word in ("malloc", "stdio", "float", "double"))
