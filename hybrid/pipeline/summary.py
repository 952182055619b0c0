"""A finished run in a dozen figures: the table at the end of a run, and summary.json beside the report."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from firmware_export.tflm import arena_bytes
from hybrid import policy
from hybrid.artifacts import Predictions
from hybrid.pipeline.content import naucs, policy_scores
from hybrid.pipeline.export import tool_versions
from hybrid.pipeline.searching import cloud_title
from hybrid.runtimes import device_engine
from hybrid.units import count, kib, percent, quantity
from nas.search import SearchResult

if TYPE_CHECKING:
    from hybrid.pipeline import Run

SUMMARY_FILE = "summary.json"


def write_summary(run: "Run", *, started: float) -> dict[str, Any]:
    """Gather the figures of a finished run and keep them as summary.json; `started` is a ``time.monotonic()``.

    ``run_seconds`` is the time of the run that did all of the work, and None where it was done in several goes.
    """
    path = run.folder.root / SUMMARY_FILE
    summary = _summary(run)
    earlier = _earlier(path)
    if not run.folder.reused:
        summary["run_seconds"] = round(time.monotonic() - started, 1)
    elif earlier.get("key") == summary["key"]:
        summary["run_seconds"] = earlier["run_seconds"]
    run.folder.write_text(SUMMARY_FILE, json.dumps(summary, indent=1, sort_keys=True) + "\n")
    return summary


def _earlier(path: Path) -> dict[str, Any]:
    """The summary that stood here; nothing where there is none to read, for it is written anew."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _summary(run: "Run") -> dict[str, Any]:
    swept, footprint, test = run.swept, run.quantized.footprint, run.swept.test
    changed = run.drift
    at_70 = next(point for point in swept.named if point.name == "coverage_70")
    return {
        "key": run.key("bundle"),
        "run_seconds": None,
        "dataset": run.data.name,
        "data_digest": run.data.digest,
        "device": run.device.name,
        "link": run.link.name,
        "cloud": cloud_title(run.searched.cloud),
        "search": _search(run.searched),
        "preset": run.spec.preset,
        "seed": run.spec.seed,
        "edge_float_accuracy": changed.float_accuracy,
        "edge_int8_accuracy": changed.int8_accuracy,
        "cloud_accuracy": float(test.cloud_right.mean()),
        "hybrid": asdict(swept.confirmed),
        "payload_bytes": swept.payload_bytes,
        "hybrid_at_70": _at_threshold(test, at_70.threshold),
        "float_coverage": changed.float_coverage,
        "model_flash_bytes": footprint.flash_bytes,
        "arena_bytes": arena_bytes(footprint.least_arena_bytes, run.spec.export.arena_margin),
        "arena_source": footprint.arena_source,
        "device_engine": device_engine(),
        "macs": footprint.macs,
        "router_kind": run.quantized.routed.kind,
        "router_trials": list(run.quantized.routed.nauc),
        "second_look_share": float((test.stage > 0).mean()),
        "guarantee": None if swept.certificate is None else swept.certificate.statement,
        "quantization": [edge.method for edge in run.quantized.edges],
        "nauc": naucs(policy_scores(test, run.spec.seed), test),
        "rounds": [asdict(one) for one in run.trained.rounds],
        "stage_seconds": run.stage_seconds,
        "tools": tool_versions(),
    }


def _search(found: SearchResult) -> dict[str, Any] | None:
    """How many nets were scored and skipped, and how the chosen pair scored; None where the net was given."""
    score = found.chosen.score
    return None if score is None else {**found.counts, "front": len(found.front), "chosen": asdict(score)}


def _at_threshold(test: Predictions, threshold: int) -> dict[str, float]:
    """Coverage and hybrid accuracy of one threshold, on test."""
    kept = policy.kept(test.router_score, threshold)
    right = np.where(kept, test.edge_right, test.cloud_right)
    return {"coverage": float(kept.mean()), "accuracy": float(right.mean())}


def summary_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The short table that ends a run."""
    hybrid = summary["hybrid"]
    return [
        ("edge accuracy (int8)", percent(summary["edge_int8_accuracy"])),
        ("cloud accuracy", percent(summary["cloud_accuracy"])),
        ("hybrid accuracy", percent(hybrid["accuracy"])),
        ("coverage (answered on the edge)", percent(hybrid["coverage"])),
        *([("looked at twice", percent(summary["second_look_share"]))] if summary["second_look_share"] else []),
        ("mean latency", quantity(hybrid["mean_latency_ms"], "ms")),
        ("p95 latency", quantity(hybrid["p95_latency_ms"], "ms")),
        ("query, mean", quantity(summary["payload_bytes"], "bytes")),
        ("model in flash", kib(summary["model_flash_bytes"])),
        (f"arena in SRAM, {summary['arena_source']} + margin", kib(summary["arena_bytes"])),
        ("MACs", count(summary["macs"])),
    ]
