"""Check that a folder holds what its manifest says, and that the firmware in it agrees with its nets and its router."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_export.bundle import MANIFEST, Bundle, broken, read, sha256
from firmware_export.edge import GOLDEN, GOLDEN_INPUTS, PROGRAM, model_file
from firmware_export.host import compile_decision, has_c_compiler, run_device
from firmware_export.manifest import check_manifest
from firmware_export.stages import StageModel, resolver_ops, stage_models
from hybrid.arena import least_arena_bytes
from hybrid.cascade import DeviceProgram, combined, stage_names
from hybrid.device_router import StoredOutputs
from hybrid.errors import BundleError, SpecError
from hybrid.program_json import program_from
from hybrid.progress import Narrator
from hybrid.runtimes import ENGINE_TITLES, DeviceEngine, device_engine

ROUTER_EXAMPLES = 1000
"""Random outputs of the nets on which the router's C is held against the Python side."""
_FIRMWARE = "firmware/"
_GLUE = "firmware/hybrid_classify.cc"
_GLUE_HEADER = "firmware/hybrid_classify.h"
_MODEL_DATA = "firmware/hybrid_model_data.cc"
_ROUTER = "firmware/hybrid_router.c"


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found to hold."""

    files: int
    """Files whose digest agrees."""
    golden_examples: int
    """Examples that `engine` and the router answer bit for bit as the bundle says."""
    engine: DeviceEngine
    """What ran the golden examples here."""
    router_examples: int
    """Random examples on which the compiled router scored bit for bit as in Python; 0 without a C compiler."""
    least_arena_bytes: int | None
    """What the nets need, found again here; None where TFLite Micro is missing."""
    arena_bytes: int
    """What the firmware reserves."""
    ops: tuple[str, ...]
    """What the resolver registers, exactly what the nets use."""


def verify(folder: Path, narrator: Narrator) -> Verification:
    """Check a bundle from its manifest to its answers.

    The bundle's router is compiled and run here: verify bundles only of people whose programs you would run.
    Raises: BundleError naming the file, what was expected and what is there, at the first check that fails.
    """
    bundle = read(folder)
    manifest = bundle.manifest
    check_manifest(manifest)
    _check_files(bundle, manifest)
    narrator.say(f"{len(bundle.files) - 1} files agree with the manifest")
    program, models = _read_program(bundle, manifest)
    ops = _check_models(bundle, manifest, models)
    narrator.say(f"the firmware registers exactly the {len(ops)} operators that the {_nets(models)}")
    least, reserved = _check_arena(bundle, manifest, program)
    needs = (
        "what the arena needs cannot be measured without TFLite Micro;"
        if least is None
        else f"the arena needs {least:,} bytes of"
    )
    narrator.say(f"{needs} {reserved:,} reserved")
    compared = _check_router(bundle, program, models)
    router = f"the router's C scores {compared:,} random examples as in Python, bit for bit"
    narrator.say(router if compared else "no C compiler here: the router's C was not run")
    count = _check_golden(bundle, manifest, program)
    narrator.say(f"{count} golden examples agree with {ENGINE_TITLES[device_engine()]} bit for bit")
    return Verification(
        files=len(bundle.files) - 1,
        golden_examples=count,
        engine=device_engine(),
        router_examples=compared,
        least_arena_bytes=least,
        arena_bytes=reserved,
        ops=ops,
    )


def _nets(models: list[StageModel]) -> str:
    return "net uses" if len(models) == 1 else f"{len(models)} nets use"


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


def _check_models(bundle: Bundle, manifest: Mapping[str, Any], models: list[StageModel]) -> tuple[str, ...]:
    for model in models:
        entry, flatbuffer = manifest["models"][model.name], model.stage.flatbuffer
        found: dict[str, Any] = {"sha256": sha256(flatbuffer), "ops": list(model.graph.op_names)}
        found |= {"reads": model.stage.reads, "look_below": model.stage.look_below}
        for key, value in found.items():
            if entry[key] != value:
                raise broken(MANIFEST, f"models.{model.name}.{key} {value}", entry[key])
    used = resolver_ops([model.graph for model in models])
    registered = re.findall(r"resolver\.(Add\w+)\(\)", _text(bundle, _GLUE))
    if sorted(registered) != sorted(op["method"] for op in used):
        raise broken(_GLUE, f"registrations {sorted(op['method'] for op in used)}", sorted(registered))
    arrays = re.findall(r"hybrid_model_(\w+)\[\] = \{(.*?)\}", _text(bundle, _MODEL_DATA), re.DOTALL)
    data = {name: bytes(int(byte, 16) for byte in re.findall(r"0x([0-9a-f]{2})\b", text)) for name, text in arrays}
    for model in models:
        if data.get(model.name) != model.stage.flatbuffer:
            raise broken(_MODEL_DATA, f"the bytes of {model_file(model.name)}", "others")
    return tuple(op["name"] for op in used)


def _check_arena(bundle: Bundle, manifest: Mapping[str, Any], program: DeviceProgram) -> tuple[int | None, int]:
    match = re.search(r"#define HYBRID_ARENA_BYTES (\d+)", _text(bundle, _GLUE_HEADER))
    entry = manifest["memory"]
    declared = entry["arena_bytes"]
    if match is None or int(match[1]) != declared:
        raise broken(_GLUE_HEADER, f"HYBRID_ARENA_BYTES {declared}", match[1] if match else "none")
    if device_engine() != "tflite-micro":
        return None, declared
    least = least_arena_bytes(program)
    if least > declared:
        if entry["arena_source"] == "estimated":
            raise BundleError(
                f"{_GLUE_HEADER}: HYBRID_ARENA_BYTES is {declared}, estimated where TFLite Micro was missing; "
                f"it needs {least}: run hybrid export here, which measures it"
            )
        raise broken(_GLUE_HEADER, f"HYBRID_ARENA_BYTES of at least {least}", declared)
    return least, declared


def _check_router(bundle: Bundle, program: DeviceProgram, models: list[StageModel]) -> int:
    """Compare the compiled router with Python after each stage; returns the number of examples."""
    if not has_c_compiler():
        return 0
    sources = {path.removeprefix(_FIRMWARE): text for path, text in bundle.files.items() if path.startswith(_FIRMWARE)}
    compiled = compile_decision(sources)
    said = random_outputs(models, ROUTER_EXAMPLES)
    for number, stage in enumerate(program.stages, 1):
        mixed = combined(stage.mix, said[:number])
        judged, score = compiled.judge(said[:number]), stage.router.score(mixed)
        wrong = (judged.logits != mixed.logits).any(axis=1) | (judged.score != score)
        if wrong.any():
            row = int(wrong.argmax())
            name = program.names[number - 1]
            raise broken(_ROUTER, f"{name} scores {score[row]} as {PROGRAM} does", f"{judged.score[row]}")
    return ROUTER_EXAMPLES


def random_outputs(models: list[StageModel], count: int, seed: int = 0) -> list[StoredOutputs]:
    """Draw what the nets of all stages could say of `count` examples."""
    rng = np.random.default_rng(seed)

    def draw(width: int) -> NDArray[np.int8]:
        return rng.integers(-128, 128, (count, width)).astype(np.int8)

    return [
        StoredOutputs(logits=draw(model.signature.logits.num_values), features=draw(model.num_features))
        for model in models
    ]


def _check_golden(bundle: Bundle, manifest: Mapping[str, Any], program: DeviceProgram) -> int:
    inputs, expected = _read_golden(bundle)
    found = run_device(program, inputs)
    for name, values in (("logits", found.logits), ("router_score", found.score), ("stage", found.stage)):
        for index, (want, got) in enumerate(zip(expected[name], values.tolist(), strict=True)):
            if want != got:
                raise _other_answer(f"{name} of example {index}", want, got, manifest["golden"]["engine"])
    classes = found.logits.argmax(axis=1).tolist()
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
        lengths = {len(golden[name]) for name in ("logits", "router_score", "edge_class", "stage")}
    except (ValueError, KeyError, TypeError) as exc:
        raise broken(GOLDEN, f"golden vectors for {GOLDEN_INPUTS}", f"{type(exc).__name__}: {exc}") from exc
    if lengths != {len(inputs)}:
        raise broken(GOLDEN, f"answers to {len(inputs)} examples", sorted(lengths))
    return inputs, golden


def _text(bundle: Bundle, path: str) -> str:
    return bundle.files[path].decode("utf-8", "replace")
