"""The ahead-of-time engine against TFLite Micro: random models of every operator, chains, and the models at hand."""

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine_build import Draft, flatbuffer
from engine_exact import EXAMPLES, wrong
from engine_layers import DENSE, FEW, PLANES, PLANES_ANY, TILES, WINOGRAD, depthwise
from engine_models import DRAWS, random_chain, random_examples, random_single_op, tflm_many

from firmware_export.engine.compile import compile_model
from firmware_export.engine.host import built
from firmware_export.engine.lower import KINDS
from firmware_export.engine.verify import verify
from firmware_export.host import has_c_compiler
from hybrid.errors import BudgetError, SpecError, UnsupportedOpError
from hybrid.runtimes import device_engine

pytestmark = pytest.mark.skipif(
    device_engine() != "tflite-micro" or not has_c_compiler(), reason="needs tflite-micro and a C compiler"
)
LEAN = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB")
"""Operators that have kernels of their own for cores without DSP instructions."""
FILES = Path(os.environ.get("HYBRID_DATA_DIR", "no data"), "tflite-models")


def drawn(kind, count, start=0):
    return [random_single_op(np.random.default_rng([start + number, len(kind)]), kind) for number in range(count)]


def every_operator(count, start=0):
    return [model for kind in DRAWS for model in drawn(kind, count, start)]


def test_every_operator_is_exact():
    """A few of each; hundreds are among the slow tests."""
    assert wrong(every_operator(4)) == []


def test_convolutions_are_exact_with_small_weights():
    kinds = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    assert wrong([model for kind in kinds for model in drawn(kind, 10, 1000)], weights="int8") == []


@pytest.mark.parametrize("defines", [(), ("KERNELS_NARROW",)], ids=["values", "words"])
def test_kernels_for_cores_without_dsp_are_exact_and_clean_under_sanitizers(defines):
    """Both layouts of what a convolution multiplies: value by value, and two values as one word."""
    models = [*PLANES[::2], *TILES[::4], *WINOGRAD[::4], *(model for kind in LEAN for model in drawn(kind, 6, 2000))]
    kernels = {layer.kernel for model in models for layer in compile_model(model, cpu="cortex-m0plus").layers}
    assert kernels >= {"lean_conv", "lean_fully_connected", "lean_depthwise", "lean_sum"}
    assert wrong(models, cpu="cortex-m0plus", sanitize=True, defines=defines) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", LEAN)
def test_hundreds_of_layers_for_cores_without_dsp_are_exact(kind):
    for start in range(0, 300, 100):
        assert wrong(drawn(kind, 100, 20_000 + start), cpu="cortex-m0plus") == []


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_special_kernels_are_exact_in_plain_c_and_clean_under_sanitizers(every):
    assert wrong((PLANES + PLANES_ANY + TILES + FEW + WINOGRAD + DENSE)[::every], sanitize=True) == []


def test_special_kernels_are_exact_with_small_weights_in_plain_c():
    assert wrong((DENSE + WINOGRAD + FEW)[::2], weights="int8", sanitize=True) == []


@pytest.mark.parametrize("count", [15, pytest.param(100, marks=pytest.mark.slow)])
def test_chains_are_exact_and_clean_under_sanitizers(count):
    assert wrong([random_chain(np.random.default_rng(number), 5) for number in range(count)], sanitize=True) == []


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["int8", "int16"])
@pytest.mark.parametrize("kind", DRAWS)
def test_hundreds_of_each_operator_are_exact(kind, weights):
    for start in range(0, 300, 100):
        assert wrong(drawn(kind, 100, 10_000 + start), weights=weights) == []


