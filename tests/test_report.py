"""The report: one page that needs nothing, says every figure, escapes every string and works in a browser."""

import base64
import functools
import hashlib
import html
import io
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from hybrid.artifacts import Device, Footprint, Link, OperatingPoint
from hybrid.errors import HybridError
from hybrid.figures import MAX_DOTS, POLICY_STYLES, coverage_svg, png_data_uri, search_svg
from hybrid.policy import BASELINES
from hybrid.remarks import half_width_95, remarks
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
    frequent_mistakes,
    render,
    row_shares,
)
from hybrid.router import LEARNED
from hybrid.rules import RULES
from hybrid.units import count, kib, percent, quantity, signed_points

CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
LINKS = {"wifi": (28, 9), "lte": (118, 61), "lte-m": (310, 140), "nb-iot": (1650, 420), "ble": (205, 12)}
EDGE_MS, EDGE_MJ, THRESHOLD = 41.3, 12.4, 14
N_TEST = 4000


@dataclass(frozen=True)
class World:
    """A simulated test split: classes, what edge and cloud say, and the scores of a fair router."""

    truth: np.ndarray
    edge: np.ndarray
    cloud: np.ndarray
    score: np.ndarray


def answers(rng, truth, hardness, num_classes):
    neighbour = (truth + rng.choice([1, 2, 4], len(truth), p=[0.6, 0.3, 0.1])) % num_classes
    return np.where(rng.random(len(truth)) < hardness, neighbour, truth)


