"""The score of a pair: by hand on a few rows, what a budget leaves for queries, and an honest, useful router."""

import time
from dataclasses import replace

import numpy as np
import pytest

from hybrid.policy import max_softmax
from nas.score import Judge, Offer, cross_fitted, doubts, paired_error, stratified_rows


def one_hot(classes, num_classes=2):
    return np.eye(num_classes, dtype=np.float32)[np.asarray(classes)]


def judge_of(labels, *offers, **budget):
    asked = tuple(Offer(probabilities=p, query_ms=ms) for p, ms in offers)
    return Judge(labels=np.asarray(labels, np.int32), offers=asked, **budget)


def task(n=4000, classes=10, seed=0):
    """Labels, logits of an edge that is right where its margin is large, and probabilities of a better cloud."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n).astype(np.int32)
    hard = rng.uniform(0, 1, n)
    logits = rng.normal(0, 1, (n, classes)) + 5 * (1 - hard)[:, None] * one_hot(labels, classes)
    cloud = rng.normal(0, 1, (n, classes)) + 6 * (1 - hard / 2)[:, None] * one_hot(labels, classes)
    e = np.exp(cloud)
    return labels, logits.astype(np.float32), (e / e.sum(axis=1, keepdims=True)).astype(np.float32)


def test_a_pair_by_hand():
    # Class 0 everywhere. Of ten rows the edge is right on the first five, where it is sure; the cloud is right on the
    # last four and the first. The router sees only that the sure rows need no help: it asks for the unsure ones first.
    labels = [0] * 10
    logits = np.array([[4.0, 0.0]] * 5 + [[0.0, 0.5]] * 5, np.float32)
    cloud = one_hot([0, 1, 1, 1, 1, 1, 0, 0, 0, 0])
    judged = judge_of(labels, (cloud, 100.0), min_coverage=0.5).judge(logits, 7.0)
    score = judged.score
    assert score.edge_accuracy == 0.5
    assert score.bound == 0.9  # 5 + the four that only the cloud knows
    assert score.hybrid_accuracy == pytest.approx(0.9)  # all five unsure rows asked: four won
    assert score.coverage == 0.5
    assert score.mean_latency_ms == 7.0 + 0.5 * 100.0
    assert judged.right.tolist() == [True] * 5 + [False] + [True] * 4
    # With two queries at most, no more than two rows are won.
    fewer = judge_of(labels, (cloud, 100.0), min_coverage=0.8).judge(logits, 7.0).score
    assert fewer.bound == 0.7
    assert fewer.hybrid_accuracy <= 0.7
    assert fewer.coverage >= 0.8
    # Training the edge on its own halves its errors, but not the one that is the cloud's as well.
    assert fewer.expected_accuracy == fewer.hybrid_accuracy
    halved = judge_of(labels, (cloud, 100.0), min_coverage=0.8).judge(logits, 7.0, left=0.5).score
    assert halved == replace(fewer, expected_accuracy=pytest.approx((fewer.hybrid_accuracy + 0.9) / 2))


def test_training_the_edge_mends_no_error_of_the_cloud():
    """Logits that tell nothing: all rows are asked, and the pair is wrong where the cloud is, the edge right or not."""
    labels = np.array([0, 1] * 20)
    edge_wrong, cloud_wrong = np.arange(40) % 4 < 2, np.arange(40) % 4 == 3
    logits = one_hot(np.where(edge_wrong, 1 - labels, labels)) / 10
    cloud = 0.05 + 0.9 * one_hot(np.where(cloud_wrong, 1 - labels, labels))
    judged = judge_of(labels, (cloud, 1.0), min_coverage=0.0).judge(logits, 1.0, left=0.5)
    assert (~judged.right & ~edge_wrong & cloud_wrong).any()  # it was asked, and is wrong
    mended = (~judged.right & edge_wrong & ~cloud_wrong).mean() / 2
    assert judged.score.expected_accuracy == pytest.approx(judged.score.hybrid_accuracy + mended)


def test_of_two_clouds_the_one_with_which_more_is_expected_is_taken():
    differed = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        labels, logits, _ = task(n=400, seed=seed)
        clouds = [rng.normal(0, 0.5, (400, 10)) + sharp * one_hot(labels, 10) for sharp in (1.6, 1.65)]
        offers = [(np.exp(2 * z) / np.exp(2 * z).sum(axis=1, keepdims=True), 1.0) for z in clouds]
        both, *alone = (
            judge_of(labels, *some, min_coverage=0.85).judge(logits, 1.0, left=0.6).score
            for some in (offers, offers[:1], offers[1:])
        )
        assert both.expected_accuracy == max(score.expected_accuracy for score in alone)
        more_now = max(range(2), key=lambda place: alone[place].hybrid_accuracy)
        differed += both.cloud != more_now
    assert differed  # from the one that is more accurate with shared weights


@pytest.mark.parametrize(
    ("edge_ms", "query_ms", "queries"),
    [
        (20.0, 100.0, 3),  # 20 + 3 / 10 * 100 = 50
        (21.0, 100.0, 2),  # 21 + 3 / 10 * 100 = 51, too much
        (50.0, 100.0, 0),  # nothing is left
        (60.0, 100.0, 0),  # over the budget: the edge alone
        (20.0, 10.0, 10),  # 20 + 10 = 30: every row may be asked
        (50.0, 0.0, 10),
    ],
)
def test_what_the_edge_takes_of_the_budget_is_not_there_for_queries(edge_ms, query_ms, queries):
    judge = judge_of([0] * 10, (one_hot([0] * 10), query_ms), max_latency_ms=50.0, min_coverage=0.9)
    assert judge.queries(edge_ms, query_ms) == queries


def test_the_budget_holds_and_more_of_it_never_harms():
    labels, logits, cloud = task()
    judge, before = judge_of(labels, (cloud, 200.0)), 0.0
    for budget in (10.0, 30.0, 60.0, 120.0):
        score = replace(judge, max_latency_ms=budget).judge(logits, 10.0).score
        assert score.mean_latency_ms <= budget + 1e-9
        assert score.mean_latency_ms == pytest.approx(10.0 + (1 - score.coverage) * 200.0)
        assert before <= score.hybrid_accuracy <= score.bound
        before = score.hybrid_accuracy
    alone = replace(judge, max_latency_ms=10.0).judge(logits, 10.0).score
    assert (alone.coverage, alone.hybrid_accuracy, alone.bound) == (1.0, alone.edge_accuracy, alone.edge_accuracy)


def test_a_faster_edge_of_equal_answers_may_ask_more():
    labels, logits, cloud = task()
    judge = judge_of(labels, (cloud, 200.0), max_latency_ms=50.0)
    fast, slow = (judge.judge(logits, ms).score for ms in (5.0, 45.0))
    assert fast.hybrid_accuracy > slow.hybrid_accuracy + 0.02
    assert fast.edge_accuracy == slow.edge_accuracy


def test_the_cloud_that_suits_is_chosen_and_the_first_of_equals():
    labels, logits, cloud = task()
    poor = np.roll(cloud, 1, axis=1)
    dear, cheap = (cloud, 400.0), (cloud, 100.0)
    budget = {"max_latency_ms": 30.0}
    assert judge_of(labels, (poor, 10.0), cheap, **budget).judge(logits, 5.0).score.cloud == 1
    assert judge_of(labels, dear, cheap, **budget).judge(logits, 5.0).score.cloud == 1  # the same answers, sooner
    assert judge_of(labels, cheap, dear, min_coverage=0.7).judge(logits, 5.0).score.cloud == 0  # time does not count


def test_a_cloud_that_never_helps_is_not_asked():
    labels, logits, _ = task(n=500)
    wrong = one_hot((labels + 1) % 10, 10)
    judged = judge_of(labels, (wrong, 1.0), min_coverage=0.0).judge(logits, 5.0)
    assert judged.score.coverage == 1.0
    assert judged.score.bound == judged.score.hybrid_accuracy == judged.score.edge_accuracy
    assert (judged.right == (logits.argmax(axis=1) == labels)).all()


def test_the_router_gets_most_of_what_can_be_had_and_is_quick():
    labels, logits, cloud = task()
    started = time.perf_counter()
    score = judge_of(labels, (cloud, 100.0), min_coverage=0.7).judge(logits, 5.0).score
    assert time.perf_counter() - started < 1.0  # a few hundredths of a second, on a busy machine more
    edge_right, cloud_right = logits.argmax(axis=1) == labels, cloud.argmax(axis=1) == labels
    asked = np.argsort(max_softmax(logits))[:1200]
    plain = edge_right.copy()
    plain[asked] = cloud_right[asked]
    assert score.hybrid_accuracy >= plain.mean() - 0.003
    assert score.hybrid_accuracy > score.edge_accuracy + 0.5 * (score.bound - score.edge_accuracy)


def test_the_router_is_honest_where_there_is_nothing_to_learn():
    """Gains by lot: what it won on rows that it has seen would be several points."""
    rng = np.random.default_rng(3)
    n = 2000
    target = rng.integers(0, 2, n).astype(np.float64)
    fold = rng.permutation(n) % 5
    predicted = cross_fitted(rng.normal(size=(n, 30)), target, fold)
    assert abs(np.corrcoef(predicted, target)[0, 1]) < 0.08
    everything = cross_fitted(np.concatenate([target[:, None], rng.normal(size=(n, 3))], axis=1), target, fold)
    assert np.corrcoef(everything, target)[0, 1] > 0.99


def test_few_rows_and_two_classes_are_scored():
    judge = judge_of([0, 1, 1], (one_hot([0, 1, 1]), 1.0), min_coverage=0.0)
    score = judge.judge(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], np.float32), 1.0).score
    assert score.edge_accuracy == pytest.approx(2 / 3)
    assert score.bound == 1.0


def test_answers_alone_count_as_labels():
    """A black box that is certain of everything believes nothing in particular."""
    labels, logits, cloud = task()
    certain = one_hot(cloud.argmax(axis=1), 10)
    soft, hard = (judge_of(labels, (p, 1.0), min_coverage=0.7).judge(logits, 1.0).score for p in (cloud, certain))
    assert hard.bound == soft.bound
    assert abs(hard.hybrid_accuracy - soft.hybrid_accuracy) < 0.01


def test_doubts_by_hand():
    # Logits 0, ln 3: probabilities 0.25 and 0.75; entropy 0.75 ln(4/3) + 0.25 ln 4.
    (row,) = doubts(np.log(np.array([[1.0, 3.0]], np.float32)))
    entropy = 0.75 * np.log(4 / 3) + 0.25 * np.log(4)
    assert row.tolist() == pytest.approx([0.75, 0.25, 0.5, entropy, np.log(0.25), np.log(3), 0, 1], abs=1e-6)


def test_paired_noise_is_that_of_the_rows_that_differ():
    a, b = np.ones(100, bool), np.ones(100, bool)
    b[:4] = False  # differences: four ones in a hundred, standard deviation sqrt(0.04 * 0.96)
    assert paired_error(a, b) == pytest.approx((0.04 * 0.96) ** 0.5 / 10)
    assert paired_error(a, a) == 0.0


def test_rows_hold_the_shares_of_the_classes():
    labels = np.repeat([0, 1], [900, 100]).astype(np.int32)
    rows = stratified_rows(labels, 200, seed=1)
    assert len(set(rows.tolist())) == 200
    assert (np.diff(rows) > 0).all()
    assert abs(labels[rows].sum() - 20) <= 1
    assert stratified_rows(labels, 5000, seed=1).tolist() == list(range(1000))
