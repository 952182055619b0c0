"""Float edge net -> full int8 flatbuffer with outputs logits and features, by two ways; the better one wins.

Full int8: int8 input (``x - 128``), int8 outputs, int8 per-channel weights, int32 biases.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets import Dataset
from hybrid import fitting, runtimes
from hybrid.artifacts import Floats
from hybrid.flatbuffers import continuing, named_outputs
from hybrid.look import build_stages, stage_archs
from hybrid.nets import normalise
from hybrid.progress import Narrator
from hybrid.qat import INPUT_HIGH, INPUT_LOW, quantization_aware_fit, twin, twins
from hybrid.specs import ArchSpec, RunSpec


@dataclass(frozen=True, kw_only=True)
class Int8Edge:
    """A net of the device in int8, and the accuracy alone that each method reached on the validation split."""

    flatbuffer: bytes
    method: str
    validation_accuracy: Mapping[str, float]


def quantize_stages(
    arch: ArchSpec, nets: Sequence[Any], data: Dataset, cloud: Floats | None, spec: RunSpec, *, narrator: Narrator
) -> tuple[Int8Edge, ...]:
    """Quantise the nets of all stages; see `quantize_edge`.

    The two halves of an early exit are quantised after training only: fine-tuning the near one would move the trunk
    under the far one.
    """
    if spec.look.kind == "exit":
        return _exit(arch, nets, data, spec, narrator)
    archs = stage_archs(arch, spec.look)
    return tuple(
        quantize_edge(one, net, data, cloud, spec, narrator=narrator) for one, net in zip(archs, nets, strict=True)
    )


def _exit(
    arch: ArchSpec, nets: Sequence[Any], data: Dataset, spec: RunSpec, narrator: Narrator
) -> tuple[Int8Edge, ...]:
    rows = data.train.x[_representative(data, spec)]
    near, far = twins(lambda k: build_stages(arch, spec.look, k), nets)
    trunk = near.predict(normalise(rows), verbose=0)[2]
    first = named_outputs(convert(near, rows))
    second = named_outputs(convert(far, trunk))
    logits, _, stored = runtimes.run(first, data.validation.x, engine="host", label="near part", narrator=narrator)
    second = continuing(second, first)
    further = runtimes.run(second, stored, engine="host", label="far part", narrator=narrator)[0]
    return tuple(
        Int8Edge(flatbuffer=made, method="ptq", validation_accuracy={"ptq": accuracy(answers, data.validation.y)})
        for made, answers in ((first, logits), (second, further))
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
    reached = {method: _reached(flatbuffer, data, method, narrator) for method, flatbuffer in made.items()}
    best = max(reached, key=reached.__getitem__)
    return Int8Edge(flatbuffer=made[best], method=best, validation_accuracy=reached)


def _ptq(arch: ArchSpec, net: Any, data: Dataset, cloud: Floats | None, spec: RunSpec, narrator: Narrator) -> bytes:
    return convert(twin(arch, net), data.train.x[_representative(data, spec)])


def _representative(data: Dataset, spec: RunSpec) -> NDArray[np.intp]:
    return np.random.default_rng(spec.seed).permutation(len(data.train))[: spec.quantize.representative_rows]


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


def _reached(flatbuffer: bytes, data: Dataset, method: str, narrator: Narrator) -> float:
    label = f"int8 edge by {method}"
    logits = runtimes.run(flatbuffer, data.validation.x, engine="host", label=label, narrator=narrator)[0]
    return accuracy(logits, data.validation.y)


def accuracy(logits: NDArray[Any], labels: NDArray[np.int32]) -> float:
    """Share of rows whose largest logit is the label's."""
    return float((logits.argmax(axis=1) == labels).mean())


def convert(model: Any, representative: NDArray[Any] | None) -> bytes:
    """Convert a tf_keras model to int8; `representative` inputs calibrate it, None if it carries its own ranges.

    They are stored examples, uint8, or the float32 trunks that the far part of an early exit reads. The converter gets
    the model as one function: from a model it would make one of each layer, which takes three times as long and comes
    to the same.
    """
    import tensorflow as tf

    module = tf.Module()
    module.variables_of_net = model.variables
    module.net = tf.function(
        lambda x: dict(zip(model.output_names, model(x, training=False), strict=True)),
        input_signature=[tf.TensorSpec(model.input_shape, tf.float32, name=model.input_names[0])],
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.net.get_concrete_function()], module)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if representative is not None:
        converter.representative_dataset = lambda: _calibration(representative)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    with _quiet():
        return bytes(converter.convert())


def _calibration(examples: NDArray[Any]) -> Iterator[list[Floats]]:
    """The inputs one by one; images after one that spans their whole range: the input's scale becomes exactly 1/128."""
    if examples.dtype != np.uint8:
        yield from ([example[None]] for example in examples)
        return
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
