"""The engine's assembly against TFLite Micro, on emulated cores: random layers of every kind that has some."""

import numpy as np
import pytest
from engine_layers import DENSE, FEW, PLANES, PLANES_ANY, TILES, WINOGRAD
from engine_models import random_chain, random_examples, random_single_op, tflm_many

from firmware_export.emulate.boards import board_named
from firmware_export.emulate.machine import run
from firmware_export.emulate.programs import missing
from firmware_export.engine.compile import compile_model
from firmware_export.engine.cores import core_named
from firmware_export.engine.emit import kernel_files
from firmware_export.engine.lower import lower
from firmware_export.engine.lower_conv import FIXED
from firmware_export.engine.reader import read
from firmware_export.engine.requantise import POSITIVE, SIGNED
from hybrid.runtimes import device_engine

pytestmark = pytest.mark.skipif(
    device_engine() != "tflite-micro" or missing() is not None, reason="needs tflite-micro, arm-none-eabi-gcc and QEMU"
)
EXAMPLES = 3
EVERY = pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.slow)], ids=["half", "all"])
"""By default every second model."""


def main_of(models):
    """A program that runs every model over its examples, one after the other."""
    lines = ['#include "emulate.h"']
    lines += [f'#include "{model.prefix}.h"' for model in models]
    lines += ["int main(void)", "{"]
    for model in models:
        lines.append(f"    for (int i = 0; i < {EXAMPLES}; i++) {{")
        for word, numbers in (("input", model.graph.inputs), ("output", model.graph.outputs)):
            for index, number in enumerate(numbers):
                tensor = model.graph.tensors[number]
                place = f"{model.prefix}_{word}_{index}(), {tensor.size * np.dtype(tensor.dtype).itemsize}"
                lines.append(
                    f"        (void)emulate_read({place});" if word == "input" else f"        emulate_write({place});"
                )
            if word == "input":
                lines.append(f"        {model.prefix}_run();")
        lines.append("    }")
    return "\n".join([*lines, "    return 0;", "}", ""])


def check(flatbuffers, *, board, weights, cpu="cortex-m4"):
    """All models in one image, which shares their kernels; every output byte is compared."""
    examples = [random_examples(model, np.random.default_rng(7), EXAMPLES) for model in flatbuffers]
    expected = [tflm_many(model, given) for model, given in zip(flatbuffers, examples, strict=True)]
    models = [
        compile_model(model, prefix=f"m{number}", weights=weights, cpu=cpu, kernels="kernels")
        for number, model in enumerate(flatbuffers)
    ]
    families = frozenset().union(*(model.families for model in models))
    sources = {"main.c": main_of(models), **kernel_files("kernels", families)}
    for model in models:
        sources.update(model.sources)
    data = b"".join(value.tobytes() for given in examples for example in given for value in example)
    output = run(sources, board_named(board), data=data).output
    for number, answers in enumerate(expected):
        wanted = b"".join(value.tobytes() for answer in answers for value in answer)
        assert output[: len(wanted)] == wanted, f"model {number}"
        output = output[len(wanted) :]
    assert output == b""


def single(kind, count, start=0):
    return [random_single_op(np.random.default_rng([start + number, len(kind)]), kind) for number in range(count)]


@EVERY
@pytest.mark.parametrize("weights", ["int8", "int16"])
def test_layers_in_assembly_are_exact_on_a_cortex_m7(weights, every):
    kinds = {"CONV_2D": 30, "FULLY_CONNECTED": 15, "DEPTHWISE_CONV_2D": 10, "ADD": 8, "SUB": 4, "MUL": 8}
    kinds |= {"AVERAGE_POOL_2D": 6, "MAX_POOL_2D": 6, "MEAN": 6}
    models = [model for kind, count in kinds.items() for model in single(kind, count)]
    check(models[::every], board="mps2-an500", weights=weights)


@EVERY
def test_depthwise_planes_are_exact_on_a_cortex_m7(every):
    models = (PLANES + PLANES_ANY)[every - 1 :: every]
    kernels = {layer.kernel for model in models for layer in compile_model(model).layers}
    assert kernels == {"planes", "planes_own", "planes_any", "planes_any_own"}
    check(models, board="mps2-an500", weights="int16")


@pytest.mark.parametrize("weights", ["int8", "int16"])
def test_kernels_of_layers_with_weights_are_exact_on_a_cortex_m7_in_every_form(weights):
    models = TILES + FEW + WINOGRAD + DENSE
    calls = [call for model in models for layer in lower(read(model), weights=weights) for call in layer.calls]
    met = {(call.kernel, call.fields["form"], call.fields["offset"] != 0) for call in calls}
    forms = {(POSITIVE, False), (SIGNED, False), (FIXED, False), (FIXED, True)}
    kernels = ("conv", "conv_winograd", "fully_connected")
    assert met >= {(kernel, *form) for form in forms for kernel in kernels}
    assert met >= {("conv_few", FIXED, False), ("conv_few", FIXED, True)}
    check(models, board="mps2-an500", weights=weights)


@pytest.mark.parametrize("board", ["mps2-an386", "mps2-an505"])
def test_chains_are_exact_on_other_cores(board):
    check([random_chain(np.random.default_rng(number), 6) for number in range(12)], board=board, weights="int8")


@pytest.mark.parametrize("cpu", ["cortex-m3", "cortex-m0plus"])
def test_layers_for_cores_without_dsp_are_exact_on_them(cpu):
    kinds = {"CONV_2D": 8, "FULLY_CONNECTED": 6, "DEPTHWISE_CONV_2D": 4, "ADD": 4}
    models = [model for kind, count in kinds.items() for model in single(kind, count, 3000)]
    models += [*PLANES[::6], *TILES[::4], *WINOGRAD[::4]]
    kernels = {layer.kernel for model in models for layer in compile_model(model, cpu=cpu).layers}
    assert kernels >= {"lean_conv", "lean_fully_connected", "lean_depthwise", "lean_sum"}
    check(models, board=core_named(cpu).board, weights="auto", cpu=cpu)
