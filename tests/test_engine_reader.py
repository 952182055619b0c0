"""The engine's reader: what was packed comes back; what is damaged, hostile or unsupported is one clear line."""

import os
from pathlib import Path

import numpy as np
import pytest
from engine_build import flatbuffer, model_object, packed, single_op, two_layers
from engine_models import DRAWS, random_chain, random_graph

from firmware_export.engine.graph import Graph
from firmware_export.engine.reader import read
from hybrid.errors import SpecError, UnsupportedOpError
from hybrid.schema import schema

MODELS = Path(os.environ.get("HYBRID_DATA_DIR") or "no-data") / "tflite-models"
needs_models = pytest.mark.skipif(not MODELS.is_dir(), reason="no folder tflite-models in HYBRID_DATA_DIR")
SCHEMA = schema()


def drawn(kind: str, seed: int = 0) -> Graph:
    return random_graph(np.random.default_rng(seed), [kind])


def changed(change) -> bytes:
    """`two_layers` with a change to its object form; `change` gets the model and its subgraph."""
    model = model_object(two_layers())
    change(model, model.subgraphs[0])
    return packed(model)


def assert_equal(one: Graph, other: Graph) -> None:
    assert (one.inputs, one.outputs) == (other.inputs, other.outputs)
    for a, b in zip(one.tensors, other.tensors, strict=True):
        assert (a.number, a.name, a.shape, a.dtype, a.scales, a.zero_points) == (
            (b.number, b.name, b.shape, b.dtype, b.scales, b.zero_points)
        )
        assert (a.data is None) == (b.data is None)
        if a.data is not None and b.data is not None:
            np.testing.assert_array_equal(a.data, b.data, strict=True)
    for a, b in zip(one.ops, other.ops, strict=True):
        assert (a.number, a.kind, a.inputs, a.outputs) == (b.number, b.kind, b.inputs, b.outputs)
        assert a.options.items() <= b.options.items()


@pytest.mark.parametrize("kind", DRAWS)
def test_what_was_packed_comes_back(kind):
    for seed in range(25):
        assert_equal(drawn(kind, seed), read(flatbuffer(drawn(kind, seed))))


def test_chains_are_sound():
    for seed in range(40):
        assert 1 <= len(read(random_chain(np.random.default_rng(seed), 8)).ops) <= 8


def test_a_model_by_pencil():
    graph = read(flatbuffer(two_layers()))
    conv, relu = graph.ops
    assert (conv.kind, conv.inputs, conv.outputs) == ("CONV_2D", (0, 1, 2), (3,))
    assert conv.options == {
        "padding": "VALID",
        "stride_w": 1,
        "stride_h": 1,
        "fused_activation_function": "NONE",
        "dilation_w_factor": 1,
        "dilation_h_factor": 1,
        "quantized_bias_type": "FLOAT32",
    }
    assert (relu.kind, relu.options) == ("RELU", {})
    image, weights, bias, middle, _ = graph.tensors
    assert (image.name, image.shape, image.dtype, image.scales, image.zero_points) == (
        ("image", (1, 4, 4, 2), "int8", (0.5,), (-3,))
    )
    assert (weights.scales, weights.axis, weights.data.dtype) == ((0.5, 0.25, 0.125), 0, np.int8)
    assert (bias.data.tolist(), bias.data.dtype, middle.data) == ([1, 2, 3], np.int32, None)
    assert (graph.inputs, graph.outputs) == ((0,), (4,))


def test_options_that_are_left_out_have_the_defaults_of_the_schema():
    given = [{"shape": (1, 4), "scale": 1.0}] * 2
    (op,) = read(single_op("ADD", given, {"shape": (1, 4), "scale": 1.0})).ops
    assert op.options == {"fused_activation_function": "NONE", "pot_scale_int16": True}


def test_shape_arithmetic_falls_away():
    """A RESHAPE whose shape is computed from the input's, as converters write it for a batch of any size."""
    model = model_object(two_layers())
    subgraph, s = model.subgraphs[0], SCHEMA
    for code in ("SHAPE", "RESHAPE"):
        model.operatorCodes.append(s.OperatorCodeT())
        model.operatorCodes[-1].builtinCode = getattr(s.BuiltinOperator, code)
    for shape, kind in (([4], s.TensorType.INT32), ([1, 12], s.TensorType.INT8)):
        subgraph.tensors.append(s.TensorT())
        subgraph.tensors[-1].shape, subgraph.tensors[-1].type = shape, kind
    for index, inputs, output in ((2, [4], 5), (3, [4, 5], 6)):
        subgraph.operators.append(s.OperatorT())
        subgraph.operators[-1].opcodeIndex = index
        subgraph.operators[-1].inputs, subgraph.operators[-1].outputs = inputs, [output]
    subgraph.outputs = [6]
    graph = read(packed(model))
    assert [(op.number, op.kind, op.inputs) for op in graph.ops] == (
        [(0, "CONV_2D", (0, 1, 2)), (1, "RELU", (3,)), (3, "RESHAPE", (4,))]
    )
    subgraph.outputs = [6, 5]
    with pytest.raises(
        UnsupportedOpError, match=r"operator 2 SHAPE .* convert with a fixed batch of one example; supported"
    ):
        read(packed(model))


