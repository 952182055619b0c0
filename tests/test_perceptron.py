"""The little nets: gradients against finite differences, folding, learning, and stopping."""

import numpy as np
import pytest

from hybrid.perceptron import AdamW, Perceptron, Recipe, cross_entropy_gradient, fit, sigmoid


def in_doubles(inputs, hidden, **side):
    net = Perceptron(inputs, hidden, rng=np.random.default_rng(0), **side)
    net.parameters = net.parameters.astype(np.float64)
    net.parameters[net.decayed :] += np.random.default_rng(1).normal(0, 0.3, len(net.parameters) - net.decayed)
    return net


@pytest.mark.parametrize("side", [{}, {"side": 2, "side_at": 1}, {"side": 3, "side_at": 2}, {"side": 2, "side_at": 0}])
def test_gradient_is_the_loss_slope(side):
    net = in_doubles(5, (6, 4), **side)
    rng = np.random.default_rng(2)
    x, targets = rng.normal(size=(40, 5)), rng.random(40)

    def loss():
        seen = []
        net.gradient(x, targets, lambda logits, _: seen.append(logits) or np.zeros(40))
        return float(np.mean(np.logaddexp(0, seen[0]) - targets * seen[0]))

    found = net.gradient(x, targets, cross_entropy_gradient)
    slopes = np.zeros_like(found)
    for index in range(len(slopes)):
        values = []
        for step in (1e-5, -2e-5):
            net.parameters[index] += step
            values.append(loss())
        net.parameters[index] += 1e-5
        slopes[index] = (values[0] - values[1]) / 2e-5
    np.testing.assert_allclose(found, slopes, atol=2e-6)  # deltas are single precision
    assert np.abs(slopes).max() > 0.01


def test_folded_net_by_pencil():
    net = Perceptron(1, (1,), rng=np.random.default_rng(0))
    net.parameters[:] = [2.0, 3.0, 5.0, 1.0, 7.0]  # first weight, last weight, scale, shift of the unit, last bias
    net.means[:], net.variances[:] = 4.0, 25.0 - 1e-5
    # x = 7: 14 less the mean 4 by the deviation 5 is 2; 5 * 2 + 1 = 11; 3 * 11 + 7 = 40. x = -3: relu(-9) = 0
    np.testing.assert_allclose(net.logits(np.array([[7.0], [-3.0]], np.float32)), [40.0, 7.0], rtol=1e-6)
    assert [layer.shape for pair in net.folded() for layer in pair] == [(1, 1), (1,), (1, 1), (1,)]


def test_first_step_of_adam_by_pencil():
    net = Perceptron(1, (), rng=np.random.default_rng(0))
    net.parameters[:] = [4.0, 4.0]
    AdamW(net, decay=0.5).step(np.array([3.0, -3.0], np.float32), 0.1)
    # both means are the gradient itself: a step of 0.1 against its sign; the weight alone shrinks by 0.1 * 0.5
    np.testing.assert_allclose(net.parameters, [4.0 * 0.95 - 0.1, 4.0 + 0.1], rtol=1e-6)


def test_it_learns_what_no_line_separates():
    rng = np.random.default_rng(3)
    x = rng.uniform(-1, 1, (4000, 2)).astype(np.float32)
    ring = (np.square(x).sum(axis=1) < 0.5).astype(np.float32)
    net = fit(Perceptron(2, (16,), rng=rng), x, ring, Recipe(epochs=30, rate=1e-2, batch=128), rng=rng)
    assert np.mean((net.logits(x) > 0) == (ring > 0.5)) > 0.96


def test_it_ends_where_the_judge_was_happiest():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(64, 3)).astype(np.float32)
    marks, seen = iter([1.0, 5.0, 2.0]), []

    def judge(net):
        seen.append(net.parameters.copy())
        return next(marks)

    net = fit(Perceptron(3, (4,), rng=rng), x, (x[:, 0] > 0) * 1.0, Recipe(epochs=3, batch=16), rng=rng, judge=judge)
    assert (net.parameters == seen[1]).all()
    assert (net.parameters != seen[2]).any()


def test_sigmoid_is_the_logistic_function():
    assert sigmoid(np.log(np.array([1.0, 3.0]))) == pytest.approx([1 / 2, 3 / 4])
