"""A router on an int8 edge: the edge is not touched, and the device's score is the float router's."""

import numpy as np
import pytest
from learner_helpers import inner, spearman, tensors
from tiny_edge import tiny_edge

from hybrid import runtimes
from hybrid.artifacts import Affine
from hybrid.errors import UnsupportedOpError
from hybrid.graft import Graph, dequantise, graft, score_threshold, two_outputs
from hybrid.router import MaxSoftmax, fit_router
from hybrid.specs import RouterSpec

ROUTER_TENSORS = (
    "logits",
    "features",
    *(f"router/confidence_{index}" for index in range(3)),
    "router/confidences_joined",
    "router/features",
    "router/confidences",
    "router/hidden",
    "router_score",
)


@pytest.fixture(scope="module")
def x(fashion):
    return fashion.validation.x[:300]


@pytest.fixture(scope="module")
def router(calibrated):
    wrong = (~calibrated.right).astype(np.float32)
    return fit_router(calibrated.outputs, wrong, RouterSpec(hidden=8, epochs=10), seed=0)


@pytest.fixture(scope="module")
def learned(int8_edge, calibrated, router):
    return graft(int8_edge.flatbuffer, router, calibrated.outputs)


@pytest.fixture(scope="module")
def computed(learned, x):
    """Every tensor of the router as TensorFlow Lite Micro computes it."""
    return inner(learned, ROUTER_TENSORS, x)


def affine(flatbuffer, name):
    return Graph(flatbuffer).affine_of(name)


def real(flatbuffer, computed, name):
    return dequantise(computed[name], affine(flatbuffer, name)).astype(np.float64)


def stored(values, into):
    return np.clip(np.rint(values / into.scale) + into.zero_point, -128, 127).astype(int)


def constant(flatbuffer, name, dtype):
    model = Graph(flatbuffer)._model
    tensor = tensors(flatbuffer)[name]
    return np.frombuffer(bytes(model.buffers[tensor.buffer].data), dtype).reshape(tensor.shape).astype(np.int64)


def test_outputs_have_their_names_and_order(learned, int8_edge, calibrated):
    for flatbuffer in (learned, graft(int8_edge.flatbuffer, MaxSoftmax(beta=1.0), calibrated.outputs)):
        subgraph, numbers = Graph(flatbuffer)._subgraph, list(tensors(flatbuffer))
        assert [numbers[index] for index in subgraph.outputs] == ["logits", "router_score"]
        (signature,) = Graph(flatbuffer)._model.signatureDefs
        assert [output.name for output in signature.outputs] == [b"logits", b"router_score"]
        assert list(tensors(flatbuffer)["router_score"].shape) == [1, 1]


@pytest.mark.parametrize("kind", ["learned", "max_softmax"])
@pytest.mark.parametrize("engine", ["tflm", "host"])
def test_the_edges_logits_stay_bit_by_bit(int8_edge, learned, calibrated, x, kind, engine):
    grafted = {
        "learned": learned,
        "max_softmax": graft(int8_edge.flatbuffer, MaxSoftmax(beta=0.5), calibrated.outputs),
    }[kind]
    before = runtimes.run(int8_edge.flatbuffer, x[:50], engine=engine)[0]
    after = runtimes.run(grafted, x[:50], engine=engine)[0]
    np.testing.assert_array_equal(before, after)
    assert len(np.unique(before, axis=0)) > 10


def test_the_edges_own_operators_come_first_and_unchanged(int8_edge, learned):
    before, after = Graph(int8_edge.flatbuffer)._subgraph.operators, Graph(learned)._subgraph.operators
    assert len(after) == len(before) + 3 * 2 + 1 + 2 + 1 + 1  # softmax and max, concatenation, dense, add, dense
    for old, new in zip(before, after, strict=False):
        assert old.opcodeIndex == new.opcodeIndex
        np.testing.assert_array_equal(old.inputs, new.inputs)
        np.testing.assert_array_equal(old.outputs, new.outputs)


def test_same_inputs_same_bytes(int8_edge, calibrated, router, learned):
    assert graft(int8_edge.flatbuffer, router, calibrated.outputs) == learned
    assert two_outputs(int8_edge.flatbuffer) == two_outputs(two_outputs(int8_edge.flatbuffer))


def test_the_int8_score_ranks_as_the_float_router(learned, router, int8_edge, x):
    from hybrid.progress import SILENT

    outputs = int8_edge.outputs(x, label="", narrator=SILENT)
    score = runtimes.run(learned, x, engine="tflm")[1][:, 0]
    assert score.dtype == np.int8
    assert spearman(score, router.score(outputs)) > 0.98
    assert len(np.unique(score)) > 60  # the int8 steps are spent where the scores lie
    np.testing.assert_allclose(
        dequantise(score, affine(learned, "router_score")),
        router.score(outputs),
        atol=0.1 * np.ptp(router.score(outputs)),
    )


