"""Rules of a few constants as routers: they rank as the float rules do."""

from dataclasses import replace

import numpy as np
import pytest

from hybrid import policy
from hybrid.device_router import RouterInputs, RouterNet, StoredOutputs, integer_router
from hybrid.rules import (
    RULES,
    fit_class_offsets,
    fit_logistic,
    logit_margin_rule,
    max_softmax_rule,
    natural_beta,
    on_log_odds,
)
from hybrid.supervision import Evidence, proxy_labels
from hybrid.sweep import nauc

BETA = 0.05


def evidence(n=600, seed=0, num_classes=5, harder=()):
    """The cloud is right, the edge as often as its margin says; in the classes `harder` less often."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(-100, 100, (n, num_classes)).astype(np.int8)
    answer = logits.argmax(axis=1)
    odds = 0.08 * policy.logit_margin(logits) - 3.0 * np.isin(answer, harder)
    labels = (answer + (rng.random(n) > 1 / (1 + np.exp(-odds)))) % num_classes
    return Evidence(
        stored=StoredOutputs(logits=logits, features=np.zeros((n, 0), np.int8)),
        labels=labels.astype(np.int32),
        cloud_probabilities=np.eye(num_classes, dtype=np.float32)[labels],
    )


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize(
    ("rule", "policy_of"),
    [(max_softmax_rule(BETA), lambda z: policy.max_softmax(BETA * z)), (logit_margin_rule(), policy.logit_margin)],
)
def test_a_rule_as_router_ranks_as_the_float_rule(rule, policy_of, num_classes):
    stored = evidence(num_classes=num_classes).stored
    scores = policy_of(stored.logits.astype(float))
    steps = 4096 if rule.inputs.betas else 1
    assert np.abs(rule.raw(stored) / steps - scores).max() < 2e-3
    int8 = integer_router(rule, stored).score(stored)
    clearly_above = scores[:, None] > scores + 4e-3  # twice that error
    assert (int8[:, None] >= int8)[clearly_above].all()
    assert (int8[:, None] > int8)[clearly_above].mean() > 0.99
    assert rule.parameters == 2


def test_natural_beta_by_pencil():
    logits = np.array([[0, 80, 10], [40, 0, -90], [0, 0, 20]], np.int8)  # margins 70, 40, 20: median 40
    assert natural_beta(StoredOutputs(logits=logits, features=np.zeros((3, 0), np.int8))) == 4.0 / 40
    flat = StoredOutputs(logits=np.zeros((3, 2), np.int8), features=np.zeros((3, 0), np.int8))
    assert natural_beta(flat) == 4.0


def test_logistic_recovers_the_odds():
    known = evidence(20000)
    rule = fit_logistic(known)
    margins = policy.logit_margin(known.stored.logits)
    slope = np.polyfit(margins, rule.raw(known.stored), 1)[0]
    assert slope == pytest.approx(0.08, rel=0.1)  # minus the log-odds of a query are the odds of the edge


def test_class_offsets_lower_the_hard_classes():
    known = evidence(6000, harder=(1, 3))
    rule = fit_class_offsets(known)
    offsets = rule.weights[-5:, 0]
    assert np.ptp(offsets[[0, 2, 4]]) < 0.6
    assert np.ptp(offsets[[1, 3]]) < 0.6
    assert offsets[[0, 2, 4]].mean() - offsets[[1, 3]].mean() == pytest.approx(3.0, abs=0.5)


def test_a_rare_class_keeps_the_common_threshold():
    known = evidence(4000)
    rows = np.concatenate([np.flatnonzero(known.edge_class != 2), np.flatnonzero(known.edge_class == 2)[:2]])
    offsets = fit_class_offsets(known.take(rows)).weights[-5:, 0]
    assert abs(offsets[2]) < 0.15


@pytest.mark.parametrize("name", RULES)
def test_every_rule_on_the_shared_scale(name):
    known = evidence(8000)
    before = RULES[name](known)
    after = on_log_odds(before, known)
    raw = after.raw(known.stored)
    assert nauc(raw, known.edge_right, known.cloud_right) == pytest.approx(
        nauc(before.raw(known.stored), known.edge_right, known.cloud_right), abs=1e-3
    )
    query = proxy_labels(known.edge_right, known.cloud_right)
    expected = 1 / (1 + np.exp(raw))
    for low, high in ((0, 25), (75, 100)):  # where it says p, a share p of the queries pays
        part = (raw >= np.percentile(raw, low)) & (raw <= np.percentile(raw, high))
        assert query[part].mean() == pytest.approx(expected[part].mean(), abs=0.1)


def test_a_router_that_knows_nothing_is_only_shifted():
    known = evidence(500)
    upside_down = RouterNet(
        inputs=RouterInputs(top=1), weights=-np.ones((1, 1), np.float32), bias=np.zeros(1, np.float32)
    )
    after = on_log_odds(upside_down, known)
    assert after.weights == upside_down.weights
    assert np.median(after.raw(known.stored)) == 0


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_where_no_query_gains_the_order_of_sureness_is_left(name, seed):
    """The edge is always right: a fitted slope is rounding noise of either sign, and none of it may be the score."""
    known = evidence(seed=seed)
    known = replace(known, labels=known.edge_class)
    score = integer_router(on_log_odds(RULES[name](known), known), known.stored).score(known.stored)
    assert len(np.unique(score)) > 50
    assert np.corrcoef(score, policy.logit_margin(known.stored.logits))[0, 1] > 0.7
