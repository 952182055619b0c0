"""Gather what the report shows from a finished run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from firmware_export import bundle as bundles
from firmware_export.tflm import arena_bytes
from hybrid import policy, sweep
from hybrid.artifacts import Floats, OperatingPoint, Predictions
from hybrid.configure import to_toml
from hybrid.pipeline import probing
from hybrid.pipeline.export import tool_versions
from hybrid.pipeline.floating import float_outputs
from hybrid.pipeline.results import payloads, scenarios
from hybrid.pipeline.searching import MAX_ROWS, budget_words, cloud_title, shown
from hybrid.report import (
    BundleFile,
    Caption,
    DatasetCard,
    Drift,
    GalleryGroup,
    MemoryMap,
    Pair,
    PolicyCurve,
    QuantizeTrial,
    ReportContent,
    RouterTrial,
    SearchView,
    Segment,
    StageCost,
)
from hybrid.routing import Routed
from nas.candidate import Candidate, PairScore

if TYPE_CHECKING:
    from hybrid.pipeline import Run

BAND_COVERAGES = np.linspace(0.0, 1.0, 41, dtype=np.float32)
GALLERY_EXAMPLES = 12


def policy_scores(test: Predictions, seed: int) -> dict[str, NDArray[Any]]:
    """Scores of the router and of every baseline beside it, each ``(n,)``; higher keeps."""
    logits = test.edge_logits
    return {
        "router": test.router_score,
        **{name: score(logits) for name, score in policy.BASELINES.items()},
        "random": policy.random(len(test.labels), np.random.default_rng(seed)),
        "agree": policy.agree(test.edge_class, test.cloud_class, policy.max_softmax(logits)),
        "oracle": policy.oracle(test.edge_right, test.cloud_right),
    }


def naucs(scores: dict[str, NDArray[Any]], predictions: Predictions) -> dict[str, float]:
    """Normalised area of each policy: 0 random, 1 the oracle."""
    return {name: sweep.nauc(score, predictions.edge_right, predictions.cloud_right) for name, score in scores.items()}


def drift(run: "Run") -> Drift:
    """What int8 changed on test: accuracy of the device alone, and coverage at the chosen threshold.

    The float side are the float nets under the same routers and thresholds.
    """
    test, chosen = run.swept.test, run.swept.chosen
    said, right = float_outputs(run, run.data.test)
    return Drift(
        float_accuracy=float(right.mean()),
        int8_accuracy=float(test.edge_right.mean()),
        float_coverage=float(policy.kept(said.score, chosen.threshold).mean()),
        int8_coverage=run.swept.confirmed.coverage,
    )


def report_content(run: "Run", bundle: Path) -> ReportContent:
    """Everything the page shows."""
    swept, data, quantized = run.swept, run.data, run.quantized
    test = swept.test
    by_link = _by_link(run)
    here = by_link[run.link.name]
    return ReportContent(
        title=f"{data.name} on {run.device.title}",
        dataset=DatasetCard(
            name=data.name,
            counts={name: len(split) for name, split in data.splits.items()},
            input_shape=data.input_shape,
            licence=data.licence,
            source=data.source,
            digest=data.digest,
        ),
        class_names=data.class_names,
        device=run.device,
        link=run.link,
        spec_toml=to_toml(run.spec),
        seed=run.spec.seed,
        versions=tool_versions(),
        footprint=quantized.footprint,
        drift=run.drift,
        quantize_trials=tuple(
            QuantizeTrial(stage=stage, method=name, validation_accuracy=accuracy, winner=name == edge.method)
            for stage, edge in zip(quantized.routed.program.names, quantized.edges, strict=True)
            for name, accuracy in edge.validation_accuracy.items()
        ),
        router_trials=_router_trials(quantized.routed),
        stages=_stages(run),
        guarantee=None if swept.certificate is None else swept.certificate.statement,
        chosen=swept.chosen,
        confirmed=swept.confirmed,
        edge_only=here[0],
        cloud_only=tuple(points[-1] for points in by_link.values()),
        points=tuple(p for p in swept.points if (p.link, p.cloud) == (swept.chosen.link, swept.chosen.cloud)),
        points_split="calibration",
        pareto=tuple(point for points in by_link.values() for point in points),
        curves=_curves(test, run.spec.seed),
        edge_confusion=_confusion(test.labels, test.edge_class, data.num_classes),
        cloud_confusion=_confusion(test.labels, test.cloud_class, data.num_classes),
        class_coverage=_class_coverage(test, swept.chosen.threshold, data.num_classes),
        gallery=_gallery(run),
        flash=_flash(run),
        sram=_sram(run),
        aot_arena_bytes=bundles.read(bundle).manifest["engines"]["aot"].get("arena_bytes"),
        search=_search(run),
        bundle=_bundle_files(bundle),
    )


def _router_trials(routed: Routed) -> tuple[RouterTrial, ...]:
    return tuple(
        RouterTrial(stage=stage, kind=kind, nauc=nauc, winner=kind == winner)
        for stage, winner, reached in zip(routed.program.names, routed.kinds, routed.nauc, strict=True)
        for kind, nauc in reached.items()
    )


def _stages(run: "Run") -> tuple[StageCost, ...]:
    """What each of the device's nets costs, and for what share of the test examples it runs."""
    routed, here, last = run.quantized.routed, scenarios(run)[0], run.swept.test.stage
    return tuple(
        StageCost(
            name=name,
            reads=stage.reads,
            share=float((last >= index).mean()),
            macs=here.stage_work[index].macs,
            router_kind=routed.kinds[index],
            router_parameters=stage.router.parameters,
            latency_ms=float(here.stage_ms[index]),
            look_below=stage.look_below,
        )
        for index, (name, stage) in enumerate(zip(routed.program.names, routed.program.stages, strict=True))
    )


