"""Targets, loss and learning rate by pencil; one seed, one net."""

import io

import keras
import numpy as np
import pytest
import tf_keras
from learner_helpers import Listener, Stop

from datasets.batches import Augment
from hybrid import fitting
from hybrid.arrays import DAMAGE, write_arrays
from hybrid.checkpoint import Checkpoint
from hybrid.errors import SpecError
from hybrid.fitting import Rate, distillation_loss, targets
from hybrid.nets import build_net, normalise
from hybrid.progress import SILENT
from hybrid.specs import ArchSpec, BlockSpec

ARCH = ArchSpec(name="net", input_shape=(8, 8, 1), num_classes=3, blocks=(BlockSpec(kind="conv", width=4, stride=2),))
X = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)
Y = np.arange(12, dtype=np.int32) % 3


def test_targets_without_a_cloud_stand_twice():
    assert targets(np.array([0, 2]), 3).tolist() == [[1, 0, 0] * 2, [0, 0, 1] * 2]


def test_smoothing_moves_a_share_to_all_classes():
    # 1 - 0.3 stays, 0.3 / 3 goes to each of three classes: 0.8, 0.1, 0.1
    np.testing.assert_allclose(targets(np.array([1]), 3, smoothing=0.3), [[0.1, 0.8, 0.1] * 2], rtol=1e-6)


def test_the_clouds_probabilities_at_a_temperature():
    # roots of 0.64, 0.32 / 2, 0.04: 0.8, 0.4, 0.2, of 1.4
    cloud = np.array([[0.64, 0.16, 0.04]], np.float32)
    got = targets(np.array([2]), 3, cloud, temperature=2.0)
    np.testing.assert_allclose(got, [[0, 0, 1, 0.8 / 1.4, 0.4 / 1.4, 0.2 / 1.4]], rtol=1e-5)
    assert got.dtype == np.float32


def test_a_cloud_that_is_sure_leaves_finite_targets():
    got = targets(np.array([0]), 2, np.array([[1.0, 0.0]], np.float32), temperature=4.0)
    # 1e-12 stands for the zero; its fourth root is 1e-3
    np.testing.assert_allclose(got[0, 2:], [1 / 1.001, 0.001 / 1.001], rtol=1e-4)


def test_distillation_loss_by_pencil():
    logits = np.array([[np.log(4.0), 0.0]], np.float32)  # p = 4/5, 1/5; at temperature 2 the roots: 2/3, 1/3
    target = np.array([[1.0, 0.0, 0.5, 0.5]], np.float32)
    hard = -np.log(4 / 5)
    soft = -0.5 * np.log(2 / 3) - 0.5 * np.log(1 / 3)
    loss = distillation_loss(alpha=0.25, temperature=2.0)(target, logits)
    np.testing.assert_allclose(np.asarray(loss), [0.75 * hard + 0.25 * 2**2 * soft], rtol=1e-5)


def test_without_distillation_the_soft_half_does_not_count():
    logits = np.array([[1.0, 2.0], [0.0, 0.0]], np.float32)
    hard = np.array([[0.0, 1.0], [0.5, 0.5]], np.float32)
    wild = np.array([[0.9, 0.1], [0.0, 1.0]], np.float32)
    loss = np.asarray(distillation_loss(alpha=0.0, temperature=3.0)(np.concatenate([hard, wild], axis=1), logits))
    np.testing.assert_allclose(loss, [np.log(1 + np.exp(-1)), np.log(2)], rtol=1e-5)


@pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_one_cycle(k):
    rate = Rate(peak=0.2, end=0.02).schedule(k, 100)
    at = [float(rate(step)) for step in (0, 25, 100)]  # a quarter of the steps rises
    np.testing.assert_allclose(at, [0.2 / 25, 0.2, 0.02], rtol=1e-5)
    np.testing.assert_allclose(float(rate(25 + 75 / 2)), (0.2 + 0.02) / 2, rtol=1e-5)  # a cosine's middle
    steps = np.array([float(rate(step)) for step in range(101)])
    assert (np.diff(steps[:26]) > 0).all()
    assert (np.diff(steps[25:]) < 0).all()


def test_one_cycle_ends_at_zero_by_default():
    assert float(Rate(peak=0.2).schedule(keras, 40)(40)) == pytest.approx(0.0, abs=1e-8)


def test_a_line():
    rate = Rate(peak=0.2, start=0.02, end=0.01).schedule(keras, 10)
    np.testing.assert_allclose([float(rate(step)) for step in (0, 5, 10)], [0.02, 0.015, 0.01], rtol=1e-6)


def test_a_single_step_has_a_rate():
    assert float(Rate(peak=0.2).schedule(keras, 1)(0)) == pytest.approx(0.2 / 25)


def net_of(seed):
    keras.utils.set_random_seed(seed)
    return build_net(ARCH)


def fitted(
    net, *, weights=None, epochs=1, seed=5, x=X, augment=None, narrator=SILENT, batch_size=12, peak=0.1, checkpoint=None
):
    fitting.fit(
        net,
        x,
        Y,
        targets(Y, 3),
        weights=weights,
        epochs=epochs,
        batch_size=batch_size,
        rate=Rate(peak=peak),
        weight_decay=0.0,
        loss=distillation_loss(alpha=0.0, temperature=1.0),
        augment=augment,
        seed=seed,
        label="a net",
        narrator=narrator,
        checkpoint=checkpoint,
    )
    return net


def trainable(net):
    return [np.asarray(weight) for weight in net.trainable_weights]


