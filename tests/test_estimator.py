"""`hybrid.Router`: conventions, thresholds by pencil, int8 and float arrays, clear words for unusable ones."""

import subprocess
import sys

import numpy as np
import pytest

import hybrid
from hybrid.errors import SpecError
from hybrid.estimator import Router, Storing

QUICK = {"hidden": 8, "epochs": 8, "teachers": 1, "teacher_epochs": 3, "students": 1}


def arrays(n, seed=0, num_classes=3):
    """Float edge logits and features, labels, and the probabilities of a cloud that errs in one of twenty.

    The edge is wrong where the first feature is large, whatever its logits say.
    """
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(n, num_classes))
    features = rng.normal(5.0, 20.0, (n, 4)) * [1.0, 100.0, 0.01, 0.0]
    labels = (logits.argmax(axis=1) + (features[:, 0] > 20)) % num_classes
    answers = np.where(rng.random(n) < 0.05, (labels + 1) % num_classes, labels)
    cloud = 0.9 * np.eye(num_classes)[answers] + 0.1 / num_classes
    return logits, labels, cloud, features


@pytest.fixture(scope="module")
def fitted():
    return Router(**QUICK).fit(*arrays(3000))


def test_it_finds_what_the_logits_do_not_say(fitted):
    fresh = arrays(1000, 1)
    assert fitted.kind_ == "learned"
    assert fitted.nauc(*fresh) > 0.75  # a cloud that errs keeps it from 1
    assert abs(Router("max_softmax").fit(*arrays(3000)).nauc(*fresh)) < 0.1
    assert fitted.integer_.parameters <= 1000


def test_scores_are_int8_ranks(fitted):
    logits, _, _, features = arrays(3000)
    scores = fitted.score(logits, features)
    assert (scores.dtype, scores.shape) == (np.int8, (3000,))
    np.testing.assert_allclose(np.quantile(scores, [0.25, 0.5, 0.75]), [-64, 0, 64], atol=3)
    np.testing.assert_array_equal(fitted.integer_.score(fitted.stored(logits, features)), scores)


def test_int8_arrays_are_taken_as_stored(fitted):
    logits, _, _, features = arrays(500, 2)
    stored = fitted.stored(logits, features)
    np.testing.assert_array_equal(fitted.score(stored.logits, stored.features), fitted.score(logits, features))


def test_storing_by_pencil():
    storing = Storing(logit_step=0.5, feature_low=np.array([1.0, 0.0]), feature_step=np.array([2.0, 1.0]))
    stored = storing.stored(np.array([[1.0, 3.0, 2.9], [0.0, -200.0, 0.0]]), np.array([[1.0, 9.0], [6.9, 999.0]]))
    # gaps 2, 0, 0.1 are 4, 0 and less than one step, which counts as one: the answer remains the answer
    assert stored.logits.tolist() == [[123, 127, 126], [127, -128, 126]]
    # (1 - 1) / 2 and (6.9 - 1) / 2 = 2.95; beyond the range is its end
    assert stored.features.tolist() == [[-128, -119], [-125, 127]]


def test_threshold_for_a_coverage(fitted):
    logits, _, _, features = arrays(1000, 1)
    scores = fitted.score(logits, features)
    for coverage in (0.0, 0.3, 0.9, 1.0):
        threshold = fitted.threshold(logits, features, coverage=coverage)
        assert (scores >= threshold).mean() >= coverage
        assert threshold == 128 or (scores >= threshold + 1).mean() < coverage
        assert fitted.kept(logits, features, threshold=threshold).mean() == (scores >= threshold).mean()


def test_threshold_for_a_loss(fitted):
    logits, labels, cloud, features = arrays(1000, 1)
    right, cloud_right = logits.argmax(axis=1) == labels, cloud.argmax(axis=1) == labels

    def loss(threshold):
        kept = fitted.kept(logits, features, threshold=threshold)
        return cloud_right.mean() - np.where(kept, right, cloud_right).mean()

    asked = {"max_loss": 0.01, "labels": labels, "cloud": cloud}
    threshold = fitted.threshold(logits, features, **asked)
    assert loss(threshold) <= 0.01
    assert min(loss(lower) for lower in range(-128, threshold)) > 0.01


