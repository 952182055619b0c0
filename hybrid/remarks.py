"""What a careful reader should know before believing a report's headline, as sentences that depend on the figures."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybrid.policy import BASELINES
from hybrid.router import LEARNED, TIE_NAUC
from hybrid.units import signed_points

if TYPE_CHECKING:
    from hybrid.report import ReportContent

LITTLE_COVERAGE = 0.05
"""Up to here a hybrid does little but ask."""


@dataclass(frozen=True, kw_only=True)
class Remark:
    """A sentence about how to read the figures; `warns` where a figure disappoints."""

    text: str
    warns: bool = False


def half_width_95(share: float, count: int) -> float:
    """Half of the 95 % interval of a share that was counted on `count` examples (normal approximation).

    >>> round(half_width_95(0.9, 10_000), 4)
    0.0059
    """
    return 1.96 * math.sqrt(share * (1 - share) / count)


def remarks(content: "ReportContent") -> tuple[Remark, ...]:
    """List what a careful reader should know before believing the headline; what disappoints comes first."""
    found = [remark for rule in _RULES if (remark := rule(content))]
    return tuple(sorted(found, key=lambda remark: not remark.warns))


def _no_gain(c: "ReportContent") -> Remark | None:
    if c.confirmed.accuracy > c.edge_only.accuracy:
        return None
    return Remark(text="At this operating point the hybrid is no more accurate than the edge net alone.", warns=True)


def _no_time_saved(c: "ReportContent") -> Remark | None:
    if c.confirmed.mean_latency_ms < c.cloud.mean_latency_ms:
        return None
    return Remark(text="On average the hybrid is slower than sending everything to the cloud.", warns=True)


def _router_no_better(c: "ReportContent") -> Remark | None:
    """Hold a learned router against the best rule that costs nothing, both on test."""
    if c.router_kind not in LEARNED:
        return _not_learned(c)
    areas = {curve.name: curve.nauc for curve in c.curves if curve.nauc is not None}
    free = {name: area for name, area in areas.items() if name in BASELINES}
    if "router" not in areas or not free:
        return None
    best = max(free, key=free.__getitem__)
    if areas["router"] > free[best] + TIE_NAUC:
        return None
    text = (
        f"The learned router does not beat plain {best.replace('_', ' ')} on test: nAUC {100 * areas['router']:.1f} "
        f"against {100 * free[best]:.1f} (differences below {100 * TIE_NAUC:g} count as ties)."
    )
    return Remark(text=text, warns=True)


def _not_learned(c: "ReportContent") -> Remark:
    rule = f"the score is a rule, {c.router_kind.replace('_', ' ')}"
    if not any(trial.kind in LEARNED for trial in c.router_trials):
        return Remark(text=f"No learned router was asked for: {rule}.")
    return Remark(text=f"No learned router ships: {rule}, which none was clearly ahead of in cross-validation.")


def _little_certified(c: "ReportContent") -> Remark | None:
    """A promise is cheap where nearly everything is asked."""
    if c.guarantee is None or c.chosen.coverage > LITTLE_COVERAGE:
        return None
    text = (
        f"What was asked can be guaranteed only where the device answers {100 * c.chosen.coverage:.1f} % of the inputs "
        "itself. More calibration examples, a larger max_loss or a lower confidence allow more."
    )
    return Remark(text=text, warns=True)


def _confirmation(c: "ReportContent") -> Remark:
    change = c.confirmed.accuracy - c.chosen.accuracy
    widths = [
        half_width_95(point.accuracy, c.dataset.counts[split])
        for point, split in ((c.chosen, "calibration"), (c.confirmed, "test"))
    ]
    noise = math.hypot(*widths)
    compared = f"From calibration to test the accuracy changed by {signed_points(change)}"
    if abs(change) > noise:
        return Remark(text=f"{compared}, more than chance explains ({100 * noise:.1f} points).", warns=True)
    return Remark(text=f"{compared}; up to {100 * noise:.1f} points would be chance.")


def _quantisation_loss(c: "ReportContent") -> Remark | None:
    change = c.drift.int8_accuracy - c.drift.float_accuracy
    if change > -0.01:
        return None
    return Remark(text=f"Quantisation to int8 cost the edge net {-100 * change:.1f} points of accuracy.", warns=True)


def _overfull(c: "ReportContent") -> Remark | None:
    over = [name for name, memory in (("flash", c.flash), ("SRAM", c.sram)) if memory.free_bytes < 0]
    if not over:
        return None
    return Remark(text=f"The {' and the '.join(over)} of {c.device.title} is too small for this build.", warns=True)


def _stand_in(c: "ReportContent") -> Remark | None:
    if c.footprint.arena_source == "measured":
        return None
    text = (
        "TFLite Micro was missing: the arena is estimated, not measured, and LiteRT’s reference kernels answered for "
        "the device. The same run folder exported on Linux makes both exact."
    )
    return Remark(text=text, warns=True)


def _sampling(c: "ReportContent") -> Remark:
    count = c.dataset.counts["test"]
    half = 100 * half_width_95(c.confirmed.accuracy, count)
    return Remark(text=f"Accuracies are counted on {count:,} test examples: give or take {half:.1f} points (95 %).")


def _computed(c: "ReportContent") -> Remark:
    band = f"±{100 * c.device.latency_band:.0f} % for the time on the device"
    return Remark(text=f"Latency and energy are computed from models of board and link, not measured ({band}).")


_RULES: tuple[Callable[["ReportContent"], Remark | None], ...] = (
    _no_gain,
    _no_time_saved,
    _overfull,
    _stand_in,
    _little_certified,
    _router_no_better,
    _quantisation_loss,
    _confirmation,
    _sampling,
    _computed,
)
