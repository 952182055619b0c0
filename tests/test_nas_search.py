"""The search: costs before training, budgets, choice within the noise, and going on after a kill."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from datasets.dataset import Dataset, Split
from datasets.errors import DatasetError
from hybrid.artifacts import Device
from hybrid.configure import to_toml
from hybrid.errors import BudgetError, SpecError
from hybrid.progress import SILENT
from hybrid.specs import ArchSpec, BlockSpec, SearchSpec
from nas import search as nas_search
from nas.candidate import Candidate
from nas.score import held_out, stratified_order
from nas.space import Choices, Space, edge_space, sample, smallest

ROOT = Path(__file__).parent.parent
SPACE = Space(
    input_shape=(8, 8, 1),
    num_classes=3,
    stem=Choices(width=(4, 8), stride=(1, 2)),
    stages=(Choices(kind=("conv", "ds"), width=(4, 8, 12)), Choices(width=(8, 16))),
    num_stages=(1, 2),
)
SPEC = SearchSpec(trials=3, epochs=4, rows=300)
BOARD = Device(
    name="toy",
    title="Toy board",
    core="none",
    clock_mhz=1.0,
    flash_bytes=10_000,
    sram_bytes=10_000,
    reserved_flash_bytes=0,
    reserved_sram_bytes=0,
    power_mw=1.0,
    sleep_power_mw=0.0,
    cycles_per_mac={"conv": 1.0},
    overhead_ms=0.0,
    latency_band=0.1,
    source="made up for tests",
)


@dataclass(frozen=True)
class Cost:
    macs: int
    flash_bytes: int
    peak_sram_bytes: int


def estimate(arch: ArchSpec) -> Cost:
    """Widths alone: enough to order nets."""
    width = sum(block.width for block in arch.blocks)
    return Cost(macs=1000 * width, flash_bytes=100 * width, peak_sram_bytes=width)


def fits(cost: Cost) -> None:
    if cost.flash_bytes > 2000:
        raise BudgetError("flash_bytes", cost.flash_bytes, 2000, "toy", "narrow it")


def latency_ms(cost: Cost) -> float:
    return cost.macs / 1000


def toy_data(rows: int = 600) -> Dataset:
    """Three classes that differ in where the image is bright, under noise."""
    rng = np.random.default_rng(7)
    y = rng.integers(0, 3, rows).astype(np.int32)
    x = rng.integers(0, 120, (rows, 8, 8, 1))
    for label in range(3):
        x[y == label, 2 * label : 2 * label + 3] += 100
    split = Split(x=x.astype(np.uint8), y=y)
    unseen = Split(x=np.zeros((1, 8, 8, 1), np.uint8), y=np.zeros(1, np.int32))
    return Dataset(
        name="toy",
        train=split,
        calibration=unseen,
        validation=unseen,
        test=unseen,
        class_names=("top", "middle", "bottom"),
        licence="none",
        source="made up for tests",
        digest="0" * 64,
        value_range=(0.0, 255.0),
        mirror=True,
    )


def run_search(folder: Path, **changes):
    asked = {
        "data": toy_data(),
        "device": BOARD,
        "spec": SPEC,
        "seed": 5,
        "estimate": estimate,
        "fits": fits,
        "latency_ms": latency_ms,
        "folder": folder,
        "narrator": SILENT,
    }
    return nas_search.search(changes.pop("space", SPACE), **(asked | changes))


def timeless(candidates):
    return [replace(c, seconds=0.0) for c in candidates]


class PrintingNarrator:
    """For the child process: a line for each trained net."""

    def say(self, text):
        print(text, flush=True)

    @contextmanager
    def track(self, label, total):
        yield lambda steps, note: print(f"trained {note}", flush=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run_search(folder)


def test_a_real_search_learns_and_says_so(whole):
    _, result = whole
    trained = [c for c in result.candidates if c.status == "trained"]
    assert len(trained) == 3
    assert len({c.arch for c in trained}) == 3
    assert max(c.score for c in trained) > 0.6  # a third by chance
    assert result.winner in [c.arch for c in trained]
    for c in result.candidates:
        cost = estimate(c.arch)
        assert (c.macs, c.flash_bytes, c.peak_sram_bytes) == (cost.macs, cost.flash_bytes, cost.peak_sram_bytes)
        assert c.latency_ms == cost.macs / 1000
        assert (c.status == "skipped") == (cost.flash_bytes > 2000) == ("narrow it" in c.reason)
        assert (c.score is None) == (c.status == "skipped")


def test_a_killed_search_goes_on_and_ends_like_an_undisturbed_one(whole, tmp_path):
    command, environment = [sys.executable, __file__, str(tmp_path)], os.environ | {"PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    lines = [child.stdout.readline() for _ in range(2)]
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert all(line.startswith("trained edge-") for line in lines)  # and keras-tuner printed nothing
    saved = [c for c in json.loads((tmp_path / "oracle.json").read_text())["candidates"] if c["status"] == "trained"]
    assert 1 <= len(saved) <= 2

    _, undisturbed = whole
    resumed = run_search(tmp_path)
    assert timeless(resumed.candidates) == timeless(undisturbed.candidates)
    assert resumed.winner == undisturbed.winner
    kept = {c.arch.name: c.seconds for c in resumed.candidates}
    assert all(kept[c["arch"]["name"]] == c["seconds"] for c in saved)  # not trained again


def test_a_finished_search_answers_at_once(whole):
    folder, result = whole
    assert run_search(folder) == result


@pytest.mark.parametrize("change", [{"seed": 6}, {"spec": replace(SPEC, epochs=1)}])
def test_a_folder_is_not_taken_for_another_search(whole, change):
    folder, _ = whole
    with pytest.raises(SpecError, match="another space, data, device, seed or training; choose another run folder"):
        run_search(folder, **change)


@pytest.mark.parametrize("text", ["", '{"identity": "a", "candid', '{"identity": 1}', "[]", "\xff"])
def test_a_damaged_folder_is_named(tmp_path, text):
    (tmp_path / "oracle.json").write_text(text, encoding="latin-1")
    with pytest.raises(SpecError, match=r"oracle\.json: the search's state is damaged .*; delete .* to search anew"):
        run_search(tmp_path)


def explore(folder, *, score, price=None, trials=6, seed=0, space=SPACE):
    from nas.oracle import explore

    free = price or (lambda arch: Candidate(arch=arch, macs=1, flash_bytes=1, peak_sram_bytes=1, latency_ms=1.0))
    return explore(space, price=free, score=score, trials=trials, seed=seed, folder=folder, identity="toy")


def priced(arch):
    base = Candidate(arch=arch, macs=1, flash_bytes=1, peak_sram_bytes=1, latency_ms=1.0)
    return replace(base, status="skipped", reason="deep") if len(arch.blocks) == 3 else base


def test_what_does_not_fit_is_never_trained_and_costs_no_trial(tmp_path):
    trained = []

    def score(arch):
        trained.append(arch)
        return 0.5

    candidates = explore(tmp_path, score=score, price=priced, trials=8)
    skipped = [c.arch for c in candidates if c.status == "skipped"]
    assert len(trained) == 8
    assert skipped
    assert all(len(arch.blocks) == 3 for arch in skipped)
    assert all(len(arch.blocks) == 2 for arch in trained)
    assert len(set(trained + skipped)) == len(candidates)  # no net twice


def test_a_small_space_is_exhausted_not_repeated(tmp_path):
    tiny = replace(SPACE, stem=Choices(width=(4,)), stages=(Choices(width=(4, 8)),), num_stages=(1,))
    assert len(explore(tmp_path, score=lambda arch: 0.5, trials=10, space=tiny)) == 2


def test_evolution_finds_better_nets_than_sampling(tmp_path):
    space = edge_space((28, 28, 1), 10)

    def worth(arch):  # the widest, deepest net of plain convolutions is the best
        return sum(b.width * b.depth * (b.kind == "conv") for b in arch.blocks) / 1000

    evolved = max(c.score for c in explore(tmp_path, score=worth, trials=40, space=space))
    rng = np.random.default_rng(0)
    assert evolved > max(worth(sample(space, rng)) for _ in range(40))


def test_an_error_in_a_training_ends_the_search_as_itself(tmp_path):
    def broken(arch):
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        explore(tmp_path, score=broken)


def test_a_finished_search_can_be_prolonged(tmp_path):
    trained = []

    def score(arch):
        trained.append(arch)
        return 1 / (1 + len(arch.blocks))

    first = explore(tmp_path / "a", score=score, trials=4)
    longer = explore(tmp_path / "a", score=score, trials=7)
    assert len(trained) == 7
    assert longer[:4] == first
    assert timeless(longer) == timeless(explore(tmp_path / "b", score=score, trials=7))


def test_an_interruption_passes_through(tmp_path):
    calls = []

    def interrupted(arch):
        calls.append(arch)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        explore(tmp_path, score=interrupted, trials=4)
    candidates = explore(tmp_path, score=interrupted, trials=4)
    assert len(calls) == 5  # two, the interrupted one, that one again, and the fourth
    assert calls[2] == calls[3] == candidates[2].arch


def test_nothing_fits_tells_what_the_smallest_net_needs(tmp_path):
    def narrow(cost):
        if cost.flash_bytes > 100:
            raise BudgetError("flash_bytes", cost.flash_bytes, 100, "toy", "narrow it")

    # The smallest net: stem 4 and one stage of 4, 8 channels, 100 bytes each.
    with pytest.raises(BudgetError, match="needs 800, device toy has 100; this is the smallest net") as refusal:
        run_search(tmp_path, fits=narrow)
    assert (refusal.value.needed, refusal.value.available) == (800, 100)
    assert estimate(smallest(SPACE)).flash_bytes == 800


def test_the_ceilings_of_the_spec_hold(tmp_path):
    with pytest.raises(BudgetError, match="macs: needs 8,000, device toy has 7,999"):
        run_search(tmp_path, spec=replace(SPEC, max_macs=7999))
    with pytest.raises(BudgetError, match="flash_bytes: needs 800, device toy has 799"):
        run_search(tmp_path / "b", spec=replace(SPEC, max_flash_bytes=799))


GIVEN = ArchSpec(
    name="mine",
    input_shape=(8, 8, 1),
    num_classes=3,
    blocks=(BlockSpec(kind="conv", width=6), BlockSpec(kind="res", width=8)),
)


def test_a_given_net_is_priced_not_searched(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(GIVEN))
    result = run_search(tmp_path / "state", spec=replace(SPEC, arch=str(path)))
    assert result.winner == GIVEN
    assert [(c.status, c.macs, c.score) for c in result.candidates] == [("fits", 14_000, None)]
    assert not (tmp_path / "state").exists()
    with pytest.raises(BudgetError, match=r"macs: needs 14,000, device toy under search.max_macs has 100; raise"):
        run_search(tmp_path, spec=replace(SPEC, arch=str(path), max_macs=100))


@pytest.mark.parametrize(
    ("arch", "complaint"),
    [
        (replace(GIVEN, num_classes=4), "4 classes, but toy has .* 3 classes"),
        (replace(GIVEN, blocks=()), "needs one block or more"),
        (replace(GIVEN, blocks=(BlockSpec(kind="conv", width=0),)), "width.* of 1 or more"),
    ],
)
def test_a_given_net_that_cannot_be_used_is_refused(tmp_path, arch, complaint):
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(arch))
    with pytest.raises(SpecError, match=complaint):
        run_search(tmp_path, spec=replace(SPEC, arch=str(path)))


def test_a_space_of_other_shapes_and_no_epochs_are_refused(tmp_path):
    with pytest.raises(SpecError, match=r"inputs of \[28, 28, 1\], 10 classes, but toy has \[8, 8, 1\], 3 classes"):
        run_search(tmp_path, space=edge_space((28, 28, 1), 10))
    with pytest.raises(SpecError, match=r"search.epochs: got 0, allowed 1 or more"):
        run_search(tmp_path, spec=replace(SPEC, epochs=0))


def candidate(name, score, latency):
    arch = replace(GIVEN, name=name)
    status = "skipped" if score is None else "trained"
    return Candidate(
        arch=arch, macs=1, flash_bytes=1, peak_sram_bytes=1, latency_ms=latency, score=score, status=status
    )


def test_accuracy_first_then_latency_within_the_noise():
    # Best 0.80 on 1600 examples: sqrt(0.8 * 0.2 / 1600) = 0.01, so 0.79 is as good and 0.785 is not.
    best, near, far = candidate("best", 0.80, 9.0), candidate("near", 0.7901, 5.0), candidate("far", 0.785, 1.0)
    skipped = candidate("skipped", None, 0.1)
    assert nas_search.choose((skipped, best, near, far), score_rows=1600) is near
    # On 160,000 examples the noise is 0.001: the best wins.
    assert nas_search.choose((skipped, best, near, far), score_rows=160_000) is best
    # Equal latency: the higher accuracy.
    assert nas_search.choose((near, replace(best, latency_ms=5.0)), score_rows=1600).score == 0.80


def test_write_and_read(whole, tmp_path):
    _, result = whole
    nas_search.write(result, tmp_path)
    assert nas_search.read(tmp_path) == result
    (tmp_path / "candidates.json").write_text("{")
    with pytest.raises(SpecError, match=r"candidates\.json: cannot be read .*; run the search again"):
        nas_search.read(tmp_path)


def test_held_out_rows_are_disjoint_stratified_and_of_the_training_part():
    data = toy_data(600)
    tagged = np.arange(600, dtype=np.int64).view(np.uint8).reshape(600, 8, 1, 1)  # each example carries its row
    data = replace(data, train=Split(x=tagged, y=data.train.y))
    fit, score = held_out(data, rows=300, seed=1)
    rows = [split.x.reshape(len(split), 8).copy().view(np.int64)[:, 0] for split in (fit, score)]
    assert (len(fit), len(score)) == (300, 120)  # a fifth of 600
    assert not set(rows[0]) & set(rows[1])
    assert np.array_equal(data.train.y[rows[0]], fit.y)
    for split in (fit, score):
        shares = np.bincount(split.y) / len(split) - np.bincount(data.train.y) / 600
        assert np.abs(shares).max() <= 2 / len(split)
    assert len(held_out(data, rows=10_000, seed=1)[0]) == 480


def test_every_prefix_of_a_stratified_order_holds_the_shares():
    labels = np.repeat([0, 1], [90, 10]).astype(np.int32)
    order = stratified_order(labels, np.random.default_rng(0))
    assert sorted(order) == list(range(100))
    assert [int((labels[order[:n]] == 1).sum()) for n in (10, 50, 100)] == [1, 5, 10]


def test_too_few_examples_are_named():
    with pytest.raises(DatasetError, match="toy: 4 training examples, the search needs 5 or more"):
        held_out(toy_data(4), rows=10, seed=0)


if __name__ == "__main__":
    run_search(Path(sys.argv[1]), narrator=PrintingNarrator())
