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
from hybrid.progress import Narrator

_GLUE = "firmware/hybrid_classify.cc"
_GLUE_HEADER = "firmware/hybrid_classify.h"
_MODEL_DATA = "firmware/hybrid_model_data.cc"


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found to hold."""

    files: int
    """Files whose digest agrees."""
    golden_examples: int
    """Examples that TFLite Micro answers bit for bit as the bundle says."""
    least_arena_bytes: int
    """What the model needs, found again here."""
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
    narrator.say(f"the arena needs {least:,} bytes of {reserved:,} reserved")
    count = _check_golden(bundle, model)
    narrator.say(f"{count} golden examples agree with TFLite Micro bit for bit")
    return Verification(
        files=len(bundle.files) - 1,
        golden_examples=count,
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


def _check_arena(bundle: Bundle, manifest: Mapping[str, Any], model: bytes) -> tuple[int, int]:
    match = re.search(r"#define HYBRID_ARENA_BYTES (\d+)", _text(bundle, _GLUE_HEADER))
    declared = manifest["models"]["edge"]["arena_bytes"]
    if match is None or int(match[1]) != declared:
        raise broken(_GLUE_HEADER, f"HYBRID_ARENA_BYTES {declared}", match[1] if match else "none")
    least = least_arena_bytes(model)
    if least > declared:
        raise broken(_GLUE_HEADER, f"HYBRID_ARENA_BYTES of at least {least}", declared)
    return least, declared


def _check_golden(bundle: Bundle, model: bytes) -> int:
    inputs, expected = _read_golden(bundle)
    for name, values in run_tflm(model, inputs).items():
        for index, (want, got) in enumerate(zip(expected[name], values.tolist(), strict=True)):
            if want != got:
                raise broken(GOLDEN, f"{name} of example {index} as TFLite Micro answers: {got}", want)
    classes = np.asarray(expected["logits"]).argmax(axis=1).tolist()
    if classes != expected["edge_class"]:
        raise broken(GOLDEN, f"edge_class {classes}", expected["edge_class"])
    return len(inputs)


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
