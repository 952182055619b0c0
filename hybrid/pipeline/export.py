"""Everything of a run that the two other engineers get: the bundle's inputs, for the device and for the cloud."""

import platform
import tempfile
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets.card import card, card_dict
from firmware_export import bundle as bundles
from firmware_export.aot import AotEngine, aot_engine, measured
from firmware_export.cloud import CloudInputs, cloud_files
from firmware_export.contents import golden_pixels as golden_pixels_of
from firmware_export.edge import BundleInputs, build_edge_bundle, golden_rows
from firmware_export.tflm import Watch
from firmware_export.verify import compare_engines, engines_compared
from hybrid.artifacts import Predictions
from hybrid.clouds import write_saved_model
from hybrid.monitor import drift_reference
from hybrid.online import online_rule, warm
from hybrid.pipeline.results import CHOSEN

if TYPE_CHECKING:
    from hybrid.pipeline import Run
    from hybrid.pipeline.results import Swept

TOOLS = (
    "tensorflow",
    "keras",
    "tf_keras",
    "tensorflow-model-optimization",
    "keras-tuner",
    "numpy",
    "tflite-micro",
    "tflite-runtime",
    "ai-edge-litert",
)
SAVED_MODEL = "saved_model"
COMPARED_EXAMPLES = 300
"""Test examples on which the bundle's engines must agree."""


def tool_versions() -> dict[str, str]:
    """Versions of Python and of the libraries, of those that are installed, that shaped the result."""
    found = {name: list(metadata.distributions(name=name)) for name in TOOLS}
    return {"python": platform.python_version()} | {name: dists[0].version for name, dists in found.items() if dists}


def bundle_of(run: "Run", swept: "Swept") -> bundles.Bundle:
    """Put the bundle together: model, firmware, golden vectors, manifest, cloud."""
    quantized, spec, data = run.quantized, run.spec, run.data
    inputs = BundleInputs(
        program=quantized.routed.program,
        device=run.device,
        operating_points=swept.named,
        chosen=CHOSEN,
        class_names=data.class_names,
        input_shape=data.input_shape,
        golden_pixels=golden_pixels(run, swept.test),
        data_card=card_dict(card(data)),
        spec=asdict(spec),
        tools=tool_versions(),
        footprint=quantized.footprint,
        arena_margin=spec.export.arena_margin,
        payload_encoding=spec.sweep.payload,
        aot=aot_half(run),
        router_kinds=quantized.routed.kinds,
        watch=watch(run, swept),
        extra=cloud_half(run),
    )
    return build_edge_bundle(inputs)


def aot_half(run: "Run") -> AotEngine | str:
    """The device program compiled ahead of time, or why it is not."""
    made = aot_engine(run.quantized.routed.program, run.device, run.spec.export.engines)
    return made if isinstance(made, str) else measured(made, run.device)


def engines_told(run: "Run", bundle: bundles.Bundle) -> str:
    """Hold the bundle's two engines against each other on golden and test examples, and say what came out.

    Raises: BundleError where they differ.
    """
    program, test = run.quantized.routed.program, run.data.test
    pixels = np.concatenate([golden_pixels_of(bundle), test.x[:COMPARED_EXAMPLES]])
    told = engines_compared(bundle.manifest, compare_engines(bundle, program, pixels))
    return f"Engines: {told}."


def watch(run: "Run", swept: "Swept") -> Watch:
    """What the firmware knows of the calibration split."""
    said, asked = swept.calibration, run.spec.export
    agreed = said.edge_class == said.cloud_class
    return Watch(
        certificate=swept.certificate,
        drift=drift_reference(said.router_score, swept.chosen.threshold, window=asked.drift_window),
        online=warm(online_rule(asked.query_cost), said.router_score, agreed),
    )


def golden_pixels(run: "Run", test: Predictions) -> Any:
    """Test examples spread evenly over the router's scores, so that both decisions occur, and some of every stage."""
    return run.data.test.x[golden_rows(test.router_score, test.stage, run.spec.export.golden_examples)]


def cloud_half(run: "Run") -> dict[str, bytes]:
    """The files under ``cloud/``; without a SavedModel where the cloud is a black box."""
    spec = run.pair
    black_box_url = spec.cloud.url if spec.cloud.kind == "url" else spec.export.url
    inputs = CloudInputs(
        saved_model=_saved_model(run),
        input_shape=run.data.input_shape,
        class_names=run.data.class_names,
        url=black_box_url,
        deadline_ms=spec.export.deadline_ms,
        payload=spec.sweep.payload,
        value_range=run.data.value_range,
        edge_digest=run.quantized.routed.program.digest,
    )
    return cloud_files(inputs)


def _saved_model(run: "Run") -> dict[str, bytes] | None:
    net = run.trained.cloud_net
    if net is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, SAVED_MODEL)
        write_saved_model(net, run.data, root)
        return {
            path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
        }
