"""The edge half of a bundle: nets, router, firmware sources, golden vectors and the manifest."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_export.aot import AotEngine
from firmware_export.bundle import MANIFEST, Bundle, file_entries, sha256
from firmware_export.host import run_device
from firmware_export.manifest import FORMAT_VERSION, check_manifest
from firmware_export.payload import Encoding, payload_bytes
from firmware_export.stages import StageModel, stage_models
from firmware_export.tflm import FirmwareSpec, Golden, Watch, arena_bytes, firmware_sources
from hybrid.artifacts import Device, Footprint, Ints, OperatingPoint
from hybrid.cascade import DeviceProgram
from hybrid.cost import flatbuffer_macs, program_flash_bytes
from hybrid.errors import BudgetError, BundleError, SpecError
from hybrid.guarantee import Certificate
from hybrid.program_json import program_values
from hybrid.runtimes import device_engine, to_int8
from hybrid.version import PROJECT, project_version

PROGRAM = "program.json"
"""Routers and mixes as plain data; with the nets beside it, the device program."""
GOLDEN = "golden/golden.json"
GOLDEN_INPUTS = "golden/inputs.bin"
PIXEL_OFFSET = -128
"""int8 input = uint8 pixel + this."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BundleInputs:
    """All that a bundle is made from.

    `golden_pixels` are uint8 ``(n, height, width, channels)``, some of every stage (see `golden_rows`); `data_card` has
    at least `digest` and `value_range`, what pixels 0 and 255 stand for; `extra` holds further files by path, such as
    the cloud's.
    """

    program: DeviceProgram
    device: Device
    operating_points: tuple[OperatingPoint, ...]
    chosen: str
    """Name of the operating point that holds from the start."""
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    golden_pixels: NDArray[np.uint8]
    data_card: Mapping[str, Any]
    spec: Mapping[str, Any]
    """The run's spec as plain data."""
    tools: Mapping[str, str]
    """Versions by tool name."""
    footprint: Footprint
    arena_margin: float
    payload_encoding: Encoding
    aot: AotEngine | str
    """The same program compiled ahead of time; a string says why it is not."""
    router_kinds: tuple[str, ...]
    """Of each stage."""
    watch: Watch
    extra: Mapping[str, bytes]


def build_edge_bundle(inputs: BundleInputs) -> Bundle:
    """Make a bundle; same inputs, same bytes.

    Raises: UnsupportedOpError, BudgetError, SpecError or BundleError where the nets and the device do not go together.
    """
    _check(inputs)
    models = stage_models(inputs.program, inputs.input_shape, len(inputs.class_names))
    golden = _golden(inputs.program, inputs.golden_pixels)
    spec = _firmware_spec(inputs, golden)
    sources = firmware_sources(spec)
    files = {f"firmware/{name}": text for name, text in sources.items()}
    files |= {model_file(model.name): model.stage.flatbuffer for model in models}
    files |= {PROGRAM: canonical_json(program_values(inputs.program))}
    files |= {GOLDEN: _golden_json(golden), GOLDEN_INPUTS: golden.inputs.tobytes()}
    if clash := sorted((files.keys() | {MANIFEST}) & inputs.extra.keys()):
        raise BundleError(f"bundle: extra files {', '.join(clash)} have the names of the bundle's own; rename them")
    files |= inputs.extra
    bundle = Bundle({**files, MANIFEST: canonical_json(_manifest(inputs, spec, models, files))})
    check_manifest(bundle.manifest)
    return bundle


def model_file(name: str) -> str:
    """Path of a stage's flatbuffer in the bundle, such as ``edge.tflite``."""
    return f"{name}.tflite"


def golden_rows(score: Ints, stage: Ints, wanted: int) -> NDArray[np.intp]:
    """Choose rows for golden examples: `wanted` spread evenly over the scores, and one of each stage not among them.

    >>> golden_rows(np.array([5, -9, 7, 0, 8]), np.array([0, 1, 0, 0, 2]), 3)
    array([1, 0, 4])
    """
    by_score = np.argsort(score, kind="stable")
    spread = by_score[np.linspace(0, len(by_score) - 1, min(wanted, len(by_score))).round().astype(int)]
    missing = [int(np.flatnonzero(stage == number)[0]) for number in np.setdiff1d(stage, stage[spread])]
    return np.concatenate([spread, np.array(missing, np.intp)])


def canonical_json(value: Any) -> bytes:
    """Sorted keys, two spaces, a final newline. Raises: SpecError for what JSON cannot hold."""
    try:
        text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise SpecError(f"manifest: not plain data ({exc}); give strings, finite numbers, lists and mappings") from exc
    return (text + "\n").encode()


def _check(inputs: BundleInputs) -> None:
    pixels, flash_bytes = inputs.golden_pixels, program_flash_bytes(inputs.program)
    if pixels.dtype != np.uint8 or pixels.shape[1:] != inputs.input_shape or not len(pixels):
        shape = ", ".join(map(str, inputs.input_shape))
        raise SpecError(f"golden_pixels: got {pixels.dtype} {pixels.shape}, expected uint8 (1 or more, {shape})")
    if missing := sorted({"digest", "value_range"} - inputs.data_card.keys()):
        raise SpecError(f"data_card: lacks {', '.join(missing)}")
    if inputs.footprint.flash_bytes != flash_bytes:
        raise SpecError(f"footprint: flash_bytes {inputs.footprint.flash_bytes:,}, the program has {flash_bytes:,}")
    free_flash_bytes = inputs.device.flash_bytes - inputs.device.reserved_flash_bytes
    if flash_bytes > free_flash_bytes:
        remedy = "choose a smaller net or another device"
        raise BudgetError("flash_bytes", flash_bytes, free_flash_bytes, inputs.device.name, remedy)


