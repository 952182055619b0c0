"""The cloud classifier: a net trained here, a keras.applications net fine-tuned here, or anyone's black box.

Whatever it is, the rest of the project sees its class probabilities per split, `CloudAnswers`.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from datasets import Dataset
from hybrid import blackbox, fitting
from hybrid.artifacts import Floats
from hybrid.configure import did_you_mean
from hybrid.errors import SpecError
from hybrid.nets import build_net
from hybrid.progress import SILENT, Narrator
from hybrid.specs import ArchSpec, BlockSpec, CloudSpec
from hybrid.supervision import softmax

URL_TIMEOUT_S = 30.0
STEM_WIDTH = 16
STEM_PIXELS = 32
"""Up to this size the stem sees every pixel."""
HELD_OUT = ("calibration", "validation", "test")
ROUNDED_SUM = 1e-2
"""How far from 1 the sum of rounded probabilities may be."""


@dataclass(frozen=True, kw_only=True)
class CloudAnswers:
    """Class probabilities ``(n, num_classes)`` by split name."""

    probabilities: Mapping[str, Floats]
    measured_ms: float | None = None
    """Median time of one answer, where a service was asked over its URL."""

    def updated(self, newer: "CloudAnswers") -> "CloudAnswers":
        """These answers, with those of `newer` in place of the same splits'."""
        return replace(newer, probabilities={**self.probabilities, **newer.probabilities})


