"""A second look: which nets it takes, how their logits are mixed, and what they cost the board."""

from dataclasses import replace

import numpy as np
import pytest
from learner_helpers import EDGE, head, spec

from hybrid import cost, profiles
from hybrid.errors import BudgetError, SpecError
from hybrid.latency import edge_latency_ms
from hybrid.look import (
    ROUTER_FLASH_BYTES,
    build_stages,
    cut,
    exit_after,
    mean_latency_ms,
    mix_weights,
    reads,
    stage_archs,
    staged,
)
from hybrid.nets import build_net, normalise
from hybrid.progress import SILENT
from hybrid.specs import ArchSpec, BlockSpec, LookSpec
from hybrid.train import Trainer

DEEP = replace(
    EDGE, blocks=(*EDGE.blocks, BlockSpec(kind="ib", width=16, expansion=2), BlockSpec(kind="res", width=12))
)
X = normalise(np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), dtype=np.uint8))
EXIT, NET = LookSpec(kind="exit"), LookSpec(kind="net")


def randomised(net):
    """`net` with random weights; all positive where they have one axis, as variances are."""
    rng = np.random.default_rng(1)
    net.set_weights([
        rng.uniform(0.5, 1.5, w.shape) if w.ndim == 1 else rng.normal(0, 0.5, w.shape) for w in net.get_weights()
    ])  # fmt: skip
    return net


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_the_two_halves_together_are_the_whole_net(after):
    """Exactly: the same operations on the same weights. 0 stands for all blocks but the last."""
    whole = randomised(build_net(DEEP))
    near, far = cut(whole, DEEP, replace(EXIT, exit_after=after))
    trunk = near(X)[2]
    for ours, theirs in zip(far(trunk), whole(X), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    assert len(near.get_weights()) + len(far.get_weights()) == len(whole.get_weights()) + 2


def test_only_the_near_head_can_learn():
    near, _ = cut(randomised(build_net(DEEP)), DEEP, EXIT)
    assert [list(weight.shape) for weight in near.trainable_weights] == [[16, 10], [10]]


def test_training_the_near_head_leaves_the_answers_of_both_together(fashion, edge_net):
    asked = spec(look={"kind": "exit"}, train={"edge_epochs": 12})
    near, far = Trainer(data=fashion, spec=asked, narrator=SILENT).fit_looks(edge_net, EDGE, None)
    x = normalise(fashion.test.x)
    logits, _, trunk = near.predict(x, verbose=0)
    np.testing.assert_allclose(
        far.predict(trunk, verbose=0)[0], edge_net.predict(x, verbose=0)[0], rtol=1e-4, atol=1e-4
    )
    alone = (logits.argmax(axis=1) == fashion.test.y).mean()
    assert alone > 0.25  # the near part knows something by itself; a guess is right once in ten


def test_the_near_heads_first_weights_follow_from_the_seed(fashion, edge_net):
    import keras

    heads = []
    for state in (1, 2):
        keras.utils.set_random_seed(state)  # what ran before in the process changes nothing
        trainer = Trainer(data=fashion, spec=spec(look={"kind": "exit"}, train={"edge_epochs": 0}), narrator=SILENT)
        heads.append(trainer.fit_looks(edge_net, EDGE, None)[0].get_weights()[-2])
    np.testing.assert_array_equal(*heads)


def test_further_nets_begin_elsewhere_and_the_first_stays(fashion, edge_net):
    data = replace(fashion, train=head(fashion.train, 128))
    asked = spec(look={"kind": "net", "nets": 2}, train={"edge_epochs": 1})
    trainer = Trainer(data=data, spec=asked, narrator=SILENT)
    before = [weight.copy() for weight in edge_net.get_weights()]
    first, second, third = trainer.fit_looks(edge_net, EDGE, None)
    assert first is edge_net
    assert all(np.array_equal(a, b) for a, b in zip(first.get_weights(), before, strict=True))
    kernels = [net.get_weights()[0] for net in (first, second, third)]
    assert [kernel.shape[-1] for kernel in kernels] == [8, 10, 10]  # 1.2 times 8 is 9.6
    assert not np.allclose(kernels[1], kernels[2], atol=0.05)


def test_no_look_is_the_edge_alone(fashion, edge_net):
    assert Trainer(data=fashion, spec=spec(), narrator=SILENT).fit_looks(edge_net, EDGE, None) == (edge_net,)


@pytest.mark.parametrize(
    ("look", "outputs"),
    [(LookSpec(), [2]), (NET, [2, 2]), (replace(NET, nets=3), [2, 2, 2, 2]), (EXIT, [3, 2])],
)
def test_stages_by_kind(look, outputs):
    assert [len(net.outputs) for net in build_stages(DEEP, look)] == outputs


def test_mix_weights_by_hand():
    assert [mix_weights(NET, stage) for stage in range(3)] == [[1.0], [0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]]
    assert [mix_weights(EXIT, stage) for stage in range(2)] == [[1.0], [0.0, 1.0]]  # the far part answers alone
    assert mix_weights(LookSpec(), 0) == [1.0]


def test_only_an_exit_reads_the_trunk():
    assert [reads(EXIT, stage) for stage in (0, 1)] == ["image", "trunk"]
    assert [reads(NET, stage) for stage in (0, 1, 2)] == ["image"] * 3


def test_an_exit_needs_a_block_on_either_side():
    assert exit_after(DEEP, EXIT) == 3
    assert exit_after(DEEP, replace(EXIT, exit_after=1)) == 1
    with pytest.raises(SpecError, match=r"look\.exit_after: got 4, the edge edge has 4 blocks; allowed 1 to 3"):
        exit_after(DEEP, replace(EXIT, exit_after=4))
    lone = ArchSpec(name="lone", input_shape=(8, 8, 1), num_classes=2, blocks=(BlockSpec(kind="conv", width=4),))
    with pytest.raises(SpecError, match=r"look\.kind: exit needs two blocks, lone has one"):
        exit_after(lone, EXIT)


def test_each_further_net_takes_the_flash_again():
    one = cost.estimate(DEEP)
    three = staged(DEEP, replace(NET, nets=2, width=1.0))
    assert three.flash_bytes == 3 * (one.flash_bytes + ROUTER_FLASH_BYTES)
    assert three.stage_work == 3 * (one.work,)
    assert replace(three, flash_bytes=one.flash_bytes, arena=one.arena, stage_work=one.stage_work) == one
    assert (three.arena.head_bytes, three.arena.tail_bytes) == (one.arena.head_bytes, 3 * one.arena.tail_bytes)
    assert three.peak_sram_bytes == one.arena.head_bytes + 3 * one.arena.tail_bytes  # each stays, one at a time runs
    assert staged(DEEP, LookSpec()).flash_bytes == one.flash_bytes + ROUTER_FLASH_BYTES
    parts = cost.estimate_exit(DEEP, 3)
    assert staged(DEEP, EXIT).flash_bytes == sum(part.flash_bytes + ROUTER_FLASH_BYTES for part in parts)
    head = 16 * 10 + 28 * 10  # weights, and what each class takes beside them
    assert parts[0].flash_bytes + parts[1].flash_bytes > one.flash_bytes + head


def test_a_further_net_is_wider():
    edge, second = stage_archs(DEEP, replace(NET, width=1.5))
    assert edge == DEEP
    assert [block.width for block in second.blocks] == [round(1.5 * block.width) for block in DEEP.blocks]
    both = staged(DEEP, replace(NET, width=1.5))
    assert both.flash_bytes == sum(cost.estimate(one).flash_bytes + ROUTER_FLASH_BYTES for one in (edge, second))
    tails = [cost.estimate(one).arena.tail_bytes for one in (edge, second)]
    assert both.peak_sram_bytes == sum(tails) + cost.estimate(second).arena.head_bytes  # the larger one's activations


def test_a_net_that_fits_once_may_not_fit_twice():
    device = profiles.device("stm32f746")
    room = device.reserved_flash_bytes + int(1.5 * staged(DEEP, LookSpec()).flash_bytes)
    small = replace(device, flash_bytes=room)
    cost.check_fits(staged(DEEP, LookSpec()), small, arena_margin=0.1)
    with pytest.raises(BudgetError, match="flash_bytes"):
        cost.check_fits(staged(DEEP, NET), small, arena_margin=0.1)


def test_each_further_look_takes_time_for_its_share_of_the_one_before():
    device = profiles.device("stm32f746")
    one, wide = (edge_latency_ms(cost.estimate(arch).work, device) for arch in stage_archs(DEEP, NET))
    found = [mean_latency_ms(staged(DEEP, replace(NET, nets=nets)), device, share=0.5) for nets in (1, 2)]
    assert found == pytest.approx([one + wide / 2, one + wide / 2 + wide / 4])
    assert mean_latency_ms(staged(DEEP, LookSpec()), device, share=0.5) == one


def test_an_exit_saves_the_time_of_its_far_part():
    device = profiles.device("stm32f746")
    near, far = (edge_latency_ms(part.work, device) for part in cost.estimate_exit(DEEP, 3))
    costs = staged(DEEP, EXIT)
    assert mean_latency_ms(costs, device, share=0.25) == pytest.approx(near + far / 4)
    assert near < edge_latency_ms(costs.work, device) < near + far
    assert costs.macs == cost.estimate(DEEP).macs
