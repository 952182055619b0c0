"""The training around the router: whose labels are whose, what a round may do, and what it may not."""

from dataclasses import replace

import numpy as np
import pytest
from learner_helpers import EDGE, Listener, head, made_up, spec

from datasets import Split
from hybrid import fitting
from hybrid.clouds import CloudAnswers, net_answers
from hybrid.progress import SILENT
from hybrid.specs import ArchSpec, BlockSpec
from hybrid.supervision import softmax
from hybrid.train import HELD_OUT_SPLITS, Trainer

NOISE = ArchSpec(name="edge", input_shape=(4, 4, 1), num_classes=2, blocks=(BlockSpec(kind="conv", width=16),))


def trainer(data, narrator=SILENT, **sections):
    return Trainer(data=data, spec=spec(**sections), narrator=narrator)


@pytest.fixture(scope="module")
def small(fashion):
    """400 + 300 + 300 examples."""
    parts = {"train": 400, "calibration": 300, "validation": 300}
    return replace(fashion, **{name: head(fashion.splits[name], rows) for name, rows in parts.items()})


@pytest.fixture(scope="module")
def oracle(small):
    """A cloud that is always right."""
    return CloudAnswers(
        probabilities={name: np.eye(10, dtype=np.float32)[small.splits[name].y] for name in HELD_OUT_SPLITS},
    )


def copy_of(net):
    import keras

    copy = keras.models.clone_model(net)
    copy.set_weights(net.get_weights())
    return copy


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_first_weights_follow_from_the_seed(small):
    import keras

    nets = []
    for state in (1, 2):
        keras.utils.set_random_seed(state)  # what ran before in the process changes nothing
        nets.append((trainer(small).new_edge(EDGE).get_weights(), trainer(small).new_cloud().get_weights()))
    assert same(nets[0][0], nets[1][0])
    assert same(nets[0][1], nets[1][1])
    other = Trainer(data=small, spec=replace(spec(), seed=4), narrator=SILENT).new_edge(EDGE).get_weights()
    assert not same(nets[0][0], other)


def test_a_black_box_has_no_net(small):
    assert trainer(small, cloud={"kind": "table"}).new_cloud() is None


def test_the_router_learns_from_validation_and_never_from_calibration():
    x = np.arange(16, dtype=np.uint8).reshape(4, 2, 2, 1)
    data = made_up(x, np.array([0, 1, 1, 0]), num_classes=2)
    data = replace(data, validation=Split(x=x[:3], y=data.train.y[:3]))
    cloud = np.array([[0.2, 0.8], [0.1, 0.9], [0.6, 0.4]], np.float32)
    rows = trainer(data).held_out_rows(CloudAnswers(probabilities={"validation": cloud}))
    assert rows.split is data.validation
    assert rows.cloud is cloud


def test_as_many_seen_rows_as_the_spec_allows():
    """Each with its own answer of the cloud; 0 takes all."""
    data = made_up(np.arange(10, dtype=np.uint8)[:, None, None, None], np.arange(10) % 2, num_classes=2)
    cloud = np.stack([np.arange(10), -np.arange(10)], axis=1).astype(np.float32)
    few = trainer(data, router={"rows": 4}).seen_rows(cloud)
    assert few.split.x.shape == (4, 1, 1, 1)
    assert len(set(few.split.x.ravel())) == 4
    assert few.split.x.ravel().tolist() == few.cloud[:, 0].tolist()
    assert few.split.y.tolist() == (few.split.x.ravel() % 2).tolist()
    for limit in (0, 10, 99):
        every = trainer(data, router={"rows": limit}).seen_rows(cloud)
        assert every.split is data.train
        assert every.cloud is cloud


@pytest.fixture(scope="module")
def by_heart():
    """Noise with random labels, which a net can learn only by heart, and how it is trained to do so."""
    rng = np.random.default_rng(0)
    data = made_up(rng.integers(0, 256, (96, 4, 4, 1), dtype=np.uint8), rng.integers(0, 2, 96), num_classes=2)
    train = {"batch_size": 24, "edge_epochs": 1, "label_smoothing": 0.0, "rounds": 0}
    return trainer(data, cloud={"width": 8, "epochs": 14}, train=train)


