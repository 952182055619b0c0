"""The supernet: a candidate's outputs are those of its own Keras net, and sharing learns."""

from dataclasses import replace

import numpy as np
import pytest
from learner_helpers import Stop
from supernet_helpers import inherited_net

from datasets.dataset import Split
from hybrid.checkpoint import Checkpoint
from hybrid.configure import run_spec
from hybrid.errors import SpecError
from hybrid.nets import build_net, normalise
from nas.shared import weight_shapes
from nas.space import KINDS, Choices, Space, largest_of_kinds, sample, smallest, smallest_of_kinds
from nas.supernet import Sandwiches, Supernet

SPACE = Space(
    input_shape=(12, 12, 3),
    num_classes=3,
    stem=Choices(width=(4, 8), stride=(1, 2), kernel=(3, 5)),
    stages=tuple(
        Choices(kind=KINDS, width=(4, 8), stride=(1, 2), kernel=(3, 5), depth=(1, 2), expansion=(1, 2))
        for _ in range(2)
    ),
    num_stages=(1, 2),
    input_pool=(1, 2),
    grey=(False, True),
    min_pixels=3,
)
WINDOWS = replace(SPACE, input_shape=(24, 1, 2), grey=(False,))


def rows(space, count=64, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, space.num_classes, count).astype(np.int32)
    x = rng.integers(0, 120, (count, *space.input_shape))
    for row, label in enumerate(labels):
        x[row, 3 * label : 3 * label + 3] += 120
    return Split(x=x.astype(np.uint8), y=labels)


def accuracies_of(supernet, archs, held_out):
    said = (supernet.outputs(arch, held_out.x).logits.argmax(axis=1) for arch in archs)
    return [float((labels == held_out.y).mean()) for labels in said]


@pytest.fixture(scope="module")
def train():
    return run_spec(assignments=["train.batch_size=32"]).train


def test_shapes_by_hand():
    space = replace(
        SPACE, stages=(Choices(kind=("ib",), width=(4, 8), kernel=(3, 5), expansion=(1, 2)),), num_stages=(1,)
    )
    assert weight_shapes(space) == {
        "0/conv/0/conv0": (5, 5, 3, 8),
        "0/conv/0/conv0/gamma": (8,),
        "0/conv/0/conv0/beta": (8,),
        "1/ib/0/conv0": (1, 1, 8, 16),  # twice the 8 channels of the stem
        "1/ib/0/conv0/gamma": (16,),
        "1/ib/0/conv0/beta": (16,),
        "1/ib/0/depthwise0": (5, 5, 16, 1),
        "1/ib/0/depthwise0/gamma": (16,),
        "1/ib/0/depthwise0/beta": (16,),
        "1/ib/0/conv1": (1, 1, 16, 8),
        "1/ib/0/conv1/gamma": (8,),
        "1/ib/0/conv1/beta": (8,),
        "1/head/0/kernel": (8, 3),
        "1/head/0/bias": (3,),
    }


