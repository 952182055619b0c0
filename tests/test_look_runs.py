"""From data to bundle with a second look: a further net, and an early exit; on small noisy stripes."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from cloud_helpers import INPUTS, running

from firmware_export.cloud import endpoint_info
from firmware_export.emulate import programs
from firmware_export.emulate.gateway import Way
from firmware_export.verify import verify
from hybrid import cost
from hybrid.configure import run_spec, to_toml
from hybrid.errors import BudgetError
from hybrid.latency import edge_latency_ms
from hybrid.look import ROUTER_FLASH_BYTES, staged
from hybrid.pipeline import Run
from hybrid.pipeline.emulating import emulate
from hybrid.pipeline.summary import write_summary
from hybrid.progress import SILENT
from hybrid.runtimes import device_engine
from hybrid.serve import create_app
from hybrid.specs import ArchSpec, BlockSpec

CLASSES, SIZE = 4, 12
EDGE = ArchSpec(
    name="edge",
    input_shape=(SIZE, SIZE, 1),
    num_classes=CLASSES,
    blocks=(BlockSpec(kind="conv", width=8, stride=2), BlockSpec(kind="conv", width=12, stride=2)),
)
ASKED = (
    'quantize.methods=["ptq"]',
    'cloud.kind="table"',
    "search.supernet_epochs=1",
    "train.edge_epochs=2",
    "train.batch_size=64",
    "train.rounds=0",
    "quantize.representative_rows=50",
    "router.epochs=3",
    "router.teachers=0",
    "router.students=1",
    "data.calibration_fraction=0.2",
    "data.validation_fraction=0.2",
    "export.golden_examples=8",
)


def written(path):
    """Noisy grey images with a stripe where the class says, and a table in which the cloud is right 9 times in 10."""
    rng = np.random.default_rng(1)
    y = np.arange(900) % CLASSES
    x = rng.integers(0, 200, (len(y), SIZE, SIZE))
    x[np.arange(len(y)), y * SIZE // CLASSES] += 40
    np.savez(path / "stripes.npz", x=x.astype(np.uint8), y=y)
    asked = [*ASKED, f'data.name="{path / "stripes.npz"}"']
    splits = Run(path / "unused", run_spec(assignments=asked)).data.splits
    answers = {name: np.where(rng.random(len(s)) < 0.9, s.y, (s.y + 1) % CLASSES) for name, s in splits.items()}
    table = {name: 0.9 * np.eye(CLASSES)[classes] + 0.1 / CLASSES for name, classes in answers.items()}
    np.savez(path / "table.npz", **table)
    (path / "edge.toml").write_text(to_toml(EDGE))
    return [*asked, f'cloud.table="{path / "table.npz"}"']


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stripes")


@pytest.fixture(scope="module")
def asked(folder):
    return written(folder)


@pytest.fixture(scope="module", params=["net", "exit"])
def story(request, folder, asked):
    """A finished run of a given net, and what it says of itself."""
    kind, given = request.param, f'search.arch="{folder / "edge.toml"}"'
    run = Run(folder / kind, run_spec(assignments=[*asked, given, f'look.kind="{kind}"', "look.share=0.4"]))
    page, summary = run.report.read_text(encoding="utf-8"), write_summary(run, started=0.0)
    return SimpleNamespace(kind=kind, run=run, page=page, summary=summary, folder=folder / kind)


def test_the_second_stage_runs_for_about_the_share_that_was_asked_for(story):
    share = (story.run.swept.test.stage == 1).mean()
    assert story.summary["second_look_share"] == share
    assert 0.2 < share < 0.6
    assert sorted(path.name for path in (story.folder / "look").glob("*.npz")) == ["edge.npz", "look_1.npz"]


def test_the_bundle_has_both_nets_and_is_exact(story):
    manifest = json.loads((story.run.bundle / "manifest.json").read_text())
    assert list(manifest["models"]) == ["edge", "look_1"]
    reads = {"net": "image", "exit": "trunk"}[story.kind]
    assert [model["reads"] for model in manifest["models"].values()] == ["image", reads]
    assert manifest["models"]["edge"]["look_below"] == story.run.quantized.routed.program.stages[0].look_below
    assert verify(story.run.bundle, SILENT).golden_examples == 8


@pytest.mark.skipif(
    programs.missing() is not None or device_engine() != "tflite-micro", reason="needs QEMU and tflite-micro"
)
def test_the_emulated_device_looks_again_and_asks_as_the_sweep_predicts(story):
    """With a cloud that says of each image what the table says."""
    split, said = story.run.data.test, story.run.swept.test
    table = dict(zip((image.tobytes() for image in split.x), said.cloud_scores, strict=True))
    names = tuple(story.run.data.class_names)
    info = endpoint_info(replace(INPUTS, input_shape=(SIZE, SIZE, 1), class_names=names))
    app = create_app(lambda pixels: np.array([table[image.tobytes()] for image in pixels]), info)
    with running(app) as base:
        found = emulate(story.run.bundle, "mps2-an386", 60, f"{base}/v2/models/{info.model_name}")
    kept = said.router_score[:60] >= story.run.swept.chosen.threshold
    right = np.where(kept, said.edge_right[:60], said.cloud_right[:60]).sum()
    assert found.all_differences == ()
    assert found.loop.right == found.loop.predicted_right == right
    assert [outcome.way is Way.KEPT for outcome in found.loop.outcomes] == kept.tolist()
    assert {layer.net: layer.runs for layer in found.emulated.layers if layer.runs} == {
        "edge": 60,
        "look_1": (said.stage[:60] == 1).sum(),
    }
    assert found.arena_bytes < story.run.quantized.footprint.least_arena_bytes


def test_time_on_the_device_by_hand(story):
    """Everything kept: the mean of the time until the last stage of each example."""
    test, points = story.run.swept.test, story.run.swept.points
    device, (edge, look) = story.run.device, story.run.quantized.routed.program.stages
    ms = [edge_latency_ms(cost.stage_work(stage), device) for stage in (edge, look)]
    calibration = story.run.swept.calibration
    expected = ms[0] + ms[1] * (calibration.stage == 1).mean()
    assert points[0].coverage == 1
    assert points[0].mean_latency_ms == pytest.approx(expected)
    assert (test.stage <= 1).all()


def test_the_search_priced_the_time_that_the_sweep_finds(story):
    """All but the routers; the sweep's share is what the int8 thresholds come to on calibration.

    An exit is priced with the QUANTIZE in front of it, which is left out where both parts happen to agree on a scale.
    """
    priced, swept = story.run.searched.chosen.latency_ms, story.run.swept
    device, stages = story.run.device, story.run.quantized.routed.program.stages
    works = [cost.stage_work(stage) for stage in stages]
    ms = [edge_latency_ms(work, device) for work in works]
    share = (swept.calibration.stage == 1).mean()
    left_out = staged(EDGE, story.run.spec.look).stage_work[1].operators - works[1].operators
    assert 0 <= left_out <= (story.kind == "exit")
    bridge = {"operators": works[1].operators + left_out, "elements": works[1].elements + left_out * 6 * 6 * 8}
    priced -= 0.4 * (edge_latency_ms(replace(works[1], **bridge), device) - ms[1])
    assert priced == pytest.approx(ms[0] + 0.4 * ms[1], rel=0.03)
    assert priced == pytest.approx(swept.points[0].mean_latency_ms + (0.4 - share) * ms[1], rel=0.03)


def test_the_device_program_takes_no_more_than_the_search_reckoned_with(story):
    priced, taken = story.run.searched.chosen, story.run.quantized.footprint
    assert taken.least_arena_bytes <= priced.peak_sram_bytes <= 1.05 * taken.least_arena_bytes
    assert taken.flash_bytes <= priced.flash_bytes


def test_the_report_tells_the_second_look(story):
    assert "What runs on the device, and how often" in story.page
    words = {"net": "a further net reads the input", "exit": "the rest of the net goes on"}
    assert words[story.kind] in story.page
    assert words[{"net": "exit", "exit": "net"}[story.kind]] not in story.page


def test_calibration_is_left_to_the_threshold(story):
    certificate = story.run.swept.certificate
    assert certificate.n == len(story.run.data.calibration)
    assert certificate.covers(story.run.swept.chosen.threshold)
    assert certificate.statement == story.summary["guarantee"]


def test_an_exit_answers_as_the_whole_net_where_it_looks_again(story):
    """The far part alone answers there, and a further net's answer is mixed with the first."""
    weights = story.run.quantized.routed.program.stages[1].mix.multipliers
    assert (weights[0] == 0) == (story.kind == "exit")


