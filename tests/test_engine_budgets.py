"""Budgets of RAM: which layers give up speed for them, and which need not."""

import re

import numpy as np
import pytest
from engine_build import Draft
from engine_nets import conv

from firmware_export.engine.compile import compile_model
from firmware_export.engine.reader import read
from firmware_export.engine.room import room_beside
from firmware_export.engine.verify import verify
from firmware_export.host import has_c_compiler
from hybrid.errors import BudgetError
from hybrid.runtimes import device_engine


@pytest.fixture
def model():
    """A 3x3 convolution on 16x16 pixels, one that halves them, and a 3x3 one on what is left."""
    draft, rng = Draft(), np.random.default_rng(2)
    x = draft.input((1, 16, 16, 4), scale=1 / 255, zero_point=-128)
    large = conv(draft, rng, x, 8, kernel=3)
    return draft.flatbuffer(conv(draft, rng, conv(draft, rng, large, 4, stride=2), 8, kernel=3))


def test_room_is_what_the_largest_operator_has_alive_more():
    """Tensors of 1,024 (input), 2,048, 256 and 512 bytes, an output over what ends: 2,048; 2,048; 512 alive.

    A sum of the input and itself keeps nothing else alive; with the input still wanted at the end it is 1,024 more.
    """
    draft, rng = Draft(), np.random.default_rng(2)
    x = draft.input((1, 16, 16, 4), scale=1 / 255, zero_point=-128)
    y = conv(draft, rng, conv(draft, rng, conv(draft, rng, x, 8), 4, stride=2), 8)
    for outputs, alive in (([y], [2048, 2048, 512]), ([y, x], [3072, 3072, 1536])):
        graph = read(draft.flatbuffer(outputs))
        assert [room_beside(graph, op) for op in graph.ops] == [max(alive) - each for each in alive]


def scratch(compiled):
    return [layer.scratch_bytes for layer in compiled.layers]


def test_only_layers_beyond_the_budget_take_the_form_of_little_memory(model):
    default = compile_model(model)
    assert default.ram_bytes == default.layers[0].live_bytes > default.layers[2].live_bytes
    lean = compile_model(model, ram_bytes=default.ram_bytes - 1)
    assert scratch(lean)[0] < scratch(default)[0]
    assert scratch(lean)[1:] == scratch(default)[1:]
    assert lean.ram_bytes < default.ram_bytes
    assert compile_model(model, ram_bytes=default.ram_bytes).files == default.files


@pytest.mark.skipif(
    device_engine() != "tflite-micro" or not has_c_compiler(), reason="needs tflite-micro and a C compiler"
)
def test_mixed_forms_are_exact(model):
    lean = compile_model(model, ram_bytes=compile_model(model).ram_bytes - 1)
    assert verify(model, lean, 20) is None


def test_a_refusal_names_each_layer_beyond_the_budget(model):
    with pytest.raises(BudgetError) as refusal:
        compile_model(model, ram_bytes=100)
    least = refusal.value.needed
    assert compile_model(model, ram_bytes=least).ram_bytes == least
    assert refusal.value.available == 100
    shown = re.findall(r"layer (\d) CONV_2D ([\d,]+)", str(refusal.value))
    assert sorted(number for number, _ in shown) == ["0", "1", "2"]
    assert max(int(nbytes.replace(",", "")) for _, nbytes in shown) <= least


def test_a_refusal_below_the_largest_layer_names_it_alone(model):
    needs = {layer.number: layer.live_bytes for layer in compile_model(model, ram_bytes=_least(model)).layers}
    largest = max(needs, key=needs.__getitem__)
    with pytest.raises(BudgetError, match=rf"while running: layer {largest} CONV_2D {needs[largest]:,}; choose"):
        compile_model(model, ram_bytes=needs[largest] - 1)


def _least(model):
    with pytest.raises(BudgetError) as refusal:
        compile_model(model, ram_bytes=1)
    return int(refusal.value.needed)