def test_confidences_on_the_device(learned, computed, router):
    """Largest softmax probability in steps of 1/256; the device's exponential is a table, so one step is allowed."""
    logits = real(learned, computed, "logits")
    for index, beta in enumerate(router.betas):
        exp = np.exp(beta * (logits - logits.max(axis=1, keepdims=True)))
        expected = np.clip(np.rint(256 / exp.sum(axis=1)) - 128, -128, 127)
        got = computed[f"router/confidence_{index}"][:, 0].astype(int)
        assert np.abs(got - expected).max() <= 1
        np.testing.assert_array_equal(got, computed["router/confidences_joined"][:, index])


@pytest.mark.parametrize(
    ("source", "dense"),
    [
        ("features", "router/features"),
        ("router/confidences_joined", "router/confidences"),
        ("router/hidden", "router_score"),
    ],
)
def test_dense_layers_in_integers(learned, computed, source, dense):
    """(q - z) W + b in int32, one multiplication, one rounding; the device rounds twice, which tips near ties."""
    weights = constant(learned, f"{dense}/weights", np.int8)
    bias = constant(learned, f"{dense}/bias", np.int32)
    into, out_of = affine(learned, dense), affine(learned, source)
    accumulated = (computed[source].astype(np.int64) - out_of.zero_point) @ weights.T + bias
    assert np.abs(accumulated).max() < 2**31
    expected = stored(accumulated * (out_of.scale * affine(learned, f"{dense}/weights").scale), into)
    difference = np.abs(computed[dense] - expected)
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.95


def test_the_hidden_sum_in_integers(learned, computed):
    total = real(learned, computed, "router/features") + real(learned, computed, "router/confidences")
    expected = stored(np.maximum(total, 0.0), affine(learned, "router/hidden"))
    assert np.abs(computed["router/hidden"] - expected).max() <= 1
    assert (computed["router/hidden"] == affine(learned, "router/hidden").zero_point).any()  # ReLU cuts


def test_weights_are_the_routers_in_int8(learned, router):
    for name, weights in (
        ("router/features", router.feature_weights),
        ("router/confidences", router.confidence_weights),
        ("router_score", router.out[:, None]),
    ):
        scale = affine(learned, f"{name}/weights").scale
        assert scale == pytest.approx(np.abs(weights).max() / 127, rel=1e-6)
        got = constant(learned, f"{name}/weights", np.int8).T * scale
        np.testing.assert_allclose(got, weights, atol=0.5001 * scale)


@pytest.mark.parametrize("beta", [1.0, 0.25])
def test_the_free_rule(int8_edge, calibrated, x, beta):
    grafted = graft(int8_edge.flatbuffer, MaxSoftmax(beta=beta), calibrated.outputs)
    logits, score = runtimes.run(grafted, x[:100], engine="tflm")
    assert affine(grafted, "router_score") == Affine(scale=1 / 256, zero_point=-128)
    z = beta * dequantise(logits, affine(grafted, "logits")).astype(np.float64)
    probability = 1 / np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1)
    assert np.abs(score[:, 0] - np.clip(np.rint(256 * probability) - 128, -128, 127)).max() <= 1


def test_score_threshold(learned, int8_edge, calibrated):
    free = graft(int8_edge.flatbuffer, MaxSoftmax(beta=1.0), calibrated.outputs)
    assert score_threshold(free, 0) == (0 - 0.5 + 128) / 256  # from there, a score is rounded to 0 or more
    assert score_threshold(free, -128) == -0.5 / 256
    assert score_threshold(free, 127) == 254.5 / 256
    into = affine(learned, "router_score")
    for step in (-100, 0, 55):
        limit = score_threshold(learned, step)
        assert stored(np.array([limit - 1e-3 * into.scale, limit + 1e-3 * into.scale]), into).tolist() == [
            step - 1,
            step,
        ]


def test_two_outputs_of_an_edge(int8_edge):
    swapped = Graph(int8_edge.flatbuffer)
    found = swapped.edge_outputs()
    swapped = swapped.finish({"features": found.features, "logits": found.logits})
    straight = Graph(two_outputs(swapped)).edge_outputs()
    assert straight == found
    numbers = list(tensors(two_outputs(swapped)))
    assert [numbers[i] for i in Graph(two_outputs(swapped))._subgraph.outputs] == ["logits", "features"]


def test_a_model_without_features_is_refused(calibrated):
    with pytest.raises(UnsupportedOpError, match=r"outputs .*logits.*router_score.*, expected logits and features"):
        graft(tiny_edge(), MaxSoftmax(beta=1.0), calibrated.outputs)
    with pytest.raises(UnsupportedOpError):
        two_outputs(tiny_edge())


def test_dequantise():
    got = dequantise(np.array([-128, 0, 127], np.int8), Affine(scale=0.5, zero_point=-28))
    assert got.tolist() == [-50.0, 14.0, 77.5]
    assert got.dtype == np.float32
