"""What models of other converters and by hand brought up: forms that TFLite Micro takes, and those that it refuses."""

import numpy as np
import pytest
from engine_build import Draft, model_object, packed, single_op
from engine_models import RefusedError, random_examples, tflm, tflm_many

from firmware_export.engine.compile import compile_model
from firmware_export.engine.host import built
from firmware_export.engine.verify import verify
from firmware_export.host import has_c_compiler
from hybrid.errors import HybridError, UnsupportedOpError
from hybrid.runtimes import device_engine
from hybrid.schema import schema

pytestmark = pytest.mark.skipif(
    device_engine() != "tflite-micro" or not has_c_compiler(), reason="needs tflite-micro and a C compiler"
)


def given(*shape, scale=0.05, zero_point=3, **more):
    return {"shape": shape, "scale": scale, "zero_point": zero_point, **more}


def numbers(values):
    return {"data": np.asarray(values, np.int32), "dtype": "int32"}


def reshaped_constant():
    """A constant that gets another shape before it is added, and one before it is an operand of a layer by itself."""
    draft = Draft()
    x = draft.input((1, 4), scale=0.05, zero_point=1)
    grid = draft.constant([[1, 2], [3, 4]], "int8", scale=0.1)
    flat = draft.op("RESHAPE", [grid], draft.tensor((1, 4), scale=0.1), new_shape=(1, 4))
    tall = draft.op("EXPAND_DIMS", [flat, draft.constant([0])], draft.tensor((1, 1, 4), scale=0.1))
    total = draft.op("ADD", [x, flat], draft.tensor((1, 4), scale=0.2))
    return draft.flatbuffer([total, draft.op("RELU", [tall], draft.tensor((1, 1, 4), scale=0.1))])


def inputs_as_outputs():
    """An input that is an output as well, one that only is, an output read again and given twice, a dead branch."""
    draft = Draft()
    x, other = draft.input((1, 4), scale=0.1), draft.input((1, 7), scale=0.1)
    flat = draft.op("RESHAPE", [x], draft.tensor((4,), scale=0.1), new_shape=(4,))
    y = draft.op("ADD", [x, flat], draft.tensor((1, 4), scale=0.1))
    bare = draft.op("SQUEEZE", [y], draft.tensor((4,), scale=0.1))
    last = draft.op("MUL", [bare, flat], draft.tensor((4,), scale=0.1))
    draft.op("TANH", [other], draft.tensor((1, 7), scale=1 / 128))
    return draft.flatbuffer([bare, x, last, other, bare])


def awkward_names():
    """Names that would end a comment, a line or a string."""
    draft = Draft()
    x = draft.input((1, 4), scale=0.1, name="a */ int x; /*")
    values = draft.constant([[1, 2, 3, 4]], "int8", scale=0.1, name='line\nbreak \\ ??/ "quoted" {{ x }} %s \u6f22')
    return draft.flatbuffer(draft.op("CONCATENATION", [x, values], draft.tensor((1, 8), scale=0.1, name=""), axis=1))


def no_bias_by_number(kind):
    draft, data = Draft(), np.arange(-9, 9).reshape(1, 3, 3, 2).astype(np.int8)
    x = draft.input((1, 5, 5, 2), scale=0.05, zero_point=1)
    weights = draft.tensor(data.shape, data=data, scale=0.02)
    y = draft.tensor((1, 5, 5, 1 if kind == "CONV_2D" else 2), scale=0.3)
    times = {} if kind == "CONV_2D" else {"depth_multiplier": 1}
    return draft.flatbuffer(draft.op(kind, [x, weights, -1], y, padding="SAME", stride_w=1, stride_h=1, **times))


def dense(*, scales=(0.02,), zero_point=0, bias_shape=(5,)):
    rng = np.random.default_rng(0)
    weights = {"data": rng.integers(-128, 128, (5, 7)).astype(np.int8), "scales": scales}
    bias = {"data": rng.integers(-999, 999, bias_shape).astype(np.int32), "dtype": "int32"}
    real = {"scales": tuple(0.05 * scale for scale in scales), "zero_points": (0,) * len(scales)}
    parts = [given(2, 7), {**weights, "zero_points": (zero_point,) * len(scales)}, {**bias, **real}]
    return single_op("FULLY_CONNECTED", parts, given(2, 5, scale=0.4), keep_num_dims=False)


def unscaled(kind, parts, output, **options):
    """Values that only move need no scale."""
    plain = [{key: value for key, value in part.items() if key not in ("scale", "zero_point")} for part in parts]
    return single_op(kind, plain, {"shape": output}, **options)


