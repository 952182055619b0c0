"""The engine's reader under fire: cut off, damaged and hostile files give a graph or one clear line, and soon."""

import os
import time
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from engine_build import flatbuffer, model_object, packed, two_layers
from engine_models import DRAWS, random_chain, random_graph, random_single_op

from firmware_export.engine.compile import compile_model
from firmware_export.engine.reader import read
from hybrid.errors import HybridError, SpecError
from hybrid.schema import schema

MODELS = Path(os.environ.get("HYBRID_DATA_DIR") or "no-data") / "tflite-models"
SCHEMA = schema()
SECONDS = 2.0
"""Far more than any of these models needs, on a busy machine."""


def test_every_truncation():
    whole = flatbuffer(two_layers())
    for length in range(len(whole)):
        with pytest.raises(SpecError, match=r"^(model|tensor|operator)"):
            read(whole[:length])


def test_a_file_whose_parts_lie_upon_one_another():
    """100,000 tensors that share one table with a name of 100 kB: 10 GB to read out of half a megabyte."""
    builder = flatbuffers.Builder(1 << 20)
    name = builder.CreateString("x" * 100_000)
    SCHEMA.TensorStart(builder)
    SCHEMA.TensorAddName(builder, name)
    tensor = SCHEMA.TensorEnd(builder)
    SCHEMA.SubGraphStartTensorsVector(builder, 100_000)
    for _ in range(100_000):
        builder.PrependUOffsetTRelative(tensor)
    tensors = builder.EndVector()
    buffer = SCHEMA.BufferEnd(SCHEMA.BufferStart(builder) or builder)
    SCHEMA.ModelStartBuffersVector(builder, 1)
    builder.PrependUOffsetTRelative(buffer)
    buffers = builder.EndVector()
    SCHEMA.SubGraphStart(builder)
    SCHEMA.SubGraphAddTensors(builder, tensors)
    subgraph = SCHEMA.SubGraphEnd(builder)
    SCHEMA.ModelStartSubgraphsVector(builder, 1)
    builder.PrependUOffsetTRelative(subgraph)
    subgraphs = builder.EndVector()
    SCHEMA.ModelStart(builder)
    SCHEMA.ModelAddVersion(builder, 3)
    SCHEMA.ModelAddSubgraphs(builder, subgraphs)
    SCHEMA.ModelAddBuffers(builder, buffers)
    builder.Finish(SCHEMA.ModelEnd(builder), file_identifier=b"TFL3")
    begin = time.process_time()
    with pytest.raises(SpecError, match="lie upon one another"):
        read(bytes(builder.Output()))
    assert time.process_time() - begin < SECONDS


WORDS = np.array([0, 1, 2, 4, 127, 128, 255, 1 << 15, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 32) - 4], "<u4")


def damaged(flatbuffer: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes drawn anew, some words replaced by awkward ones, sometimes the end cut off."""
    data = np.frombuffer(flatbuffer, np.uint8).copy()
    for at in rng.integers(8, len(data), rng.integers(0, 4)):
        data[at] = rng.integers(0, 256)
    for at in rng.integers(2, len(data) // 4 - 1, rng.integers(0, 3)) * 4:
        word = rng.choice(WORDS) if rng.random() < 0.7 else np.uint32(rng.integers(0, len(data)))
        data[at : at + 4] = np.frombuffer(np.uint32(word).tobytes(), np.uint8)
    if rng.random() < 0.1:
        data = data[: rng.integers(0, len(data))]
    return data.tobytes()


def outcome(flatbuffer: bytes) -> str:
    """Name of what came of it: Graph, or the error's; anything but a HybridError of one line passes through."""
    begin, said = time.process_time(), "a model that is sound"
    try:
        found = type(read(flatbuffer)).__name__
    except HybridError as exc:
        found, said = type(exc).__name__, str(exc)
    assert time.process_time() - begin < SECONDS
    assert "\n" not in said
    assert 20 < len(said) < 1500
    return found


def bases() -> list[bytes]:
    alone = [random_single_op(np.random.default_rng(0), kind) for kind in DRAWS]
    return [flatbuffer(two_layers()), random_chain(np.random.default_rng(1), 5), *alone]


def test_fuzzing_bytes():
    rng = np.random.default_rng(0)
    models = bases()
    found = [outcome(damaged(models[index % len(models)], rng)) for index in range(6000)]
    assert set(found) == {"Graph", "SpecError", "UnsupportedOpError"}
    assert min(found.count(name) for name in set(found)) > 20


@pytest.mark.parametrize("count", [600, pytest.param(20_000, marks=pytest.mark.slow)])
def test_fuzzing_what_is_compiled(count):
    """What the reader lets through becomes C, or one clear line."""
    rng, made, said = np.random.default_rng(4), 0, []
    models = bases()
    for index in range(count):
        try:
            made += bool(compile_model(damaged(models[index % len(models)], rng)).files)
        except HybridError as exc:
            said.append(str(exc))
    assert made > count // 20
    assert not any("\n" in line for line in said)


@pytest.mark.skipif(not MODELS.is_dir(), reason="no folder tflite-models in HYBRID_DATA_DIR")
def test_fuzzing_real_models():
    """Only the structure in front of and behind the weights is worth damaging: small models."""
    rng = np.random.default_rng(1)
    names = ("mlperf-tiny/kws_ref_model.tflite", "tflite-micro/hello_world_int8.tflite")
    models = [(MODELS / name).read_bytes() for name in names]
    found = {outcome(damaged(models[index % len(models)], rng)) for index in range(1000)}
    assert found >= {"Graph", "SpecError"}


def places(thing) -> list[tuple[object, str]]:
    """All fields of a model in the object interface that hold numbers or lists, however deep."""
    found = []
    for name, value in vars(thing).items():
        parts = value if isinstance(value, list) else [value]
        for part in parts:
            if type(part).__name__.endswith("T") and hasattr(part, "Pack"):
                found += places(part)
        found.append((thing, name))
    return found


def bent(value, rng: np.random.Generator):
    """Another value of the same kind, often an awkward one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return int(rng.choice([0, 1, 2, 3, 7, 9, 100, value + 1]))
    if isinstance(value, float):
        return float(rng.choice([0.0, -1.0, np.nan, np.inf, 1e-38, 3.0]))
    if isinstance(value, (list, np.ndarray)) and len(value):
        values = list(value)
        index = int(rng.integers(len(values)))
        how = rng.integers(4)
        if how == 0:
            return values[:index] + values[index + 1 :]
        if how == 1:
            return values + values[index : index + 1]
        if how == 2 and isinstance(values[index], (int, float)):
            values[index] = bent(values[index], rng)
            return values
        return [values[int(other)] for other in rng.permutation(len(values))]
    return None


def test_fuzzing_meaning():
    """Models whose bytes are in order and whose contents are not."""
    rng = np.random.default_rng(2)
    found = []
    for index in range(900):
        kinds = list(DRAWS)
        model = model_object(random_graph(np.random.default_rng(index), [kinds[index % len(kinds)]]))
        for _ in range(int(rng.integers(1, 3))):
            choices = places(model)
            thing, name = choices[int(rng.integers(len(choices)))]
            setattr(thing, name, bent(getattr(thing, name), rng))
        try:
            flatbuffer = packed(model)
        except (TypeError, AttributeError, ValueError, AssertionError, OverflowError):
            continue  # the packer refuses what the schema cannot hold
        found.append(outcome(flatbuffer))
    assert len(found) > 600
    assert set(found) == {"Graph", "SpecError", "UnsupportedOpError"}
