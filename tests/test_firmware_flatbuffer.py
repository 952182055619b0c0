from dataclasses import replace

import flatbuffers
import numpy as np
import pytest
from tiny_edge import INPUT_SHAPE, cascade, inputs, program, tiny_continuation, tiny_edge, tiny_second

from firmware_export.edge import build_edge_bundle
from firmware_export.flatbuffer import read_graph, stage_signature
from firmware_export.host import run_device
from firmware_export.stages import resolver_ops, stage_models
from firmware_export.tflm_ops import ADD_METHODS
from hybrid.arena import arena_needs, least_arena_bytes, recorded_arena_bytes
from hybrid.cascade import DeviceProgram, Mix
from hybrid.cost import program_flash_bytes
from hybrid.device_router import SUM_MAX
from hybrid.errors import BundleError, SpecError, UnsupportedOpError
from hybrid.runtimes import device_engine
from hybrid.schema import schema as flatbuffer_schema

schema = flatbuffer_schema()
measures = pytest.mark.skipif(device_engine() != "tflite-micro", reason="tflite-micro is missing")


def changed(change) -> bytes:
    """The tiny model after `change` to its unpacked form."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(tiny_edge(), 0))
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def with_op(number: int) -> bytes:
    def change(model):
        model.operatorCodes[0].builtinCode = number
        model.operatorCodes[0].deprecatedBuiltinCode = min(number, 127)

    return changed(change)


def with_stage(given, number, **changes) -> DeviceProgram:
    """A program with one stage changed."""
    stages = list(given.stages)
    stages[number] = replace(stages[number], **changes)
    return DeviceProgram(stages=tuple(stages))


def test_graph_of_the_tiny_net():
    graph = read_graph(tiny_edge())
    assert graph.op_names == ("CONV_2D", "FULLY_CONNECTED", "MEAN")
    assert [op.name for op in graph.operators] == ["CONV_2D", "MEAN", "FULLY_CONNECTED"]
    conv = graph.operators[0]
    assert conv.inputs[1].shape == (4, 3, 3, 1)  # 4 filters of 3 x 3 x 1
    assert len(conv.inputs[1].scales) == 4
    assert conv.outputs[0].shape == (1, 3, 3, 4)  # (8 - 3) // 2 + 1 = 3
    assert conv.version >= 1
    weights_and_biases = 4 * 9 + 4 * 4 + (4 * 3 + 3 * 4)  # int8 weights, int32 biases
    axes_of_mean = 2 * 4
    assert graph.weight_bytes == weights_and_biases + axes_of_mean


def test_signature():
    signature = stage_signature(read_graph(tiny_edge()))
    assert signature.input.shape == (1, *INPUT_SHAPE)
    assert signature.input.dtype == "INT8"
    assert signature.input.zero_points == (0,)
    assert signature.input.scales == pytest.approx((1 / 128,), rel=0.01)
    assert [t.shape for t in (signature.logits, signature.features, signature.trunk)] == [(1, 3), (1, 4), (1, 3, 3, 4)]
    assert stage_signature(read_graph(tiny_second())).trunk is None


def test_outputs_in_another_order_are_refused():
    def swap(model):
        model.subgraphs[0].outputs = model.subgraphs[0].outputs[::-1]

    with pytest.raises(BundleError, match=r"outputs \['trunk \(1, 3, 3, 4\)', .*expected logits, features and perhaps"):
        stage_signature(read_graph(changed(swap)))


def test_float_model_is_refused():
    def float_output(model):
        graph = model.subgraphs[0]
        graph.tensors[graph.outputs[0]].type = schema.TensorType.FLOAT32

    with pytest.raises(BundleError, match="is FLOAT32, expected INT8"):
        stage_signature(read_graph(changed(float_output)))


def test_stages_of_a_cascade():
    models = stage_models(cascade(), INPUT_SHAPE, 3)
    assert [model.name for model in models] == ["edge", "look_1", "look_2"]
    assert [(model.features_before, model.num_features) for model in models] == [(0, 4), (4, 5), (9, 2)]
    names = [op["name"] for op in resolver_ops([model.graph for model in models])]
    assert names == ["CONV_2D", "FULLY_CONNECTED", "MEAN", "QUANTIZE"]  # of all nets, each once


@pytest.mark.parametrize(
    ("number", "changes", "complaint"),
    [
        (1, {"flatbuffer": tiny_second}, r"look_1: reads a trunk .*\(1, 8, 8, 1\).*hybrid.flatbuffers.continuing"),
        (2, {"flatbuffer": tiny_continuation}, r"look_2: input \(3, 3, 4\), expected input_shape \(8, 8, 1\)"),
        (2, {"reads": "trunk"}, "look_2: reads the trunk, which the stage before it does not give"),
        (0, {"reads": "trunk"}, "edge: reads the trunk"),
        (1, {"look_below": 129}, "look_1: look_below 129, allowed -128 to 128"),
        (1, {"mix": Mix()}, "look_1: mix of 1 stages, expected 2"),
        (1, {"mix": Mix(multipliers=(1 << 15, 1))}, "leaves 32 bits"),
        (1, {"mix": Mix(multipliers=(1, 1), bias=(1 << 31) - 300)}, "leaves 32 bits"),
        (0, {"mix": Mix(multipliers=(2,))}, "changes the logits of the first stage"),
    ],
)
def test_stages_that_do_not_go_together(number, changes, complaint):
    made = {key: value() if callable(value) else value for key, value in changes.items()}
    with pytest.raises((BundleError, SpecError), match=complaint):
        stage_models(with_stage(cascade(), number, **made), INPUT_SHAPE, 3)


def test_routers_that_do_not_fit():
    router = program().stages[0].router
    with pytest.raises(SpecError, match="edge: router has 4 weights a unit and 255 cuts, expected 5 and 255 ascending"):
        stage_models(with_stage(program(), 0, router=replace(router, weights=router.weights[:4])), INPUT_SHAPE, 3)
    with pytest.raises(SpecError, match="ascending"):
        stage_models(with_stage(program(), 0, router=replace(router, cuts=router.cuts[::-1])), INPUT_SHAPE, 3)
    for change in (
        {"weights": np.full_like(router.weights, 1 << 21)},  # four features of 255 and a confidence of 4096
        {"bias": np.array([SUM_MAX], np.int32)},
        {"out": np.array([1], np.int16), "out_bias": SUM_MAX},
        {"cuts": router.cuts + (1 << 32)},
        {"inputs": replace(router.inputs, betas=(-0.1,))},
    ):
        with pytest.raises(SpecError, match="edge: a sum of the router could leave 32 bits"):
            stage_models(with_stage(program(), 0, router=replace(router, **change)), INPUT_SHAPE, 3)
    wide = replace(router, inputs=replace(router.inputs, top=3))
    with pytest.raises(SpecError, match="router reads top 3, allowed below 3 classes"):
        stage_models(with_stage(program(), 0, router=wide), INPUT_SHAPE, 3)


@pytest.mark.parametrize("junk", [b"", b"hello world", b"\x1c\0\0\0TFL3" + 40 * b"\xff"], ids=["empty", "text", "junk"])
def test_bytes_that_are_no_model(junk):
    with pytest.raises(BundleError, match="model: "):
        read_graph(junk)


def test_model_that_is_cut_off():
    with pytest.raises(BundleError, match="model: damaged"):
        read_graph(tiny_edge()[:200])


def test_unsupported_operator_is_named_with_its_tensor():
    graph = read_graph(with_op(schema.BuiltinOperator.SEGMENT_SUM))
    made = graph.operators[0].outputs[0].name
    with pytest.raises(UnsupportedOpError, match="operator SEGMENT_SUM") as error:
        resolver_ops([graph])
    assert made in str(error.value)


def unsupported() -> DeviceProgram:
    return with_stage(cascade(), 0, flatbuffer=with_op(schema.BuiltinOperator.SEGMENT_SUM))


def test_no_bundle_with_an_unsupported_operator():
    takes = replace(inputs().footprint, flash_bytes=program_flash_bytes(unsupported()))
    with pytest.raises(UnsupportedOpError, match=r"operator SEGMENT_SUM \(makes tensor"):
        build_edge_bundle(inputs(program=unsupported(), footprint=takes))


def test_the_engine_itself_refuses_it_too():
    with pytest.raises(UnsupportedOpError, match="SEGMENT_SUM"):
        run_device(unsupported(), np.zeros((1, *INPUT_SHAPE), np.int8))


def test_every_operator_of_the_table_is_in_the_schema():
    assert set(ADD_METHODS) <= set(vars(schema.BuiltinOperator))
    assert ADD_METHODS["DEPTHWISE_CONV_2D"] == "AddDepthwiseConv2D"
    assert len(ADD_METHODS) == len(set(ADD_METHODS.values())) == 100


@pytest.mark.parametrize("wrong", [np.zeros((1, 4, 16, 1), np.int8), np.zeros((1, *INPUT_SHAPE), np.uint8)])
def test_inputs_of_another_shape_or_type(wrong):
    with pytest.raises(BundleError, match=r"expected int8 \(n, 8, 8, 1\)"):
        run_device(program(), wrong)


@measures
def test_arena_is_measured_and_repeatable():
    needs = arena_needs(tiny_edge())
    activations = 8 * 8 + 3 * 3 * 4  # input and convolution's output live together
    assert activations <= needs.head_bytes < 256
    assert needs == arena_needs(tiny_edge())
    assert needs.head_bytes + needs.tail_bytes < needs.least_bytes < 16_384


@measures
def test_the_least_arena_that_works_is_more_than_what_stays_in_use():
    """A small net: temporary tensors of preparation outweigh activations; 16 bytes less are refused."""
    from tflite_micro import runtime

    flatbuffer = program().stages[0].flatbuffer
    least = least_arena_bytes(program())
    assert recorded_arena_bytes([arena_needs(flatbuffer)]) < least
    runtime.Interpreter.from_bytes(flatbuffer, arena_size=least).invoke()
    with pytest.raises(RuntimeError):
        runtime.Interpreter.from_bytes(flatbuffer, arena_size=least - 16)


@measures
def test_one_arena_for_three_nets_is_less_than_three_and_more_than_one():
    alone = [arena_needs(stage.flatbuffer).least_bytes for stage in cascade().stages]
    assert max(alone) < least_arena_bytes(cascade()) < sum(alone)


@measures
def test_no_arena_is_enough_for_an_unsupported_operator():
    with pytest.raises(UnsupportedOpError, match="TFLite Micro refuses the model"):
        least_arena_bytes(unsupported())
