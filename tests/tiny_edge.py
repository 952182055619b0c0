"""A real int8 edge net small enough to be made in a test, and a device to put it on."""

from functools import cache

import numpy as np

from firmware_export.edge import BundleInputs, build_edge_bundle
from hybrid.arena import footprint
from hybrid.artifacts import Device, OperatingPoint

INPUT_SHAPE = (8, 8, 1)
CLASS_NAMES = ("T-shirt", 'trouser "wide"', "über??/")
DEVICE = Device(
    name="board",
    title="A board */ of 64 KiB",
    core="cortex-m4",
    clock_mhz=100.0,
    flash_bytes=262_144,
    sram_bytes=65_536,
    reserved_flash_bytes=65_536,
    reserved_sram_bytes=16_384,
    power_mw=100.0,
    sleep_power_mw=1.0,
    cycles_per_mac={"conv": 2.0},
    overhead_ms=0.1,
    latency_band=0.3,
    source="made up",
)


@cache
def tiny_edge() -> bytes:
    """Convolution, pooling and two heads: logits (1, 3) and router_score (1, 1)."""
    import tensorflow as tf
    import tf_keras

    tf_keras.utils.set_random_seed(1)
    layers = tf_keras.layers
    inputs = tf_keras.Input(INPUT_SHAPE)
    features = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, 2, activation="relu")(inputs))
    logits = layers.Dense(3, bias_initializer="random_normal", name="logits")(features)
    score = layers.Dense(1, bias_initializer="random_normal", name="router_score")(features)
    converter = tf.lite.TFLiteConverter.from_keras_model(tf_keras.Model(inputs, [logits, score]))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    images = (pixels(64).astype(np.float32) - 128) / 128
    converter.representative_dataset = lambda: ([image[np.newaxis]] for image in images)
    return converter.convert()


def pixels(count: int, seed: int = 0) -> np.ndarray:
    """Random uint8 examples with the darkest and the brightest pixel in the first."""
    values = np.random.default_rng(seed).integers(0, 256, (count, *INPUT_SHAPE), dtype=np.uint8)
    values[0, 0, :2, 0] = (0, 255)
    return values


def point(name: str, threshold: int, coverage: float) -> OperatingPoint:
    return OperatingPoint(
        name=name,
        threshold=threshold,
        coverage=coverage,
        accuracy=0.9,
        mean_latency_ms=20.5,
        p50_latency_ms=5.0,
        p95_latency_ms=110.0,
        mean_energy_mj=3.25,
        link="lte",
        cloud="big",
    )


POINTS = (point("edge-only", -128, 1.0), point("balanced", 7, 0.75), point("cloud only", 128, 0.0))


def inputs(**changes) -> BundleInputs:
    """What a good bundle is made from, with changes."""
    model = tiny_edge()
    values = {
        "models": {"edge": model},
        "device": DEVICE,
        "operating_points": POINTS,
        "chosen": "balanced",
        "class_names": CLASS_NAMES,
        "input_shape": INPUT_SHAPE,
        "golden_pixels": pixels(5),
        "data_card": {"name": "noise", "digest": "ab" * 32, "value_range": (0.0, 255.0)},
        "spec": {"seed": 3, "train": {"epochs": 2}},
        "tools": {"tensorflow": "2.21.0"},
        "footprint": footprint(model, router_macs=4, estimated_arena_bytes=4096),
        "arena_margin": 0.1,
        "payload_encoding": "cbor",
        "router_kind": "learned",
        "extra": {"cloud/endpoint.toml": b'url = "http://localhost"\n'},
    }
    return BundleInputs(**{**values, **changes})


@cache
def good_bundle():
    """The bundle of `inputs()`."""
    return build_edge_bundle(inputs())


def firmware(name: str) -> str:
    """Text of one generated source of the good bundle."""
    return good_bundle().files[f"firmware/{name}"].decode()


def sources() -> dict[str, bytes]:
    """The generated sources of the good bundle by file name."""
    return {path.removeprefix("firmware/"): text for path, text in good_bundle().files.items() if "firmware/" in path}
