"""Quantisation-aware training: the only file that knows that it takes a tf_keras twin and tfmot.

tensorflow-model-optimization works on tf_keras (Keras 2) models only. The twin is the same `build_net` over tf_keras
with the Keras 3 net's weights; post-training quantisation converts the twin as well, so that both ways see one net.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.artifacts import Floats
from hybrid.fitting import Rate, distillation_loss, narrated
from hybrid.nets import build_net, normalise
from hybrid.progress import Narrator
from hybrid.specs import ArchSpec

INPUT_LOW, INPUT_HIGH = -1.0, 127.0 / 128.0
"""Range of a normalised example: int8 input scale 1/128 and zero point 0, exactly."""


def twins(build: Callable[[ModuleType], Sequence[Any]], nets: Sequence[Any]) -> Sequence[Any]:
    """The tf_keras nets that `build` makes over that module, with the weights of the Keras 3 `nets`."""
    import tf_keras

    tf_keras.backend.clear_session()  # layer names count up in a process and would change the flatbuffer's bytes
    models = build(tf_keras)
    for model, net in zip(models, nets, strict=True):
        model.set_weights(net.get_weights())
    return models


def twin(arch: ArchSpec, net: Any) -> Any:
    """The tf_keras net of `arch` with the weights of the Keras 3 `net`."""
    (copy,) = twins(lambda k: (build_net(arch, k),), (net,))
    return copy


def quantization_aware_fit(
    model: Any,
    x: NDArray[np.uint8],
    target: Floats,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    alpha: float,
    temperature: float,
    seed: int,
    narrator: Narrator,
) -> Any:
    """Fine-tune a tf_keras twin with simulated int8 weights and activations; returns the quantisation-aware model.

    `target` is ``(n, 2 * num_classes)`` as in `fitting.targets`. No augmentation: the ranges that it learns are those
    of the examples that the device will see.
    """
    import tf_keras

    tf_keras.utils.set_random_seed(seed)
    aware = _aware(model)
    batch_size = min(batch_size, len(x))
    steps = len(x) // batch_size * epochs
    classifier = tf_keras.Model(aware.input, aware.output[0])
    optimizer = tf_keras.optimizers.Adam(Rate(peak=learning_rate).schedule(tf_keras, steps))
    classifier.compile(optimizer, distillation_loss(alpha=alpha, temperature=temperature))
    rows = np.random.default_rng(seed).permutation(len(x))[: len(x) // batch_size * batch_size]
    with narrated(tf_keras, narrator, "quantisation-aware training", steps) as callback:
        classifier.fit(
            normalise(x[rows]), target[rows], batch_size=batch_size, epochs=epochs, verbose=0, callbacks=[callback]
        )
    return aware


def _aware(model: Any) -> Any:
    """Let tfmot simulate int8; a mean over pixels keeps the range of its input, as its kernel on the device does."""
    import tf_keras
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_configs as configs,
    )
    from tensorflow_model_optimization.quantization.keras import (
        quantize_annotate_layer,
        quantize_annotate_model,
        quantize_apply,
        quantize_scope,
    )

    def annotated(layer: Any) -> Any:
        pool = isinstance(layer, tf_keras.layers.AveragePooling2D)
        return quantize_annotate_layer(layer, configs.NoOpQuantizeConfig()) if pool else layer

    with quantize_scope():
        cloned = tf_keras.models.clone_model(model, clone_function=annotated)
        cloned.set_weights(model.get_weights())
        return quantize_apply(quantize_annotate_model(cloned))