@pytest.mark.parametrize("kind", ["none", "net"])
def test_the_search_leaves_flash_for_every_net(asked, tmp_path, kind):
    """Under one ceiling, two nets of the winner fit where two are asked for; the price of each candidate says so."""
    limit, nets = 60_000, 2 if kind == "net" else 1
    wanted = [*asked, f'look.kind="{kind}"', f"search.max_flash_bytes={limit}", "search.trials=4"]
    found = Run(tmp_path, run_spec(assignments=wanted)).searched
    assert all(c.flash_bytes >= nets * cost.estimate(c.arch).flash_bytes for c in found.candidates)
    assert {c.flash_bytes <= limit for c in found.candidates if c.status == "scored"} == {True}
    assert nets * (cost.estimate(found.edge).flash_bytes + ROUTER_FLASH_BYTES) <= limit


def test_what_export_would_refuse_is_refused_before_any_training(asked, folder, tmp_path):
    """The arena with its margin must fit the device; a ceiling of the user's is on the arena without it."""
    need = cost.estimate(EDGE).peak_sram_bytes
    room = cost.arena_bytes(need, 0.05)
    given = [*asked, f'search.arch="{folder / "edge.toml"}"', f"search.max_peak_sram_bytes={need}"]

    def on_a_tight_board(name, *changes):
        run = Run(tmp_path / name, run_spec(assignments=[*given, *changes]))
        run.device = replace(run.device, sram_bytes=run.device.reserved_sram_bytes + room)
        return run.searched

    with pytest.raises(
        BudgetError, match=r"^arena_bytes: needs .*; stride earlier, lower export\.arena_margin or "
    ) as no:
        on_a_tight_board("refused")
    assert no.value.needed == cost.arena_bytes(need, 0.1) > no.value.available == room
    assert on_a_tight_board("fits", "export.arena_margin=0.05").edge == EDGE