@pytest.mark.parametrize(
    "name",
    [
        "reference/mobilenet28_route_logits_int8",
        "mlperf-tiny/kws_ref_model",
        "mlperf-tiny/ic_pretrainedResnet_quant",
        "mlperf-tiny/ad01_int8",
        "mlperf-tiny/vww_96_int8",
        "tflite-micro/person_detect",
        "tflite-micro/micro_speech_quantized",
        "tflite-micro/hello_world_int8",
    ],
)
def test_known_models_are_exact(name):
    path = FILES / f"{name}.tflite"
    if not path.is_file():
        pytest.skip("HYBRID_DATA_DIR has no tflite-models")
    model = path.read_bytes()
    ways = [("int8", "cortex-m4"), ("int16", "cortex-m4"), ("auto", "cortex-m0plus")]
    models = [
        compile_model(model, prefix=f"m{number}", weights=weights, cpu=cpu, kernels="kernels")
        for number, (weights, cpu) in enumerate(ways)
    ]
    examples = random_examples(model, np.random.default_rng(0), EXAMPLES)
    expected = tflm_many(model, examples)
    with built(models, optimise="-O1") as program:
        for number in range(len(models)):
            for one, other in zip(program.run(examples, number), expected, strict=True):
                assert all(np.array_equal(a, b.reshape(a.shape)) for a, b in zip(one, other, strict=True))


def test_the_same_model_gives_the_same_text():
    model = random_chain(np.random.default_rng(3), 6)
    assert compile_model(model).files == compile_model(model).files


def test_a_difference_is_found_and_shown():
    """The compiled code takes another zero point of its input than the model says."""
    (model,) = drawn("FULLY_CONNECTED", 1)
    compiled = compile_model(model)
    text, changed = re.subn(
        r"in_zero = (-?\d+)", lambda found: f"in_zero = {int(found[1]) + 9}", compiled.files["model.c"]
    )
    assert changed == 1
    found = verify(model, replace(compiled, sources={**compiled.sources, "model.c": text}), 20)
    assert found is not None
    assert re.match(r"input \d+, output 0, index \[.*\]: TFLite Micro gives -?\d+, the compiled code -?\d+", str(found))


def test_an_unusable_prefix_is_refused():
    with pytest.raises(SpecError, match="prefix: got 'My Net', allowed lower-case"):
        compile_model(drawn("ADD", 1)[0], prefix="My Net")


def test_auto_unpacks_as_many_weights_as_the_flash_allows():
    model = single_conv(2)
    small, large = (compile_model(model, weights=width).flash_bytes for width in ("int8", "int16"))
    assert small < large
    assert compile_model(model).flash_bytes == large
    assert compile_model(model, flash_bytes=large).layers[0].weights == "int16"
    assert compile_model(model, flash_bytes=large - 1).layers[0].weights == "int8"


def single_conv(seed):
    return random_single_op(np.random.default_rng(seed), "CONV_2D")


def test_a_budget_that_cannot_be_met_names_what_is_needed():
    model = single_conv(2)
    small = compile_model(model, weights="int8")
    with pytest.raises(BudgetError, match=rf"flash_bytes: needs {small.flash_bytes:,}, .* layer 0 CONV_2D"):
        compile_model(model, flash_bytes=small.flash_bytes - 1)
    with pytest.raises(BudgetError, match=rf"ram_bytes: needs {small.ram_bytes:,}, .* while running: layer 0 CONV_2D"):
        compile_model(model, ram_bytes=small.ram_bytes - 1, weights="int8")


def test_less_ram_takes_the_convolution_that_needs_less():
    """One 3x3 convolution of 4 channels over 8x8 pixels: eight pairs of unpacked patches, or one."""
    model = plain_conv()
    default = compile_model(model)
    small = compile_model(model, ram_bytes=default.ram_bytes - 1)
    patches, rest = 3 * 3 * 4 * 2 * 2, 3 * 3 * 4 * 2
    assert default.layers[0].scratch_bytes == 8 * patches + rest
    assert small.layers[0].scratch_bytes == patches + rest
    assert verify(model, small, 5) is None
    assert verify(model, default, 5) is None


def test_less_ram_takes_one_plane_at_a_time():
    """12 channels in planes of 4 * 9 * 18 bytes for 16x16 pixels: four of them, or one."""
    model = wide_depthwise(12)
    default = compile_model(model)
    small = compile_model(model, ram_bytes=default.ram_bytes - 1)
    assert [made.layers[0].scratch_bytes for made in (default, small)] == [4 * 648, 648]
    assert verify(model, small, 5) is None


