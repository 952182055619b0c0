"""The cloud, whoever it is: our own net, an application net, a table, a server."""

import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cloud_helpers import DIGEST
from learner_helpers import made_up

from datasets import Split
from firmware_export.cloud import CloudInputs, cloud_files
from hybrid.clouds import (
    HELD_OUT,
    CloudAnswers,
    answering_net,
    application_net,
    black_box_answers,
    build_cloud,
    cloud_arch,
    net_answers,
    write_saved_model,
)
from hybrid.errors import CloudError, SpecError
from hybrid.nets import normalise
from hybrid.specs import BlockSpec, CloudSpec
from hybrid.supervision import softmax

ROOT = Path(__file__).parents[1]
OWN = CloudSpec(width=4)
APPLICATION = CloudSpec(kind="application", application="MobileNetV2", application_pixels=32)


def data_of(shape, *, rows=6, mirror=False):
    x = np.random.default_rng(0).integers(0, 256, (rows, *shape), dtype=np.uint8)
    return made_up(x, np.arange(rows) % 3, num_classes=3, mirror=mirror)


@pytest.fixture(scope="module")
def data():
    """Four different splits of 4, 5, 6 and 7 examples that may be mirrored."""
    whole = data_of((8, 8, 1), rows=22, mirror=True)
    x, y = whole.train.x, whole.train.y
    cut = {name: Split(x=x[a:b], y=y[a:b]) for name, a, b in (("train", 0, 4), ("calibration", 4, 9))}
    return replace(whole, **cut, validation=Split(x=x[9:15], y=y[9:15]), test=Split(x=x[15:], y=y[15:]))


@pytest.fixture(scope="module")
def net(data):
    import keras

    keras.utils.set_random_seed(0)
    return build_cloud(data, OWN)


@pytest.fixture(scope="module")
def answers(net, data):
    return net_answers(net, data, splits=("train", *HELD_OUT))


@pytest.fixture(scope="module")
def saved_model(net, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved_model") / "model.savedmodel"
    write_saved_model(net, data, folder)
    return folder


def widths(arch):
    return [(block.width, block.stride) for block in arch.blocks]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((28, 28, 1), [(16, 1), (8, 2), (8, 1), (16, 2), (32, 2)]),  # 28, 14, 14, 7, 4 pixels
        ((32, 32, 3), [(16, 1), (8, 2), (8, 1), (16, 2), (32, 2)]),  # 32, 16, 16, 8, 4
        ((96, 64, 3), [(16, 2), (8, 2), (8, 1), (16, 2), (32, 2), (64, 2)]),  # 48, 24, 24, 12, 6, 3
        ((256, 256, 3), [(16, 2), (8, 2), (8, 1), (16, 2), (32, 2), (64, 2)]),  # no wider than eight times
        ((8, 8, 1), [(16, 1), (8, 2), (8, 1)]),  # 8, 4, 4
    ],
)
def test_stages_halve_and_double_down_to_four_pixels(shape, expected):
    arch = cloud_arch(data_of(shape), CloudSpec(width=8, depth=2))
    assert widths(arch) == expected
    assert (arch.input_shape, arch.num_classes) == (shape, 3)
    assert {block.depth for block in arch.blocks if block.kind == "res"} == {2}
    assert arch.blocks[0] == BlockSpec(kind="conv", width=16, kernel=5, stride=expected[0][1])


@pytest.mark.parametrize("kind", ["table", "url"])
def test_a_black_box_has_no_net(data, kind):
    assert build_cloud(data, CloudSpec(kind=kind)) is None


def flipped(x):
    return x[:, :, ::-1]


def test_the_serving_net_is_the_mean_of_an_example_and_its_mirror_image(net, data):
    x = data.test.x
    serving = answering_net(net, data)
    straight, mirrored = ([np.asarray(o) for o in net(normalise(images))] for images in (x, flipped(x)))
    for got, one, other in zip(serving(normalise(x)), straight, mirrored, strict=True):
        np.testing.assert_allclose(np.asarray(got), (one + other) / 2, rtol=1e-4, atol=1e-5)
    assert np.abs(straight[0] - mirrored[0]).max() > 1e-3  # the net itself is not symmetric


def test_what_may_not_be_mirrored_is_not(net, data):
    assert answering_net(net, replace(data, mirror=False)) is net