def cloud_arch(data: Dataset, spec: CloudSpec) -> ArchSpec:
    """The residual net trained here: a thin stem, then up to four stages of doubling width, down to 4 pixels.

    A stem at full resolution costs 5 % of the time and gained 0.2 to 0.3 points on 28x28 images.
    """
    longest = max(data.input_shape[:2])
    stem_stride = 1 if longest <= STEM_PIXELS else 2
    size, width = -(-longest // (2 * stem_stride)), spec.width
    blocks = [
        BlockSpec(kind="conv", width=STEM_WIDTH, kernel=5, stride=stem_stride),
        BlockSpec(kind="conv", width=width, stride=2),
        BlockSpec(kind="res", width=width, depth=spec.depth),
    ]
    while size > 4 and width < 8 * spec.width:
        size, width = -(-size // 2), 2 * width
        blocks.append(BlockSpec(kind="res", width=width, stride=2, depth=spec.depth))
    return ArchSpec(name="cloud", input_shape=data.input_shape, num_classes=data.num_classes, blocks=tuple(blocks))


def build_cloud(data: Dataset, spec: CloudSpec) -> Any:
    """The untrained cloud net, with outputs logits and features; None for a black box."""
    if spec.kind == "train":
        return build_net(cloud_arch(data, spec))
    return application_net(data, spec) if spec.kind == "application" else None


def application_net(data: Dataset, spec: CloudSpec) -> Any:
    """A keras.applications net with a new head, on inputs resized to `spec.application_pixels` and made RGB.

    Raises: SpecError for an unknown application, or weights that are missing or do not fit it.
    """
    import keras

    make, module = _application(spec.application)
    if spec.weights and not Path(spec.weights).is_file():  # Keras would download weights that it knows by name
        raise SpecError(f"cloud.weights: no such file: {spec.weights}; give a local weights file, or leave it empty")
    inputs = keras.Input(data.input_shape, name="input")
    pixels = keras.layers.Rescaling(128.0, 128.0)(inputs)
    if data.input_shape[2] == 1:
        pixels = keras.layers.Concatenate()([pixels] * 3)
    pixels = keras.layers.Resizing(spec.application_pixels, spec.application_pixels)(pixels)
    try:
        base = make(include_top=False, weights=spec.weights or None, input_shape=tuple(pixels.shape[1:]))
    except (ValueError, OSError) as exc:
        reason = " ".join(str(exc).split())
        raise SpecError(f"cloud.weights: {spec.weights} does not fit {spec.application} ({reason:.200})") from exc
    maps = base(module.preprocess_input(pixels))
    features = keras.layers.GlobalAveragePooling2D(name="features")(maps)
    logits = keras.layers.Dense(data.num_classes, name="logits")(features)
    return keras.Model(inputs, [logits, features], name="cloud")


def _application(name: str) -> tuple[Any, Any]:
    """The constructor in keras.applications and the module that holds its preprocess_input."""
    import keras

    modules = dict(inspect.getmembers(keras.applications, inspect.ismodule))
    homes = {made: module for module in modules.values() for made in dir(module) if made[0].isupper()}
    if name not in homes:
        raise SpecError(f"cloud.application: unknown {name!r}{did_you_mean(name, list(homes))}")
    return getattr(keras.applications, name), homes[name]


def answering_net(net: Any, data: Dataset) -> Any:
    """The net that serves: where a mirrored example keeps its class, the mean over the example and its mirror image."""
    if not data.mirror:
        return net
    import keras

    mirrored = net(keras.ops.flip(net.input, axis=2))
    outputs = [
        keras.layers.Average(name=f"mean_{name}")([straight, flipped])
        for name, straight, flipped in zip(("logits", "features"), net.output, mirrored, strict=True)
    ]
    return keras.Model(net.input, outputs, name=net.name)


def write_saved_model(net: Any, data: Dataset, folder: Path) -> None:
    """Write the net as it serves: uint8 ``input`` ``(n, h, w, channels)``, float32 ``scores`` ``(n, num_classes)``.

    The scores are probabilities; scaling happens inside, so that a client sends pixels as they are.
    """
    import keras
    import tensorflow as tf

    serving = answering_net(net, data)

    def scores(input: Any) -> dict[str, Any]:
        pixels = (tf.cast(input, tf.float32) - 128.0) / 128.0
        return {"scores": tf.nn.softmax(serving(pixels, training=False)[0])}

    archive = keras.export.ExportArchive()
    archive.track(serving)
    signature = [tf.TensorSpec((None, *data.input_shape), tf.uint8, name="input")]
    archive.add_endpoint("serving_default", scores, input_signature=signature)
    archive.write_out(str(folder), verbose=False)


def net_answers(net: Any, data: Dataset, *, splits: tuple[str, ...], narrator: Narrator = SILENT) -> CloudAnswers:
    """Ask a net trained here about each of `splits`; held-out ones through `answering_net`, as the server answers."""
    serving = answering_net(net, data)
    probabilities = {
        name: softmax(
            fitting.predict(
                net if name == "train" else serving, data.splits[name].x, label=f"cloud on {name}", narrator=narrator
            ).logits
        )
        for name in splits
    }
    return CloudAnswers(probabilities=probabilities)


def black_box_answers(data: Dataset, spec: CloudSpec, *, narrator: Narrator = SILENT) -> CloudAnswers:
    """Ask a black box about the held-out splits: a table of predictions, or an OIP v2 URL.

    Raises: CloudError or SpecError where table or service do not answer for this data.
    """
    if spec.kind == "table":
        sizes = {name: len(data.splits[name]) for name in HELD_OUT}
        tables = blackbox.table_scores(Path(spec.table), sizes, num_classes=data.num_classes)
        return CloudAnswers(probabilities=_as_probabilities(tables))
    tables, latencies = {}, []
    for name in HELD_OUT:
        tables[name], latency_ms = blackbox.url_scores(
            spec.url, data.splits[name].x, num_classes=data.num_classes, timeout_s=URL_TIMEOUT_S, narrator=narrator
        )
        latencies.append(latency_ms)
    return CloudAnswers(probabilities=_as_probabilities(tables), measured_ms=float(np.median(latencies)))


def _as_probabilities(tables: Mapping[str, Floats]) -> dict[str, Floats]:
    """Probabilities, rounded ones too, but for their sum as they are; anything else (logits) through a softmax.

    All splits come from one cloud, so that they are one kind of score.
    """
    if all(_sums_to_one(scores) for scores in tables.values()):
        return {name: scores / scores.sum(axis=1, keepdims=True) for name, scores in tables.items()}
    return {name: softmax(scores) for name, scores in tables.items()}


def _sums_to_one(scores: Floats) -> bool:
    return bool((scores >= 0).all() and np.allclose(scores.sum(axis=1), 1.0, atol=ROUNDED_SUM))
