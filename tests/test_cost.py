import time
from dataclasses import replace

import numpy as np
import pytest
from learner_helpers import int8_net
from tiny_edge import cascade, program

from hybrid import cost, profiles, runtimes
from hybrid.arena import arena_needs, footprint
from hybrid.errors import BudgetError
from hybrid.flatbuffers import named_outputs
from hybrid.latency import edge_latency_ms
from hybrid.layers import Walk
from hybrid.specs import ArchSpec, BlockSpec
from hybrid.work import flatbuffer_work

BASE = ArchSpec(
    name="edge", input_shape=(28, 28, 1), num_classes=10, blocks=(BlockSpec(kind="conv", width=8, stride=2),)
)
MIXED = replace(
    BASE,
    name="mixed",
    blocks=(
        BlockSpec(kind="conv", width=8, stride=2),
        BlockSpec(kind="ds", width=8, stride=2),
        BlockSpec(kind="ib", width=8, expansion=3),
    ),
)
ODD = replace(
    BASE,
    name="zoo_with_an_unusually_long_name",
    input_shape=(49, 11, 3),
    num_classes=3,
    blocks=(BlockSpec(kind="res", width=10, stride=2, kernel=5),),
)


COLOUR = ArchSpec(
    name="colour",
    input_shape=(20, 20, 3),
    num_classes=4,
    blocks=(BlockSpec(kind="conv", width=8), BlockSpec(kind="ib", width=8, expansion=2)),
    input_pool=2,
    grey=True,
)
WINDOW = ArchSpec(
    name="window",
    input_shape=(64, 1, 6),
    num_classes=3,
    blocks=(BlockSpec(kind="conv", width=8, kernel=5, stride=2), BlockSpec(kind="ds", width=12, kernel=7)),
    input_pool=2,
)
WIDE = replace(
    BASE,
    name="wide",
    input_shape=(12, 12, 1),
    num_classes=17,
    blocks=(BlockSpec(kind="conv", width=24, stride=2), BlockSpec(kind="ib", width=32, stride=2, expansion=16)),
)
"""Its preparation takes more than its activations."""
SEPARABLE = replace(
    BASE,
    name="separable",
    blocks=(BlockSpec(kind="rds", width=8, stride=2, depth=3), BlockSpec(kind="rds", width=8, kernel=5)),
)
NETS = (MIXED, ODD, COLOUR, WINDOW, WIDE, SEPARABLE)


def test_one_convolution_by_hand():
    e = cost.estimate(BASE)
    # 14 * 14 positions * 3 * 3 * 1 * 8 weights, and 8 * 10 of the dense layer.
    assert e.macs_by_kind == {"conv": 14 * 14 * 72, "pointwise": 0, "depthwise": 0, "dense": 80}
    assert e.macs == 14_112 + 80
    assert e.parameters == 72 + 8 + 80 + 10
    # The arena holds at least input and first output at once: 784 + 14 * 14 * 8 bytes.
    assert e.peak_sram_bytes > 784 + 1568


def test_residual_adds_keep_their_input_alive():
    # 4x4x16 = 256 bytes a tensor. While the second convolution of the pair runs, three live (shortcut, input, output);
    # without the shortcut two would do.
    pair = BlockSpec(kind="res", width=16)
    plain = BlockSpec(kind="conv", width=16, depth=2)
    arch = replace(BASE, input_shape=(4, 4, 16), blocks=(pair,))
    assert cost._planned_bytes(Walk(arch)) == 3 * 256
    assert cost._planned_bytes(Walk(replace(arch, blocks=(plain,)))) == 2 * 256
    for kind, tensors in (("rds", 3), ("ds", 2)):
        chain = BlockSpec(kind=kind, width=16, depth=4)
        assert cost._planned_bytes(Walk(replace(arch, blocks=(chain,)))) == tensors * 256