@needs_models
@pytest.mark.parametrize(
    ("name", "ops", "counts"),
    [
        ("mlperf-tiny/ad01_int8.tflite", 10, {"FULLY_CONNECTED": 10}),
        ("mlperf-tiny/ic_pretrainedResnet_quant.tflite", 16, {"CONV_2D": 9, "FULLY_CONNECTED": 1}),
        ("mlperf-tiny/kws_ref_model.tflite", 13, {"CONV_2D": 5, "DEPTHWISE_CONV_2D": 4, "FULLY_CONNECTED": 1}),
        ("mlperf-tiny/vww_96_int8.tflite", 31, {"CONV_2D": 14, "DEPTHWISE_CONV_2D": 13, "FULLY_CONNECTED": 1}),
        ("tflite-micro/person_detect.tflite", 31, {"CONV_2D": 14, "DEPTHWISE_CONV_2D": 14}),
        ("tflite-micro/micro_speech_quantized.tflite", 4, {"DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1}),
    ],
)
def test_real_models(name, ops, counts):
    graph = read((MODELS / name).read_bytes())
    kinds = [op.kind for op in graph.ops]
    assert len(kinds) == ops
    assert {kind: kinds.count(kind) for kind in counts} == counts


@needs_models
@pytest.mark.parametrize("name", ["mlperf-tiny/kws_ref_model_float32.tflite", "tflite-micro/hello_world_float.tflite"])
def test_float_models_are_refused(name):
    with pytest.raises(UnsupportedOpError, match=r"operator 0 .* is float32, supported is int8 .* in full int8"):
        read((MODELS / name).read_bytes())


def set_tensor(number, **fields):
    def change(model, subgraph):
        for field, value in fields.items():
            setattr(subgraph.tensors[number], field, value)

    return change


def set_quantisation(number, **fields):
    def change(model, subgraph):
        for field, value in fields.items():
            setattr(subgraph.tensors[number].quantization, field, value)

    return change


def set_op(number, **fields):
    def change(model, subgraph):
        for field, value in fields.items():
            setattr(subgraph.operators[number], field, value)

    return change


def set_option(**fields):
    def change(model, subgraph):
        for field, value in fields.items():
            setattr(subgraph.operators[0].builtinOptions, field, value)

    return change


def set_graph(**fields):
    def change(model, subgraph):
        for field, value in fields.items():
            setattr(subgraph, field, value)

    return change


def set_model(**fields):
    def change(model, subgraph):
        for field, value in fields.items():
            setattr(model, field, value)

    return change


def two_subgraphs(model, subgraph):
    model.subgraphs = [subgraph, subgraph]


def short_weights(model, subgraph):
    model.buffers[1].data = model.buffers[1].data[:-1]


def outside(model, subgraph):
    model.buffers[1].data, model.buffers[1].offset, model.buffers[1].size = None, 4096, 54


def custom(model, subgraph):
    model.operatorCodes[1].builtinCode = SCHEMA.BuiltinOperator.CUSTOM
    model.operatorCodes[1].customCode = "my\nop"


def kind(name):
    def change(model, subgraph):
        model.operatorCodes[1].builtinCode = getattr(SCHEMA.BuiltinOperator, name)
        model.operatorCodes[1].deprecatedBuiltinCode = 0

    return change


UNSOUND = {
    "schema version 2": (set_model(version=2), "schema version 2 and 1 subgraphs, expected version 3"),
    "no subgraph": (set_model(subgraphs=[]), "0 subgraphs"),
    "input out of range": (set_graph(inputs=[9]), "its inputs hold tensor 9, expected 0 to 4"),
    "negative output": (set_graph(outputs=[-1]), "its outputs hold tensor -1"),
    "operand out of range": (set_op(0, inputs=[0, 1, 5]), "operator 0 CONV_2D: its inputs hold tensor 5, expected -1"),
    "operand below": (set_op(0, inputs=[-2, 1, 2]), "hold tensor -2"),
    "no code": (set_op(0, opcodeIndex=7), "operator 0: code 7, expected one of the 2"),
    "no input": (set_graph(inputs=[]), "0 inputs, 1 outputs, expected at least one of each"),
    "input twice": (set_graph(inputs=[0, 0]), "expected each once"),
    "constant input": (set_graph(inputs=[0, 2]), "none that is constant"),
    "idle": (set_graph(outputs=[0]), "no operator leads to its outputs"),
    "output never made": (set_graph(inputs=[0], outputs=[4], operators=[]), "0 operators"),
    "read too early": (set_op(0, inputs=[4, 1, 2]), r"reads tensors \[4\] before they are made"),
    "cycle": (set_op(0, inputs=[3, 1, 2]), r"reads tensors \[3\] before they are made"),
    "made twice": (set_op(1, outputs=[3]), r"makes \[3\] again"),
    "writes a constant": (set_op(1, outputs=[1]), r"makes \[1\] again"),
    "nothing made": (set_op(1, outputs=[]), "makes nothing"),
    "weights left out": (set_op(0, inputs=[0, -1, 2]), "an input is left out"),
    "too few operands": (set_op(0, inputs=[0]), "has 1 inputs, expected 2 to 3"),
    "too many operands": (set_op(1, inputs=[3, 3]), "has 2 inputs, expected 1 to 1"),
    "buffer out of range": (set_tensor(1, buffer=99), "tensor 1 'weights': buffer 99, expected one of the 3"),
    "short buffer": (short_weights, r"53 bytes of data, expected 54 for int8 \(3, 3, 3, 2\)"),
    "no elements": (set_tensor(0, shape=[1, 0, 4, 2]), r"tensor 0 'image': shape \(1, 0, 4, 2\)"),
    "negative size": (set_tensor(0, shape=[1, -4, 4, 2]), "expected sizes from 1"),
    "huge": (set_tensor(0, shape=[1, 1 << 20, 1 << 20, 2]), "2,147,483,647 elements at most"),
    "thousand axes": (set_tensor(0, shape=[2] * 1000), r"\(1000 axes\)"),
    "scale 0": (set_quantisation(0, scale=[0.0]), "scale 0.0 and zero point -3, expected a finite scale above 0"),
    "scale below 0": (set_quantisation(0, scale=[-0.5]), "scale -0.5"),
    "scale NaN": (set_quantisation(1, scale=[0.5, float("nan"), 1.0]), "scale nan and zero point 0"),
    "scale inf": (set_quantisation(0, scale=[float("inf")]), "scale inf"),
    "zero point": (set_quantisation(0, zeroPoint=[128]), "a zero point from -128 to 127"),
    "wide zero point": (set_quantisation(2, zeroPoint=[0, 1 << 40, 0]), "zero point 1099511627776"),
    "scales that do not fit": (set_quantisation(1, scale=[1.0, 2.0]), "2 scales and 3 zero points along axis 0"),
    "axis": (set_quantisation(1, quantizedDimension=4), "along axis 4 of shape"),
    "no scale": (set_tensor(0, quantization=None), "tensor 0 'image' has no scale"),
    "stride 0": (set_option(strideW=0), "stride_w is 0, expected at least 1"),
    "stride below 0": (set_option(strideH=-1), "stride_h is -1"),
    "no such padding": (set_option(padding=5), "padding is 5, expected one of"),
    "dilation 0": (set_option(dilationHFactor=0), "dilation_h_factor is 0"),
    "window does not fit": (set_option(dilationHFactor=2), r"a window of \(3, 3\) does not fit into \(1, 4, 4, 2\)"),
    "other options": (
        set_op(0, builtinOptionsType=SCHEMA.BuiltinOptions.SplitOptions, builtinOptions=SCHEMA.SplitOptionsT()),
        "options of type SplitOptions, expected Conv2DOptions",
    ),
    "output shape": (set_tensor(3, shape=[1, 2, 2, 4]), r"makes shapes \[\(1, 2, 2, 4\)\] of"),
    "another shape": (set_tensor(4, shape=[1, 3, 2, 3]), r"RELU .* expected \[\(1, 2, 2, 3\)\]"),
}
UNSUPPORTED = {
    "subgraphs": (two_subgraphs, "has 2 subgraphs, allowed 1"),
    "custom": (custom, r"operator 1 CUSTOM 'my\\nop' \(makes tensor 4 'last' \(1, 2, 2, 3\)\)"),
    "beyond the list": (kind("ELU"), r"operator 1 ELU \(makes tensor 4 'last' .* supported are ADD, AVERAGE_POOL_2D"),
    "shape of a free batch": (kind("SHAPE"), "operator 1 SHAPE .*: not supported; convert with a fixed batch of one"),
    "resource": (kind("VAR_HANDLE"), "operator 1 VAR_HANDLE"),
    "float16": (set_tensor(1, type=SCHEMA.TensorType.FLOAT16), "operator 0 CONV_2D .* 'weights' is float16"),
    "int4": (set_tensor(1, type=SCHEMA.TensorType.INT4), "'weights' is int4, supported are int8"),
    "uint8": (set_tensor(3, type=SCHEMA.TensorType.UINT8), "'middle' is uint8, supported is int8 here"),
    "resource tensor": (set_tensor(0, type=SCHEMA.TensorType.RESOURCE), "is resource"),
    "dynamic": (set_tensor(0, shapeSignature=[-1, -1, 4, 2]), r"has a dynamic shape \(-1, -1, 4, 2\)"),
    "dynamic batch": (set_tensor(1, shapeSignature=[-1, 3, 3, 2]), "has a dynamic shape"),
    "variable": (set_tensor(3, isVariable=True), "operator 0 CONV_2D .*'middle' is a variable"),
    "sparse": (set_tensor(1, sparsity=SCHEMA.SparsityParametersT()), "'weights' is sparse"),
    "own quantisation": (
        set_quantisation(1, detailsType=1, details=SCHEMA.CustomQuantizationT()),
        "is quantised in a custom way",
    ),
    "outside": (outside, "'weights' is stored outside of the flatbuffer"),
    "seven axes": (set_tensor(4, shape=[1] * 4 + [2, 2, 3]), "has 7 axes, supported at most 6"),
    "computed weights": (set_op(0, inputs=[0, 0]), "'image' is computed, supported are constants"),
    "constant output": (set_graph(outputs=[4, 1]), "output tensor 1 'weights' is constant"),
    "per channel": (
        set_quantisation(3, scale=[1.0, 2.0, 3.0], zeroPoint=[0] * 3, quantizedDimension=3),
        "'middle' has 3 scales along axis 3, supported is 1",
    ),
    "other axis": (set_quantisation(1, quantizedDimension=1), "supported is 1, or one along axis 0"),
    "activation": (set_option(fusedActivationFunction=4), "fused_activation_function is TANH, supported: NONE, RELU"),
    "bias type": (set_option(quantizedBiasType=4), "quantized_bias_type is INT64"),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_unsound_models(name):
    change, complaint = UNSOUND[name]
    with pytest.raises(SpecError, match=complaint) as caught:
        read(changed(change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_models(name):
    change, complaint = UNSUPPORTED[name]
    with pytest.raises(UnsupportedOpError, match=complaint) as caught:
        read(changed(change))
    assert "\n" not in str(caught.value)


def test_a_dynamic_batch_of_one_is_fine():
    assert read(changed(set_tensor(0, shapeSignature=[-1, 4, 4, 2]))).tensors[0].shape == (1, 4, 4, 2)


def test_a_bias_whose_axis_is_that_of_its_weights():
    """As older converters wrote it; a vector has but one axis."""
    assert read(changed(set_quantisation(2, quantizedDimension=3))).tensors[2].axis == 0


@pytest.mark.parametrize(
    ("reads", "output", "complaint"),
    [
        ({"scale": 1.0}, {"scale": 0.5}, "supported are the output's"),
        ({"scale": 1.0}, {"scale": 1.0, "zero_point": 3}, "supported are the output's"),
    ],
)
def test_quantisations_that_must_be_equal(reads, output, complaint):
    shape = {"shape": (1, 2, 2, 1)}
    window = {"filter_width": 1, "filter_height": 1, "stride_w": 1, "stride_h": 1}
    with pytest.raises(UnsupportedOpError, match=complaint):
        read(single_op("MAX_POOL_2D", [{**shape, **reads}], {**shape, **output}, **window))
    with pytest.raises(UnsupportedOpError, match=complaint):
        read(single_op("CONCATENATION", [{**shape, **reads}], {**shape, **output}, axis=3))


def test_softmax_has_one_output_quantisation():
    with pytest.raises(UnsupportedOpError, match="supported is scale"):
        read(single_op("SOFTMAX", [{"shape": (1, 4), "scale": 1.0}], {"shape": (1, 4), "scale": 0.5}, beta=1.0))


@pytest.mark.parametrize("junk", [b"", b"TFL3", b"hello world", b"\x1c\0\0\0TFL3" + 40 * b"\xff", b"\0" * 4 + b"TFL3"])
def test_bytes_that_are_no_model(junk):
    with pytest.raises(SpecError, match="model: "):
        read(junk)