def right(scores, labels):
    return float((scores.argmax(axis=1) == labels).mean())


def test_fold_labels_never_come_from_nets_that_saw_the_row(by_heart):
    """A cloud is right about nearly all it saw; were one row labelled by a net that saw it, it would show here."""
    rows = by_heart.data.train
    cloud = by_heart.new_cloud()
    by_heart.fit_cloud(cloud, rows)
    seen = fitting.predict(cloud, rows.x, label="", narrator=SILENT).logits
    assert right(seen, rows.y) > 0.9
    folded = by_heart.cross_fitted()
    assert right(folded, rows.y) < 0.68  # a coin: 0.5, standard deviation 0.05
    assert folded.shape == (96, 2)
    np.testing.assert_allclose(folded.sum(axis=1), 1.0, rtol=1e-5)


def test_each_fold_is_fitted_on_the_others_and_answers_for_itself(by_heart, monkeypatch):
    """Three folds, and every row by its number in the first pixel: fitted nowhere and asked once per net."""
    x = np.zeros((30, 4, 4, 1), np.uint8)
    x[:, 0, 0, 0] = np.arange(30)
    data = made_up(x, np.arange(30) % 2, num_classes=2)
    fitted, asked = {}, {}
    predict = fitting.predict

    def noted_fit(net, rows, *args, **kwargs):
        fitted[kwargs["label"]] = set(rows[:, 0, 0, 0])

    def noted_predict(net, rows, *, label, narrator):
        asked.setdefault(label, []).append(set(rows[:, 0, 0, 0]))
        return predict(net, rows, label=label, narrator=narrator)

    monkeypatch.setattr(fitting, "fit", noted_fit)
    monkeypatch.setattr(fitting, "predict", noted_predict)
    trainer(data, cloud={"width": 4}, router={"folds": 3}).cross_fitted()
    held = [asked[f"cloud, fold {index} of 3"] for index in (1, 2, 3)]
    assert [[len(part) for part in parts] for parts in held] == [[10], [10], [10]]
    assert set.union(*(part for (part,) in held)) == set(range(30))
    for index, (part,) in enumerate(held, 1):
        assert fitted[f"cloud, fold {index} of 3"] == set(range(30)) - part


def test_alternate_undoes_a_harmful_round(small, oracle, edge_net):
    """Far too high a learning rate wrecks the edge; the second round is not tried."""
    edge = copy_of(edge_net)
    wild = trainer(small, train={"edge_learning_rate": 100.0, "rounds": 2}, router={"epochs": 3})
    answers, rounds = wild.alternate(edge, None, oracle)
    assert len(rounds) == 1
    assert not rounds[0].kept
    assert rounds[0].area_after < rounds[0].area_before
    assert same(edge.get_weights(), edge_net.get_weights())
    assert answers is oracle


@pytest.fixture(scope="module")
def bright():
    """Two classes that differ in brightness, and an edge that learned little of them."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 120)
    x = (rng.integers(0, 128, (120, 4, 4, 1)) + 60 * y[:, None, None, None]).astype(np.uint8)
    return made_up(x, y, num_classes=2)


SMALL_CLOUD = {"cloud": {"width": 4, "epochs": 3}, "router": {"epochs": 2}}


def test_alternate_undoes_both_nets(bright):
    """A round that wrecks the cloud alone is undone in the edge too."""
    wild = trainer(bright, train={"edge_learning_rate": 1e-3, "cloud_learning_rate": 1e4}, **SMALL_CLOUD)
    edge, cloud = wild.new_edge(NOISE), wild.new_cloud()
    trainer(bright, train={"batch_size": 20}, **SMALL_CLOUD).fit_cloud(cloud, bright.train)
    before = [[weight.copy() for weight in net.get_weights()] for net in (edge, cloud)]
    answers = net_answers(cloud, bright, splits=("train", *HELD_OUT_SPLITS))
    assert right(answers.probabilities["validation"], bright.validation.y) > 0.7
    after, (only,) = wild.alternate(edge, cloud, answers)
    assert not only.kept
    assert after is answers
    assert same(edge.get_weights(), before[0])
    assert same(cloud.get_weights(), before[1])


def test_a_kept_round_answers_with_the_new_cloud(bright):
    """What `alternate` returns are the answers of the cloud as it left it; those on train stay the teacher's."""
    train = {"edge_learning_rate": 1e-3, "cloud_learning_rate": 1.0, "round_epochs": 5, "batch_size": 20}
    asked = trainer(bright, train=train, **SMALL_CLOUD)
    edge, cloud = asked.new_edge(NOISE), asked.new_cloud()  # an untrained cloud can only win
    old = net_answers(cloud, bright, splits=("train", *HELD_OUT_SPLITS))
    new, (only,) = asked.alternate(edge, cloud, old)
    assert only.kept
    expected = net_answers(cloud, bright, splits=HELD_OUT_SPLITS)
    for name in HELD_OUT_SPLITS:
        np.testing.assert_array_equal(new.probabilities[name], expected.probabilities[name])
        assert not np.array_equal(new.probabilities[name], old.probabilities[name])
    assert new.probabilities["train"] is old.probabilities["train"]


