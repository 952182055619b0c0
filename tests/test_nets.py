"""From ArchSpec to functional model: every kind of block, and the same net in tf_keras."""

from dataclasses import replace

import numpy as np
import pytest

from datasets.batches import batches
from hybrid.nets import build_exit, build_net, normalise
from hybrid.qat import twins
from hybrid.specs import ArchSpec, BlockSpec

X = np.random.default_rng(0).integers(0, 256, (4, 9, 7, 2), dtype=np.uint8)
BLOCKS = {
    "conv": BlockSpec(kind="conv", width=6, depth=2, stride=2, kernel=5),
    "ds": BlockSpec(kind="ds", width=6, depth=2, stride=2),
    "rds": BlockSpec(kind="rds", width=6, depth=2, stride=2),
    "ib": BlockSpec(kind="ib", width=6, depth=2, stride=2, expansion=3),
    "res": BlockSpec(kind="res", width=6, depth=2, stride=2),
}
ARCH = ArchSpec(
    name="an-edge", input_shape=(9, 7, 2), num_classes=3, blocks=(BlockSpec(kind="conv", width=4), BLOCKS["conv"])
)


def arch(kind, **changes):
    return replace(ARCH, blocks=(ARCH.blocks[0], replace(BLOCKS[kind], **changes)))


def randomised(net):
    """`net` with random weights, batch normalisation's statistics too; all positive there, as variances are."""
    rng = np.random.default_rng(1)
    net.set_weights([
        rng.uniform(0.5, 1.5, w.shape) if w.ndim == 1 else rng.normal(0, 0.5, w.shape) for w in net.get_weights()
    ])  # fmt: skip
    return net


def layer_kinds(net):
    return [type(layer).__name__ for layer in net.layers]


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_kind_of_block(kind):
    net = randomised(build_net(arch(kind)))
    logits, features = (np.asarray(output) for output in net(normalise(X)))
    assert net.input_shape == (None, 9, 7, 2)
    assert (logits.shape, features.shape) == ((4, 3), (4, 6))
    assert net.get_layer("features").input.shape == (None, 5, 4, 6)  # 9 x 7 at stride 2, padding "same": 5 x 4
    assert (features >= 0).all() == (kind != "ib")  # all but the inverted bottleneck end in ReLU
    assert np.ptp(logits, axis=0).min() > 0  # the logits depend on the example


@pytest.mark.parametrize("kind", BLOCKS)
def test_features_are_the_pooled_last_block_and_logits_follow_from_them(kind):
    import keras

    net = randomised(build_net(arch(kind)))
    maps = keras.Model(net.input, net.get_layer("features").input)(normalise(X))
    logits, features = (np.asarray(output) for output in net(normalise(X)))
    np.testing.assert_allclose(features, np.asarray(maps).mean(axis=(1, 2)), rtol=1e-5, atol=1e-5)
    weights, bias = net.get_layer("logits").get_weights()
    np.testing.assert_allclose(logits, features @ weights + bias, rtol=1e-5, atol=1e-5)
    assert arch(kind).feature_width == features.shape[1]


@pytest.mark.parametrize(
    ("kind", "stride", "depth", "adds"),
    [
        ("ib", 2, 1, 0),  # another resolution: no shortcut
        ("ib", 1, 1, 0),  # 4 to 6 channels: no shortcut
        ("ib", 2, 3, 2),  # the two that follow have one
        ("res", 2, 1, 1),
        ("res", 1, 3, 3),
        ("conv", 1, 3, 0),
        ("ds", 1, 3, 0),
        ("rds", 2, 1, 0),
        ("rds", 1, 1, 0),
        ("rds", 1, 3, 2),
    ],
)
def test_shortcuts(kind, stride, depth, adds):
    assert layer_kinds(build_net(arch(kind, stride=stride, depth=depth))).count("Add") == adds


def test_convolutions_of_a_residual_block():
    # three for the block that changes shape (its shortcut is a 1 x 1 convolution), two for the next, one before both
    assert layer_kinds(build_net(arch("res"))).count("Conv2D") == 1 + 3 + 2


def test_parameters_by_pencil():
    net = build_net(arch("ds", depth=1))
    conv = 3 * 3 * 2 * 4 + 4 * 4  # kernel, and four vectors of batch normalisation
    separable = 3 * 3 * 4 + 4 * 4 + 1 * 1 * 4 * 6 + 4 * 6
    assert net.count_params() == conv + separable + 6 * 3 + 3


