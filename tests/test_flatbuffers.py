"""Int8 flatbuffers edited: outputs in order, a net cut in two whose trunk passes byte for byte."""

from functools import cache

import numpy as np
import pytest
from learner_helpers import tensors
from tiny_edge import images, pixels, tiny_continuation, tiny_edge, tiny_second

from hybrid import runtimes
from hybrid.artifacts import Affine
from hybrid.errors import UnsupportedOpError
from hybrid.flatbuffers import Graph, continuing, dequantise, named_outputs
from hybrid.schema import schema


@cache
def whole_and_halves():
    """A net with an exit: logits after one convolution, and after a second; whole, and cut in two at the trunk."""
    import tensorflow as tf
    import tf_keras
    from tiny_edge import _converted

    tf_keras.utils.set_random_seed(5)
    layers = tf_keras.layers
    inputs, middle = tf_keras.Input((8, 8, 1)), tf_keras.Input((3, 3, 4))
    trunk = layers.Conv2D(4, 3, 2, activation="relu", name="trunk")(inputs)
    second = layers.Conv2D(6, 2, activation="relu")
    pool, head = layers.GlobalAveragePooling2D(name="features"), layers.Dense(3, name="logits")
    late = tf_keras.Model(middle, {"features": pool(second(middle)), "logits": head(pool(second(middle)))})
    floats = tf_keras.Model(inputs, trunk)
    trunks = floats(images()).numpy()
    first = _converted(inputs, trunk, images(), trunk=trunk)
    converter = tf.lite.TFLiteConverter.from_keras_model(late)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: ([1.5 * row[None]] for row in trunks)  # another range than the first's
    return late(trunks), first, named_outputs(converter.convert())


def test_outputs_have_their_names_and_order():
    for flatbuffer, names in ((tiny_edge(), ["logits", "features", "trunk"]), (tiny_second(), ["logits", "features"])):
        numbers = list(tensors(flatbuffer))
        assert [numbers[index] for index in Graph(flatbuffer)._subgraph.outputs] == names
        assert sum(tensor.name is not None for tensor in Graph(flatbuffer)._subgraph.tensors) == len(names)
        (signature,) = Graph(flatbuffer)._model.signatureDefs
        assert [output.name.decode() for output in signature.outputs] == names


def test_outputs_in_another_order_come_back_in_order():
    swapped = Graph(tiny_edge())
    found = swapped.edge_outputs()
    swapped = swapped.finish({"features": found.features, "trunk": found.trunk, "logits": found.logits})
    assert Graph(named_outputs(swapped)).edge_outputs() == found
    before, after = (runtimes.run(flatbuffer, pixels(5), engine="host") for flatbuffer in (tiny_edge(), swapped))
    for index, there in enumerate((2, 0, 1)):
        np.testing.assert_array_equal(before[index], after[there])
    again = runtimes.run(named_outputs(swapped), pixels(5), engine="host")
    assert all(np.array_equal(one, other) for one, other in zip(before, again, strict=True))
    assert named_outputs(named_outputs(swapped)) == named_outputs(swapped)


def test_a_model_without_features_is_refused():
    graph = Graph(tiny_edge())
    bare = graph.finish({"logits": graph.edge_outputs().logits})
    with pytest.raises(UnsupportedOpError, match=r"outputs \['logits'\], expected logits and features"):
        named_outputs(bare)


def test_a_continuation_gets_one_operator_in_front():
    _, first, second = whole_and_halves()
    bridged = Graph(continuing(second, first))
    before, after = Graph(second), bridged
    assert len(after._subgraph.operators) == len(before._subgraph.operators) + 1
    code = after._model.operatorCodes[after._subgraph.operators[0].opcodeIndex]
    assert code.builtinCode == schema().BuiltinOperator.QUANTIZE
    trunk = Graph(first).edge_outputs().trunk_affine
    assert after.affine(after.input) == trunk != before.affine(before.input)
    assert after.shape(after.input) == before.shape(before.input) == (1, 3, 3, 4)
    assert after._model.signatureDefs[0].inputs[0].tensorIndex == after.input
    assert continuing(continuing(second, first), first) == continuing(second, first)  # now it agrees: left as it is


@pytest.mark.parametrize("engine", ["tflm", "host"])
def test_a_net_cut_in_two_answers_as_the_whole(engine):
    """Stored trunks go into the second half unchanged; its answers are those of the float net to a few int8 steps."""
    floats, first, second = whole_and_halves()
    trunks = runtimes.run(first, pixels(64), engine=engine)[2]
    assert trunks.dtype == np.int8
    bridged = continuing(second, first)
    logits = runtimes.run(bridged, trunks, engine=engine)[0]
    affine = Graph(bridged).edge_outputs().logits_affine
    assert np.abs(dequantise(logits, affine) - floats["logits"].numpy()).max() < 6 * affine.scale
    misread = runtimes.run(second, trunks, engine=engine)[0]  # without the bridge the bytes mean something else
    assert np.abs(dequantise(misread, affine) - floats["logits"].numpy()).max() > 10 * affine.scale


@pytest.mark.parametrize("engine", ["tflm", "host"])
def test_requantising_by_pencil(engine):
    """The bridge alone: real values stay, stored ones follow the other scale to a step."""
    _, first, second = whole_and_halves()
    bridged = Graph(continuing(second, first))
    into = Graph(second).affine(Graph(second).input)
    shown = bridged.finish({"logits": int(bridged._subgraph.operators[0].outputs[0])})
    trunks = runtimes.run(first, pixels(20), engine=engine)[2]
    (requantised,) = runtimes.run(shown, trunks, engine=engine)
    real = dequantise(trunks, bridged.affine(bridged.input))
    assert np.abs(requantised - np.clip(np.rint(real / into.scale) + into.zero_point, -128, 127)).max() <= 1


def test_a_continuation_of_another_net_is_refused():
    with pytest.raises(
        UnsupportedOpError, match=r"reads a trunk of shape \(1, 8, 8, 1\), the net before .*\(1, 3, 3, 4\)"
    ):
        continuing(tiny_second(), tiny_edge())
    with pytest.raises(UnsupportedOpError, match="the net before it has no output trunk"):
        continuing(tiny_continuation(), tiny_second())


def test_dequantise():
    got = dequantise(np.array([-128, 0, 127], np.int8), Affine(scale=0.5, zero_point=-28))
    assert got.tolist() == [-50.0, 14.0, 77.5]
    assert got.dtype == np.float32
