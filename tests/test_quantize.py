"""Float net to int8 flatbuffer, after and during training, on real data."""

from dataclasses import replace

import numpy as np
import pytest
from learner_helpers import EDGE, SPEC, filled, head, real, spec, tensors

from datasets import Split
from hybrid import fitting, quantize, runtimes
from hybrid.cost import estimate
from hybrid.flatbuffers import Graph, named_outputs
from hybrid.look import cut
from hybrid.nets import build_net
from hybrid.predict import stage_outputs
from hybrid.progress import SILENT
from hybrid.qat import quantization_aware_fit, twin, twins
from hybrid.quantize import convert, quantize_edge, quantize_stages
from hybrid.schema import schema
from hybrid.specs import ArchSpec, BlockSpec
from hybrid.work import flatbuffer_work

METHODS = ("ptq", "qat")


@pytest.fixture(scope="module")
def qat_edge(fashion, edge_net):
    """In a single epoch of 18 steps it would not find the activations' ranges: luck in rounding gave 51 to 60 %."""
    fine_tuned = spec(quantize={"methods": ("qat",), "qat_epochs": 4})
    return quantize_edge(EDGE, edge_net, fashion, None, fine_tuned, narrator=SILENT)


@pytest.fixture(params=METHODS)
def edge(request, int8_edge, qat_edge):
    return {"ptq": int8_edge, "qat": qat_edge}[request.param]


def input_tensor(flatbuffer):
    subgraph = Graph(flatbuffer)._subgraph
    (number,) = subgraph.inputs
    return subgraph.tensors[number]


def operators(flatbuffer):
    """Schema names of the operators, in order."""
    model = Graph(flatbuffer)._model
    names = {value: name for name, value in vars(schema().BuiltinOperator).items() if name.isupper()}
    return [names[model.operatorCodes[op.opcodeIndex].builtinCode] for op in model.subgraphs[0].operators]


def test_the_input_is_stored_pixels_minus_128_exactly(edge):
    tensor = input_tensor(edge.flatbuffer)
    assert tensor.type == schema().TensorType.INT8
    assert list(tensor.shape) == [1, 28, 28, 1]
    assert (tensor.quantization.scale[0], tensor.quantization.zeroPoint[0]) == (1 / 128, 0)


def test_all_is_int8_with_int32_biases(edge):
    kinds = schema().TensorType
    assert {tensor.type for tensor in tensors(edge.flatbuffer).values()} <= {kinds.INT8, kinds.INT32}
    found = Graph(edge.flatbuffer).edge_outputs()
    subgraph = Graph(edge.flatbuffer)._subgraph
    assert list(subgraph.outputs) == [found.logits, found.features]
    assert [list(subgraph.tensors[number].shape) for number in subgraph.outputs] == [[1, 10], [1, 16]]
    assert {subgraph.tensors[number].type for number in subgraph.outputs} == {kinds.INT8}


def test_batch_normalisation_and_relu_are_folded(edge):
    assert operators(edge.flatbuffer) == ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "MEAN", "FULLY_CONNECTED"]


def test_convolutions_have_one_scale_per_channel(edge):
    subgraph = Graph(edge.flatbuffer)._subgraph
    filters = [subgraph.tensors[subgraph.operators[index].inputs[1]] for index in range(3)]
    assert [list(weights.shape) for weights in filters] == [[8, 5, 5, 1], [1, 3, 3, 8], [16, 1, 1, 8]]
    assert [len(np.unique(weights.quantization.scale)) > 1 for weights in filters] == [True] * 3
    assert [len(weights.quantization.scale) for weights in filters] == [8, 8, 16]
    assert [weights.quantization.quantizedDimension for weights in filters] == [0, 3, 0]
    assert not any(np.any(weights.quantization.zeroPoint) for weights in filters)


def test_int8_is_about_as_good_as_float(edge, edge_net, fashion):
    split = fashion.validation
    outputs = fitting.predict(edge_net, split.x, label="", narrator=SILENT)
    in_float = float((outputs.logits.argmax(axis=1) == split.y).mean())
    (reached,) = edge.validation_accuracy.values()
    assert in_float > 0.5
    assert reached > in_float - 0.12  # fine-tuning takes 72 steps here


def test_outputs_are_those_of_the_float_net(int8_edge, edge_net, fashion):
    expected = fitting.predict(edge_net, fashion.test.x, label="", narrator=SILENT)
    got = real(int8_edge.flatbuffer, fashion.test.x)
    for name in ("logits", "features"):
        a, b = getattr(got, name), getattr(expected, name)
        assert a.shape == b.shape
        assert np.abs(a - b).mean() < 0.04 * np.ptp(b)
    assert (got.logits.argmax(axis=1) == expected.logits.argmax(axis=1)).mean() > 0.9


@pytest.mark.parametrize("ahead", METHODS)
def test_the_better_method_wins_and_both_are_told(ahead, int8_edge, qat_edge, fashion, edge_net, monkeypatch):
    """Each method's model is that of the fixtures; the accuracies are measured on rows where `ahead` is right."""
    made = {"ptq": int8_edge, "qat": qat_edge}
    monkeypatch.setattr(quantize, "_METHODS", {n: lambda *_, f=e.flatbuffer: f for n, e in made.items()})
    x = fashion.validation.x
    said = {n: stage_outputs(e.flatbuffer, x).own.logits.argmax(axis=1) for n, e in made.items()}
    assert (said["ptq"] != said["qat"]).any()
    data = replace(fashion, validation=Split(x=x, y=said[ahead]))
    best = quantize_edge(EDGE, edge_net, data, None, SPEC, narrator=SILENT)
    assert best.method == ahead
    assert best.flatbuffer == made[ahead].flatbuffer
    agree = float((said["ptq"] == said["qat"]).mean())
    assert best.validation_accuracy == {name: 1.0 if name == ahead else agree for name in METHODS}


