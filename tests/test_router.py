"""Learned routers: what they read, that they learn, that they are chosen where they pay, and only there."""

from dataclasses import replace

import numpy as np
import pytest

from hybrid import policy
from hybrid.configure import LEAST_ROUTER_PARAMETERS, run_spec
from hybrid.device_router import RouterNet, StoredOutputs, integer_router
from hybrid.errors import SpecError
from hybrid.router import FREE, Teacher, choose, fit_kind, fit_learned, fit_student, fit_teacher, student_inputs
from hybrid.router import teacher_inputs as read_by_teacher
from hybrid.rules import RULES
from hybrid.specs import RouterSpec
from hybrid.supervision import Evidence
from hybrid.sweep import nauc

SPEC = RouterSpec(hidden=8, epochs=10, teachers=1, teacher_epochs=4, students=1)


def evidence(n, seed, *, num_classes=4, hidden_in_feature=True, width=6):
    """A cloud that is always right, and an edge that is wrong where a feature is large, or else where unsure."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(-60, 60, (n, num_classes)).astype(np.int8)
    features = rng.integers(-128, 128, (n, width)).astype(np.int8)
    top = np.sort(logits.astype(int), axis=1)
    unsure = rng.random(n) < 1 / (1 + np.exp((top[:, -1] - top[:, -2] - 10) / 4))
    wrong = features[:, 2] > 50 if hidden_in_feature else unsure
    labels = ((logits.argmax(axis=1) + wrong) % num_classes).astype(np.int32)
    return Evidence(
        stored=StoredOutputs(logits=logits, features=features),
        labels=labels,
        cloud_probabilities=np.eye(num_classes, dtype=np.float32)[labels],
    )


def reached(net, judged_by):
    return nauc(net.raw(judged_by.stored), judged_by.edge_right, judged_by.cloud_right)


def test_teacher_inputs_by_pencil():
    stored = StoredOutputs(logits=np.array([[10, 30, 30]], np.int8), features=np.array([[-128, 2]], np.int8))
    p = np.array([1 / 9, 4 / 9, 4 / 9])  # at beta log(4) / 20 the two best are four times likelier
    expected = [-128, 2, *np.log([1 / 4, 1, 1]), *p, 0, 1, 0, np.sum(p * np.log(p)), 4 / 9, 0, 0]
    np.testing.assert_allclose(read_by_teacher(stored, np.log(4) / 20)[0, : len(expected)], expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["learned", "gain"])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_it_learns_what_confidence_cannot_know(kind, num_classes):
    known, fresh = (evidence(n, seed, num_classes=num_classes) for n, seed in ((4000, 0), (1000, 1)))
    net = fit_learned(known, None, replace(SPEC, kind=kind), seed=0)
    assert reached(net, fresh) > 0.9 > reached(fit_kind(FREE, known, None, SPEC, seed=0), fresh) + 0.5
    assert net.parameters <= SPEC.max_parameters


def test_a_teacher_repeats_itself_and_differs_by_seed():
    known = evidence(800, 0)
    first, again, other = (fit_teacher(known, None, SPEC, seed=seed).score(known.stored) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_teacher_of_two_is_the_mean_of_both():
    known = evidence(800, 0)
    two = fit_teacher(known, None, replace(SPEC, teachers=2), seed=0)
    alone = [Teacher(**{**vars(two), "nets": (net,)}).score(known.stored) for net in two.nets]
    np.testing.assert_allclose(two.score(known.stored), (alone[0] + alone[1]) / 2, rtol=1e-4, atol=1e-5)


def test_extra_evidence_teaches():
    few, many, fresh = evidence(60, 0), evidence(6000, 1), evidence(1000, 2)
    alone, helped = (fit_learned(few, extra, SPEC, seed=0) for extra in (None, many))
    assert reached(helped, fresh) > reached(alone, fresh) + 0.05


def test_a_student_says_minus_the_log_odds():
    known = evidence(4000, 0)
    worth = np.full(4000, 0.2, np.float32)  # of each query
    net = fit_student(known.stored, worth, SPEC, seed=0)
    assert np.median(net.raw(known.stored)) == pytest.approx(-np.log(0.2 / 0.8), abs=0.1)


def test_what_never_changes_is_not_read():
    known = evidence(500, 0)
    features = known.stored.features.copy()
    features[:, 3] = 7
    net = fit_student(StoredOutputs(logits=known.stored.logits, features=features), np.zeros(500), SPEC, seed=0)
    assert (net.weights[3] == 0).all()
    assert np.isfinite(net.weights).all()


@pytest.mark.parametrize(
    ("width", "num_classes", "most", "reads", "hidden"),
    [
        # (inputs + 2) hidden + 1 parameters: features + classes gaps + 2 + classes one-hot
        (32, 10, 1000, ("features", "gaps", "classes"), 16),  # 54 + 2 -> 17, but 16 are asked
        (64, 10, 1000, ("features", "gaps", "classes"), 11),  # 999 // 88
        (100, 40, 1000, ("features", "classes"), 6),  # 999 // 184 = 5 is too few; 999 // 144
        (400, 10, 1000, ("gaps", "classes"), 16),
        (400, 100, 1000, ("betas", "classes"), 9),  # 3 betas, 2 margins, 100 classes: 999 // 107
        (400, 1000, 1000, ("betas",), 16),
        (0, 2, 1000, ("gaps", "classes"), 16),
    ],
)
def test_inputs_fit_the_budget(width, num_classes, most, reads, hidden):
    stored = StoredOutputs(logits=np.zeros((9, num_classes), np.int8), features=np.zeros((9, width), np.int8))
    inputs, units = student_inputs(stored, RouterSpec(hidden=16, max_parameters=most))
    assert tuple(name for name in ("features", "gaps", "betas", "classes") if getattr(inputs, name)) == reads
    assert inputs.top == min(2, num_classes - 1)
    assert units == hidden
    assert (len(inputs.highest(width, num_classes)) + 2) * units + 1 <= most


def test_a_budget_too_small_is_refused():
    stored = StoredOutputs(logits=np.zeros((9, 5), np.int8), features=np.zeros((9, 5), np.int8))
    with pytest.raises(SpecError, match=r"router.max_parameters: got 20"):
        student_inputs(stored, RouterSpec(max_parameters=20))


@pytest.mark.parametrize("num_classes", [2, 3, 10, 1000])
def test_the_least_budget_is_enough_for_a_router(num_classes):
    stored = StoredOutputs(logits=np.zeros((9, num_classes), np.int8), features=np.zeros((9, 5), np.int8))
    student_inputs(stored, run_spec(assignments=[f"router.max_parameters={LEAST_ROUTER_PARAMETERS}"]).router)
    with pytest.raises(SpecError, match=r"router\.max_parameters: got 42, allowed 43 or more"):
        run_spec(assignments=[f"router.max_parameters={LEAST_ROUTER_PARAMETERS - 1}"])


def test_int8_loses_next_to_nothing():
    known, fresh = evidence(4000, 0), evidence(2000, 1)
    net = fit_kind("learned", known, None, SPEC, seed=0)
    score = integer_router(net, known.stored).score(fresh.stored)
    assert nauc(score, fresh.edge_right, fresh.cloud_right) > reached(net, fresh) - 0.005


def test_a_learned_router_is_chosen_where_it_pays():
    chosen = choose(evidence(1500, 0), None, SPEC, seed=0)
    assert chosen.kind == "learned"
    assert set(chosen.reached) == {*RULES, "learned"}
    assert chosen.reached["learned"].mean > chosen.reached[FREE].mean + 0.3
    assert isinstance(chosen.net, RouterNet)
    assert all(one.spread >= 0 for one in chosen.reached.values())


def test_ties_go_to_the_free_rule():
    known = evidence(900, 0)
    echo = np.eye(4, dtype=np.float32)[known.edge_class]  # nothing to route: every candidate reaches 0
    chosen = choose(replace(known, cloud_probabilities=echo), None, SPEC, seed=0)
    assert chosen.kind == FREE
    assert {one.mean for one in chosen.reached.values()} == {0.0}


def test_an_asked_kind_is_fitted_alone():
    known = evidence(900, 0)
    chosen = choose(known, None, replace(SPEC, kind="logit_margin"), seed=0)
    assert (chosen.kind, dict(chosen.reached)) == ("logit_margin", {})  # nothing to compare it with
    order = np.argsort(chosen.net.raw(known.stored))
    assert (np.diff(policy.logit_margin(known.stored.logits)[order]) >= 0).all()


def test_a_cloud_that_only_answers_teaches_by_hard_labels():
    known = evidence(600, 0)
    answers = np.where(np.arange(600) % 3 == 0, (known.labels + 1) % 4, known.labels)  # it errs in a third of the rows
    hard = replace(known, cloud_probabilities=np.eye(4, dtype=np.float32)[answers])
    asked = [replace(SPEC, kind="learned", teachers=0, softness=softness) for softness in (0.0, 1.0)]
    ones = [fit_kind("learned", hard, None, spec, seed=0).weights for spec in asked]
    np.testing.assert_array_equal(*ones)
    soft = replace(hard, cloud_probabilities=0.9 * hard.cloud_probabilities + np.float32(0.025))
    others = [fit_kind("learned", soft, None, spec, seed=0).weights for spec in asked]
    assert not np.array_equal(*others)


def test_clear_words_for_what_cannot_be():
    with pytest.raises(SpecError, match="got 2 held-out examples for 3 folds"):
        choose(evidence(2, 0), None, SPEC, seed=0)
    with pytest.raises(SpecError, match=r"router.kind: got clever, allowed learned, gain, max_softmax"):
        fit_kind("clever", evidence(9, 0), None, SPEC, seed=0)