def test_held_out_splits_are_answered_as_the_server_does_and_train_as_the_teacher(net, data, answers):
    serving = answering_net(net, data)
    for name, asked in (("train", net), ("calibration", serving), ("validation", serving), ("test", serving)):
        expected = softmax(np.asarray(asked(normalise(data.splits[name].x))[0]))
        np.testing.assert_allclose(answers.probabilities[name], expected, rtol=1e-4, atol=1e-6)
    assert answers.measured_ms is None


def test_newer_answers_replace_those_of_the_same_split():
    one, two = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
    old = CloudAnswers(probabilities={"train": one, "test": one})
    new = old.updated(CloudAnswers(probabilities={"test": two}, measured_ms=2.0))
    assert new.probabilities["train"] is one
    assert new.probabilities["test"] is two
    assert new.measured_ms == 2.0


def test_the_saved_model_answers_pixels_as_net_answers_does(saved_model, data, answers):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(saved_model))
    serve = loaded.signatures["serving_default"]
    asked = serve.structured_input_signature[1]["input"]
    assert (asked.shape.as_list(), asked.dtype) == ([None, 8, 8, 1], tf.uint8)
    for name in HELD_OUT:
        scores = serve(input=data.splits[name].x)["scores"].numpy()
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, answers.probabilities[name], rtol=1e-4, atol=1e-6)


