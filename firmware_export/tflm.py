"""Firmware as pure text from values, for TFLite Micro and for the ahead-of-time engine: same values, same bytes.

Each file comes from a template in ``templates/``; a hole without a value and a value without a hole are errors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import PackageLoader, meta
from jinja2.exceptions import UndefinedError
from numpy.typing import NDArray

from firmware_export.ctext import identifier, templates_of
from firmware_export.payload import MAX_CLASS, MODEL_DIGEST_BYTES, PAYLOAD_VERSION, Encoding, payload_bytes
from firmware_export.stages import resolver_ops, router_values, stage_models
from hybrid.artifacts import ArenaSource, Device, OperatingPoint
from hybrid.cascade import DeviceOutputs, DeviceProgram
from hybrid.configure import did_you_mean
from hybrid.errors import BudgetError, SpecError
from hybrid.guarantee import Certificate
from hybrid.monitor import DriftReference, monitor_values
from hybrid.online import OnlineRule
from hybrid.runtimes import ENGINE_TITLES, DeviceEngine

if TYPE_CHECKING:
    from firmware_export.aot import AotEngine

ARENA_ALIGNMENT_BYTES = 16
STATUSES = (
    ("OK", "ok"),
    ("ERROR_ARGUMENT", "a pointer is NULL or a value is outside its range"),
    ("ERROR_NOT_INITIALISED", "hybrid_init() has not succeeded yet"),
    ("ERROR_SCHEMA", "TFLite Micro was built for another flatbuffer schema version"),
    ("ERROR_OPERATOR", "TFLite Micro refused to register an operator"),
    ("ERROR_ARENA", "tensors could not be allocated: the arena is too small, or a kernel refused its tensors"),
    ("ERROR_TENSOR", "the model's inputs or outputs are not those that this code was generated for"),
    ("ERROR_INVOKE", "a kernel failed"),
    ("ERROR_BUFFER", "the buffer is too small"),
    ("ERROR_ANSWER", "the cloud's answer cannot be understood"),
    ("ERROR_SELFTEST", "an output differs from its golden vector"),
)
"""The one table that the C enum and its strings come from."""

SOURCES = (
    "CMakeLists.txt",
    "README.md",
    "hybrid_classify.cc",
    "hybrid_classify.h",
    "hybrid_decide.c",
    "hybrid_decide.h",
    "hybrid_golden.h",
    "hybrid_model_data.cc",
    "hybrid_model_data.h",
    "hybrid_monitor.c",
    "hybrid_monitor.h",
    "hybrid_pack.c",
    "hybrid_pack.h",
    "hybrid_payload.c",
    "hybrid_payload.h",
    "hybrid_router.c",
    "hybrid_router.h",
    "hybrid_selftest.c",
    "hybrid_selftest.h",
)

AOT_FOLDER = "aot"
AOT_GLUE = "hybrid_aot_classify.c"
"""In that folder, beside the nets: what `hybrid_classify.cc` is for TFLite Micro."""

PLAIN_UNITS = tuple(name for name in SOURCES if name.endswith(".c") and name != "hybrid_selftest.c")
"""The C that needs no TFLite Micro."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Golden:
    """Examples with `engine`'s answers: int8 `inputs` ``(n, h, w, c)``, the device's final `outputs`."""

    inputs: NDArray[np.int8]
    outputs: DeviceOutputs
    engine: DeviceEngine

    @property
    def logits(self) -> NDArray[np.int8]:
        """Mixed logits of the last stage that ran, ``(n, classes)``."""
        return self.outputs.logits

    @property
    def router_score(self) -> NDArray[np.int8]:
        """That stage's score, ``(n,)``."""
        return self.outputs.score

    @property
    def stage(self) -> NDArray[np.int32]:
        """That stage, ``(n,)``."""
        return self.outputs.stage

    @property
    def count(self) -> int:
        """Number of examples."""
        return len(self.inputs)

    @property
    def edge_class(self) -> NDArray[np.int32]:
        """The answer, ``(n,)``; of equal logits the lowest class."""
        return self.outputs.logits.argmax(axis=1).astype(np.int32)


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What the firmware knows of the calibration split: the guarantee, the drift monitor, the online control."""

    certificate: Certificate | None
    """Of the chosen threshold; None where nothing was certified."""
    drift: DriftReference
    online: OnlineRule


@dataclass(frozen=True, kw_only=True, eq=False)
class FirmwareSpec:
    """Everything that the generated sources depend on."""

    program: DeviceProgram
    device: Device
    operating_points: tuple[OperatingPoint, ...]
    chosen: str
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    router_kind: str
    least_arena_bytes: int
    arena_source: ArenaSource
    arena_margin: float
    payload_encoding: Encoding
    golden: Golden
    watch: Watch
    aot: "AotEngine | str"
    """A string says why there is none."""
    project_version: str
    spec_digest: str


def firmware_sources(spec: FirmwareSpec) -> dict[str, bytes]:
    """Generate every file of ``firmware/``, by its path there.

    Raises: UnsupportedOpError, BudgetError, BundleError or SpecError where the values cannot become firmware.
    """
    values = template_values(spec)
    check_spare(values)
    files = {name: render(name, values).encode() for name in SOURCES}
    if not isinstance(spec.aot, str):
        nets = {**spec.aot.sources, AOT_GLUE: render(AOT_GLUE, values)}
        files |= {f"{AOT_FOLDER}/{name}": text.encode() for name, text in nets.items()}
    return files


def template_values(spec: FirmwareSpec) -> dict[str, Any]:
    """Collect the values of all holes."""
    models = stage_models(spec.program, spec.input_shape, len(spec.class_names))
    return {
        "banner": f"hybrid-edge-cloud {spec.project_version}, spec {spec.spec_digest}, generated: do not edit",
        "statuses": STATUSES,
        "plain_units": PLAIN_UNITS,
        "ops": resolver_ops([model.graph for model in models]),
        "stages": models,
        "any_trunk": any(stage.reads == "trunk" for stage in spec.program.stages),
        "model_bytes": sum(len(stage.flatbuffer) for stage in spec.program.stages),
        "model_sha256": spec.program.digest,
        "model_digest": bytes.fromhex(spec.program.digest)[:MODEL_DIGEST_BYTES],
        "device": spec.device,
        "points": spec.operating_points,
        "chosen_point": _chosen(spec),
        "class_names": spec.class_names,
        "input_shape": spec.input_shape,
        "input_bytes": prod(spec.input_shape),
        "router_kind": spec.router_kind,
        "least_arena_bytes": spec.least_arena_bytes,
        "arena_source": spec.arena_source,
        "arena_margin": spec.arena_margin,
        "arena_bytes": _arena_that_fits(spec),
        "aot": None if isinstance(spec.aot, str) else spec.aot,
        "aot_folder": AOT_FOLDER,
        "aot_glue": AOT_GLUE,
        "aot_refusal": spec.aot if isinstance(spec.aot, str) else "",
        "payload_encoding": spec.payload_encoding,
        "payload_version": PAYLOAD_VERSION,
        "payload_max_class": MAX_CLASS,
        "payload_max_bytes": payload_bytes(spec.input_shape, spec.payload_encoding),
        "golden": spec.golden,
        "guarantee": None if spec.watch.certificate is None else spec.watch.certificate.statement,
        **monitor_values(spec.watch.drift, spec.watch.online),
        "golden_engine": ENGINE_TITLES[spec.golden.engine],
        **router_values(models),
    }


def arena_bytes(least_bytes: int, margin: float) -> int:
    """Count the bytes to reserve: the least that works and a share of margin, rounded up to the alignment.

    >>> arena_bytes(1000, 0.1)
    1104
    """
    if not 0 <= margin <= 10:
        raise SpecError(f"export.arena_margin: got {margin}, allowed 0 to 10")
    needed = least_bytes + ceil(least_bytes * margin)
    return -(-needed // ARENA_ALIGNMENT_BYTES) * ARENA_ALIGNMENT_BYTES


def render(name: str, values: Mapping[str, Any]) -> str:
    """Fill the template of one file. Raises: SpecError naming a hole without a value."""
    try:
        return _TEMPLATES.get_template(f"{name}.j2").render(values)
    except UndefinedError as exc:
        raise SpecError(f"template {name}.j2: {exc.message}") from exc


def check_spare(values: Mapping[str, Any]) -> None:
    """Refuse values that no template asks for. Raises: SpecError naming them."""
    holes = {hole for name in SOURCES for hole in _holes(name)}
    if spare := sorted(set(values) - holes):
        raise SpecError(f"templates: no hole for {', '.join(spare)}")


_LOADER = PackageLoader("firmware_export")
_TEMPLATES = templates_of(_LOADER)


def _holes(name: str) -> set[str]:
    source, _, _ = _LOADER.get_source(_TEMPLATES, f"{name}.j2")
    return meta.find_undeclared_variables(_TEMPLATES.parse(source))


def _chosen(spec: FirmwareSpec) -> OperatingPoint:
    names = [point.name for point in spec.operating_points]
    identifiers = [identifier(name) for name in names]
    if len(set(identifiers)) != len(names) or not all(identifiers):
        raise SpecError(f"operating points: names {names} are not distinct as C identifiers; rename one")
    for point in spec.operating_points:
        if not -128 <= point.threshold <= 128:
            raise SpecError(f"operating point {point.name}: threshold {point.threshold}, allowed -128 to 128")
    if spec.chosen not in names:
        raise SpecError(f"operating point: unknown {spec.chosen!r}{did_you_mean(spec.chosen, names)}")
    return spec.operating_points[names.index(spec.chosen)]


def _arena_that_fits(spec: FirmwareSpec) -> int:
    needed = arena_bytes(spec.least_arena_bytes, spec.arena_margin)
    available = spec.device.sram_bytes - spec.device.reserved_sram_bytes
    if needed > available:
        remedy = "choose a smaller net, a lower export.arena_margin or another device"
        raise BudgetError("arena_bytes", needed, available, spec.device.name, remedy)
    return needed