def test_less_ram_takes_no_planes_where_one_is_larger_than_the_image():
    model = wide_depthwise(1)
    default = compile_model(model)
    small = compile_model(model, ram_bytes=default.ram_bytes - 1)
    assert [made.layers[0].scratch_bytes for made in (default, small)] == [648, 0]
    assert verify(model, small, 5) is None


@pytest.mark.parametrize(
    ("stride", "height", "times", "scratch"), [(1, 26, 4, (28 * 30, 28 * 8)), (2, 52, 12, (64 * 28, 64 * 6))]
)
def test_less_ram_takes_bands_of_an_image(stride, height, times, scratch):
    """Kernel 5x5 on one channel, 10 pixels wide: all 26 lines of outputs at a time, or four.

    In steps of one pixel an output line needs 5 lines of 7 pairs of places, further ones one more; in steps of two, 3
    lines of each phase, 8 pairs.
    """
    model = wide_depthwise(1, times=times, kernel=5, size=(height, 10), stride=stride)
    default = compile_model(model)
    small = compile_model(model, ram_bytes=default.ram_bytes - 1)
    assert tuple(made.layers[0].scratch_bytes for made in (default, small)) == scratch
    assert verify(model, small, 5) is None


def wide_depthwise(channels, *, times=1, kernel=3, size=(16, 16), stride=1):
    draft, rng = Draft(), np.random.default_rng(channels)
    x = draft.input((1, *size, channels), scale=0.05, zero_point=-128)
    data = rng.integers(-127, 128, (1, kernel, kernel, channels * times)).astype(np.int8)
    weights = draft.tensor(data.shape, data=data, scales=(0.01,), zero_points=(0,))
    y = draft.tensor((1, *(-(-n // stride) for n in size), channels * times), scale=0.1, zero_point=-128)
    steps = {"stride_h": stride, "stride_w": stride, "dilation_h_factor": 1, "dilation_w_factor": 1}
    draft.op("DEPTHWISE_CONV_2D", [x, weights], y, padding="SAME", depth_multiplier=times, **steps, **NONE)
    return flatbuffer(draft.graph([y]))


NONE = {"fused_activation_function": "NONE"}


@pytest.mark.parametrize("dilation", [9, 100_000])
def test_a_dilation_of_mostly_zeros_takes_the_plain_loop(dilation):
    model = depthwise(0, (1, 1), (20, 20), kernel=(3, 3), dilation=dilation)
    compiled = compile_model(model)
    assert (compiled.layers[0].kernel, compiled.layers[0].scratch_bytes) == ("depthwise", 0)
    assert verify(model, compiled, 2) is None


def plain_conv():
    draft, rng = Draft(), np.random.default_rng(0)
    x = draft.input((1, 8, 8, 4), scale=0.05, zero_point=-7)
    data = rng.integers(-127, 128, (5, 3, 3, 4)).astype(np.int8)
    weights = draft.tensor(data.shape, data=data, scales=(0.01,), zero_points=(0,))
    y = draft.tensor((1, 8, 8, 5), scale=0.1, zero_point=4)
    sides = {f"{name}_{side}": 1 for name in ("stride", "dilation") for side in ("h", "w")}
    options = {key if "stride" in key else f"{key}_factor": value for key, value in sides.items()}
    draft.op("CONV_2D", [x, weights], y, padding="SAME", fused_activation_function="NONE", **options)
    return flatbuffer(draft.graph([y]))


def test_an_operator_beyond_the_engine_is_named():
    assert "TANH" in KINDS
    draft = Draft()
    x = draft.input((1, 4), scale=0.1, zero_point=0)
    y = draft.op("LOGISTIC", [x], draft.tensor((1, 4), scale=0.1, zero_point=3))
    with pytest.raises(UnsupportedOpError, match="LOGISTIC"):
        compile_model(flatbuffer(draft.graph([y])))