# A net of keras.applications


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A local weights file of the headless MobileNetV2, and its arrays."""
    import keras

    keras.utils.set_random_seed(7)
    base = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3))
    path = tmp_path_factory.mktemp("weights") / "mobilenet_v2.weights.h5"
    base.save_weights(path)
    return path, base.get_weights()


def test_an_application_net_starts_from_a_local_weights_file(weights):
    path, arrays = weights
    grey = data_of((28, 28, 1))
    made = build_cloud(grey, replace(APPLICATION, weights=str(path)))
    *base, kernel, bias = made.get_weights()
    assert len(base) == len(arrays)
    assert all(np.array_equal(a, b) for a, b in zip(base, arrays, strict=True))
    assert (kernel.shape, bias.shape) == ((1280, 3), (3,))
    logits, features = (np.asarray(output) for output in made(normalise(grey.test.x)))
    assert (logits.shape, features.shape) == ((6, 3), (6, 1280))
    np.testing.assert_allclose(logits, features @ kernel + bias, rtol=1e-3, atol=1e-4)


def test_an_application_net_is_given_what_it_was_made_for():
    """Whatever its size and channels, an example comes to MobileNetV2 as 32 x 32 RGB in [-1, 1]."""
    import keras

    made = application_net(data_of((28, 28, 1)), APPLICATION)
    place = next(index for index, step in enumerate(made.operations) if isinstance(step, keras.Model))
    pixels = np.stack([np.full((28, 28, 1), value, np.uint8) for value in (0, 255)])
    given = np.asarray(keras.Model(made.input, made.operations[place - 1].output)(normalise(pixels)))
    assert given.shape == (2, 32, 32, 3)
    np.testing.assert_allclose(given[0], -1.0, atol=1e-5)
    np.testing.assert_allclose(given[1], 1.0, atol=1e-5)


def test_an_unknown_application_is_told_its_neighbour():
    with pytest.raises(
        SpecError, match=r"cloud\.application: unknown 'MobilNetV2'; did you mean MobileNetV2\? Allowed: "
    ):
        application_net(data_of((8, 8, 1)), replace(APPLICATION, application="MobilNetV2"))


def refused_weights(path):
    with pytest.raises(SpecError, match=r"^cloud\.weights: ") as caught:
        application_net(data_of((8, 8, 1)), replace(APPLICATION, weights=str(path)))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_weights_that_are_missing_or_of_another_net(tmp_path, net):
    assert "no such file" in refused_weights(tmp_path / "none.weights.h5")
    assert "no such file" in refused_weights("imagenet")  # a name that Keras would download
    (tmp_path / "junk.weights.h5").write_bytes(b"junk")
    assert "does not fit MobileNetV2" in refused_weights(tmp_path / "junk.weights.h5")
    net.save_weights(tmp_path / "other.weights.h5")
    assert "does not fit MobileNetV2" in refused_weights(tmp_path / "other.weights.h5")


# Black boxes


def table(path, data, make) -> CloudSpec:
    np.savez(path, **{name: make(data.splits[name]) for name in HELD_OUT})
    return CloudSpec(kind="table", table=str(path))


def test_a_table_of_probabilities_is_taken_as_it_is(tmp_path, data, answers):
    spec = table(tmp_path / "t.npz", data, lambda split: 0.2 + 0.4 * np.eye(3)[split.y])  # 0.6, 0.2, 0.2
    got = black_box_answers(data, spec)
    for name in HELD_OUT:
        np.testing.assert_allclose(got.probabilities[name].max(axis=1), 0.6, rtol=1e-6)
        assert (got.probabilities[name].argmax(axis=1) == data.splits[name].y).all()
    assert got.measured_ms is None
    assert set(got.probabilities) == set(HELD_OUT)


def test_a_table_of_logits_becomes_probabilities(tmp_path, data):
    spec = table(tmp_path / "t.npz", data, lambda split: np.log([8.0, 1.0, 1.0]) + np.zeros((len(split), 1)))
    got = black_box_answers(data, spec)
    np.testing.assert_allclose(got.probabilities["test"], [[0.8, 0.1, 0.1]] * 7, rtol=1e-5)


def test_a_table_of_rounded_probabilities_is_not_taken_for_logits(tmp_path, data):
    """To two decimals two thirds and one third, cut off, sum to 0.99."""
    rows = {"calibration": [0.66, 0.33, 0.0], "validation": [0.67, 0.33, 0.0], "test": [0.2, 0.2, 0.6]}
    np.savez(tmp_path / "t.npz", **{name: np.array([row] * len(data.splits[name])) for name, row in rows.items()})
    got = black_box_answers(data, CloudSpec(kind="table", table=str(tmp_path / "t.npz"))).probabilities
    for name, row in rows.items():
        np.testing.assert_allclose(got[name][0], np.array(row) / sum(row), rtol=1e-6)


def test_logits_of_which_one_split_sums_to_one_are_logits_everywhere(tmp_path, data):
    rows = {"calibration": [2.0, 0.0, -1.0], "validation": [-2.0, 1.0, 3.0], "test": [1.0, 0.0, 0.0]}
    np.savez(tmp_path / "t.npz", **{name: np.array([row] * len(data.splits[name])) for name, row in rows.items()})
    got = black_box_answers(data, CloudSpec(kind="table", table=str(tmp_path / "t.npz"))).probabilities
    np.testing.assert_allclose(got["test"][0], np.exp([1, 0, 0]) / (np.e + 2), rtol=1e-6)


def test_a_table_of_labels_is_sure(tmp_path, data):
    got = black_box_answers(data, table(tmp_path / "t.npz", data, lambda split: split.y))
    assert got.probabilities["test"].tolist() == np.eye(3)[data.test.y].tolist()


def test_a_table_for_other_data_is_refused(tmp_path, data):
    spec = table(tmp_path / "t.npz", data, lambda split: split.y[:3])
    with pytest.raises(CloudError, match="calibration: got shape"):
        black_box_answers(data, spec)


@contextmanager
def serving(bundle):
    """`hybrid.serve` on a bundle in a process of its own; yields the model's URL."""
    code = (
        "import sys; from pathlib import Path; from hybrid.serve import serve; from hybrid.progress import Silent\n"
        "class Loud(Silent):\n    def say(self, text): print(text, flush=True)\n"
        "serve(Path(sys.argv[1]), port=0, narrator=Loud())\n"
    )
    command = [sys.executable, "-c", code, str(bundle)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def test_a_url_is_asked_over_http_and_answers_as_the_net(tmp_path, saved_model, data, answers):
    inputs = CloudInputs(
        saved_model={str(p.relative_to(saved_model)): p.read_bytes() for p in saved_model.rglob("*") if p.is_file()},
        input_shape=data.input_shape,
        class_names=data.class_names,
        url="http://127.0.0.1:8080/v2/models/cloud",
        deadline_ms=1500.0,
        value_range=data.value_range,
        edge_digest=DIGEST,
    )
    for path, content in cloud_files(inputs).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    with serving(tmp_path) as url:
        got = black_box_answers(data, CloudSpec(kind="url", url=url))
    assert set(got.probabilities) == set(HELD_OUT)
    for name in HELD_OUT:
        np.testing.assert_allclose(got.probabilities[name], answers.probabilities[name], rtol=1e-4, atol=1e-6)
    assert 0.0 < got.measured_ms < 10_000