def _by_link(run: "Run") -> dict[str, list[OperatingPoint]]:
    """Every threshold on test behind each link and the run's own cloud server."""
    sizes, everywhere = payloads(run, "test"), scenarios(run)
    return {
        here.link.name: sweep.operating_points(run.swept.test, here, payload_bytes=sizes, seed=run.spec.seed)
        for here in everywhere
        if here.cloud_name == everywhere[0].cloud_name
    }


def _curves(test: Predictions, seed: int) -> tuple[PolicyCurve, ...]:
    scores = policy_scores(test, seed)
    areas = naucs(scores, test)
    return tuple(_policy_curve(name, score, test, areas[name], seed) for name, score in scores.items())


def _policy_curve(name: str, score: NDArray[Any], test: Predictions, nauc: float, seed: int) -> PolicyCurve:
    """With a band for the router alone: those of all policies would cover each other."""
    right = test.edge_right, test.cloud_right
    full = sweep.curve(score, *right)
    accuracy = np.interp(BAND_COVERAGES, full.coverage[::-1], full.accuracy[::-1])
    band = sweep.bootstrap_band(score, *right, BAND_COVERAGES, seed) if name == "router" else None
    low, high = (None, None) if band is None else (side.astype(np.float32) for side in band)
    return PolicyCurve(
        name=name, coverage=BAND_COVERAGES, accuracy=accuracy.astype(np.float32), low=low, high=high, nauc=nauc
    )


