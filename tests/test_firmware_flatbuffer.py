import flatbuffers
import numpy as np
import pytest
from tiny_edge import INPUT_SHAPE, inputs, pixels, tiny_edge

from firmware_export.edge import build_edge_bundle
from firmware_export.flatbuffer import edge_signature, read_graph
from firmware_export.host import run_tflm
from firmware_export.tflm import resolver_ops
from firmware_export.tflm_ops import ADD_METHODS
from hybrid.arena import least_arena_bytes, recorded_arena_bytes
from hybrid.artifacts import Footprint
from hybrid.errors import BundleError, UnsupportedOpError
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


def test_graph_of_the_tiny_net():
    graph = read_graph(tiny_edge())
    assert graph.op_names == ("CONV_2D", "FULLY_CONNECTED", "MEAN")
    assert [op.name for op in graph.operators] == ["CONV_2D", "MEAN", "FULLY_CONNECTED", "FULLY_CONNECTED"]
    conv = graph.operators[0]
    assert conv.inputs[1].shape == (4, 3, 3, 1)  # 4 filters of 3 x 3 x 1
    assert len(conv.inputs[1].scales) == 4
    assert conv.outputs[0].shape == (1, 3, 3, 4)  # (8 - 3) // 2 + 1 = 3
    assert conv.version >= 1
    weights_and_biases = 4 * 9 + 4 * 4 + (4 * 3 + 3 * 4) + (4 * 1 + 1 * 4)  # int8 weights, int32 biases
    axes_of_mean = 2 * 4
    assert graph.weight_bytes == weights_and_biases + axes_of_mean


def test_input_is_pixel_minus_128():
    tensor = edge_signature(read_graph(tiny_edge())).input
    assert tensor.shape == (1, *INPUT_SHAPE)
    assert tensor.dtype == "INT8"
    assert tensor.zero_points == (0,)
    assert tensor.scales == pytest.approx((1 / 128,), rel=0.01)


def test_outputs_are_told_apart_by_shape_in_either_order():
    def swap(model):
        model.subgraphs[0].outputs = model.subgraphs[0].outputs[::-1]

    one, other = (edge_signature(read_graph(model)) for model in (tiny_edge(), changed(swap)))
    assert one.score_index == 1 - other.score_index
    assert one.logits == other.logits
    examples = (pixels(3).astype(np.int16) - 128).astype(np.int8)
    for name, values in run_tflm(tiny_edge(), examples).items():
        assert np.array_equal(values, run_tflm(changed(swap), examples)[name])


def test_two_outputs_of_one_value_are_refused():
    def twice_the_score(model):
        graph = model.subgraphs[0]
        score = min(graph.outputs, key=lambda i: int(np.prod(graph.tensors[i].shape)))
        graph.outputs = [score, score]

    with pytest.raises(BundleError, match=r"outputs \[\(1, 1\), \(1, 1\)\], expected logits"):
        edge_signature(read_graph(changed(twice_the_score)))


def test_float_model_is_refused():
    def float_output(model):
        graph = model.subgraphs[0]
        graph.tensors[graph.outputs[0]].type = schema.TensorType.FLOAT32

    with pytest.raises(BundleError, match="is FLOAT32, expected INT8"):
        edge_signature(read_graph(changed(float_output)))


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
        resolver_ops(graph)
    assert made in str(error.value)


def test_no_bundle_with_an_unsupported_operator():
    model = with_op(schema.BuiltinOperator.SEGMENT_SUM)
    footprint = Footprint(
        macs=1, router_macs=1, flash_bytes=len(model), measured_arena_bytes=2_000, least_arena_bytes=2_000
    )
    with pytest.raises(UnsupportedOpError, match=r"operator SEGMENT_SUM \(makes tensor model/conv2d"):
        build_edge_bundle(inputs(models={"edge": model}, footprint=footprint))


def test_the_engine_itself_refuses_it_too():
    with pytest.raises(UnsupportedOpError, match="SEGMENT_SUM"):
        run_tflm(with_op(schema.BuiltinOperator.SEGMENT_SUM), np.zeros((1, *INPUT_SHAPE), np.int8))


def test_every_operator_of_the_table_is_in_the_schema():
    assert set(ADD_METHODS) <= set(vars(schema.BuiltinOperator))
    assert ADD_METHODS["DEPTHWISE_CONV_2D"] == "AddDepthwiseConv2D"
    assert len(ADD_METHODS) == len(set(ADD_METHODS.values())) == 100


@measures
def test_arena_is_measured_and_repeatable():
    activations = 8 * 8 + 3 * 3 * 4  # input and convolution's output live together
    assert activations < recorded_arena_bytes(tiny_edge()) == recorded_arena_bytes(tiny_edge()) < 16_384


@pytest.mark.parametrize("wrong", [np.zeros((1, 4, 16, 1), np.int8), np.zeros((1, *INPUT_SHAPE), np.uint8)])
def test_inputs_of_another_shape_or_type(wrong):
    with pytest.raises(BundleError, match=r"expected int8 \(n, 8, 8, 1\)"):
        run_tflm(tiny_edge(), wrong)


@measures
def test_the_least_arena_that_works_is_more_than_what_stays_in_use():
    """A small net: temporary tensors of preparation outweigh activations; 16 bytes less are refused."""
    from tflite_micro import runtime

    least = least_arena_bytes(tiny_edge())
    assert recorded_arena_bytes(tiny_edge()) < least < 2 * recorded_arena_bytes(tiny_edge())
    runtime.Interpreter.from_bytes(tiny_edge(), arena_size=least).invoke()
    with pytest.raises(RuntimeError):
        runtime.Interpreter.from_bytes(tiny_edge(), arena_size=least - 16)


@measures
def test_no_arena_is_enough_for_an_unsupported_operator():
    with pytest.raises(UnsupportedOpError, match="cannot run it in 268,435,456 bytes"):
        least_arena_bytes(with_op(schema.BuiltinOperator.SEGMENT_SUM))
