import re
import time
from dataclasses import replace

import numpy as np
import pytest
from tiny_edge import cascade, program

from hybrid import cost, profiles
from hybrid.arena import footprint
from hybrid.errors import BudgetError
from hybrid.specs import ArchSpec, BlockSpec

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
    name="an_unusually_long_name",
    input_shape=(49, 11, 3),
    num_classes=3,
    blocks=(BlockSpec(kind="res", width=10, stride=2, kernel=5),),
)


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
    planned = cost._planned_bytes(cost._Walk(arch))
    assert planned == 3 * 256
    assert cost._planned_bytes(cost._Walk(replace(arch, blocks=(plain,)))) == 2 * 256


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
        cost.check_fits(cost.estimate(wide), device)
    assert (caught.value.resource, caught.value.needed, caught.value.available) == ("flash_bytes", needed, 10_000)
    small = replace(device, flash_bytes=1 << 20, sram_bytes=9000, reserved_sram_bytes=4000)
    with pytest.raises(BudgetError, match=r"peak_sram_bytes: needs .* has 5,000"):
        cost.check_fits(cost.estimate(wide), small)


def test_the_budget_itself_still_fits():
    e = cost.estimate(BASE)
    device = replace(
        profiles.device("stm32f746"),
        flash_bytes=e.flash_bytes + 1000,
        reserved_flash_bytes=1000,
        sram_bytes=e.peak_sram_bytes + 10,
        reserved_sram_bytes=10,
    )
    cost.check_fits(e, device)
    with pytest.raises(BudgetError):
        cost.check_fits(e, replace(device, reserved_sram_bytes=11))


def test_estimates_are_fast():
    start = time.process_time()
    for _ in range(200):
        cost.estimate(MIXED)
    assert 200 / (time.process_time() - start) > 2000


def _convert(arch):
    import tensorflow as tf
    import tf_keras

    from hybrid.nets import build_net

    rng = np.random.default_rng(0)
    net = build_net(arch, tf_keras)
    # Untrained biases are zero and shared by the converter; a trained net's are not.
    net.set_weights([np.abs(rng.normal(1, 0.2, w.shape)) if w.ndim == 1 else w for w in net.get_weights()])
    converter = tf.lite.TFLiteConverter.from_keras_model(net)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    batch = rng.uniform(-1, 1, (4, 1, *arch.input_shape)).astype(np.float32)
    converter.representative_dataset = lambda: ([x] for x in batch)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


@pytest.fixture(scope="module", params=[MIXED, ODD], ids=lambda arch: arch.name)
def converted(request):
    return request.param, _convert(request.param)


def test_macs_agree_with_the_flatbuffer(converted):
    arch, flatbuffer = converted
    assert cost.flatbuffer_macs(flatbuffer) == cost.estimate(arch).macs_by_kind


def test_flash_agrees_with_the_flatbuffer(converted):
    arch, flatbuffer = converted
    estimated = cost.estimate(arch).flash_bytes
    assert len(flatbuffer) <= estimated <= 1.05 * len(flatbuffer) + 500


def test_peak_sram_agrees_with_the_recording_interpreter(converted, capfd):
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro").runtime

    arch, flatbuffer = converted
    recording = runtime.InterpreterConfig.kAllocationRecording
    interpreter = runtime.Interpreter.from_bytes(flatbuffer, arena_size=1 << 20, intrepreter_config=recording)
    capfd.readouterr()
    interpreter.print_allocations()
    measured = {name: int(size) for name, size in re.findall(r"allocation (total|head) (\d+)", capfd.readouterr().err)}
    orders = [cost._planned_bytes(cost._Walk(arch, shortcut_first=first)) for first in (False, True)]
    assert measured["head"] in orders
    assert measured["head"] <= cost._planned_peak_bytes(arch) == max(orders)
    overhead = measured["total"] - measured["head"]
    assert overhead <= cost.estimate(arch).peak_sram_bytes - max(orders) <= 1.1 * overhead


def test_a_stage_counts_its_router_among_the_dense_layers():
    (stage,) = program().stages
    assert cost.flatbuffer_macs(stage.flatbuffer) == {
        "conv": 3 * 3 * 4 * 9,
        "pointwise": 0,
        "depthwise": 0,
        "dense": 4 * 3,
    }
    assert cost.stage_macs(stage)["dense"] == 4 * 3 + 5  # the router reads four features and a confidence


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