def world(num_classes, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(num_classes, size=N_TEST)
    hardness = np.clip(rng.beta(0.5, 3, N_TEST) + 0.12 * np.sin(truth), 0.005, 0.95)
    edge = answers(rng, truth, hardness, num_classes)
    cloud = np.where(rng.random(N_TEST) < 0.8, answers(rng, truth, hardness * 0.35, num_classes), edge)
    score = np.clip(90 - 190 * hardness + rng.normal(0, 22, N_TEST), -128, 127).astype(int)
    return World(truth, edge, cloud, score)


def operating_point(w, threshold, link, name="sweep"):
    kept = w.score >= threshold
    right = np.where(kept, w.edge == w.truth, w.cloud == w.truth)
    query_ms, query_mj = LINKS[link]
    jitter = np.random.default_rng(5).gamma(4, query_ms / 4, N_TEST)
    latency_ms = EDGE_MS + np.where(kept, 0, jitter)
    return OperatingPoint(
        name=name, threshold=threshold, coverage=float(kept.mean()), accuracy=float(right.mean()),
        mean_latency_ms=float(latency_ms.mean()), p50_latency_ms=float(np.median(latency_ms)),
        p95_latency_ms=float(np.quantile(latency_ms, 0.95)), mean_energy_mj=EDGE_MJ + query_mj * float((~kept).mean()),
        link=link, cloud="here",
    )  # fmt: skip


def policy_curve(name, w, score, *, band=0.0, nauc=None):
    order = np.argsort(-score, kind="stable")
    edge_right, cloud_right = (w.edge == w.truth)[order], (w.cloud == w.truth)[order]
    kept = np.concatenate([[0], np.cumsum(edge_right)])
    sent = cloud_right.sum() - np.concatenate([[0], np.cumsum(cloud_right)])
    at = np.linspace(0, N_TEST, 101).astype(int)
    accuracy = ((kept + sent) / N_TEST)[at].astype(np.float32)
    low, high = (accuracy - band, accuracy + band) if band else (None, None)
    coverage = (at / N_TEST).astype(np.float32)
    return PolicyCurve(name=name, coverage=coverage, accuracy=accuracy, low=low, high=high, nauc=nauc)


def policy_curves(w):
    rng = np.random.default_rng(9)
    gain = (w.cloud == w.truth).astype(int) - (w.edge == w.truth)
    noisy = functools.partial(rng.normal, 0)
    return (
        policy_curve("router", w, w.score.astype(float), band=0.004, nauc=0.612),
        policy_curve("max_softmax", w, w.score + noisy(45, N_TEST), nauc=0.497),
        policy_curve("logit_margin", w, w.score + noisy(47, N_TEST), nauc=0.491),
        policy_curve("margin", w, w.score + noisy(50, N_TEST), nauc=0.488),
        policy_curve("entropy", w, w.score + noisy(60, N_TEST), nauc=0.431),
        policy_curve("random", w, rng.random(N_TEST), nauc=0.0),
        policy_curve("agree", w, (w.edge == w.cloud) + 0.001 * rng.random(N_TEST), nauc=0.702),
        policy_curve("oracle", w, -gain + 0.001 * rng.random(N_TEST), nauc=1.0),
    )


def confusion(truth, answer, num_classes):
    return np.bincount(truth * num_classes + answer, minlength=num_classes**2).reshape(num_classes, num_classes)


def pictures(labels, num_classes, channels):
    """A striped disc whose stripes turn with the class."""
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    angle = (np.pi * np.asarray(labels) / num_classes)[:, None, None]
    stripes = 0.5 + 0.5 * np.cos(9 * (x * np.cos(angle) + y * np.sin(angle)))
    image = (255 * stripes * (x**2 + y**2 < 0.9)).astype(np.uint8)[..., None]
    return np.concatenate([np.roll(image, 3 * c, axis=2) for c in range(channels)], axis=-1)


def gallery(w, names, channels):
    kept, edge_right, cloud_right = w.score >= THRESHOLD, w.edge == w.truth, w.cloud == w.truth
    where = {
        "queried_right": ~kept & ~edge_right & cloud_right,
        "queried_vain": ~kept & (edge_right | ~cloud_right),
        "kept_right": kept & edge_right,
        "kept_wrong": kept & ~edge_right,
    }
    for kind, mask in where.items():
        rows = np.flatnonzero(mask)[:8]
        captions = tuple(
            Caption(truth=names[w.truth[i]], edge=names[w.edge[i]], cloud=names[w.cloud[i]], score=int(w.score[i]))
            for i in rows
        )
        yield GalleryGroup(kind=kind, images=pictures(w.truth[rows], len(names), channels), captions=captions)


def board():
    device = Device(
        name="stm32f746", title="STM32F746G-DISCO", core="Arm Cortex-M7", clock_mhz=216.0, flash_bytes=1 << 20,
        sram_bytes=320 << 10, reserved_flash_bytes=120 << 10, reserved_sram_bytes=48 << 10, power_mw=480.0,
        sleep_power_mw=1.2, cycles_per_mac={"conv": 1.4}, overhead_ms=0.4, latency_band=0.3,
        source="data sheet DS10916",
    )  # fmt: skip
    link = Link(
        name="lte", title="LTE Cat 1", wake_ms=30.0, wake_mj=12.0, tail_mj=20.0, rtt_mean_ms=70.0, rtt_sd_ms=15.0,
        rtt_min_ms=35.0, uplink_kbps=5000.0, mj_per_kilobyte=4.0, overhead_bytes=120, loss=0.01,
        source="Huang et al., MobiSys 2012",
    )  # fmt: skip
    return device, link


def memory_maps(device, footprint):
    margin = footprint.measured_arena_bytes // 10
    flash = (("runtime", device.reserved_flash_bytes), ("model", footprint.flash_bytes), ("router", 3072))
    arena = footprint.measured_arena_bytes
    sram = (("runtime", device.reserved_sram_bytes), ("arena", arena), ("arena margin", margin))
    return [
        MemoryMap(total_bytes=total, segments=tuple(Segment(label=text, size_bytes=size) for text, size in parts))
        for total, parts in ((device.flash_bytes, flash), (device.sram_bytes, sram))
    ]


PAIRS = tuple(
    Pair(
        name=name, cloud="trained here, width 32, depth 1", hybrid_accuracy=accuracy,
        expected_accuracy=accuracy + 0.01, bound=accuracy + 0.02, edge_accuracy=accuracy - 0.05,
        coverage=0.7, mean_latency_ms=130.0 + ms, latency_ms=ms, macs=macs,
        flash_bytes=flash, peak_sram_bytes=sram, front=front, chosen=name == "ds-24-48-96",
    )
    for name, macs, flash, sram, accuracy, ms, front in (
        ("ib-16-24-48-x4", 6_020_000, 154_624, 131_072, 0.931, 88.0, True),
        ("ds-24-48-96", 4_870_000, 187_392, 90_112, 0.930, 61.0, True),
        ("ds-16-32-64", 2_310_000, 98_304, 64_000, 0.912, 29.0, True),
        ("ds-16-32-72", 2_520_000, 108_304, 65_000, 0.908, 31.0, False),
    )
)  # fmt: skip
SEARCH = SearchView(pairs=PAIRS, tabled=PAIRS[:3], skipped=1234, budget="at a coverage of 70 % or more", num_clouds=1)


def stage(name, **changes):
    plain = StageCost(
        name=name, reads="image", share=1.0, macs=4_871_700, router_kind="learned", router_parameters=937,
        latency_ms=EDGE_MS, look_below=-128,
    )  # fmt: skip
    return replace(plain, **changes)


def trials(stage, **naucs):
    winner = max(naucs, key=naucs.get)
    return tuple(RouterTrial(stage=stage, kind=k, nauc=v, winner=k == winner) for k, v in naucs.items())


@functools.cache
def content(names=CLOTHES, channels=1):
    w = world(len(names))
    device, link = board()
    footprint = Footprint(
        macs=4_870_000, router_macs=1_700, flash_bytes=187_392, measured_arena_bytes=90_112, least_arena_bytes=90_112
    )
    flash, sram = memory_maps(device, footprint)
    confirmed = operating_point(w, THRESHOLD, "lte", "highest accuracy below 90 ms")
    kept = (w.score >= THRESHOLD).astype(np.float64)
    per_class = np.bincount(w.truth, kept, len(names)) / np.bincount(w.truth, minlength=len(names))
    edge_only = operating_point(w, -128, "lte")
    grid = (-128, *range(-120, 128, 8), 128, THRESHOLD)
    return ReportContent(
        title="Clothes on a microcontroller",
        dataset=DatasetCard(
            name="fashion_mnist", counts={"train": 48_000, "calibration": 6_000, "validation": 6_000, "test": N_TEST},
            input_shape=(28, 28, channels), licence="MIT", source="Zalando Research", digest="5a" * 32,
        ),
        class_names=names, device=device, link=link,
        spec_toml='preset = "quick"\nseed = 7\n\n[train]\nedge_epochs = 8\n',
        seed=7, versions={"hybrid": "0.1.0", "tensorflow": "2.20.0", "python": "3.11.7"}, footprint=footprint,
        drift=Drift(
            float_accuracy=edge_only.accuracy + 0.0023, int8_accuracy=edge_only.accuracy,
            float_coverage=confirmed.coverage + 0.011, int8_coverage=confirmed.coverage,
        ),
        quantize_trials=(
            QuantizeTrial(stage="edge", method="ptq", validation_accuracy=0.8812, winner=False),
            QuantizeTrial(stage="edge", method="qat", validation_accuracy=0.8847, winner=True),
        ),
        router_trials=trials("edge", learned=0.5931, max_softmax=0.4812),
        stages=(stage("edge"),),
        guarantee="at most 0.5 points below the cloud's, with confidence 90 % over 6,000 calibration examples",
        chosen=replace(confirmed, accuracy=confirmed.accuracy + 0.004, coverage=confirmed.coverage - 0.006),
        confirmed=confirmed, edge_only=edge_only,
        cloud_only=tuple(operating_point(w, 128, name) for name in LINKS),
        points=tuple(operating_point(w, threshold, "lte") for threshold in grid), points_split="calibration",
        pareto=tuple(operating_point(w, threshold, name) for name in LINKS for threshold in range(-128, 129, 4)),
        curves=policy_curves(w), edge_confusion=confusion(w.truth, w.edge, len(names)),
        cloud_confusion=confusion(w.truth, w.cloud, len(names)), class_coverage=per_class.astype(np.float32),
        gallery=tuple(gallery(w, names, channels)), flash=flash, sram=sram, aot_arena_bytes=9_216,
        search=SEARCH,
        bundle=tuple(
            BundleFile(path=path, size_bytes=size, sha256=hashlib.sha256(path.encode()).hexdigest())
            for path, size in (("manifest.json", 2_113), ("edge.tflite", 187_392), ("src/edge.c", 411_208))
        ),
    )  # fmt: skip


@functools.cache
def page():
    return render(content())


class Page(HTMLParser):
    """Everything a page could load, every tag, and its visible text."""

    def __init__(self, text):
        super().__init__()
        self.references, self.tags, self.open, self.unclosed, self.text = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        loading = ("src", "href", "xlink:href", "srcset", "data", "action", "poster", "style")
        self.references += [value for name, value in attrs if name in loading]
        if tag not in ("meta", "link", "img", "br", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        if self.open.pop() != tag:
            self.unclosed.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def words(text):
    """What a page says, with plain spaces."""
    return " ".join(" ".join(Page(text).text).split()).replace("\u00a0", " ")


def test_the_same_content_gives_the_same_page():
    assert render(content()) == render(content())


def test_nothing_is_loaded_from_outside():
    parsed = Page(page())
    outside = [r for r in parsed.references if re.search(r"//|@import|url\((?!#)", r) and not r.startswith("data:")]
    assert outside == []
    assert parsed.tags.count("img") == 32
    style = page()[page().index("<style>") : page().index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in page()


def test_every_tag_is_closed_in_order():
    parsed = Page(page())
    assert parsed.unclosed == []
    assert parsed.open == []


def test_no_id_is_used_twice_with_two_meanings():
    ours = re.findall(r' id="([a-z-]+)"', page())
    assert len(ours) == len(set(ours))
    in_page_links = re.findall(r'href="#([a-z-]+)"', page())
    assert set(in_page_links) <= set(ours)


def test_every_headline_value_is_on_the_page():
    c, text = content(), " ".join(Page(page()).text)
    point, cloud = c.confirmed, c.cloud
    shares = [point.accuracy, point.coverage, c.edge_only.accuracy, cloud.accuracy, c.drift.float_accuracy]
    shares += [c.drift.int8_coverage, c.drift.float_coverage, c.chosen.accuracy, 0.8812, 0.8847]
    times = [point.mean_latency_ms, point.p50_latency_ms, point.p95_latency_ms, cloud.mean_latency_ms]
    said = [percent(share) for share in shares] + [quantity(ms, "ms") for ms in times]
    said += [quantity(point.mean_energy_mj, "mJ"), "183.0\u00a0KiB", "88.0\u00a0KiB", "4.87\u00a0M", "1.70\u00a0k"]
    said += ["STM32F746G-DISCO", "LTE Cat 1", "MIT", "5a" * 32, "edge_epochs = 8", "2.20.0"]
    said += [
        *("nAUC 61.2", "nAUC 49.7", "nAUC 49.1", "nAUC 70.2", "59.3", "48.1", "937 constants"),
        "At most 0.5 points below the cloud's, with confidence 90 % over 6,000 calibration examples.",
        "1,234 did not fit the board or a limit",
        hashlib.sha256(b"manifest.json").hexdigest()[:16],
        *CLOTHES,
    ]
    assert [value for value in said if value not in text] == []


def test_strings_are_escaped_everywhere():
    evil = '<script>alert("x")</script>&'
    names = (evil, *CLOTHES[1:])
    c = content(names)
    pair = replace(PAIRS[0], name=evil, cloud=evil)
    search = replace(SEARCH, pairs=(pair,), tabled=(pair,), budget=evil, num_clouds=2)
    c = replace(
        c, title=evil, spec_toml=evil, versions={evil: evil}, search=search,
        link=replace(c.link, title=evil, source=evil), device=replace(c.device, title=evil),
        dataset=replace(c.dataset, name=evil, licence=evil),
        bundle=(BundleFile(path=evil, size_bytes=1, sha256=evil),),
    )  # fmt: skip
    text = render(c)
    assert evil not in text
    assert html.escape(evil, quote=False).replace('"', "&#34;") in text
    assert Page(text).tags.count("script") == 1


def test_a_hundred_classes_stay_light_and_are_drawn():
    names = tuple(f"class {i:02d}" for i in range(100))
    text = render(content(names, 3))
    assert len(text) < 2_000_000
    assert text.count('class="heat"') == 2
    assert 'class="confusion"' not in text
    assert all(name in text for name in names)
    assert len(page()) < 1_000_000


def test_a_run_with_little_to_show_still_gives_a_page():
    c = content()
    bare = replace(
        c, search=None, gallery=(), points=(), pareto=(), router_trials=(), guarantee=None, confirmed=c.edge_only,
        stages=(stage("edge", router_kind="max_softmax", router_parameters=1),),
        edge_confusion=np.diag(np.arange(10)), cloud_confusion=np.zeros((10, 10), int),
    )  # fmt: skip
    text = render(bare)
    assert "No search: the architecture was given." in text
    assert "Here: the largest softmax probability of the net’s answer (1 constant)." in text
    assert "Nothing: the threshold meets what was asked on the calibration examples" in text
    assert "Max softmax, as asked for: nothing was tried beside it." in text
    assert "most frequent mistakes" not in text
    assert "nan" not in text
    assert Page(text).unclosed == []


def test_the_search_is_told():
    text = words(page())
    for said in (
        "How the edge net was found",
        "4 edge nets were scored with the weights of one supernet, each beside the cloud",
        "at a coverage of 70 % or more, behind a quickly fitted router. 1,234 did not fit the board",
        "ds-24-48-96 chosen 94.0 % 93.0 % 95.0 % 88.0 % 70.0 % 191 ms 61.0 ms 4.87 M 183.0 KiB 88.0 KiB",
    ):
        assert said in text
    assert "ds-16-32-72" not in text  # not of the Pareto set
    two = words(render(replace(content(), search=replace(SEARCH, num_clouds=2))))
    assert "How the pair was found" in two
    assert "each beside the one of 2 clouds that suits it best" in two
    assert "88.0 % trained here, width 32, depth 1 70.0 %" in two
    probed = words(render(replace(content(), search=replace(SEARCH, num_probes=8))))
    assert "follows from 8 nets that were trained on their own before the search" in probed
    assert "before the search" not in text
    finals = words(render(replace(content(), search=replace(SEARCH, finalists={"ds-a": 0.811, "ds-b": 0.8}))))
    assert "on their own for a short while, and the choice is among these: ds-a 81.1 %, ds-b 80.0 %." in finals
    assert "the choice is among" not in text


def test_a_long_search_is_thinned_but_for_its_pareto_set():
    many = tuple(replace(PAIRS[3], name=f"n{i}", mean_latency_ms=100.0 + i) for i in range(3000))
    drawn = search_svg((*PAIRS[:3], *many))
    assert drawn.count("<use") <= MAX_DOTS + 60
    assert drawn == search_svg((*PAIRS[:3], *many))
    assert len(drawn) < 150_000


def test_long_curves_are_thinned():
    coverage = np.linspace(0, 1, 20_001, dtype=np.float32)
    waves = (0.9 + 0.01 * np.sin(50 * coverage)).astype(np.float32)
    long = PolicyCurve(name="router", coverage=coverage, accuracy=waves, low=waves, high=waves)
    assert len(coverage_svg((long,), content().confirmed)) < 40_000


def test_an_image_keeps_its_pixels():
    from PIL import Image

    grey = pictures([3], 10, 1)[0]
    file = io.BytesIO(base64.b64decode(png_data_uri(grey).removeprefix("data:image/png;base64,")))
    assert np.array_equal(np.asarray(Image.open(file)), grey[..., 0])


def test_the_table_of_points_runs_from_keeping_to_sending():
    rows = [int(t) for t in re.findall(r'data-threshold="(-?\d+)"', page())]
    assert rows == sorted(rows)
    assert (rows[0], rows[-1]) == (-128, 128)


def test_figures_use_the_pages_colours():
    assert "#0102" not in page()
    assert "var(--s0)" in page()


def test_every_policy_is_drawn_in_its_own_way():
    assert set(POLICY_STYLES) == {"router", *BASELINES, "random", "agree", "oracle"}
    assert {curve.name for curve in content().curves} == set(POLICY_STYLES)
    assert len({(style.variable, style.dash) for style in POLICY_STYLES.values()}) == len(POLICY_STYLES)


def texts(c):
    return [(remark.warns, remark.text) for remark in remarks(c)]


def test_a_good_run_is_not_warned_about():
    assert not any(warns for warns, _ in texts(content()))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: {"confirmed": replace(c.confirmed, accuracy=c.edge_only.accuracy)}, "no more accurate"),
        (lambda c: {"confirmed": replace(c.confirmed, mean_latency_ms=1e4)}, "slower than sending"),
        (lambda c: {"chosen": replace(c.chosen, accuracy=c.confirmed.accuracy + 0.05)}, "−5.0 points, more than"),
        (
            lambda c: {"curves": (replace(c.curves[0], nauc=0.5), *c.curves[1:])},
            "does not beat plain max softmax on test: nAUC 50.0 against 49.7",
        ),
        (
            lambda c: {"curves": (replace(c.curves[0], nauc=0.493), *c.curves[2:])},
            "plain logit margin on test: nAUC 49.3",
        ),
        (lambda c: {"chosen": replace(c.chosen, coverage=0.013)}, "only where the device answers 1.3 % of the inputs"),
        (lambda c: {"drift": replace(c.drift, float_accuracy=c.drift.int8_accuracy + 0.02)}, "cost the edge net 2.0"),
        (lambda c: {"sram": replace(c.sram, total_bytes=100_000)}, "SRAM of STM32F746G-DISCO is too small"),
        (lambda c: {"footprint": replace(c.footprint, arena_source="estimated")}, "arena is estimated, not measured"),
    ],
)
def test_what_disappoints_is_said(change, sentence):
    warned = [text for warns, text in texts(replace(content(), **change(content()))) if warns]
    assert any(sentence in text for text in warned), warned