def binary(kind, first, second):
    parts = [given(*first), given(*second, scale=0.03, zero_point=-5)]
    return single_op(kind, parts, given(*np.broadcast_shapes(first, second), scale=0.07))


TAKEN = {
    "a constant of another shape": reshaped_constant(),
    "inputs as outputs": inputs_as_outputs(),
    "awkward names": awkward_names(),
    "a bias of number -1": no_bias_by_number("CONV_2D"),
    "a bias of two axes": dense(bias_shape=(1, 5)),
    "weights with a zero point": dense(zero_point=7),
    "weights with the lowest zero point": dense(zero_point=-128),
    "weights per channel, whose zero points TFLite Micro does not look at": dense(scales=(0.02,) * 5, zero_point=7),
    "five axes": binary("ADD", (1, 2, 3, 4, 5), (1, 1, 3, 1, 5)),
    "five axes, repeated on both sides": binary("MUL", (1, 2, 1, 4, 1), (1, 1, 3, 1, 5)),
    "six axes": binary("SUB", (1, 2, 2, 2, 2, 3), (1, 2, 1, 2, 1, 3)),
    "slices of more than 15 bits": single_op(
        "HARD_SWISH", [given(1, 256, scale=2.5e-05)], given(1, 256, scale=0.0235, zero_point=-128)
    ),
    "a transposition without scales": unscaled("TRANSPOSE", [given(1, 4, 2), numbers([0, 2, 1])], (1, 2, 4)),
    "a resize without scales": unscaled(
        "RESIZE_NEAREST_NEIGHBOR", [given(1, 4, 2, 2), numbers([3, 5])], (1, 3, 5, 2), align_corners=True
    ),
    "a slice without scales": unscaled(
        "STRIDED_SLICE", [given(1, 4), *map(numbers, ([0, 3], [1, 0], [1, -2]))], (1, 2)
    ),
}
"""TFLite Micro takes these, so they compile and are exact."""


def test_what_tflite_micro_takes_is_exact():
    models = [compile_model(model, prefix=f"m{i}", kernels="kernels") for i, model in enumerate(TAKEN.values())]
    with built(models, optimise="-O1") as program:
        for number, (name, model) in enumerate(TAKEN.items()):
            examples = random_examples(model, np.random.default_rng(number), 20)
            for got, expected in zip(program.run(examples, number), tflm_many(model, examples), strict=True):
                assert all(np.array_equal(one, other) for one, other in zip(got, expected, strict=True)), name


def pad(*shape):
    around = [[0, 1]] * len(shape)
    return single_op("PAD", [given(*shape), numbers(around)], given(*(size + 1 for size in shape)))


def turned(*shape):
    order = numbers(range(len(shape)))
    return single_op("TRANSPOSE", [given(*shape), order], given(*shape))


REFUSED = {
    "PAD of six axes": (pad(1, 1, 1, 1, 1, 2), "reads 6 axes, supported as in TFLite Micro: 5"),
    "TRANSPOSE of six axes": (turned(1, 1, 1, 1, 1, 2), "reads 6 axes, supported as in TFLite Micro: 5"),
    "TRANSPOSE by a matrix": (
        single_op("TRANSPOSE", [given(1, 2), numbers([[0, 1]])], given(1, 2)),
        "in a list of 2 axes",
    ),
    "RESIZE_NEAREST_NEIGHBOR to a matrix": (
        single_op("RESIZE_NEAREST_NEIGHBOR", [given(1, 2, 2, 1), numbers([[3, 3]])], given(1, 3, 3, 1)),
        "expected 4 axes and two sizes",
    ),
    "DEPTHWISE_CONV_2D with a bias of number -1": (no_bias_by_number("DEPTHWISE_CONV_2D"), "an input is left out"),
    "a fused RELU6 beyond int32": (
        single_op("ADD", [given(1, 2, scale=1e-9)] * 2, given(1, 2, scale=1e-9), fused_activation_function="RELU6"),
        "scales give a limit of 6e.09, allowed are those of int32",
    ),
}
"""TFLite Micro refuses these, or aborts on them."""


@pytest.mark.parametrize("name", REFUSED)
def test_what_tflite_micro_refuses_is_refused(name):
    model, complaint = REFUSED[name]
    with pytest.raises(HybridError, match=complaint):
        compile_model(model)
    with pytest.raises(RefusedError):
        tflm(model, random_examples(model, np.random.default_rng(0), 1)[0])