def _confusion(labels: NDArray[np.int32], answers: NDArray[np.int32], num_classes: int) -> NDArray[np.int64]:
    counts = np.bincount(labels * num_classes + answers, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def _class_coverage(test: Predictions, threshold: int, num_classes: int) -> Floats:
    kept = policy.kept(test.router_score, threshold)
    totals = np.maximum(np.bincount(test.labels, minlength=num_classes), 1)
    return (np.bincount(test.labels, weights=kept, minlength=num_classes) / totals).astype(np.float32)


def _gallery(run: "Run") -> tuple[GalleryGroup, ...]:
    test = run.swept.test
    kept = policy.kept(test.router_score, run.swept.chosen.threshold)
    groups = {
        "queried_right": ~kept & ~test.edge_right & test.cloud_right,
        "queried_vain": ~kept & ~(~test.edge_right & test.cloud_right),
        "kept_right": kept & test.edge_right,
        "kept_wrong": kept & ~test.edge_right,
    }
    rng = np.random.default_rng(run.spec.seed)
    chosen = {kind: rng.permutation(np.flatnonzero(mask))[:GALLERY_EXAMPLES] for kind, mask in groups.items()}
    return tuple(
        GalleryGroup(
            kind=kind,  # type: ignore[arg-type]
            images=run.data.test.x[rows],
            captions=tuple(_caption(run, row) for row in rows),
        )
        for kind, rows in chosen.items()
        if len(rows)
    )


def _caption(run: "Run", row: int) -> Caption:
    test, names = run.swept.test, run.data.class_names
    return Caption(
        truth=names[test.labels[row]],
        edge=names[test.edge_class[row]],
        cloud=names[test.cloud_class[row]],
        score=int(test.router_score[row]),
    )


def _flash(run: "Run") -> MemoryMap:
    program, device, footprint = run.quantized.routed.program, run.device, run.quantized.footprint
    nets = [len(stage.flatbuffer) for stage in program.stages]
    segments = (
        Segment(label="runtime and application", size_bytes=device.reserved_flash_bytes),
        *(Segment(label=f"net {name}", size_bytes=size) for name, size in zip(program.names, nets, strict=True)),
        Segment(label="routers", size_bytes=footprint.flash_bytes - sum(nets)),
    )
    return MemoryMap(total_bytes=device.flash_bytes, segments=segments)


def _sram(run: "Run") -> MemoryMap:
    footprint, device = run.quantized.footprint, run.device
    least = footprint.least_arena_bytes
    words = {"measured": "least that works", "estimated": "estimated"}
    reserved = arena_bytes(least, run.spec.export.arena_margin)
    segments = (
        Segment(label="runtime and application", size_bytes=device.reserved_sram_bytes),
        Segment(label=f"arena, {words[footprint.arena_source]}", size_bytes=least),
        Segment(label="arena, margin", size_bytes=reserved - least),
    )
    return MemoryMap(total_bytes=device.sram_bytes, segments=segments)


def _search(run: "Run") -> SearchView | None:
    found, counts = run.searched, run.searched.counts
    if not counts["scored"]:
        return None
    pairs = {c.arch.name: _pair(run, c, c.score) for c in found.candidates if c.score is not None}
    return SearchView(
        pairs=tuple(sorted(pairs.values(), key=lambda pair: -pair.expected_accuracy)),
        tabled=tuple(pairs[c.arch.name] for c in shown(found, MAX_ROWS)),
        skipped=counts["skipped"],
        budget=budget_words(run.spec.search),
        num_clouds=len(run.clouds),
        num_probes=probing.count(run),
        finalists={c.arch.name: c.alone.hybrid_accuracy for c in found.finalists if c.alone is not None},
    )


def _pair(run: "Run", candidate: Candidate, score: PairScore) -> Pair:
    return Pair(
        name=candidate.arch.name,
        cloud=cloud_title(run.clouds[score.cloud]),
        expected_accuracy=score.expected_accuracy,
        hybrid_accuracy=score.hybrid_accuracy,
        bound=score.bound,
        edge_accuracy=score.edge_accuracy,
        coverage=score.coverage,
        mean_latency_ms=score.mean_latency_ms,
        latency_ms=candidate.latency_ms,
        macs=candidate.macs,
        flash_bytes=candidate.flash_bytes,
        peak_sram_bytes=candidate.peak_sram_bytes,
        front=candidate in run.searched.front,
        chosen=candidate.arch == run.searched.edge,
    )


def _bundle_files(bundle: Path) -> tuple[BundleFile, ...]:
    files = bundles.read(bundle).files
    return tuple(
        BundleFile(path=path, size_bytes=len(content), sha256=bundles.sha256(content))
        for path, content in sorted(files.items())
    )