def test_answers_alone_will_do():
    logits, labels, cloud, features = arrays(3000)
    answers = cloud.argmax(axis=1)
    router = Router(**QUICK).fit(logits, labels, answers, features)
    assert router.temperature_ == 1.0
    assert router.nauc(*arrays(1000, 1)) > 0.75
    hard = Router(**QUICK, softness=0.0).fit(logits, labels, answers, features)
    np.testing.assert_array_equal(hard.integer_.weights, router.integer_.weights)


def test_cloud_logits_are_probabilities_of_another_scale(fitted):
    logits, labels, cloud, features = arrays(3000)
    router = Router(**QUICK).fit(logits, labels, np.log(cloud) + 7.0, features)
    np.testing.assert_array_equal(router.score(logits, features), fitted.score(logits, features))


def test_without_features_and_with_two_classes():
    logits, labels, cloud, _ = arrays(600, num_classes=2)
    router = Router(**QUICK).fit(logits, labels, cloud)
    assert (router.n_features_in_, router.n_classes_) == (0, 2)
    assert router.score(logits).shape == (600,)


def test_extra_rows_teach_but_do_not_judge():
    few, many = arrays(90), arrays(3000, 3)
    router = Router("learned", **QUICK).fit(*few, extra=many)
    assert router.nauc(*arrays(1000, 1)) > Router("learned", **QUICK).fit(*few).nauc(*arrays(1000, 1))
    logits, labels, cloud, _ = few
    assert Router(**QUICK).fit(logits, labels, cloud, extra=(logits, labels, cloud)).n_features_in_ == 0


def test_an_edge_that_is_always_right_needs_nobody():
    logits, _, _, features = arrays(300)
    labels = logits.argmax(axis=1)
    router = Router(**QUICK).fit(logits, labels, labels, features)
    assert router.kind_ == "max_softmax"
    assert router.threshold(logits, features, max_loss=0.0, labels=labels, cloud=labels) == -128


def test_a_cloud_that_knows_one_word_is_never_asked_for_much():
    logits, labels, _, features = arrays(600)
    router = Router(**QUICK).fit(logits, labels, np.zeros(600, int), features)
    assert np.isfinite(router.net_.weights).all()


def test_parameters_as_scikit_learn_has_them():
    router = Router("learned", hidden=5)
    assert router.get_params() == {**Router().get_params(), "kind": "learned", "hidden": 5}
    assert router.set_params(epochs=3) is router
    again = Router(**router.get_params())
    assert again.get_params() == router.get_params()
    assert repr(again) == repr(router)
    with pytest.raises(SpecError, match="no parameter depth"):
        router.set_params(depth=2)


def test_fit_leaves_parameters_alone_and_returns_itself():
    router = Router("logit_margin", softness=0.25)
    before = router.get_params()
    assert router.fit(*arrays(60)) is router
    assert router.get_params() == before
    assert (router.kind_, router.reached_) == ("logit_margin", {})


def test_same_state_same_router(fitted):
    again = Router(**QUICK).fit(*arrays(3000))
    np.testing.assert_array_equal(again.integer_.weights, fitted.integer_.weights)
    np.testing.assert_array_equal(again.integer_.cuts, fitted.integer_.cuts)


def test_before_fit():
    for call in (Router().score, lambda z: Router().kept(z, threshold=0), lambda z: Router().threshold(z, coverage=1)):
        with pytest.raises(SpecError, match="not fitted; call fit first"):
            call(np.zeros((2, 3)))


def broken(index, value):
    given = list(arrays(60))
    given[index] = value
    return given