def test_warnings_stand_on_the_page_before_the_other_remarks():
    small = replace(content().sram, total_bytes=100_000)
    text = render(replace(content(), sram=small))
    assert text.index('<li class="warns"><strong>Mind:</strong> The SRAM of') < text.index(
        "<li>From calibration to test"
    )
    assert "missing" in text


def test_an_estimated_arena_is_nowhere_called_measured():
    assert "measured; board has" in page()
    assert "Its size was measured with TensorFlow Lite Micro’s interpreter" in page()
    text = render(replace(content(), footprint=replace(content().footprint, arena_source="estimated")))
    assert "estimated; board has" in text
    assert "Its size was estimated from the net’s layers" in text
    assert "Its size was measured" not in text


def test_no_learned_router_is_said_without_alarm():
    rule = replace(content(), stages=(stage("edge", router_kind="class_offsets"),))
    said = texts(rule)
    ahead = "which none was clearly ahead of in cross-validation."
    assert (False, f"No learned router ships: the score is a rule, class offsets, {ahead}") in said
    said = texts(replace(rule, router_trials=trials("edge", class_offsets=0.4)))
    assert (False, "No learned router was asked for: the score is a rule, class offsets.") in said


def test_without_a_guarantee_low_coverage_is_no_matter_of_the_guarantee():
    c = replace(content(), guarantee=None, chosen=replace(content().chosen, coverage=0.013))
    assert not any("guaranteed" in text for _, text in texts(c))