@pytest.mark.parametrize("space", [SPACE, WINDOWS], ids=["images", "windows"])
def test_a_candidate_says_what_its_own_net_says(space):
    supernet, data = Supernet(space, seed=3), rows(space)
    supernet.see(data)
    rng = np.random.default_rng(1)
    archs = [smallest(space), largest_of_kinds(space, rng), *(sample(space, rng) for _ in range(4))]
    assert {block.kind for arch in archs for block in arch.blocks} == set(KINDS)
    assert {arch.grey for arch in archs} == set(space.grey)
    for arch in archs:
        net = inherited_net(supernet, arch)
        logits, features = (np.asarray(out) for out in net(normalise(data.x)))
        said = supernet.outputs(arch, data.x)
        np.testing.assert_allclose(said.logits, logits, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(said.features, features, rtol=1e-3, atol=1e-4)


def test_a_candidate_s_own_net_is_built_like_any_other():
    supernet, arch = Supernet(SPACE, seed=3), sample(SPACE, np.random.default_rng(2))
    supernet.see(rows(SPACE))
    assert [w.shape for w in inherited_net(supernet, arch).get_weights()] == [
        w.shape for w in build_net(arch).get_weights()
    ]


def test_statistics_are_the_candidates_own():
    # With statistics of the rows that it is asked about, the first layer's output has the mean beta and variance gamma.
    supernet, data = Supernet(SPACE, seed=0), rows(SPACE)
    supernet.see(data)
    narrow, wide = (
        supernet.outputs(arch, data.x).features for arch in (smallest(SPACE), sample(SPACE, np.random.default_rng(4)))
    )
    assert 0.01 < narrow.std() < 10
    assert 0.01 < wide.std() < 10


def test_training_teaches_every_net_and_the_same_again(train):
    # 6 epochs of 8 steps: pools of 48 / 8 = 6 nets, each of which is compiled.
    space = replace(SPACE, stages=(replace(SPACE.stages[0], kind=("conv", "ib"), depth=(1,)),), num_stages=(1,))
    data, unseen = rows(space, 256), rows(space, 96, seed=1)
    archs = [sample(space, np.random.default_rng(seed)) for seed in range(3)]

    def learned():
        supernet = Supernet(space, seed=0)
        supernet.fit(data, None, epochs=6, train=train)
        return accuracies_of(supernet, archs, unseen)

    accuracies = learned()
    assert min(accuracies) > 0.5  # a third by chance, with a standard error of 0.05
    assert learned() == accuracies


def test_nets_of_elastic_depth_without_shortcuts_learn_together(train):
    stage = Choices(kind=("ds",), width=(8,), depth=(1, 2, 3))
    space = replace(SPACE, stages=(stage,) * 3, num_stages=(3,), input_pool=(1,), grey=(False,))
    data, unseen = rows(space, 256), rows(space, 192, seed=1)
    supernet = Supernet(space, seed=0)
    supernet.fit(data, None, epochs=6, train=train)
    archs = [sample(space, np.random.default_rng(seed)) for seed in range(6)]
    accuracies = accuracies_of(supernet, archs, unseen)
    assert np.mean(accuracies) > 0.6  # 0.71 to 0.80 in three seeds; 0.33 to 0.48 with first weights of He et al. alone


def test_an_interrupted_training_goes_on_and_ends_like_one_that_never_stopped(tmp_path, train):
    space = replace(SPACE, stages=(Choices(width=(4, 8)),), num_stages=(1,), input_pool=(1,), grey=(False,))
    data, kept = rows(space, 80), Checkpoint(path=tmp_path / "supernet.npz")

    def learned(**more):
        supernet = Supernet(space, seed=0)
        supernet.fit(data, None, epochs=3, train=train, **more)
        return supernet.weights

    whole = learned()
    with pytest.raises(KeyboardInterrupt):
        learned(checkpoint=kept, narrator=Stop(after=7))  # in the third epoch of three steps
    gone_on = learned(checkpoint=kept)
    for name, weight in whole.items():
        np.testing.assert_array_equal(gone_on[name], weight, err_msg=name)


@pytest.mark.parametrize("taught", [False, True])
def test_what_is_not_allowed_is_not_trained(taught):
    rng = np.random.default_rng(0)

    def allowed(arch):
        return sum(block.width for block in arch.blocks) <= 16

    sandwiches = Sandwiches(SPACE, rng, allowed, steps=200, taught=taught)
    drawn = [arch for _ in range(20) for arch in sandwiches.draw()]
    assert all(allowed(arch) for arch in drawn)
    assert len(set(drawn)) > 8


def test_kept_and_read_again(tmp_path, train):
    data = rows(SPACE)
    supernet, again = Supernet(SPACE, seed=0), Supernet(SPACE, seed=1)
    supernet.see(data)
    supernet.write(tmp_path / "supernet.npz")
    again.read(tmp_path / "supernet.npz")
    arch = smallest_of_kinds(SPACE, np.random.default_rng(0))
    np.testing.assert_array_equal(supernet.outputs(arch, data.x).logits, again.outputs(arch, data.x).logits)
    with pytest.raises(SpecError, match="another space"):
        Supernet(WINDOWS, seed=0).read(tmp_path / "supernet.npz")
    (tmp_path / "supernet.npz").write_bytes(b"PK torn")
    with pytest.raises(SpecError, match="damaged"):
        again.read(tmp_path / "supernet.npz")
