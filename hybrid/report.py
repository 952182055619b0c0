"""The page a person looks at after a run: one HTML file that needs nothing but itself.

`render` is pure: the same `ReportContent` gives the same text. What a number means, and how far it can be trusted, is
said on the page; `hybrid.remarks` has the sentences that depend on the figures.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hybrid import figures
from hybrid.artifacts import Device, Floats, Footprint, Link, OperatingPoint
from hybrid.cascade import Reads
from hybrid.errors import HybridError
from hybrid.remarks import remarks
from hybrid.units import count, kib, percent, quantity, signed, signed_points

MAX_TABLE_CLASSES = 20
"""With more classes the confusion matrix is drawn, not tabled."""
GalleryKind = Literal["queried_right", "queried_vain", "kept_right", "kept_wrong"]


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """What is known of the data; `counts` has the number of examples by split, among them calibration and test."""

    name: str
    counts: Mapping[str, int]
    input_shape: tuple[int, int, int]
    licence: str
    source: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What int8 changed: accuracy of the edge alone, and coverage at the chosen threshold, both on test."""

    float_accuracy: float
    int8_accuracy: float
    float_coverage: float
    int8_coverage: float


@dataclass(frozen=True, kw_only=True)
class QuantizeTrial:
    """A way of quantising a stage's net (``ptq``, ``qat``) and what it reached alone on validation."""

    stage: str
    method: str
    validation_accuracy: float
    winner: bool


@dataclass(frozen=True, kw_only=True)
class RouterTrial:
    """A kind of router for a stage, and its nAUC in cross-validation on held-out examples."""

    stage: str
    kind: str
    nauc: float
    winner: bool


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """One of the device's nets with its router: the `share` of examples that they run on, and what they cost.

    `macs` are the net's and its router's; `latency_ms` runs from the input to this stage's answer. The next stage runs
    where the score is below `look_below`.
    """

    name: str
    reads: Reads
    share: float
    macs: int
    router_kind: str
    router_parameters: int
    latency_ms: float
    look_below: int


@dataclass(frozen=True, kw_only=True)
class PolicyCurve:
    """Accuracy against coverage of one policy on test, each ``(k,)``; `low` and `high` bound a confidence band."""

    name: str
    coverage: Floats
    accuracy: Floats
    low: Floats | None = None
    high: Floats | None = None
    nauc: float | None = None
    """Area over random, as a share of the oracle's: 0 is random, 1 the oracle."""


@dataclass(frozen=True, kw_only=True)
class Caption:
    """Of one example: its class, what edge and cloud say, and the router's score."""

    truth: str
    edge: str
    cloud: str
    score: int


@dataclass(frozen=True, kw_only=True)
class GalleryGroup:
    """Example `images`, uint8 ``(k, height, width, channels)``, with `k` captions."""

    kind: GalleryKind
    images: NDArray[np.uint8]
    captions: tuple[Caption, ...]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of memory; `free` is worked out on the page, not listed."""

    label: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class MemoryMap:
    """What occupies a memory of `total_bytes`."""

    total_bytes: int
    segments: tuple[Segment, ...]

    @property
    def free_bytes(self) -> int:
        """What is left; negative where the segments do not fit."""
        return self.total_bytes - sum(segment.size_bytes for segment in self.segments)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An edge net that the search scored, with the cloud that suits it best; all of it estimated, on validation.

    `latency_ms` is the edge's own, `mean_latency_ms` has the queries in it.
    """

    name: str
    cloud: str
    expected_accuracy: float
    """Of the pair once its edge is trained on its own; the next three are with shared weights."""
    hybrid_accuracy: float
    bound: float
    edge_accuracy: float
    coverage: float
    mean_latency_ms: float
    latency_ms: float
    macs: int
    flash_bytes: int
    peak_sram_bytes: int
    front: bool
    """Whether no other pair is better in accuracy, latency, SRAM and flash at once."""
    chosen: bool = False


@dataclass(frozen=True, kw_only=True)
class SearchView:
    """What the search scored, most accurate first, and how many nets did not fit."""

    pairs: tuple[Pair, ...]
    tabled: tuple[Pair, ...]
    """Of the Pareto set, what the table shows."""
    skipped: int
    budget: str
    """What pairs were scored at, in words."""
    num_clouds: int
    num_probes: int = 0
    """Nets that were trained on their own before the search, for what it expects of the others."""
    finalists: Mapping[str, float] = field(default_factory=dict)
    """Hybrid accuracy of the nets that were trained on their own behind it, by name."""


