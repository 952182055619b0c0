"""Routers of every shape for the tests, made up or fitted in closed form, and their C without any net."""

from dataclasses import replace

import numpy as np
from tiny_edge import DEVICE, INPUT_SHAPE, POINTS, WATCH, pixels, program

from firmware_export.flatbuffer import StageSignature, read_graph, stage_signature
from firmware_export.host import compile_decision
from firmware_export.stages import StageModel, router_values
from firmware_export.tflm import PLAIN_UNITS, FirmwareSpec, Golden, render, template_values
from hybrid.cascade import DeviceOutputs, DeviceProgram, Stage
from hybrid.device_router import RouterInputs, RouterNet, StoredOutputs

ALL = RouterInputs(features=True, gaps=True, top=2, betas=(0.01, 0.3), classes=True)
"""Every part of a router's inputs."""


def outputs(count: int, num_classes: int, num_features: int, seed: int = 0) -> StoredOutputs:
    """Random int8 logits and features; ties and the ends of int8 occur."""
    rng = np.random.default_rng(seed)
    spread = rng.integers(1, 128, (count, 1))
    logits = np.clip(rng.integers(-128, 128, (count, num_classes)) * spread // 128, -128, 127).astype(np.int8)
    return StoredOutputs(logits=logits, features=rng.integers(-128, 128, (count, num_features)).astype(np.int8))


def extremes(num_classes: int, num_features: int) -> StoredOutputs:
    """All features at either end, beside a single largest logit, equal ones, or all at an end."""
    rows = [np.full(num_classes, value) for value in (-128, 127)]
    rows += [np.where(np.arange(num_classes) == answer, 127, -128) for answer in range(num_classes)]
    logits = np.repeat(np.array(rows, np.int8), 2, axis=0)
    features = np.tile(np.array([[-128], [127]], np.int8), (len(rows), num_features))
    return StoredOutputs(logits=logits, features=features)


def made_up(inputs: RouterInputs, num_features: int, num_classes: int, hidden: int = 0, seed: int = 0) -> RouterNet:
    """A router with random weights that give each input about the same say."""
    rng = np.random.default_rng(seed)
    highest = inputs.highest(num_features, num_classes)
    weights = (rng.normal(size=(len(highest), max(hidden, 1))) / highest[:, None]).astype(np.float32)
    bias = rng.normal(size=max(hidden, 1)).astype(np.float32)
    if not hidden:
        return RouterNet(inputs=inputs, weights=weights, bias=bias)
    out = rng.normal(size=hidden).astype(np.float32)
    return RouterNet(inputs=inputs, weights=weights, bias=bias, out=out, out_bias=float(rng.normal()))


def compiled(stages: list[Stage], widths: list[int], num_classes: int):
    """The plain C for these stages, compiled for this machine."""
    return compile_decision(plain_sources(stages, widths, num_classes))


def plain_sources(stages: list[Stage], widths: list[int], num_classes: int) -> dict[str, bytes]:
    """The plain C for these stages, whose nets would give so many features each."""
    real = read_graph(program().stages[0].flatbuffer)
    models = []
    for number, (stage, width) in enumerate(zip(stages, widths, strict=True)):
        signature = stage_signature(real)
        shaped = StageSignature(
            input=signature.input,
            logits=replace(signature.logits, shape=(1, num_classes)),
            features=replace(signature.features, shape=(1, width)),
            trunk=None,
        )
        name = DeviceProgram(stages=tuple(stages)).names[number]
        before = sum(widths[:number])
        models.append(StageModel(name=name, stage=stage, graph=real, signature=shaped, features_before=before))
    values = template_values(_spec()) | {"stages": models, **router_values(models)}
    values["class_names"] = [f"class {index}" for index in range(num_classes)]
    headers = [unit.replace(".c", ".h") for unit in PLAIN_UNITS]
    return {name: render(name, values).encode() for name in (*PLAIN_UNITS, *headers)}


def _spec() -> FirmwareSpec:
    said = DeviceOutputs(logits=np.zeros((1, 3), np.int8), score=np.zeros(1, np.int8), stage=np.zeros(1, np.int32))
    return FirmwareSpec(
        program=program(),
        device=DEVICE,
        operating_points=POINTS,
        chosen="balanced",
        class_names=("a", "b", "c"),
        input_shape=INPUT_SHAPE,
        router_kind="made up",
        least_arena_bytes=4096,
        arena_source="estimated",
        arena_margin=0.1,
        payload_encoding="cbor",
        golden=Golden(inputs=pixels(1).astype(np.int8), outputs=said, engine="tflite-micro"),
        project_version="0",
        watch=WATCH,
        aot="none here",
        spec_digest="0",
    )