def _golden(program: DeviceProgram, pixels: NDArray[np.uint8]) -> Golden:
    inputs = to_int8(pixels)
    golden = Golden(inputs=inputs, outputs=run_device(program, inputs), engine=device_engine())
    for number, name in enumerate(program.names):
        if number not in golden.stage:
            raise SpecError(
                f"golden_pixels: {name} is the last stage of none of {golden.count} examples, expected one or more; "
                "choose them with golden_rows, or leave out a stage that nothing reaches"
            )
    return golden


def _golden_json(golden: Golden) -> bytes:
    inputs = {"file": GOLDEN_INPUTS, "dtype": "int8", "shape": golden.inputs.shape}
    return canonical_json(
        {
            "inputs": inputs,
            "logits": golden.logits.tolist(),
            "router_score": golden.router_score.tolist(),
            "edge_class": golden.edge_class.tolist(),
            "stage": golden.stage.tolist(),
        }
    )


def _firmware_spec(inputs: BundleInputs, golden: Golden) -> FirmwareSpec:
    return FirmwareSpec(
        program=inputs.program,
        device=inputs.device,
        operating_points=inputs.operating_points,
        chosen=inputs.chosen,
        class_names=inputs.class_names,
        input_shape=inputs.input_shape,
        router_kind=inputs.router_kinds[-1],
        watch=inputs.watch,
        least_arena_bytes=inputs.footprint.least_arena_bytes,
        arena_source=inputs.footprint.arena_source,
        arena_margin=inputs.arena_margin,
        payload_encoding=inputs.payload_encoding,
        golden=golden,
        aot=inputs.aot,
        project_version=project_version(),
        spec_digest=sha256(canonical_json(inputs.spec)),
    )


def _manifest(
    inputs: BundleInputs, spec: FirmwareSpec, models: Sequence[StageModel], files: Mapping[str, bytes]
) -> dict[str, Any]:
    points = {point.name: point for point in inputs.operating_points}
    return {
        "bundle_format_version": FORMAT_VERSION,
        "project": {"name": PROJECT, "version": project_version()},
        "spec": inputs.spec,
        "data": inputs.data_card,
        "tools": inputs.tools,
        "device": asdict(inputs.device),
        "program": {"file": PROGRAM, "digest": inputs.program.digest},
        "models": {
            model.name: _model_entry(model, kind) for model, kind in zip(models, inputs.router_kinds, strict=True)
        },
        "memory": _memory_entry(inputs, spec),
        "engines": _engines_entry(spec),
        "operating_points": [asdict(point) for point in inputs.operating_points],
        "chosen": {"operating_point": inputs.chosen, "threshold": points[inputs.chosen].threshold},
        "guarantee": _guarantee_entry(inputs.watch.certificate),
        "golden": {"engine": spec.golden.engine},
        "input": _input_entry(inputs, models[0]),
        "class_names": inputs.class_names,
        "payload": {
            "encoding": inputs.payload_encoding,
            "max_bytes": payload_bytes(inputs.input_shape, inputs.payload_encoding),
        },
        "files": file_entries(files),
    }


def _model_entry(model: StageModel, router_kind: str) -> dict[str, Any]:
    stage, router = model.stage, model.stage.router
    return {
        "file": model_file(model.name),
        "sha256": sha256(stage.flatbuffer),
        "flash_bytes": len(stage.flatbuffer),
        "weight_bytes": model.graph.weight_bytes,
        "macs": sum(flatbuffer_macs(stage.flatbuffer).values()),
        "ops": model.graph.op_names,
        "reads": stage.reads,
        "look_below": stage.look_below,
        "router": {
            "kind": router_kind,
            "parameters": router.parameters,
            "macs": router.macs,
            "flash_bytes": router.table_bytes,
        },
    }


def _guarantee_entry(certificate: Certificate | None) -> dict[str, Any] | None:
    if certificate is None:
        return None
    return {
        "statement": certificate.statement,
        "targets": [{"kind": target.kind, "value": target.value} for target in certificate.targets],
        "confidence": certificate.confidence,
        "n": certificate.n,
        "lowest_threshold": certificate.lowest,
        "highest_threshold": certificate.highest,
    }


def _memory_entry(inputs: BundleInputs, spec: FirmwareSpec) -> dict[str, Any]:
    return {
        "flash_bytes": inputs.footprint.flash_bytes,
        "measured_arena_bytes": inputs.footprint.measured_arena_bytes,
        "least_arena_bytes": spec.least_arena_bytes,
        "arena_source": spec.arena_source,
        "arena_bytes": arena_bytes(spec.least_arena_bytes, spec.arena_margin),
    }


def _engines_entry(spec: FirmwareSpec) -> dict[str, Any]:
    """What each engine takes; the code of TFLite Micro is not ours to count."""
    flatbuffers = sum(len(stage.flatbuffer) for stage in spec.program.stages)
    reserved = arena_bytes(spec.least_arena_bytes, spec.arena_margin)
    return {
        "tflm": {"arena_bytes": reserved, "constant_bytes": flatbuffers},
        "aot": {"refused": spec.aot} if isinstance(spec.aot, str) else spec.aot.values(),
    }


def _input_entry(inputs: BundleInputs, edge: StageModel) -> dict[str, Any]:
    tensor = edge.signature.input
    return {
        "dtype": "int8",
        "shape": tensor.shape,
        "scale": tensor.scales[0],
        "zero_point": tensor.zero_points[0],
        "pixel_offset": PIXEL_OFFSET,
        "value_range": inputs.data_card["value_range"],
    }
