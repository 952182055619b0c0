"""Check that a folder holds what its manifest says, and that the firmware in it agrees with its nets and its router."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_export.answers import differences, expected_answers, host_answers
from firmware_export.bundle import MANIFEST, Bundle, broken, sha256
from firmware_export.contents import FIRMWARE, contract_of, firmware_of, golden_pixels, read_checked, read_golden
from firmware_export.edge import GOLDEN, PROGRAM, model_file
from firmware_export.host import compile_decision, has_c_compiler, run_device
from firmware_export.stages import StageModel, resolver_ops
from firmware_export.tflm import AOT_FOLDER
from hybrid.arena import least_arena_bytes
from hybrid.cascade import DeviceProgram, combined
from hybrid.device_router import StoredOutputs
from hybrid.errors import BundleError
from hybrid.progress import Narrator
from hybrid.runtimes import ENGINE_TITLES, DeviceEngine, device_engine

ROUTER_EXAMPLES = 1000
"""Random outputs of the nets on which the router's C is held against the Python side."""
AOT_EXAMPLES = 200
"""Examples on which the ahead-of-time engine's C is held against TFLite Micro, beside the golden ones."""
_GLUE = "firmware/hybrid_classify.cc"
_GLUE_HEADER = "firmware/hybrid_classify.h"
_AOT_HEADER = f"{FIRMWARE}{AOT_FOLDER}/hybrid_aot_arena.h"
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
    aot_examples: int
    """On which the ahead-of-time engine answered bit for bit as TFLite Micro; 0 where one of them, or a C compiler, is
    missing."""
    least_arena_bytes: int | None
    """What the nets need, found again here; None where TFLite Micro is missing."""
    arena_bytes: int
    """What the firmware reserves."""
    ops: tuple[str, ...]
    """What the resolver registers, exactly what the nets use."""


def verify(folder: Path, narrator: Narrator) -> Verification:
    """Check a bundle from its manifest to its answers.

    The bundle's C is compiled and run here: verify bundles only of people whose programs you would run.
    Raises: BundleError naming the file, what was expected and what is there, at the first check that fails.
    """
    bundle, program, models = read_checked(folder)
    manifest = bundle.manifest
    narrator.say(f"{len(bundle.files) - 1} files agree with the manifest")
    ops = _check_models(bundle, manifest, models)
    narrator.say(f"the firmware registers exactly the {len(ops)} operators that the {_nets(models)}")
    _check_aot(bundle, manifest)
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
    aot_compared = compare_engines(bundle, program, trial_pixels(bundle, AOT_EXAMPLES))
    narrator.say(engines_compared(manifest, aot_compared))
    return Verification(
        files=len(bundle.files) - 1,
        golden_examples=count,
        engine=device_engine(),
        router_examples=compared,
        aot_examples=aot_compared,
        least_arena_bytes=least,
        arena_bytes=reserved,
        ops=ops,
    )


def compare_engines(bundle: Bundle, program: DeviceProgram, pixels: NDArray[np.uint8]) -> int:
    """Hold the ahead-of-time engine against TFLite Micro on stored images ``(n, h, w, c)``; gives their number.

    That is 0 where the bundle has no such engine, or this machine no C compiler or no TFLite Micro.
    Raises: BundleError naming the first value that differs.
    """
    refused = "refused" in bundle.manifest["engines"]["aot"]
    if refused or device_engine() != "tflite-micro" or not has_c_compiler():
        return 0
    contract = contract_of(bundle, program)
    found = host_answers(contract, firmware_of(bundle), pixels)
    for difference in differences(expected_answers(contract, pixels), found):
        raise BundleError(
            f"{FIRMWARE}{AOT_FOLDER}: the ahead-of-time engine differs from TFLite Micro: {difference}; export the "
            "bundle again, or by TFLite Micro alone with export.engines tflm, and report this"
        )
    return len(pixels)


def engines_compared(manifest: Mapping[str, Any], count: int) -> str:
    """Say in words what `compare_engines` found."""
    if reason := manifest["engines"]["aot"].get("refused"):
        return f"no ahead-of-time engine in this bundle: {reason}"
    if count:
        sizes = [f"{manifest['engines'][name]['arena_bytes']:,}" for name in ("aot", "tflm")]
        same = f"the ahead-of-time engine answers {count:,} examples as TFLite Micro does, bit for bit"
        return f"{same}, in an arena of {sizes[0]} bytes instead of {sizes[1]}"
    return "the ahead-of-time engine was not compared: a C compiler and TFLite Micro are needed"


def trial_pixels(bundle: Bundle, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """The golden examples, and `count` more: these with noise from none to all."""
    golden, rng = golden_pixels(bundle), np.random.default_rng(seed)
    like = golden[rng.integers(0, len(golden), count)].astype(np.float64)
    share = rng.random((count, 1, 1, 1))
    mixed = share * rng.integers(0, 256, like.shape) + (1 - share) * like
    return np.concatenate([golden, mixed.round().astype(np.uint8)])


def _nets(models: list[StageModel]) -> str:
    return "net uses" if len(models) == 1 else f"{len(models)} nets use"


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


def _check_aot(bundle: Bundle, manifest: Mapping[str, Any]) -> None:
    """The ahead-of-time engine is there with the arena that the manifest tells, or it is not there at all."""
    entry = manifest["engines"]["aot"]
    there = sorted(path for path in bundle.files if path.startswith(f"{FIRMWARE}{AOT_FOLDER}/"))
    if "refused" in entry:
        if there:
            raise broken(there[0], "no ahead-of-time engine, as the manifest says", "a file of one")
        return
    if _AOT_HEADER not in there:
        raise broken(_AOT_HEADER, "the ahead-of-time engine's arena", "no such file")
    match = re.search(r"#define HYBRID_AOT_ARENA_BYTES (\d+)", _text(bundle, _AOT_HEADER))
    if match is None or int(match[1]) != entry["arena_bytes"]:
        expected = f"HYBRID_AOT_ARENA_BYTES {entry['arena_bytes']}"
        raise broken(_AOT_HEADER, expected, match[1] if match else "none")


def _check_router(bundle: Bundle, program: DeviceProgram, models: list[StageModel]) -> int:
    """Compare the compiled router with Python after each stage; returns the number of examples."""
    if not has_c_compiler():
        return 0
    compiled = compile_decision(firmware_of(bundle))
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
    inputs, expected = read_golden(bundle)
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


def _text(bundle: Bundle, path: str) -> str:
    return bundle.files[path].decode("utf-8", "replace")
