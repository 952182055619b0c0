"""Real int8 nets small enough to be made in a test, programs of them, and a device to put them on."""

from functools import cache
from typing import Any

import numpy as np

from firmware_export.aot import aot_engine
from firmware_export.edge import BundleInputs, build_edge_bundle
from firmware_export.tflm import Watch
from hybrid import runtimes
from hybrid.arena import footprint
from hybrid.artifacts import Device, Footprint, OperatingPoint
from hybrid.cascade import DeviceProgram, Stage, combined, mix_of
from hybrid.device_router import RouterInputs, RouterNet, program_routers
from hybrid.flatbuffers import Graph, continuing, dequantise, named_outputs
from hybrid.guarantee import Certificate, Target
from hybrid.monitor import drift_reference
from hybrid.online import online_rule
from hybrid.predict import stage_outputs

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


WATCH = Watch(
    certificate=Certificate(
        targets=(Target("max_loss", 0.005),), confidence=0.9, n=2000, threshold=-8, lowest=-8, highest=128
    ),
    drift=drift_reference(np.arange(2000) % 256 - 128, -8),
    online=online_rule(0.1),
)


@cache
def tiny_edge() -> bytes:
    """Convolution and pooling, outputs logits (1, 3), features (1, 4) and trunk (1, 3, 3, 4)."""
    inputs, layers = _fresh(1, INPUT_SHAPE)
    trunk = layers.Conv2D(4, 3, 2, activation="relu", name="trunk")(inputs)
    return _converted(inputs, trunk, images(), trunk=trunk)


@cache
def tiny_continuation() -> bytes:
    """Goes on from the trunk of `tiny_edge`: outputs logits (1, 3) and features (1, 5)."""
    inputs, layers = _fresh(2, (3, 3, 4))
    trunks = runtimes.run(tiny_edge(), pixels(64), engine="host")[2]
    affine = Graph(tiny_edge()).edge_outputs().trunk_affine
    raw = _converted(inputs, layers.Conv2D(5, 2, activation="relu")(inputs), dequantise(trunks, affine) * 0.7)
    return continuing(raw, tiny_edge())


@cache
def tiny_second() -> bytes:
    """Another net on the image: outputs logits (1, 3) and features (1, 2)."""
    inputs, layers = _fresh(3, INPUT_SHAPE)
    return _converted(inputs, layers.Conv2D(2, 5, 3, activation="relu")(inputs), images())


@cache
def prelu_program() -> DeviceProgram:
    """One stage whose net has an operator that TFLite Micro has and the ahead-of-time engine lacks."""
    inputs, layers = _fresh(4, INPUT_SHAPE)
    bent = layers.PReLU(alpha_initializer="random_normal")(layers.Conv2D(3, 3, 3)(inputs))
    return _single(_converted(inputs, bent, images()))


def _single(flatbuffer: bytes) -> DeviceProgram:
    """One stage, and a router."""
    outputs, found = stage_outputs(flatbuffer, pixels(64)).own, Graph(flatbuffer).edge_outputs()
    (router,) = program_routers([router_net(outputs.features.shape[1])], [outputs])
    mix = mix_of([found.logits_affine], [1.0])
    return DeviceProgram(stages=(Stage(flatbuffer=flatbuffer, router=router, mix=mix),))


def _fresh(seed: int, shape: tuple[int, ...]) -> tuple[Any, Any]:
    import tf_keras

    tf_keras.utils.set_random_seed(seed)
    return tf_keras.Input(shape), tf_keras.layers


def _converted(inputs: Any, last: Any, examples: np.ndarray, **more: Any) -> bytes:
    """Pooling and a dense layer on `last`, quantised on `examples`."""
    import tensorflow as tf
    import tf_keras

    features = tf_keras.layers.GlobalAveragePooling2D(name="features")(last)
    logits = tf_keras.layers.Dense(3, bias_initializer="random_normal", name="logits")(features)
    outputs = {"logits": logits, "features": features, **more}
    converter = tf.lite.TFLiteConverter.from_keras_model(tf_keras.Model(inputs, outputs))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    converter.representative_dataset = lambda: ([example[np.newaxis]] for example in examples)
    return named_outputs(converter.convert())


