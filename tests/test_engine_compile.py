"""The ahead-of-time engine against TFLite Micro: random models of every operator, chains, and the models at hand."""

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine_build import Draft, flatbuffer
from engine_layers import DENSE, FEW, PLANES, TILES, WINOGRAD
from engine_models import DRAWS, RefusedError, random_chain, random_examples, random_single_op, tflm_many

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
EXAMPLES = 4
FILES = Path(os.environ.get("HYBRID_DATA_DIR", "no data"), "tflite-models")


def judged(models):
    """Flatbuffers that TFLite Micro accepts, with examples and its answers."""
    for number, model in enumerate(models):
        examples = random_examples(model, np.random.default_rng(number), EXAMPLES)
        try:
            yield model, examples, tflm_many(model, examples)
        except RefusedError:
            continue


def wrong(models, *, weights="int16", sanitize=False, optimise="-O1"):
    """Numbers of the models whose compiled code gives another answer than TFLite Micro."""
    cases = list(judged(models))
    assert len(cases) > 0.8 * len(models)
    compiled = [
        compile_model(model, prefix=f"m{number}", weights=weights, kernels="kernels")
        for number, (model, _, _) in enumerate(cases)
    ]
    with built(compiled, sanitize=sanitize, optimise=optimise) as program:
        answers = [program.run(examples, number) for number, (_, examples, _) in enumerate(cases)]
    return [
        number
        for number, ((_, _, expected), got) in enumerate(zip(cases, answers, strict=True))
        if not all(np.array_equal(a, b) for e, g in zip(expected, got, strict=True) for a, b in zip(e, g, strict=True))
    ]


def drawn(kind, count, start=0):
    return [random_single_op(np.random.default_rng([start + number, len(kind)]), kind) for number in range(count)]


def every_operator(count, start=0):
    return [model for kind in DRAWS for model in drawn(kind, count, start)]


def test_every_operator_is_exact():
    assert wrong(every_operator(8)) == []


def test_convolutions_are_exact_with_small_weights():
    kinds = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    assert wrong([model for kind in kinds for model in drawn(kind, 20, 1000)], weights="int8") == []


@pytest.mark.parametrize("models", [PLANES, TILES + FEW + WINOGRAD + DENSE])
def test_special_kernels_are_exact_in_plain_c_and_clean_under_sanitizers(models):
    assert wrong(models, sanitize=True) == []


def test_special_kernels_are_exact_with_small_weights_in_plain_c():
    assert wrong(DENSE + WINOGRAD + FEW, weights="int8", sanitize=True) == []


def test_chains_are_exact_and_clean_under_sanitizers():
    assert wrong([random_chain(np.random.default_rng(number), 5) for number in range(25)], sanitize=True) == []


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["int8", "int16"])
@pytest.mark.parametrize("kind", DRAWS)
def test_hundreds_of_each_operator_are_exact(kind, weights):
    for start in range(0, 300, 100):
        assert wrong(drawn(kind, 100, 10_000 + start), weights=weights) == []


@pytest.mark.parametrize("weights", ["int8", "int16"])
@pytest.mark.parametrize(
    "name",
    [
        "reference/mobilenet28_route_logits_int8",
        "mlperf-tiny/kws_ref_model",
        "mlperf-tiny/ic_pretrainedResnet_quant",
        "mlperf-tiny/ad01_int8",
        "mlperf-tiny/vww_96_int8",
        "tflite-micro/person_detect",
    ],
)
def test_known_models_are_exact(name, weights):
    path = FILES / f"{name}.tflite"
    if not path.is_file():
        pytest.skip("HYBRID_DATA_DIR has no tflite-models")
    model = path.read_bytes()
    assert verify(model, compile_model(model, weights=weights), 4) is None


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