def test_a_shortcut_comes_first_where_its_name_does():
    """The converter's order: conv2d_10 before conv2d_8, but conv2d_9 after conv2d_7."""
    for before, kinds in ((8, ["pointwise", "conv", "conv"]), (7, ["conv", "conv", "pointwise"])):
        blocks = (BlockSpec(kind="conv", width=8, depth=before), BlockSpec(kind="res", width=12))
        assert [op.kind for op in Walk(replace(BASE, blocks=blocks)).ops[before : before + 3]] == kinds


def test_what_the_stem_sees():
    # 8 x 8 x 3 in squares of 2: 4 x 4 x 3; grey: 4 * 4 * 3 MACs; conv 3 x 3 from 1 to 4 channels at 16 positions.
    arch = replace(BASE, input_shape=(8, 8, 3), input_pool=2, grey=True, blocks=(BlockSpec(kind="conv", width=4),))
    assert [op.kind for op in Walk(arch).ops] == ["pool", "pointwise", "conv", "mean", "dense"]
    assert cost.estimate(arch).macs_by_kind == {"conv": 16 * 9 * 4, "pointwise": 48, "depthwise": 0, "dense": 40}
    assert Walk(replace(arch, input_shape=(7, 1, 1))).ops[0].shape == (4, 1, 1)
    assert Walk(replace(arch, input_shape=(7, 1, 1))).ops[1].kind == "conv"  # one channel is grey already


def test_windows_over_time_have_kernels_of_one_column():
    block = BlockSpec(kind="ds", width=8, kernel=5)
    weights = [op.weights for op in Walk(replace(BASE, input_shape=(32, 1, 4), blocks=(block,))).ops[:2]]
    assert weights == [5 * 4, 4 * 8]


def test_work_by_hand():
    # Convolution 14 * 14 * 8 outputs from one channel: ragged. The mean reads as many, the dense layer writes 10.
    work = cost.estimate(BASE).work
    assert (work.outputs, work.elements, work.operators) == (14 * 14 * 8 + 10, 14 * 14 * 8, 3)
    assert work.ragged_macs_by_kind == {"conv": 14_112, "pointwise": 0, "depthwise": 0, "dense": 0}


def test_kinds_of_layers_by_hand():
    arch = replace(BASE, input_shape=(8, 8, 4), blocks=(BlockSpec(kind="ib", width=4, expansion=2),))
    # Expansion 4 -> 8, depthwise 3x3 on 8, projection 8 -> 4, each at 64 positions.
    assert cost.estimate(arch).macs_by_kind == {
        "conv": 0,
        "pointwise": 64 * (4 * 8 + 8 * 4),
        "depthwise": 64 * 9 * 8,
        "dense": 4 * 10,
    }


def test_what_does_not_fit_is_refused_with_figures():
    device = replace(profiles.device("stm32f746"), flash_bytes=110_000, reserved_flash_bytes=100_000)
    wide = replace(BASE, blocks=(BlockSpec(kind="conv", width=64, stride=2, depth=2),))
    needed = cost.estimate(wide).flash_bytes
    with pytest.raises(
        BudgetError, match=r"flash_bytes: needs .* device stm32f746 has 10,000; .*another device"
    ) as caught:
        cost.check_fits(cost.estimate(wide), device, arena_margin=0.1)
    assert (caught.value.resource, caught.value.needed, caught.value.available) == ("flash_bytes", needed, 10_000)
    small = replace(device, flash_bytes=1 << 20, sram_bytes=9000, reserved_sram_bytes=4000)
    with pytest.raises(BudgetError, match=r"arena_bytes: needs .* has 5,000"):
        cost.check_fits(cost.estimate(wide), small, arena_margin=0.1)


def test_the_budget_itself_still_fits():
    e = cost.estimate(BASE)
    device = replace(
        profiles.device("stm32f746"),
        flash_bytes=e.flash_bytes + 1000,
        reserved_flash_bytes=1000,
        sram_bytes=cost.arena_bytes(e.peak_sram_bytes, 0.0) + 10,
        reserved_sram_bytes=10,
    )
    cost.check_fits(e, device, arena_margin=0.0)
    with pytest.raises(BudgetError):
        cost.check_fits(e, replace(device, reserved_sram_bytes=11), arena_margin=0.0)