def images() -> np.ndarray:
    return (pixels(64).astype(np.float32) - 128) / 128


def router_net(num_features: int, **inputs: Any) -> RouterNet:
    """A linear rule with made-up weights: a share of the confidence, less a little of each feature and the like."""
    reads = RouterInputs(**{"features": True, "betas": (0.02,), **inputs})
    highest = reads.highest(num_features, len(CLASS_NAMES))
    weights = np.random.default_rng(num_features).normal(size=(len(highest), 1)) / highest[:, None]
    return RouterNet(inputs=reads, weights=weights.astype(np.float32), bias=np.array([0.25], np.float32))


@cache
def program() -> DeviceProgram:
    """One stage: `tiny_edge` without its trunk, and a router."""
    graph = Graph(tiny_edge())
    found = graph.edge_outputs()
    return _single(graph.finish({"logits": found.logits, "features": found.features}))


@cache
def cascade() -> DeviceProgram:
    """Three stages: `tiny_edge`, on from its trunk where the score is below 20, another net below -20."""
    flatbuffers = (tiny_edge(), tiny_continuation(), tiny_second())
    x = pixels(64)
    first = stage_outputs(tiny_edge(), x)
    said = [first.own, stage_outputs(flatbuffers[1], first.trunk).own, stage_outputs(flatbuffers[2], x).own]
    affines = [Graph(flatbuffer).edge_outputs().logits_affine for flatbuffer in flatbuffers]
    mixes = [mix_of(affines[:n], [1 / n] * n, [part.logits for part in said[:n]]) for n in (1, 2, 3)]
    mixed = [combined(mix, said[:n]) for n, mix in enumerate(mixes, 1)]
    nets = [router_net(part.features.shape[1]) for part in mixed]
    routers = program_routers(nets, mixed)
    parts = zip(flatbuffers, routers, ("image", "trunk", "image"), mixes, (20, -20, -128), strict=True)
    return DeviceProgram(
        stages=tuple(
            Stage(flatbuffer=flatbuffer, router=router, reads=reads, mix=mix, look_below=look_below)
            for flatbuffer, router, reads, mix, look_below in parts
        )
    )


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
    given = changes.get("program", program())
    values = {
        "program": given,
        "device": DEVICE,
        "operating_points": POINTS,
        "chosen": "balanced",
        "class_names": CLASS_NAMES,
        "input_shape": INPUT_SHAPE,
        "golden_pixels": pixels(5),
        "data_card": {"name": "noise", "digest": "ab" * 32, "value_range": (0.0, 255.0)},
        "spec": {"seed": 3, "train": {"epochs": 2}},
        "tools": {"tensorflow": "2.21.0"},
        "footprint": changes.get("footprint") or measured(given),
        "arena_margin": 0.1,
        "payload_encoding": "packed",
        "aot": aot_engine(given, changes.get("device", DEVICE), "auto"),
        "watch": WATCH,
        "router_kinds": ("learned",) * len(given.stages),
        "extra": {"cloud/endpoint.toml": b'url = "http://localhost"\n'},
    }
    return BundleInputs(**{**values, **changes})


def measured(given: DeviceProgram, known: dict[str, Footprint] = {}) -> Footprint:  # noqa: B006 - measured once
    """What a program takes."""
    if given.digest not in known:
        known[given.digest] = footprint(given, estimated_arena_bytes=4096)
    return known[given.digest]


@cache
def good_bundle():
    """The bundle of `inputs()`: one stage."""
    return build_edge_bundle(inputs())


@cache
def cascade_bundle():
    """A bundle of three stages."""
    return build_edge_bundle(inputs(program=cascade(), golden_pixels=pixels(20)))


def firmware(name: str, bundle=None) -> str:
    """Text of one generated source of a bundle, by default the good one."""
    return (bundle or good_bundle()).files[f"firmware/{name}"].decode()


def sources(bundle=None) -> dict[str, bytes]:
    """The generated sources of a bundle by file name, by default of the good one."""
    files = (bundle or good_bundle()).files
    return {path.removeprefix("firmware/"): text for path, text in files.items() if path.startswith("firmware/")}
