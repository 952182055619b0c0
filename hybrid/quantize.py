"""Float edge net -> full int8 flatbuffer with outputs logits and features, by two ways; the better one wins.

Full int8: int8 input (``x - 128``), int8 outputs, int8 per-channel weights, int32 biases.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets import Dataset
from hybrid import fitting, runtimes
from hybrid.artifacts import Floats, NetOutputs
from hybrid.flatbuffers import Graph, dequantise, named_outputs
from hybrid.nets import normalise
from hybrid.progress import Narrator
from hybrid.qat import INPUT_HIGH, INPUT_LOW, quantization_aware_fit, twin
from hybrid.specs import ArchSpec, RunSpec


@dataclass(frozen=True, kw_only=True)
class Int8Edge:
    """The edge net in int8, outputs logits and features, and what each method reached on the validation split."""

    flatbuffer: bytes
    method: str
    validation_accuracy: Mapping[str, float]

    def outputs(self, x: NDArray[np.uint8], *, label: str, narrator: Narrator) -> NetOutputs:
        """Dequantised logits and features over stored examples `x`, computed on this host."""
        found = Graph(self.flatbuffer).edge_outputs()
        logits, features = runtimes.run(self.flatbuffer, x, engine="host", label=label, narrator=narrator)
        return NetOutputs(
            logits=dequantise(logits, found.logits_affine), features=dequantise(features, found.features_affine)
        )


def quantize_edge(
    arch: ArchSpec, net: Any, data: Dataset, cloud: Floats | None, spec: RunSpec, *, narrator: Narrator
) -> Int8Edge:
    """Quantise the Keras 3 `net` by each method of the spec; the best on the validation split wins.

    `cloud` are the cloud's probabilities on the training split, for distillation while quantising; None without.
    """
    made: dict[str, bytes] = {
        method: named_outputs(_METHODS[method](arch, net, data, cloud, spec, narrator))
        for method in spec.quantize.methods
    }
    accuracy = {method: _accuracy(flatbuffer, data, method, narrator) for method, flatbuffer in made.items()}
    best = max(accuracy, key=accuracy.__getitem__)
    return Int8Edge(flatbuffer=made[best], method=best, validation_accuracy=accuracy)


def _ptq(arch: ArchSpec, net: Any, data: Dataset, cloud: Floats | None, spec: RunSpec, narrator: Narrator) -> bytes:
    rows = np.random.default_rng(spec.seed).permutation(len(data.train))[: spec.quantize.representative_rows]
    return convert(twin(arch, net), data.train.x[rows])


def _qat(arch: ArchSpec, net: Any, data: Dataset, cloud: Floats | None, spec: RunSpec, narrator: Narrator) -> bytes:
    train = spec.train
    aware = quantization_aware_fit(
        twin(arch, net),
        data.train.x,
        fitting.targets(data.train.y, data.num_classes, cloud, temperature=train.temperature),
        epochs=spec.quantize.qat_epochs,
        batch_size=train.batch_size,
        learning_rate=spec.quantize.qat_learning_rate,
        alpha=0.0 if cloud is None else train.distillation,
        temperature=train.temperature,
        seed=spec.seed,
        narrator=narrator,
    )
    return convert(aware, None)


_METHODS = {"ptq": _ptq, "qat": _qat}


def _accuracy(flatbuffer: bytes, data: Dataset, method: str, narrator: Narrator) -> float:
    label = f"int8 edge by {method}"
    logits = runtimes.run(flatbuffer, data.validation.x, engine="host", label=label, narrator=narrator)[0]
    return float((logits.argmax(axis=1) == data.validation.y).mean())


def convert(model: Any, representative: NDArray[np.uint8] | None) -> bytes:
    """Convert a tf_keras model to int8; `representative` examples calibrate it, None if it carries its own ranges."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if representative is not None:
        converter.representative_dataset = lambda: _calibration(representative)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    with _quiet():
        return bytes(converter.convert())


def _calibration(examples: NDArray[np.uint8]) -> Iterator[list[NDArray[np.float32]]]:
    """The examples one by one, after one that spans the whole input range: the input's scale becomes exactly 1/128."""
    span = np.full((1, *examples.shape[1:]), INPUT_LOW, np.float32)
    span.reshape(-1)[0] = INPUT_HIGH
    yield [span]
    for example in examples:
        yield [normalise(example[None])]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converter's C++ chatter off the terminal."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