@dataclass(frozen=True, kw_only=True)
class BundleFile:
    """A file of the bundle."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ReportContent:
    """Everything the page shows. Accuracies, coverages and shares are in [0, 1]."""

    title: str
    dataset: DatasetCard
    class_names: tuple[str, ...]
    device: Device
    link: Link
    spec_toml: str
    seed: int
    versions: Mapping[str, str]
    footprint: Footprint
    drift: Drift
    quantize_trials: tuple[QuantizeTrial, ...]
    router_trials: tuple[RouterTrial, ...]
    stages: tuple[StageCost, ...]
    """More than one where the device takes a second look."""
    guarantee: str | None
    """What is certified of the chosen threshold, in words."""
    chosen: OperatingPoint
    """On calibration, which chose it."""
    confirmed: OperatingPoint
    """The same threshold on test."""
    edge_only: OperatingPoint
    """The int8 edge answers everything, on test."""
    cloud_only: tuple[OperatingPoint, ...]
    """Everything goes to the cloud, on test; one per link, the run's link among them."""
    points: tuple[OperatingPoint, ...]
    """The run's link at many thresholds, for the table and its slider."""
    points_split: Literal["calibration", "test"]
    pareto: tuple[OperatingPoint, ...]
    """Operating points of every link in `cloud_only`, on test."""
    curves: tuple[PolicyCurve, ...]
    edge_confusion: NDArray[np.integer]
    """``(num_classes, num_classes)``, rows the truth, columns the answer."""
    cloud_confusion: NDArray[np.integer]
    class_coverage: Floats
    """Share of each class's test examples that the edge keeps, ``(num_classes,)``."""
    gallery: tuple[GalleryGroup, ...]
    flash: MemoryMap
    sram: MemoryMap
    aot_arena_bytes: int | None
    """Of the bundle's ahead-of-time engine; None where it has none."""
    search: SearchView | None
    """None where the edge net was given."""
    bundle: tuple[BundleFile, ...]

    @property
    def router_kind(self) -> str:
        """Kind of the router that judges last."""
        return self.stages[-1].router_kind

    @property
    def mean_macs(self) -> float:
        """Multiply-accumulates of the mean example, routers included."""
        return sum(stage.share * stage.macs for stage in self.stages)

    @property
    def router_table(self) -> dict[str, list[RouterTrial | None]]:
        """The router trials by kind, best at the last stage first: one for each stage, None where it was not tried."""
        tried = {(trial.kind, trial.stage): trial for trial in self.router_trials}
        best_last = sorted(self.router_trials, key=lambda trial: (trial.stage == self.stages[-1].name, trial.nauc))
        kinds = dict.fromkeys(trial.kind for trial in reversed(best_last))
        return {kind: [tried.get((kind, stage.name)) for stage in self.stages] for kind in kinds}

    @property
    def cloud(self) -> OperatingPoint:
        """Everything to the cloud over the run's own link. Raises: HybridError where `cloud_only` lacks it."""
        by_link = {point.link: point for point in self.cloud_only}
        if self.link.name not in by_link:
            got = ", ".join(sorted(by_link)) or "none"
            raise HybridError(f"report: cloud_only has no point for link {self.link.name}; got {got}; add it")
        return by_link[self.link.name]


def render(content: ReportContent) -> str:
    """Write the whole page as one HTML text. Raises: HybridError where the content contradicts itself."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hybrid"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(FILTERS)
    script = environment.get_template("report.js").render()
    return environment.get_template("report.html.j2").render(
        c=content,
        cloud=content.cloud,
        remarks=remarks(content),
        figures=figures,
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        matrices=(("edge", content.edge_confusion), ("cloud", content.cloud_confusion)),
        tabled=len(content.class_names) <= MAX_TABLE_CLASSES,
        mistakes=frequent_mistakes(content.edge_confusion),
        coverage_svg=figures.coverage_svg(content.curves, content.confirmed),
        search_svg=figures.search_svg(content.search.pairs) if content.search else "",
        latency_svg=figures.latency_svg(content.pareto, content.edge_only, content.cloud_only, content.confirmed),
    )


def frequent_mistakes(confusion: NDArray[np.integer], limit: int = 8) -> list[tuple[int, int, int]]:
    """List the most frequent confusions as (truth, answer, count), most frequent first.

    >>> frequent_mistakes(np.array([[9, 2], [1, 8]]))
    [(0, 1, 2), (1, 0, 1)]
    """
    wrong = np.array(confusion)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    cells = [(int(flat) // len(wrong), int(flat) % len(wrong)) for flat in order]
    return [(truth, answer, int(wrong[truth, answer])) for truth, answer in cells if wrong[truth, answer]]


def row_shares(confusion: NDArray[np.integer]) -> NDArray[np.float64]:
    """Divide each row by its sum; an empty row stays 0."""
    return np.asarray(confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1), np.float64)


def by_threshold(points: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    """Order operating points from keeping everything to sending everything."""
    return sorted(points, key=lambda point: point.threshold)


FILTERS: dict[str, Callable[..., Any]] = {
    "percent": percent,
    "points": signed_points,
    "ms": lambda value: quantity(value, "ms"),
    "mj": lambda value: quantity(value, "mJ"),
    "kib": kib,
    "count": count,
    "score": signed,
    "by_threshold": by_threshold,
    "row_shares": row_shares,
}
