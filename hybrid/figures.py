"""The report's drawings: SVG by matplotlib whose colours are the page's CSS variables, and PNG data URIs by Pillow.

Colours are written as placeholders and replaced by ``var(--...)`` afterwards, so that one drawing serves the light and
the dark page. The same values give the same bytes: fixed hash salt, no date. No text of the user enters a drawing.
"""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybrid.artifacts import Floats, OperatingPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hybrid.report import Pair, PolicyCurve

WIDTH_PX, HEIGHT_PX = 480, 340
MAX_POINTS = 241
MAX_DOTS = 600
HEAT_RGB = (0, 114, 178)


@dataclass(frozen=True, kw_only=True)
class LineStyle:
    """How a series looks, in the drawing and in its legend: a CSS variable, a dash (in pixels on, off) and a marker."""

    variable: str
    dash: tuple[float, ...] = ()
    marker: str = "o"
    width: float = 1.7
    zorder: float = 2.0

    @property
    def glyph(self) -> str:
        """The marker as a character, for a legend in HTML."""
        return _GLYPHS[self.marker]

    @property
    def placeholder(self) -> str:
        """The colour that stands for the variable while matplotlib draws."""
        return _PLACEHOLDERS[self.variable]

    @property
    def line(self) -> Any:
        """The dash as matplotlib has it."""
        return (0, self.dash) if self.dash else "-"


_GLYPHS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚"}
_VARIABLES = ("ink", "muted", "line", "card", "s0", "s1", "s2", "s3", "s4", "s5")
_PLACEHOLDERS = {name: f"#0102{index:02x}" for index, name in enumerate(_VARIABLES)}

POLICY_STYLES = {
    "router": LineStyle(variable="s0", width=2.6, zorder=4),
    "oracle": LineStyle(variable="s1", dash=(5, 2), marker="s"),
    "max_softmax": LineStyle(variable="s2", dash=(7, 2, 1, 2), marker="^", zorder=3),
    "margin": LineStyle(variable="s3", dash=(3, 2), marker="D", zorder=3),
    "logit_margin": LineStyle(variable="s3", dash=(6, 1, 1, 1), marker="D", zorder=3),
    "entropy": LineStyle(variable="s4", dash=(1, 2), marker="v", zorder=3),
    "agree": LineStyle(variable="s1", dash=(1, 1.5), marker="s"),
    "random": LineStyle(variable="s5", dash=(2, 4), marker="P"),
}
LINK_STYLES = tuple(
    LineStyle(variable=f"s{i}", marker=marker) for i, marker in zip((0, 2, 1, 4, 3, 5), "os^DvP", strict=True)
)
"""In the order the links come; from the seventh link they repeat."""


def link_style(index: int) -> LineStyle:
    """Give the style of the link at `index`."""
    return LINK_STYLES[index % len(LINK_STYLES)]


def policy_style(name: str) -> LineStyle:
    """Give the style of a policy; one that is not known is drawn like a further heuristic."""
    return POLICY_STYLES.get(name, LineStyle(variable="muted", dash=(4, 1, 1, 1), zorder=3))


def coverage_svg(curves: "Sequence[PolicyCurve]", confirmed: OperatingPoint) -> str:
    """Draw accuracy against coverage, a line per policy, with a ring at the confirmed operating point."""
    figure, axes = _axes("share of examples answered on the device, % (coverage)", "accuracy on test, %")
    for curve in curves:
        style, x = policy_style(curve.name), _drawn_percent(curve.coverage)
        axes.plot(
            x, _drawn_percent(curve.accuracy), color=style.placeholder, linestyle=style.line, linewidth=style.width,
            zorder=style.zorder,
        )  # fmt: skip
        if curve.low is not None and curve.high is not None:
            low, high = _drawn_percent(curve.low), _drawn_percent(curve.high)
            axes.fill_between(x, low, high, color=style.placeholder, alpha=0.13, linewidth=0)
    axes.set_xlim(0, 100)
    _ring(axes, 100 * confirmed.coverage, 100 * confirmed.accuracy)
    return _svg(figure, "Accuracy on test against coverage, one line per policy")