def test_alternate_keeps_a_round_that_helps(small, oracle):
    """An edge that knows nothing yet learns in a round; the cloud, a black box, answers as before."""
    listener = Listener()
    asked = trainer(
        small, listener, train={"edge_learning_rate": 5.0, "rounds": 1, "round_epochs": 4}, router={"epochs": 3}
    )
    edge = asked.new_edge(EDGE)
    before = [weight.copy() for weight in edge.get_weights()]
    answers, (only,) = asked.alternate(edge, None, oracle)
    assert only.kept
    assert only.area_after > only.area_before
    assert not same(edge.get_weights(), before)
    assert answers is oracle  # a black box stays untouched
    assert not any("cloud" in label for label, *_ in listener.tracked)
    assert all(total == done for label, total, done in listener.tracked if label != "router")  # which may stop early


def test_no_rounds_change_nothing(small, oracle, edge_net):
    edge = copy_of(edge_net)
    assert trainer(small, train={"rounds": 0}, router={"epochs": 1}).alternate(edge, None, oracle) == (oracle, ())
    assert same(edge.get_weights(), edge_net.get_weights())


def test_the_rounds_go_on_where_the_first_training_ends():
    data = made_up(np.zeros((4, 4, 4, 1), np.uint8), np.zeros(4), num_classes=2)
    three = trainer(data, train={"rounds": 3})
    first, rounds = three._first_rate(0.3), [three._round_rate(0.3, index) for index in range(3)]
    assert first.end == pytest.approx(0.03)
    assert [rate.start for rate in rounds] == pytest.approx([0.03, 0.02, 0.01])
    assert [rate.end for rate in rounds] == pytest.approx([0.02, 0.01, 0.0])
    assert trainer(data, train={"rounds": 0})._first_rate(0.3).end == 0.0


def test_the_edge_learns_from_its_teacher(small):
    """All distillation and a teacher who calls everything class 7: so does the edge. The data stays as it was."""
    x, y = small.train.x.copy(), small.train.y.copy()
    asked = trainer(small, train={"distillation": 1.0, "edge_epochs": 4, "batch_size": 50})
    edge = asked.new_edge(EDGE)
    teacher = softmax(np.tile(8.0 * np.eye(10, dtype=np.float32)[7], (len(small.train), 1)))
    asked.fit_edge(edge, small.train, teacher)
    said = fitting.predict(edge, small.validation.x, label="", narrator=SILENT).logits.argmax(axis=1)
    assert (said == 7).mean() > 0.95
    np.testing.assert_array_equal(small.train.x, x)
    np.testing.assert_array_equal(small.train.y, y)


@pytest.mark.parametrize(
    ("flip", "mirror", "expected"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_mirrored_only_where_spec_and_data_agree(flip, mirror, expected):
    data = made_up(np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2), num_classes=2, mirror=mirror)
    assert trainer(data, train={"flip": flip}).augment.mirror is (flip and mirror)