def test_the_arena_must_fit_with_its_margin():
    e, device = cost.estimate(BASE), profiles.device("stm32f746")
    reserved = cost.arena_bytes(e.peak_sram_bytes, 0.1)
    assert reserved >= 1.1 * e.peak_sram_bytes
    cost.check_fits(e, replace(device, sram_bytes=reserved, reserved_sram_bytes=0), arena_margin=0.1)
    with pytest.raises(BudgetError) as caught:
        cost.check_fits(e, replace(device, sram_bytes=reserved, reserved_sram_bytes=1), arena_margin=0.1)
    assert (caught.value.needed, caught.value.available) == (reserved, reserved - 1)


def test_estimates_are_fast():
    device = profiles.device("stm32f746")
    start = time.process_time()
    for _ in range(200):
        edge_latency_ms(cost.estimate(MIXED).work, device)
    assert 200 / (time.process_time() - start) > 2000


def _convert(arch):
    return named_outputs(int8_net(arch, np.random.default_rng(0)))


@pytest.fixture(scope="module", params=NETS, ids=lambda arch: arch.name)
def converted(request):
    return request.param, _convert(request.param)


def test_work_agrees_with_the_flatbuffer(converted):
    arch, flatbuffer = converted
    assert flatbuffer_work(flatbuffer) == cost.estimate(arch).work
    assert cost.flatbuffer_macs(flatbuffer) == cost.estimate(arch).macs_by_kind


def test_flash_agrees_with_the_flatbuffer(converted):
    arch, flatbuffer = converted
    assert len(flatbuffer) <= cost.estimate(arch).flash_bytes <= 1.03 * len(flatbuffer)


def test_peak_sram_is_the_arena_of_tflite_micro(converted):
    """To the byte; of the smallest nets the least arena that works, which is more than what stays in use."""
    pytest.importorskip("tflite_micro")
    arch, flatbuffer = converted
    needs = arena_needs(flatbuffer)
    assert cost.estimate(arch).peak_sram_bytes == needs.least_bytes >= needs.head_bytes + needs.tail_bytes


def test_a_net_with_pool_grey_and_window_runs_in_tflite_micro(converted):
    pytest.importorskip("tflite_micro")
    arch, flatbuffer = converted
    x = np.random.default_rng(1).integers(0, 256, (2, *arch.input_shape), dtype=np.uint8)
    logits, features = runtimes.run(flatbuffer, x, engine="tflm")
    assert (logits.shape, features.shape) == ((2, arch.num_classes), (2, arch.feature_width))


def test_a_stage_counts_its_router_among_the_dense_layers():
    (stage,) = program().stages
    assert cost.flatbuffer_macs(stage.flatbuffer) == {
        "conv": 3 * 3 * 4 * 9,
        "pointwise": 0,
        "depthwise": 0,
        "dense": 4 * 3,
    }
    assert cost.stage_work(stage).macs_by_kind["dense"] == 4 * 3 + 5  # the router reads four features and a confidence


def test_footprint_of_a_program():
    found = footprint(cascade(), estimated_arena_bytes=12_345)
    macs = [sum(cost.flatbuffer_macs(stage.flatbuffer).values()) for stage in cascade().stages]
    assert found.macs == sum(macs)
    assert found.router_macs == 5 + 10 + 12  # features of all stages so far, and a confidence
    tables = [4 * count + 4 + 2 * 256 + 4 * 255 for count in (5, 10, 12)]
    assert found.flash_bytes == sum(len(stage.flatbuffer) for stage in cascade().stages) + sum(tables)
    if found.arena_source == "estimated":
        assert found.least_arena_bytes == found.measured_arena_bytes == 12_345
    else:
        assert found.measured_arena_bytes <= found.least_arena_bytes < 12_345