def latency_svg(
    pareto: Sequence[OperatingPoint],
    edge_only: OperatingPoint,
    cloud_only: Sequence[OperatingPoint],
    confirmed: OperatingPoint,
) -> str:
    """Draw accuracy against mean latency (logarithmic), a line per link; star: edge-only, hollow: cloud-only."""
    figure, axes = _axes("mean time until the answer, ms (logarithmic)", "accuracy on test, %")
    axes.set_xscale("log")
    for index, cloud in enumerate(cloud_only):
        style = link_style(index)
        points = sorted((p for p in pareto if p.link == cloud.link), key=lambda p: p.mean_latency_ms)
        axes.plot(
            [p.mean_latency_ms for p in points], [100 * p.accuracy for p in points], color=style.placeholder,
            marker=style.marker, markersize=4.5, linewidth=1.4, markevery=max(1, len(points) // 8),
        )  # fmt: skip
        axes.plot(
            cloud.mean_latency_ms, 100 * cloud.accuracy, marker=style.marker, markersize=8, linestyle="",
            markerfacecolor=_PLACEHOLDERS["card"], markeredgecolor=style.placeholder, markeredgewidth=1.8, zorder=5,
        )  # fmt: skip
    edge = (edge_only.mean_latency_ms, 100 * edge_only.accuracy)
    axes.plot(*edge, marker="*", markersize=14, color=_PLACEHOLDERS["ink"], linestyle="", zorder=6)
    _ring(axes, confirmed.mean_latency_ms, 100 * confirmed.accuracy)
    _plain_log_ticks(axes)
    return _svg(figure, "Accuracy on test against mean latency, one line per link")


def search_svg(pairs: "Sequence[Pair]") -> str:
    """Draw expected accuracy against mean latency: a dot per pair, the Pareto set larger, a ring around the chosen.

    Of the pairs beside the Pareto set at most `MAX_DOTS` are drawn, evenly spread.
    """
    figure, axes = _axes("mean time until the answer, ms, queries included", "expected accuracy, %")
    front, others = [p for p in pairs if p.front], [p for p in pairs if not p.front]
    others = others[:: max(1, -(-len(others) // MAX_DOTS))]
    _dots(axes, others, marker="o", markersize=3, color=_PLACEHOLDERS["muted"], alpha=0.6)
    _dots(axes, front, marker="o", markersize=6, color=_PLACEHOLDERS["s0"], zorder=4)
    for pair in pairs:
        if pair.chosen:
            _ring(axes, pair.mean_latency_ms, 100 * pair.expected_accuracy)
    return _svg(figure, "Expected accuracy against mean latency, a dot for each pair that the search scored")


def _dots(axes: "Axes", pairs: "Sequence[Pair]", **style: Any) -> None:
    x, y = [p.mean_latency_ms for p in pairs], [100 * p.expected_accuracy for p in pairs]
    axes.plot(x, y, linestyle="", **style)


def _drawn_percent(shares: Floats) -> NDArray[np.float64]:
    """At most `MAX_POINTS` of the shares, evenly spread with both ends, in percent: a line needs no more."""
    rows = np.linspace(0, len(shares) - 1, min(len(shares), MAX_POINTS)).round().astype(int)
    return 100 * np.asarray(shares, np.float64)[rows]


def _axes(xlabel: str, ylabel: str) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_PX / 72, HEIGHT_PX / 72), dpi=72, layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_PLACEHOLDERS["line"])
    axes.grid(color=_PLACEHOLDERS["line"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(color=_PLACEHOLDERS["line"], labelcolor=_PLACEHOLDERS["muted"], labelsize=12)
    axes.set_xlabel(xlabel, color=_PLACEHOLDERS["muted"], fontsize=12.5)
    axes.set_ylabel(ylabel, color=_PLACEHOLDERS["muted"], fontsize=12.5)
    axes.margins(0.04, 0.08)
    return figure, axes


def _ring(axes: "Axes", x: float, y: float) -> None:
    axes.plot(
        x, y, marker="o", markersize=13, markerfacecolor="none", markeredgecolor=_PLACEHOLDERS["ink"],
        markeredgewidth=2.0, linestyle="", zorder=7, clip_on=False,
    )  # fmt: skip


def _plain_log_ticks(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _svg(figure: "Figure", label: str) -> str:
    """Save as an SVG element that can stand inside HTML: page colours, no size, no spare ids."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    page = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": "hybrid", "svg.fonttype": "none"}):
        FigureCanvasSVG(figure).print_svg(page, metadata=no_metadata)
    text = page.getvalue()
    text = text[text.index("<svg") :]
    for name, placeholder in _PLACEHOLDERS.items():
        text = text.replace(placeholder, f"var(--{name})")
    text = re.sub(r' id="([^"]+)"', lambda m: m[0] if f"#{m[1]}" in text else "", text)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def png_data_uri(image: NDArray[np.uint8]) -> str:
    """Turn pixels ``(height, width, channels)`` into a PNG data URI: RGB, RGBA, or the first channel."""
    from PIL import Image

    pixels = image if image.shape[-1] in (3, 4) else image[..., 0]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def heat_map_uri(shares: NDArray[np.floating]) -> str:
    """Draw shares in [0, 1], ``(rows, columns)``, a pixel each: one colour, as opaque as the share's square root."""
    pixels = np.empty((*shares.shape, 4), np.uint8)
    pixels[..., :3] = HEAT_RGB
    pixels[..., 3] = np.round(255 * np.sqrt(np.clip(shares, 0, 1)))
    return png_data_uri(pixels)