def two_looks():
    """Half of the inputs need the second net; their learned routers differ in kind."""
    stages = (
        stage("edge", macs=1_000_000, router_kind="logistic", router_parameters=3, latency_ms=11.1, look_below=-14),
        stage("look_1", macs=3_000_000, share=0.5, latency_ms=44.4),
    )
    tried = trials("edge", learned=0.31, logistic=0.32) + trials("look_1", learned=0.52, logistic=0.41)
    return replace(content(), stages=stages, router_trials=tried)


def test_a_second_look_is_told():
    c = two_looks()
    assert c.mean_macs == 1_000_000 + 0.5 * 3_000_000
    text = words(render(c))
    for said in (
        "MACs, mean of all inputs 2.50 M first look 1.00 M, all looks 4.00 M",
        "A second look, below −14 Where that score is lower, a further net reads the input",
        "50.0 % of the inputs, answered after 44.4 ms",
        "edge the input 100.0 % 1.00 M 11.1 ms the score is below −14",
        "look_1 the input 50.0 % 3.00 M 44.4 ms the score is below 14: to the cloud",
        "Edge only (int8, second looks included)",
        "learned 31.0 ships 52.0 logistic ships 32.0 41.0",
        "edge: the margin and the largest softmax probability, weighed by logistic regression (3 constants); look_1:",
    ):
        assert said in text, said
    assert not any(warns for warns, _ in texts(c))
    alike = replace(c, stages=(replace(c.stages[0], router_kind="learned", router_parameters=940), c.stages[1]))
    assert "where the cloud does better; one for each look (940 and 937 constants)." in render(alike)


