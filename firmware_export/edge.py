"""The edge half of a bundle: model, firmware sources, golden vectors and the manifest."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_export.bundle import MANIFEST, Bundle, file_entries, sha256
from firmware_export.flatbuffer import Graph, edge_signature, read_graph
from firmware_export.host import run_tflm
from firmware_export.manifest import FORMAT_VERSION, check_manifest
from firmware_export.payload import Encoding, payload_bytes
from firmware_export.tflm import FirmwareSpec, Golden, arena_bytes, check_model, firmware_sources
from hybrid.artifacts import Device, Footprint, OperatingPoint
from hybrid.errors import BudgetError, BundleError, SpecError
from hybrid.runtimes import device_engine, to_int8
from hybrid.version import PROJECT, project_version

EDGE_MODEL = "edge.tflite"
GOLDEN = "golden/golden.json"
GOLDEN_INPUTS = "golden/inputs.bin"
PIXEL_OFFSET = -128
"""int8 input = uint8 pixel + this."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BundleInputs:
    """All that a bundle is made from.

    `golden_pixels` are uint8 ``(n, height, width, channels)``; `data_card` has at least `digest` and `value_range`,
    what pixels 0 and 255 stand for; `extra` holds further files by path, such as the cloud's.
    """

    models: Mapping[str, bytes]
    """Flatbuffers by name; ``edge`` for now."""
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
    router_kind: str
    extra: Mapping[str, bytes]


def build_edge_bundle(inputs: BundleInputs) -> Bundle:
    """Make a bundle; same inputs, same bytes.

    Raises: UnsupportedOpError, BudgetError, SpecError or BundleError where the model and the device do not go together.
    """
    _check(inputs)
    model = inputs.models["edge"]
    graph = read_graph(model)
    check_model(graph, inputs.input_shape, len(inputs.class_names))
    golden = _golden(model, inputs.golden_pixels)
    spec = _firmware_spec(inputs, golden)
    sources = firmware_sources(spec)
    files = {f"firmware/{name}": text for name, text in sources.items()}
    files |= {EDGE_MODEL: model, GOLDEN: _golden_json(golden), GOLDEN_INPUTS: golden.inputs.tobytes()}
    if clash := sorted((files.keys() | {MANIFEST}) & inputs.extra.keys()):
        raise BundleError(f"bundle: extra files {', '.join(clash)} have the names of the bundle's own; rename them")
    files |= inputs.extra
    bundle = Bundle({**files, MANIFEST: canonical_json(_manifest(inputs, spec, graph, files))})
    check_manifest(bundle.manifest)
    return bundle


def canonical_json(value: Any) -> bytes:
    """Sorted keys, two spaces, a final newline. Raises: SpecError for what JSON cannot hold."""
    try:
        text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise SpecError(f"manifest: not plain data ({exc}); give strings, finite numbers, lists and mappings") from exc
    return (text + "\n").encode()


def _check(inputs: BundleInputs) -> None:
    pixels, model = inputs.golden_pixels, inputs.models.get("edge")
    if model is None or len(inputs.models) != 1:
        raise SpecError(f"models: got {sorted(inputs.models)}, expected edge")
    if pixels.dtype != np.uint8 or pixels.shape[1:] != inputs.input_shape or not len(pixels):
        shape = ", ".join(map(str, inputs.input_shape))
        raise SpecError(f"golden_pixels: got {pixels.dtype} {pixels.shape}, expected uint8 (1 or more, {shape})")
    if missing := sorted({"digest", "value_range"} - inputs.data_card.keys()):
        raise SpecError(f"data_card: lacks {', '.join(missing)}")
    if inputs.footprint.flash_bytes != len(model):
        raise SpecError(f"footprint: flash_bytes {inputs.footprint.flash_bytes:,}, the edge model has {len(model):,}")
    free_flash_bytes = inputs.device.flash_bytes - inputs.device.reserved_flash_bytes
    if len(model) > free_flash_bytes:
        remedy = "choose a smaller net or another device"
        raise BudgetError("flash_bytes", len(model), free_flash_bytes, inputs.device.name, remedy)


def _golden(model: bytes, pixels: NDArray[np.uint8]) -> Golden:
    inputs = to_int8(pixels)
    return Golden(inputs=inputs, engine=device_engine(), **run_tflm(model, inputs))


def _golden_json(golden: Golden) -> bytes:
    inputs = {"file": GOLDEN_INPUTS, "dtype": "int8", "shape": golden.inputs.shape}
    return canonical_json(
        {
            "inputs": inputs,
            "logits": golden.logits.tolist(),
            "router_score": golden.router_score.tolist(),
            "edge_class": golden.edge_class.tolist(),
        }
    )


def _firmware_spec(inputs: BundleInputs, golden: Golden) -> FirmwareSpec:
    return FirmwareSpec(
        flatbuffer=inputs.models["edge"],
        device=inputs.device,
        operating_points=inputs.operating_points,
        chosen=inputs.chosen,
        class_names=inputs.class_names,
        input_shape=inputs.input_shape,
        router_kind=inputs.router_kind,
        least_arena_bytes=inputs.footprint.least_arena_bytes,
        arena_source=inputs.footprint.arena_source,
        arena_margin=inputs.arena_margin,
        payload_encoding=inputs.payload_encoding,
        golden=golden,
        project_version=project_version(),
        spec_digest=sha256(canonical_json(inputs.spec)),
    )


def _manifest(inputs: BundleInputs, spec: FirmwareSpec, graph: Graph, files: Mapping[str, bytes]) -> dict[str, Any]:
    points = {point.name: point for point in inputs.operating_points}
    return {
        "bundle_format_version": FORMAT_VERSION,
        "project": {"name": PROJECT, "version": project_version()},
        "spec": inputs.spec,
        "data": inputs.data_card,
        "tools": inputs.tools,
        "device": asdict(inputs.device),
        "models": {"edge": _model_entry(inputs, spec, graph)},
        "operating_points": [asdict(point) for point in inputs.operating_points],
        "chosen": {"operating_point": inputs.chosen, "threshold": points[inputs.chosen].threshold},
        "golden": {"engine": spec.golden.engine},
        "input": _input_entry(inputs, graph),
        "class_names": inputs.class_names,
        "payload": {
            "encoding": inputs.payload_encoding,
            "max_bytes": payload_bytes(inputs.input_shape, inputs.payload_encoding),
        },
        "files": file_entries(files),
    }


def _model_entry(inputs: BundleInputs, spec: FirmwareSpec, graph: Graph) -> dict[str, Any]:
    model, footprint = inputs.models["edge"], inputs.footprint
    return {
        "file": EDGE_MODEL,
        "sha256": sha256(model),
        "flash_bytes": len(model),
        "weight_bytes": graph.weight_bytes,
        "macs": footprint.macs,
        "router_macs": footprint.router_macs,
        "router_kind": inputs.router_kind,
        "ops": graph.op_names,
        "measured_arena_bytes": footprint.measured_arena_bytes,
        "least_arena_bytes": spec.least_arena_bytes,
        "arena_source": spec.arena_source,
        "arena_bytes": arena_bytes(spec.least_arena_bytes, spec.arena_margin),
    }


def _input_entry(inputs: BundleInputs, graph: Graph) -> dict[str, Any]:
    tensor = edge_signature(graph).input
    return {
        "dtype": "int8",
        "shape": tensor.shape,
        "scale": tensor.scales[0],
        "zero_point": tensor.zero_points[0],
        "pixel_offset": PIXEL_OFFSET,
        "value_range": inputs.data_card["value_range"],
    }