def test_the_same_net_twice_in_one_process_gives_the_same_bytes(fashion, edge_net, int8_edge):
    again = quantize_edge(EDGE, edge_net, fashion, None, spec(quantize={"methods": ("ptq",)}), narrator=SILENT)
    assert again.flatbuffer == int8_edge.flatbuffer
    assert again.validation_accuracy == int8_edge.validation_accuracy


def test_quantisation_aware_training_repeats(fashion, edge_net):
    """Also with fewer examples than a batch holds."""
    few = replace(fashion, train=head(fashion.train, 40), validation=head(fashion.validation, 10))
    asked = spec(quantize={"methods": ("qat",)})
    first, again = (quantize_edge(EDGE, edge_net, few, None, asked, narrator=SILENT).flatbuffer for _ in range(2))
    assert first == again


def test_the_calibration_spans_the_whole_input_whatever_the_examples(edge_net):
    dark = np.full((5, 28, 28, 1), 100, np.uint8)
    (copy,) = twins(lambda k: (build_net(EDGE, k),), (edge_net,))
    quantization = input_tensor(convert(copy, dark)).quantization
    assert (quantization.scale[0], quantization.zeroPoint[0]) == (1 / 128, 0)


@pytest.fixture(scope="module")
def halves(fashion, edge_net):
    """An early exit after one of two blocks, in int8; the near head is untrained."""
    asked = spec(look={"kind": "exit"})
    return quantize_stages(EDGE, cut(edge_net, EDGE, asked.look), fashion, None, asked, narrator=SILENT)


def test_the_far_part_reads_exactly_what_the_near_part_stores(halves):
    near, far = (Graph(half.flatbuffer) for half in halves)
    assert [half.method for half in halves] == ["ptq", "ptq"]  # fine-tuning the near one would move the trunk
    trunk, source = near.edge_outputs().trunk_affine, input_tensor(halves[1].flatbuffer)
    assert (source.quantization.scale[0], source.quantization.zeroPoint[0]) == (trunk.scale, trunk.zero_point)
    assert list(source.shape) == [1, 14, 14, 8]
    assert far.edge_outputs().trunk_affine is None


def test_the_two_halves_answer_about_as_the_whole_net(halves, int8_edge, fashion):
    """Each is quantised on its own, so that single answers differ; both halves run as the device runs them."""
    x = fashion.test.x
    trunk = stage_outputs(halves[0].flatbuffer, x, engine="tflm").trunk
    far = stage_outputs(halves[1].flatbuffer, trunk, engine="tflm").own.logits.argmax(axis=1)
    whole = runtimes.run(int8_edge.flatbuffer, x, engine="tflm")[0].argmax(axis=1)
    assert (far == whole).mean() > 0.93
    y = fashion.validation.y
    assert halves[1].validation_accuracy["ptq"] == pytest.approx(int8_edge.validation_accuracy["ptq"], abs=0.03)
    assert len(y) * halves[0].validation_accuracy["ptq"] == pytest.approx(
        (stage_outputs(halves[0].flatbuffer, fashion.validation.x).own.logits.argmax(axis=1) == y).sum()
    )


def test_further_nets_are_quantised_one_by_one(fashion, edge_net, int8_edge):
    asked = spec(look={"kind": "net", "width": 1.0}, quantize={"methods": ("ptq",)})
    made = quantize_stages(EDGE, (edge_net, edge_net), fashion, None, asked, narrator=SILENT)
    assert [one.flatbuffer for one in made] == [int8_edge.flatbuffer] * 2


@pytest.mark.parametrize("method", METHODS)
def test_a_net_with_pool_grey_and_window_costs_what_was_reckoned(fashion, method):
    """Both ways give the same operators, no requantisation after the mean over pixels, and the estimated sizes."""
    images, rng = fashion.train.x[:96], np.random.default_rng(0)
    x = {"colour": np.repeat(images[:, :12, :12], 3, axis=3), "window": images.reshape(96, 196, 1, 4)[:, :64]}
    for name, rows in x.items():
        arch = ArchSpec(
            name=name,
            input_shape=rows.shape[1:],
            num_classes=10,
            blocks=(BlockSpec(kind="conv", width=8, kernel=5), BlockSpec(kind="ib", width=8, expansion=2)),
            input_pool=2,
            grey=name == "colour",
        )
        net = filled(build_net(arch), rng)
        copy = twin(arch, net)
        if method == "qat":
            target = fitting.targets(fashion.train.y[:96], 10, None, temperature=2.0)
            copy = quantization_aware_fit(
                copy, rows, target, epochs=1, batch_size=32, learning_rate=1e-4, alpha=0.0, temperature=2.0, seed=0,
                narrator=SILENT,
            )  # fmt: skip
        flatbuffer = named_outputs(convert(copy, rows if method == "ptq" else None))
        costs, affine = estimate(arch), input_tensor(flatbuffer).quantization
        assert (affine.scale[0], affine.zeroPoint[0]) == (1 / 128, 0)
        assert operators(flatbuffer)[0] == "AVERAGE_POOL_2D"
        assert flatbuffer_work(flatbuffer) == costs.work
        # Trained in int8, the dense layer has one scale instead of ten: 9 * 2 * 12 bytes less.
        assert 0.95 * costs.flash_bytes <= len(flatbuffer) <= costs.flash_bytes