def test_an_early_exit_is_no_further_net():
    c = two_looks()
    text = render(replace(c, stages=(c.stages[0], replace(c.stages[1], reads="trunk"))))
    assert "the rest of the net goes on from where the first part stopped" in text
    assert "a further net" not in text


def test_one_look_says_nothing_of_a_second():
    for said in ("second look", "Second look", "What runs on the device", "mean of all inputs", "look_1"):
        assert said not in page()


def test_every_split_has_its_own_say():
    text = " ".join(" ".join(Page(page()).text).split())
    for said in ("calibration sets the threshold, and nothing else 6,000", f"test confirms, once {N_TEST:,}"):
        assert said in text
    assert "Validation chose" not in text


def test_every_kind_of_router_has_words():
    for kind in (*LEARNED, *RULES):
        text = render(replace(content(), stages=(stage("edge", router_kind=kind),)))
        assert f"Here: {kind} (" not in text


def test_a_cloud_only_point_must_exist_for_the_runs_link():
    c = replace(content(), cloud_only=content().cloud_only[:1])
    with pytest.raises(HybridError, match="no point for link lte; got wifi"):
        render(c)


def test_small_arithmetic():
    assert half_width_95(0.5, 9604) == pytest.approx(0.01)  # 1.96 * sqrt(0.25 / 9604) = 1.96 * 0.5 / 98
    assert row_shares(np.array([[3, 1], [0, 0]])).tolist() == [[0.75, 0.25], [0.0, 0.0]]
    assert frequent_mistakes(np.array([[5, 0, 3], [1, 5, 0], [0, 4, 5]]), limit=2) == [(2, 1, 4), (0, 2, 3)]
    assert MemoryMap(total_bytes=10, segments=(Segment(label="a", size_bytes=13),)).free_bytes == -3