HOLED = arrays(60)[0].copy()
HOLED[7, 1] = np.nan


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (broken(0, HOLED), "logits hold NaN or infinity, first in row 7"),
        (broken(0, np.zeros(60)), r"logits have shape \(60,\), allowed"),
        (broken(0, np.zeros((60, 1))), r"logits have shape \(60, 1\)"),
        (broken(0, np.array([["a", "b"]] * 60)), "logits of type <U1 are no numbers"),
        (broken(1, np.zeros(59, int)), r"labels are int64 of shape \(59,\)"),
        (broken(1, np.zeros(60)), "labels are float64"),
        (broken(1, np.full(60, 3)), "labels reach 3 to 3, allowed 0 to 2"),
        (broken(2, np.full(60, -1)), "cloud reach -1 to -1"),
        (broken(2, np.zeros((60, 4))), r"cloud has shape \(60, 4\), allowed \(60, 3\) or \(60,\)"),
        (broken(3, np.zeros((59, 4))), r"features have shape \(59, 4\)"),
        (broken(3, np.full((60, 4), np.inf)), "features hold NaN"),
    ],
)
def test_unusable_arrays_are_named(given, words):
    with pytest.raises(SpecError, match=words):
        Router("logit_margin").fit(*given)


def test_unlike_arrays_are_refused(fitted):
    logits, labels, cloud, features = arrays(60)
    with pytest.raises(SpecError, match="got 3 classes and 0 features, fitted on 3 and 4"):
        fitted.score(logits)
    with pytest.raises(SpecError, match="extra has other classes"):
        Router().fit(logits, labels, cloud, features, extra=(logits, labels, cloud))
    with pytest.raises(SpecError, match="max_loss needs labels and cloud"):
        fitted.threshold(logits, features, max_loss=0.1)
    for wrong in ({}, {"coverage": 0.5, "max_loss": 0.1}, {"coverage": 1.5}):
        with pytest.raises(SpecError, match="give one, 0 to 1"):
            fitted.threshold(logits, features, **wrong)


def test_it_is_there_without_tensorflow():
    code = "import hybrid, sys; hybrid.Router; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "numpy" in loaded
    assert not {"tensorflow", "keras", "matplotlib"} & set(loaded)
    assert hybrid.Router is Router
    with pytest.raises(AttributeError, match="no attribute 'Rooter'"):
        hybrid.Rooter  # noqa: B018


def test_a_certified_threshold_keeps_less_than_the_one_that_just_holds(fitted):
    logits, labels, cloud, features = arrays(2000, 5)
    certificate = fitted.certify(logits, labels, cloud, features, max_loss=0.05)
    just = fitted.threshold(logits, features, max_loss=0.05, labels=labels, cloud=cloud)
    assert certificate.threshold >= just
    assert certificate.statement.startswith("accuracy at most 5 points below the cloud's, with confidence 90 %")


def test_certify_refuses_an_unknown_target(fitted):
    with pytest.raises(SpecError, match=r"no target min_luck; there are max_loss, min_accuracy, max_queries"):
        fitted.certify(np.zeros((4, 3)), np.zeros(4, int), np.zeros(4, int), min_luck=0.5)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"kind": "learnt"}, "kind"),
        ({"hidden": 0}, "Router: hidden: got 0, allowed 1 or more"),
        ({"softness": 1.5}, "Router: softness: got 1.5, allowed 0 to 1"),
        ({"max_parameters": 10}, "Router: max_parameters: got 10, allowed 43 or more"),
        ({"choice_folds": 1}, "Router: choice_folds: got 1, allowed 2 or more"),
        ({"epochs": "many"}, "epochs"),
        ({"random_state": -1}, "Router: random_state: got -1, allowed 0 to 2,147,483,647"),
    ],
)
def test_parameters_outside_their_limits_are_refused_by_fit(parameters, said):
    with pytest.raises(SpecError, match=r"^Router") as refused:
        Router(**parameters).fit(*arrays(60))
    assert said in str(refused.value)


def test_scalars_of_numpy_are_parameters_too():
    same = {"hidden": np.int64(8), "epochs": np.int64(4), "softness": np.float32(0.5), "random_state": np.int64(3)}
    ours = {name: value.item() for name, value in same.items()}
    routers = [Router("learned", teachers=0, **given).fit(*arrays(200)) for given in (same, ours)]
    scores = [router.score(*arrays(50)[::3]) for router in routers]
    np.testing.assert_array_equal(*scores)