@pytest.mark.parametrize("kind", BLOCKS)
def test_the_tf_keras_twin_computes_the_same(kind):
    net = randomised(build_net(arch(kind)))
    (other,) = twins(lambda k: (build_net(arch(kind), k),), (net,))
    assert type(other).__module__.startswith("tf_keras")
    for ours, theirs in zip(net(normalise(X)), other(normalise(X)), strict=True):
        np.testing.assert_allclose(np.asarray(ours), theirs.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", BLOCKS)
def test_an_exit_cuts_after_a_block(kind):
    near, far = build_exit(arch(kind), 1)
    assert near.output_names == ["logits", "features", "trunk"]
    assert far.output_names == ["logits", "features"]
    assert [output.shape for output in near.outputs] == [(None, 3), (None, 4), (None, 9, 7, 4)]
    assert far.input_shape == (None, 9, 7, 4)  # what the near net leaves off
    assert [output.shape for output in far.outputs] == [(None, 3), (None, 6)]
    near = randomised(near)
    logits, features, trunk = (np.asarray(output) for output in near(normalise(X)))
    np.testing.assert_allclose(features, trunk.mean(axis=(1, 2)), rtol=1e-5)
    weights, bias = near.get_layer("logits").get_weights()
    np.testing.assert_allclose(logits, features @ weights + bias, rtol=1e-5, atol=1e-5)


def test_an_exit_costs_one_more_dense_layer():
    """Weights of the whole net, and 4 features to 3 classes with their biases: 15 more."""
    near, far = build_exit(ARCH, 1)
    assert near.count_params() + far.count_params() == build_net(ARCH).count_params() + 4 * 3 + 3


@pytest.mark.parametrize("kind", BLOCKS)
def test_the_twins_of_an_exit_compute_the_same(kind):
    pair = [randomised(net) for net in build_exit(arch(kind), 1)]
    near, far = twins(lambda k: build_exit(arch(kind), 1, k), pair)
    x = normalise(X)
    for net, other in zip(pair, (near, far), strict=True):
        assert type(other).__module__.startswith("tf_keras")
        for ours, theirs in zip(net(x), other(x), strict=True):
            np.testing.assert_allclose(np.asarray(ours), theirs.numpy(), rtol=1e-5, atol=1e-5)
        x = np.asarray(net(x)[-1])


@pytest.mark.parametrize("kind", BLOCKS)
def test_the_twin_has_its_weights_in_the_same_order(kind):
    import tf_keras

    def names(net):
        return [
            (weight.path if hasattr(weight, "path") else weight.name).split("/")[-1].split(":")[0]
            for weight in net.weights
        ]

    net, other = build_net(arch(kind)), build_net(arch(kind), tf_keras)
    assert [kind.removeprefix("Fused") for kind in layer_kinds(net)] == layer_kinds(other)
    assert [w.shape for w in net.get_weights()] == [w.shape for w in other.get_weights()]
    renamed = {"depthwise_kernel": "kernel"}
    assert [renamed.get(n, n) for n in names(net)] == [renamed.get(n, n) for n in names(other)]


SEEN = replace(ARCH, input_pool=2, grey=True)


def test_the_stem_sees_the_mean_over_squares_and_channels():
    """9 x 7 in squares of 2 is 5 x 4; the last row and column are means over what is there."""
    import keras

    net, x = build_net(SEEN), normalise(X)
    seen = np.asarray(keras.Model(net.input, net.get_layer("grey").output)(x))
    assert seen.shape == (4, 5, 4, 1)
    np.testing.assert_allclose(seen[:, 0, 0, 0], x[:, :2, :2].mean(axis=(1, 2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen[:, 4, 3, 0], x[:, 8, 6].mean(axis=1), rtol=1e-5, atol=1e-6)
    assert net.get_layer("grey").trainable


def test_one_channel_is_grey_already():
    assert "grey" not in [layer.name for layer in build_net(replace(SEEN, input_shape=(9, 7, 1))).layers]


@pytest.mark.parametrize("kind", BLOCKS)
def test_windows_over_time_are_seen_along_time_alone(kind):
    window = replace(arch(kind), input_shape=(16, 1, 3), input_pool=2)
    net = build_net(window)
    assert net.get_layer("features").input.shape == (None, 4, 1, 6)  # 16 pooled to 8, stride 2
    kernels = {layer.kernel_size for layer in net.layers if hasattr(layer, "kernel_size")}
    assert kernels <= {(5, 1), (3, 1), (1, 1)}
    assert (3, 1) in kernels
    (other,) = twins(lambda k: (build_net(window, k),), (randomised(net),))
    x = normalise(np.random.default_rng(0).integers(0, 256, (2, 16, 1, 3), dtype=np.uint8))
    for ours, theirs in zip(net(x), other(x), strict=True):
        np.testing.assert_allclose(np.asarray(ours), theirs.numpy(), rtol=1e-5, atol=1e-5)


def test_the_twin_of_a_net_with_pool_and_grey_computes_the_same():
    net = randomised(build_net(SEEN))
    (other,) = twins(lambda k: (build_net(SEEN, k),), (net,))
    for ours, theirs in zip(net(normalise(X)), other(normalise(X)), strict=True):
        np.testing.assert_allclose(np.asarray(ours), theirs.numpy(), rtol=1e-5, atol=1e-5)
    near, _ = build_exit(SEEN, 1)
    assert near.outputs[2].shape == (None, 5, 4, 4)


def test_normalise():
    assert normalise(np.array([0, 128, 255], np.uint8)).tolist() == [-1.0, 0.0, 127 / 128]
    assert normalise(X).dtype == np.float32


def test_normalise_is_what_the_reader_for_training_does():
    y = np.arange(4, dtype=np.int32)
    ((read, _),) = batches(X, y, batch_size=4, seed=0, shuffle=False)
    np.testing.assert_array_equal(read.numpy(), normalise(X))