@pytest.mark.parametrize(
    ("kind", "scale", "made", "complaint"),
    [
        ("QUANTIZE", 1000.0, 1e-7, r"QUANTIZE\): scales give a factor of 1e\+10, allowed is less than 2\^31"),
        ("RELU6", 1e-12, 0.1, r"RELU6\): scales give a limit of 6e\+12, allowed are those of int32"),
        ("TANH", 1e-12, 0.0078125, r"TANH\): scales give a limit of .* allowed are those of int32"),
    ],
)
def test_scales_for_which_c_is_undefined_are_refused(kind, scale, made, complaint):
    """TFLite Micro shifts by more than 31 bits there, or converts a float beyond int32: each compiler has its own."""
    with pytest.raises(UnsupportedOpError, match=complaint):
        compile_model(single_op(kind, [given(1, 4, scale=scale)], given(1, 4, scale=made)))


@pytest.mark.parametrize(
    ("scale", "made", "activation", "complaint"),
    [
        (1e6, 1e-6, "NONE", r"operator 0 \(CONV_2D\): scales give a factor of 1e\+10, allowed is less than 2\^31"),
        (0.05, 1e-12, "RELU6", r"operator 0 \(CONV_2D\): scales give a limit of 6e\+12, allowed are those of int32"),
    ],
)
def test_such_scales_before_another_layer_are_refused(scale, made, activation, complaint):
    """Where channels may be left out, their values are looked at before any layer is made."""
    steps = {f"{name}_{side}": 1 for name in ("stride", "dilation") for side in "hw"}
    options = {"padding": "SAME"} | {n if n[0] == "s" else f"{n}_factor": v for n, v in steps.items()}
    draft = Draft()
    x, weights = draft.input((1, 4, 4, 4), scale=scale), draft.constant(np.ones((4, 1, 1, 4)), "int8", scale=0.01)
    middle = draft.tensor((1, 4, 4, 4), scale=made)
    draft.op("CONV_2D", [x, weights], middle, fused_activation_function=activation, **options)
    y = draft.tensor((1, 4, 4, 4), scale=made)
    draft.op("CONV_2D", [middle, weights], y, fused_activation_function="NONE", **options)
    with pytest.raises(UnsupportedOpError, match=complaint):
        compile_model(draft.flatbuffer(y))


def test_damage_where_only_tflite_micro_looks_is_a_refusal():
    """Its package reads the names of metadata, which nothing else needs: here one that lies far outside of the file."""
    draft = Draft()
    x = draft.input((1, 4), scale=0.05)
    model = model_object(draft.graph(draft.op("RELU", [x], draft.tensor((1, 4), scale=0.05))))
    model.metadata = [schema().MetadataT()]
    model.metadata[0].name, model.metadata[0].buffer = "M" * 12, 0
    sound = packed(model)
    at = next(at for at in range(0, len(sound), 4) if points_to(sound, at, b"M" * 12))
    damaged = sound[:at] + (1 << 27).to_bytes(4, "little") + sound[at + 4 :]
    compiled = compile_model(damaged)
    assert verify(sound, compiled, 3) is None
    with pytest.raises(UnsupportedOpError, match="model: TFLite Micro refuses it: unpack_from requires a buffer"):
        verify(damaged, compiled, 3)


def test_verification_outlives_a_model_on_which_tflite_micro_aborts():
    """Softmax of 4,096 equal values: the sum of their exponentials has no room in its fixed point."""
    draft = Draft()
    x = draft.input((1, 4096), scale=1e-6)
    y = draft.tensor((1, 4096), scale=1 / 256, zero_point=-128)
    model = draft.flatbuffer(draft.op("SOFTMAX", [x], y, beta=1.0))
    with pytest.raises(UnsupportedOpError, match=r"^model: TFLite Micro aborts on it \(SIG[A-Z]+"):
        verify(model, compile_model(model), 1)


def points_to(flatbuffer, at, text):
    """Whether the word at a place is the offset of a string."""
    begin = at + int.from_bytes(flatbuffer[at : at + 4], "little") + 4
    return begin > at + 4 and flatbuffer[begin : begin + len(text)] == text


def test_a_constant_as_an_output_is_refused():
    draft = Draft()
    x = draft.input((1, 4), scale=0.05)
    flat = draft.op(
        "RESHAPE", [draft.constant([[1], [2]], "int8", scale=0.1)], draft.tensor((2,), scale=0.1), new_shape=(2,)
    )
    y = draft.op("RELU", [x], draft.tensor((1, 4), scale=0.05))
    with pytest.raises(UnsupportedOpError, match="output 't2': is a constant"):
        compile_model(draft.flatbuffer([y, flat]))