def test_a_training_that_went_astray_is_refused_and_not_kept(tmp_path):
    kept = Checkpoint(path=tmp_path / "net.npz")
    with pytest.raises(SpecError, match=r"a net: got a loss of (nan|inf) in epoch \d+; lower its learning rate"):
        fitted(net_of(1), peak=1e30, epochs=4, batch_size=4, checkpoint=kept)
    assert fitted(net_of(1), epochs=4, batch_size=4, checkpoint=kept)


def test_weights_scale_the_loss():
    """One step of gradient descent goes exactly twice as far where every example weighs twice."""
    before = trainable(net_of(1))
    once = trainable(fitted(net_of(1)))  # without weights, all weigh one
    twice = trainable(fitted(net_of(1), weights=np.full(12, 2.0, np.float32)))
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(once, before, strict=True))
    for w0, w1, w2 in zip(before, once, twice, strict=True):
        np.testing.assert_allclose(w2 - w0, 2 * (w1 - w0), rtol=1e-3, atol=1e-6)


def test_weights_stay_with_their_examples_when_shuffled():
    """Only examples of class 0 weigh anything, so that the net comes to answer class 0 alone."""
    weights = (Y == 0).astype(np.float32)
    net = fitted(net_of(1), weights=weights, epochs=12, batch_size=5)
    logits = fitting.predict(net, X, label="", narrator=SILENT).logits
    assert (logits.argmax(axis=1) == 0).all()


def test_same_seed_same_weights():
    augment = Augment(mirror=True, crop_pixels=1)
    runs = [fitted(net_of(1), epochs=3, batch_size=5, augment=augment, seed=seed) for seed in (5, 5, 6)]
    first, again, other = (run.get_weights() for run in runs)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_it_learns_and_tells_each_batch():
    """Classes that differ in brightness; 12 examples in batches of 5 are 3 steps an epoch."""
    x = np.clip(X // 4 + 80 * Y[:, None, None, None], 0, 255).astype(np.uint8)
    listener = Listener()
    net = fitted(net_of(1), x=x, epochs=20, batch_size=5, narrator=listener)
    outputs = fitting.predict(net, x, label="look", narrator=listener)
    assert (outputs.logits.argmax(axis=1) == Y).all()
    assert listener.tracked == [("a net", 3 * 20, 3 * 20), ("look", 12, 12)]


def test_predict_is_the_net_batch_by_batch(monkeypatch):
    net = net_of(2)
    logits, features = (np.asarray(output) for output in net(normalise(X)))
    monkeypatch.setattr(fitting, "PREDICT_BATCH", 5)
    got = fitting.predict(net, X, label="", narrator=SILENT)
    np.testing.assert_allclose(got.logits, logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.features, features, rtol=1e-5, atol=1e-6)


# Interrupted


def training(net, **more):
    """Four epochs of three steps, all of whose randomness is at work."""
    augment = Augment(mirror=True, crop_pixels=1, mixup=0.2)
    return fitted(net, epochs=4, batch_size=5, augment=augment, **more)


def test_an_interrupted_training_goes_on_and_ends_like_one_that_never_stopped(tmp_path):
    kept, heard = Checkpoint(path=tmp_path / "begun" / "net.npz"), Listener()
    with pytest.raises(KeyboardInterrupt):
        training(net_of(1), checkpoint=kept, narrator=Stop(after=7))  # in the third epoch
    with pytest.raises(KeyboardInterrupt):
        training(net_of(2), checkpoint=kept, narrator=Stop(after=6 + 4))  # in the fourth, six of whose steps were done
    net = training(net_of(3), checkpoint=kept, narrator=heard)
    assert heard.tracked == [("a net", 12, 12)]
    whole = training(net_of(1))
    for ours, theirs in zip(net.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_finished_training_is_not_done_again(tmp_path):
    kept = Checkpoint(path=tmp_path / "net.npz")
    weights = training(net_of(1), checkpoint=kept).get_weights()
    again = training(net_of(2), checkpoint=kept, narrator=Stop(after=12)).get_weights()
    for ours, theirs in zip(again, weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("damage", ["cut short", "of another net", "of no training"])
def test_what_is_kept_and_cannot_be_used_is_passed_over(tmp_path, damage):
    kept, net = Checkpoint(path=tmp_path / "net.npz"), net_of(1)
    kept.save(3, [*net.weights[1:], net.weights[0]] if damage == "of another net" else net.weights)
    if damage == "cut short":
        kept.path.write_bytes(kept.path.read_bytes()[:-40])
    elif damage == "of no training":
        np.savez(kept.path, other=X)
    before = net.get_weights()
    assert kept.restore(net.weights) == 0
    for ours, theirs in zip(net.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_whatever_happened_to_a_file_of_arrays_it_is_called_damaged(tmp_path):
    path, rng = tmp_path / "arrays.npz", np.random.default_rng(0)
    write_arrays(path, {"a": np.arange(6.0), "b": np.ones((2, 3), np.float32)})
    whole, met = path.read_bytes(), set()
    for _ in range(2000):
        places = rng.integers(len(whole), size=3)
        harmed = bytearray(whole)
        for place in places:
            harmed[place] = rng.integers(256)
        try:
            with np.load(io.BytesIO(bytes(harmed))) as stored:
                for name in stored.files:
                    assert stored[name] is not None
        except DAMAGE as exc:
            met.add(type(exc).__name__)
    assert {"BadZipFile", "NotImplementedError", "ValueError"} <= met
