"""Check that a folder holds what its manifest says, and that the firmware in it agrees with its model."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_export.bundle import MANIFEST, Bundle, broken, read, sha256
from firmware_export.edge import EDGE_MODEL, GOLDEN, GOLDEN_INPUTS
from firmware_export.flatbuffer import read_graph
from firmware_export.host import run_tflm
from firmware_export.manifest import check_manifest
from firmware_export.tflm import resolver_ops
from hybrid.arena import least_arena_bytes
from hybrid.errors import BundleError
from hybrid.progress import Narrator
from hybrid.runtimes import ENGINE_TITLES, DeviceEngine, device_engine

_GLUE = "firmware/hybrid_classify.cc"
_GLUE_HEADER = "firmware/hybrid_classify.h"
_MODEL_DATA = "firmware/hybrid_model_data.cc"


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found to hold."""

    files: int
    """Files whose digest agrees."""
    golden_examples: int
    """Examples that `engine` answers bit for bit as the bundle says."""
    engine: DeviceEngine
    """What ran the golden examples here."""
    least_arena_bytes: int | None
    """What the model needs, found again here; None where TFLite Micro is missing."""
    arena_bytes: int
    """What the firmware reserves."""
    ops: tuple[str, ...]
    """What the resolver registers, exactly what the model uses."""


def verify(folder: Path, narrator: Narrator) -> Verification:
    """Check a bundle from its manifest to its answers; no code of the bundle is run.

    Raises: BundleError naming the file, what was expected and what is there, at the first check that fails.
    """
    bundle = read(folder)
    manifest = bundle.manifest
    check_manifest(manifest)
    _check_files(bundle, manifest)
    narrator.say(f"{len(bundle.files) - 1} files agree with the manifest")
    model = bundle.files[EDGE_MODEL]
    ops = _check_model(bundle, manifest, model)
    narrator.say(f"the firmware registers exactly the {len(ops)} operators that the model uses")
    least, reserved = _check_arena(bundle, manifest, model)
    needs = (
        "what the arena needs cannot be measured without TFLite Micro;"
        if least is None
        else f"the arena needs {least:,} bytes of"
    )
    narrator.say(f"{needs} {reserved:,} reserved")
    count = _check_golden(bundle, manifest, model)
    narrator.say(f"{count} golden examples agree with {ENGINE_TITLES[device_engine()]} bit for bit")
    return Verification(
        files=len(bundle.files) - 1,
        golden_examples=count,
        engine=device_engine(),
        least_arena_bytes=least,
        arena_bytes=reserved,
        ops=ops,
    )


def _check_files(bundle: Bundle, manifest: Mapping[str, Any]) -> None:
    listed, there = manifest["files"], bundle.files.keys() - {MANIFEST}
    for path in sorted(listed.keys() - there):
        raise broken(path, "the file that the manifest lists", "no such file")
    for path in sorted(there - listed.keys()):
        raise broken(path, "only files that the manifest lists", "a file more")
    for path, entry in listed.items():
        content = bundle.files[path]
        if len(content) != entry["bytes"]:
            raise broken(path, f"{entry['bytes']:,} bytes", f"{len(content):,}")
        if sha256(content) != entry["sha256"]:
            raise broken(path, f"SHA-256 {entry['sha256']}", sha256(content))


def _check_model(bundle: Bundle, manifest: Mapping[str, Any], model: bytes) -> tuple[str, ...]:
    entry, graph = manifest["models"]["edge"], read_graph(model)
    if sha256(model) != entry["sha256"]:
        raise broken(EDGE_MODEL, f"SHA-256 {entry['sha256']}", sha256(model))
    if list(graph.op_names) != entry["ops"]:
        raise broken(MANIFEST, f"models.edge.ops {list(graph.op_names)}", entry["ops"])
    registered = re.findall(r"resolver\.(Add\w+)\(\)", _text(bundle, _GLUE))
    used = [op["method"] for op in resolver_ops(graph)]
    if sorted(registered) != sorted(used):
        raise broken(_GLUE, f"registrations {sorted(used)}", sorted(registered))
    array = bytes(int(byte, 16) for byte in re.findall(r"0x([0-9a-f]{2})\b", _text(bundle, _MODEL_DATA)))
    if array != model:
        raise broken(_MODEL_DATA, f"the bytes of {EDGE_MODEL}", "others")
    return graph.op_names


def _check_arena(bundle: Bundle, manifest: Mapping[str, Any], model: bytes) -> tuple[int | None, int]:
    match = re.search(r"#define HYBRID_ARENA_BYTES (\d+)", _text(bundle, _GLUE_HEADER))
    entry = manifest["models"]["edge"]
    declared = entry["arena_bytes"]
    if match is None or int(match[1]) != declared:
        raise broken(_GLUE_HEADER, f"HYBRID_ARENA_BYTES {declared}", match[1] if match else "none")
    if device_engine() != "tflite-micro":
        return None, declared
    least = least_arena_bytes(model)
    if least > declared:
        if entry["arena_source"] == "estimated":
            raise BundleError(
                f"{_GLUE_HEADER}: HYBRID_ARENA_BYTES is {declared}, estimated where TFLite Micro was missing; "
                f"it needs {least}: run hybrid export here, which measures it"
            )
        raise broken(_GLUE_HEADER, f"HYBRID_ARENA_BYTES of at least {least}", declared)
    return least, declared


def _check_golden(bundle: Bundle, manifest: Mapping[str, Any], model: bytes) -> int:
    inputs, expected = _read_golden(bundle)
    for name, values in run_tflm(model, inputs).items():
        for index, (want, got) in enumerate(zip(expected[name], values.tolist(), strict=True)):
            if want != got:
                raise _other_answer(f"{name} of example {index}", want, got, manifest["golden"]["engine"])
    classes = np.asarray(expected["logits"]).argmax(axis=1).tolist()
    if classes != expected["edge_class"]:
        raise broken(GOLDEN, f"edge_class {classes}", expected["edge_class"])
    return len(inputs)


def _other_answer(where: str, want: object, got: object, maker: DeviceEngine) -> BundleError:
    here = device_engine()
    if maker == here:
        return broken(GOLDEN, f"{where} as {ENGINE_TITLES[here]} answers: {got}", want)
    remedy = "run hybrid export here" if here == "tflite-micro" else "run hybrid verify on Linux, with TFLite Micro,"
    return BundleError(
        f"{GOLDEN}: {where}: {ENGINE_TITLES[maker]} gave {want} where the bundle was made, {ENGINE_TITLES[here]} here "
        f"{got}; the two may round differently, so this alone is no sign of damage: {remedy} to be sure"
    )


def _read_golden(bundle: Bundle) -> tuple[NDArray[np.int8], dict[str, Any]]:
    try:
        golden = json.loads(bundle.files[GOLDEN])
        inputs = np.frombuffer(bundle.files[GOLDEN_INPUTS], np.int8).reshape(golden["inputs"]["shape"])
        lengths = {len(golden[name]) for name in ("logits", "router_score", "edge_class")}
    except (ValueError, KeyError, TypeError) as exc:
        raise broken(GOLDEN, f"golden vectors for {GOLDEN_INPUTS}", f"{type(exc).__name__}: {exc}") from exc
    if lengths != {len(inputs)}:
        raise broken(GOLDEN, f"answers to {len(inputs)} examples", sorted(lengths))
    return inputs, golden


def _text(bundle: Bundle, path: str) -> str:
    return bundle.files[path].decode("utf-8", "replace")
