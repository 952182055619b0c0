"""The paper's router: its inputs and hinge by pencil, its size, and that it learns."""

import numpy as np
import pytest

from hybrid.device_router import StoredOutputs
from hybrid.paper_router import PaperSpec, confidence_inputs, coverage_gradient, fit_paper_router
from hybrid.supervision import Evidence
from hybrid.sweep import nauc


def evidence(n, seed, *, num_classes=10, width=48):
    """The cloud is always right; the edge is wrong where its first feature is large, whatever its logits say."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(-128, 128, (n, num_classes)).astype(np.int8)
    features = rng.integers(-128, 128, (n, width)).astype(np.int8)
    labels = (logits.argmax(axis=1) + (features[:, 0] > 40)) % num_classes
    return Evidence(
        stored=StoredOutputs(logits=logits, features=features),
        labels=labels.astype(np.int32),
        cloud_probabilities=np.eye(num_classes, dtype=np.float32)[labels],
    )


def test_confidence_inputs_by_pencil():
    p = np.array([[0.2, 0.5, 0.3]])
    found = confidence_inputs(np.log(p))[0]
    assert found[0] == pytest.approx(-np.sum(p * np.log(p)))
    # of .5, .3, .2: each less each
    assert found[1:] == pytest.approx([0, 0.2, 0.3, -0.2, 0, 0.1, -0.3, -0.1, 0])


def test_at_most_ten_values_join():
    assert confidence_inputs(np.zeros((2, 2))).shape == (2, 1 + 4)
    assert confidence_inputs(np.zeros((2, 10))).shape == (2, 1 + 100)
    assert confidence_inputs(np.zeros((2, 50))).shape == (2, 1 + 100)


@pytest.mark.parametrize(("coverage", "hinge"), [(0.5, True), (0.3, False)])
def test_the_hinge_asks_for_coverage_by_pencil(coverage, hinge):
    # r = 1/2 and 3/4: coverage 0.375; cross-entropy pulls by r - o, the hinge by r (1 - r), both over n = 2
    gradient = coverage_gradient(PaperSpec(coverage=coverage, coverage_weight=2.0))
    found = gradient(np.array([0.0, np.log(3.0)]), np.array([0.0, 1.0]))
    pull = np.array([1 / 2, -1 / 4]) / 2
    assert found == pytest.approx(pull + hinge * 2.0 * np.array([1 / 4, 3 / 16]) / 2)


def test_its_size_is_the_published_one():
    fitted = fit_paper_router(evidence(600, 0, width=128), PaperSpec(epochs=1), logit_scale=0.1, seed=0)
    layers = (128 * 128 + 128, 128 * 64 + 64, (64 + 101) * 10 + 10, 10 * 64 + 64, 64 * 10 + 10, 10 + 1)
    assert fitted.parameters == sum(layers) == 27_793  # about 27.5k weights


@pytest.mark.parametrize("num_classes", [2, 10])
def test_it_learns_what_confidence_cannot_know(num_classes):
    known, fresh = (evidence(n, seed, num_classes=num_classes, width=6) for n, seed in ((6000, 0), (1000, 1)))
    spec = PaperSpec(learning_rate=3e-3)
    fitted = fit_paper_router(known, spec, logit_scale=0.05, seed=0)
    assert nauc(fitted.score(fresh.stored), fresh.edge_right, fresh.cloud_right) > 0.9
    again = fit_paper_router(known, spec, logit_scale=0.05, seed=0)
    np.testing.assert_array_equal(again.score(fresh.stored), fitted.score(fresh.stored))