def test_figures_are_printed_in_three_digits():
    assert [quantity(v, "ms") for v in (0.5, 9.994, 9.996, 41.26, 99.96, 1234.5)] == [
        f"{v}\u00a0ms" for v in ("0.50", "9.99", "10.0", "41.3", "100", "1,234")
    ]
    assert [count(v) for v in (999, 1700, 4_870_000, 2.5e9)] == ["999", "1.70\u00a0k", "4.87\u00a0M", "2.50\u00a0G"]
    assert (percent(0.9126), signed_points(-0.013), kib(1536), kib(1 << 20)) == (
        "91.3\u00a0%", "−1.3 points", "1.5\u00a0KiB", "1,024\u00a0KiB",
    )  # fmt: skip


CHROMIUM = shutil.which("chromium")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="the program chromium is not installed")


def chromium(tmp_path: Path, *arguments: str, fragment: str = "") -> "subprocess.CompletedProcess[str]":
    (tmp_path / "report.html").write_text(page(), encoding="utf-8")
    quiet = ("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
    still = ("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--window-size=1280,3000")
    user = (f"--user-data-dir={tmp_path / 'user'}", "--enable-logging=stderr", "--v=0")
    address = (tmp_path / "report.html").as_uri() + fragment
    command = [CHROMIUM, "--headless", "--no-sandbox", *quiet, *still, *user, *arguments, address]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


def output(dom, name):
    return html.unescape(re.search(rf'<output id="at-{name}"[^>]*>([^<]*)</output>', dom)[1])


@in_browser
def test_the_browser_draws_the_page_without_complaint(tmp_path):
    from PIL import Image

    done = chromium(tmp_path, f"--screenshot={tmp_path / 'page.png'}")
    assert "CONSOLE" not in done.stderr
    with Image.open(tmp_path / "page.png") as image:
        assert image.size == (1280, 3000)
        colours = image.convert("RGB").getcolors(maxcolors=1 << 24)
    assert len(colours) > 500
    assert max(number for number, _ in colours) < 0.97 * 1280 * 3000


@in_browser
@pytest.mark.parametrize(("fragment", "threshold"), [("", THRESHOLD), ("#threshold=-37", -40)])
def test_the_slider_shows_the_point_of_the_address(tmp_path, fragment, threshold):
    done = chromium(tmp_path, "--dump-dom", fragment=fragment)
    assert "CONSOLE" not in done.stderr
    point = next(p for p in content().points if p.threshold == threshold)
    shown = {name: output(done.stdout, name) for name in ("threshold", "coverage", "accuracy", "mean", "p95", "energy")}
    assert shown == {
        "threshold": str(threshold),
        "coverage": percent(point.coverage),
        "accuracy": percent(point.accuracy),
        "mean": quantity(point.mean_latency_ms, "ms"),
        "p95": quantity(point.p95_latency_ms, "ms"),
        "energy": quantity(point.mean_energy_mj, "mJ"),
    }
    assert re.search(r'<div class="slider" id="explorer"[^>]*hidden', done.stdout) is None
