"""What a bundle holds, read from its folder: checked against the manifest, and as values again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_export.answers import Contract
from firmware_export.bundle import MANIFEST, Bundle, broken, read, sha256
from firmware_export.edge import GOLDEN, GOLDEN_INPUTS, PROGRAM, model_file
from firmware_export.manifest import check_manifest
from firmware_export.stages import StageModel, stage_models
from hybrid.cascade import DeviceProgram, stage_names
from hybrid.errors import SpecError
from hybrid.program_json import program_from

FIRMWARE = "firmware/"


def read_checked(folder: Path) -> tuple[Bundle, DeviceProgram, list[StageModel]]:
    """Read a bundle whose files agree with its manifest. Raises: BundleError."""
    bundle = read(folder)
    manifest = bundle.manifest
    check_manifest(manifest)
    _check_files(bundle, manifest)
    return bundle, *_read_program(bundle, manifest)


def contract_of(bundle: Bundle, program: DeviceProgram) -> Contract:
    """What the bundle's device must keep to."""
    manifest = bundle.manifest
    _, height, width, channels = manifest["input"]["shape"]
    return Contract(
        program=program,
        num_classes=len(manifest["class_names"]),
        input_shape=(height, width, channels),
        threshold=manifest["chosen"]["threshold"],
        encoding=manifest["payload"]["encoding"],
    )


def firmware_of(bundle: Bundle) -> dict[str, bytes]:
    """The firmware's sources by their path there."""
    return {path.removeprefix(FIRMWARE): text for path, text in bundle.files.items() if path.startswith(FIRMWARE)}


def golden_pixels(bundle: Bundle) -> NDArray[np.uint8]:
    """The golden examples as stored images."""
    return (read_golden(bundle)[0].astype(np.int16) + 128).astype(np.uint8)


def read_golden(bundle: Bundle) -> tuple[NDArray[np.int8], dict[str, Any]]:
    """Read the golden inputs ``(n, h, w, c)`` and the answers to them. Raises: BundleError."""
    try:
        golden = json.loads(bundle.files[GOLDEN])
        inputs = np.frombuffer(bundle.files[GOLDEN_INPUTS], np.int8).reshape(golden["inputs"]["shape"])
        lengths = {len(golden[name]) for name in ("logits", "router_score", "edge_class", "stage")}
    except (ValueError, KeyError, TypeError) as exc:
        raise broken(GOLDEN, f"golden vectors for {GOLDEN_INPUTS}", f"{type(exc).__name__}: {exc}") from exc
    if lengths != {len(inputs)}:
        raise broken(GOLDEN, f"answers to {len(inputs)} examples", sorted(lengths))
    return inputs, golden


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


def _read_program(bundle: Bundle, manifest: Mapping[str, Any]) -> tuple[DeviceProgram, list[StageModel]]:
    names = list(stage_names(len(manifest["models"])))
    if set(names) != manifest["models"].keys():
        raise broken(MANIFEST, f"models {names}", sorted(manifest["models"]))
    paths = [model_file(name) for name in names]
    if missing := [path for path in paths if path not in bundle.files]:
        raise broken(missing[0], "a stage's flatbuffer", "no such file")
    try:
        program = program_from(json.loads(bundle.files[PROGRAM]), [bundle.files[path] for path in paths])
        _, *shape = manifest["input"]["shape"]
        models = stage_models(program, tuple(shape), len(manifest["class_names"]))
    except (SpecError, ValueError) as exc:
        raise broken(PROGRAM, "routers and mixes of the nets beside it", str(exc)) from exc
    if program.digest != manifest["program"]["digest"]:
        raise broken(MANIFEST, f"program.digest {program.digest}", manifest["program"]["digest"])
    return program, models
