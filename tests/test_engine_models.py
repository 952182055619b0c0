"""The drawn models: TFLite Micro takes every one, they are repeatable, and they reach what they are drawn for."""

import numpy as np
import pytest
from engine_models import (
    DRAWS,
    Draft,
    RefusedError,
    random_chain,
    random_examples,
    random_graph,
    random_single_op,
    single_op,
    tflm,
    tflm_many,
)
from engine_nets import random_net

pytest.importorskip("tflite_micro")


@pytest.mark.parametrize("kind", DRAWS)
def test_tflite_micro_takes_what_is_drawn(kind):
    varied = 0
    for seed in range(25):
        rng = np.random.default_rng([seed, *kind.encode()])
        flatbuffer = random_single_op(rng, kind)
        answers = tflm_many(flatbuffer, random_examples(flatbuffer, rng, 2))
        varied += any(len(np.unique(output)) > 2 for output in answers[1])
    assert varied > 5


def test_chains():
    lengths = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        flatbuffer = random_chain(rng, 6)
        examples = random_examples(flatbuffer, rng, 3)
        first, *others = tflm_many(flatbuffer, examples)
        assert [output.shape for output in first] == [output.shape for output in others[1]]
        again = tflm(flatbuffer, examples[2])
        assert all(np.array_equal(one, other) for one, other in zip(others[1], again, strict=True))
        lengths.append(len(first))
    assert max(lengths) > 1


def test_nets_answer_different_inputs_differently():
    """The same outputs for every input would hide faults."""
    alike = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        flatbuffer = random_net(rng, int(rng.integers(1, 7)))
        answers = [scores.tobytes() for scores, _ in tflm_many(flatbuffer, random_examples(flatbuffer, rng, 6))]
        alike += len(set(answers)) < 3
    assert alike <= 2


def test_the_same_seed_draws_the_same_bytes():
    one, same, other = (random_single_op(np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert one == same != other


def test_what_convolutions_reach():
    """Grouped, dilated and strided ones, all activations, dead channels, biases near the ends of int32, no bias."""
    graphs = [random_graph(np.random.default_rng(seed), ["CONV_2D"]) for seed in range(200)]
    ops = [graph.ops[0] for graph in graphs]
    weights = [graph.tensors[op.inputs[1]] for graph, op in zip(graphs, ops, strict=True)]
    depths = [graph.tensors[op.inputs[0]].shape[3] for graph, op in zip(graphs, ops, strict=True)]
    assert sum(weight.shape[3] < depth for weight, depth in zip(weights, depths, strict=True)) > 10
    assert {op.options["fused_activation_function"] for op in ops} == {"NONE", "RELU", "RELU6", "RELU_N1_TO_1"}
    assert sum(max(op.options["dilation_h_factor"], op.options["dilation_w_factor"]) > 1 for op in ops) > 20
    assert sum(min(weight.scales) < 1e-6 for weight in weights) > 20
    biases = [graph.tensors[op.inputs[2]].data for graph, op in zip(graphs, ops, strict=True) if len(op.inputs) == 3]
    assert 100 < len(biases) < 200
    assert sum(np.abs(bias.astype(np.int64)).max() > (1 << 31) - (1 << 24) for bias in biases) > 20


def test_an_addition_by_pencil():
    """Real values 0.5 * (6 - 2) + 0.25 * (8 - 0) = 4, stored as 4 / 0.125 - 10 = 22."""
    given = [
        {"shape": (1, 1), "scale": 0.5, "zero_point": 2},
        {"shape": (1, 1), "scale": 0.25, "zero_point": 0},
    ]
    model = single_op("ADD", given, {"shape": (1, 1), "scale": 0.125, "zero_point": -10})
    (sums,) = tflm(model, [np.array([[6]], np.int8), np.array([[8]], np.int8)])
    assert sums.tolist() == [[22]]


def test_a_refused_model_does_not_spoil_the_next():
    """An ADD whose output is 2^20 times finer than its input makes TFLite Micro abort."""
    x = np.zeros((1, 4), np.int8)
    aborting = Draft()
    source = aborting.input((1, 4), scale=1.0)
    bad = aborting.flatbuffer(aborting.op("ADD", [source, source], aborting.tensor((1, 4), scale=1e-7)))
    good = single_op("RELU", [{"shape": (1, 4), "scale": 1.0}], {"shape": (1, 4), "scale": 1.0})
    for _ in range(2):
        with pytest.raises(RefusedError, match="aborted"):
            tflm(bad, [x])
        assert tflm(good, [x - 3])[0].tolist() == [[0, 0, 0, 0]]
    with pytest.raises(RefusedError, match="Dimension mismatch"):
        tflm(good, [x[0]])
