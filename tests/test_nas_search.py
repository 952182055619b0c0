"""The search for a pair: costs before scores, budgets, the choice within the noise, and what lies in the folder."""

import json
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest

from datasets.dataset import Dataset, Split
from hybrid.artifacts import Device
from hybrid.configure import to_toml
from hybrid.errors import BudgetError, SpecError, WorkerDoneError
from hybrid.specs import ArchSpec, BlockSpec, CloudSpec, SearchSpec
from nas import search as nas_search
from nas.candidate import Candidate, PairScore
from nas.finals import layout
from nas.growth import Growth, Lessons
from nas.score import Judge, Offer
from nas.search import Pricing, Scorer
from nas.space import Choices, Space, edge_space, sample, smallest

SPACE = Space(
    input_shape=(8, 8, 1),
    num_classes=3,
    stem=Choices(width=(4, 8), stride=(1, 2)),
    stages=(Choices(kind=("conv", "ds"), width=(4, 8, 12)), Choices(width=(8, 16))),
    num_stages=(1, 2),
)
SPEC = SearchSpec(trials=12, finalists=0)
CLOUDS = (CloudSpec(width=8), CloudSpec(width=64))
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
GIVEN = ArchSpec(
    name="mine",
    input_shape=(8, 8, 1),
    num_classes=3,
    blocks=(BlockSpec(kind="conv", width=6), BlockSpec(kind="res", width=8)),
)
N = 400
LABELS = (np.arange(N) % 3).astype(np.int32)


@dataclass(frozen=True)
class Cost:
    macs: int
    mixing_macs: int
    mixing_layers: int
    flash_bytes: int
    peak_sram_bytes: int


def estimate(arch):
    """Widths alone: enough to order nets."""
    width = sum(block.width for block in arch.blocks)
    layers = sum(block.depth for block in arch.blocks)
    costs = {"flash_bytes": 100 * width, "peak_sram_bytes": width}
    return Cost(macs=1000 * width, mixing_macs=800 * width, mixing_layers=layers, **costs)


def fits(cost):
    if cost.flash_bytes > 2800:
        raise BudgetError("flash_bytes", cost.flash_bytes, 2800, "toy", "narrow it")


def pricing_of(spec=SPEC, *, fits=fits):
    return Pricing(estimate=estimate, fits=fits, latency_ms=lambda cost: cost.macs / 1000, spec=spec, device=BOARD)


def toy_data():
    split = Split(x=np.zeros((N, 8, 8, 1), np.uint8), y=LABELS)
    return Dataset(
        name="toy",
        train=split,
        calibration=split,
        validation=split,
        test=split,
        class_names=("top", "middle", "bottom"),
        licence="none",
        source="made up for tests",
        digest="0" * 64,
        value_range=(0.0, 255.0),
        mirror=True,
    )


def said(sharpness, seed):
    """Logits that are right the more often the sharper they are."""
    return np.random.default_rng(seed).normal(size=(N, 3)) + sharpness * np.eye(3)[LABELS]


def outputs(arch):
    """The wider, the better; the same net says the same."""
    width = sum(block.width for block in arch.blocks)
    return said(width / 10, seed=width).astype(np.float32)


def cloud_offer(sharpness, query_ms, seed=99):
    e = np.exp(said(sharpness, seed))
    return Offer(probabilities=(e / e.sum(axis=1, keepdims=True)).astype(np.float32), query_ms=query_ms)


LESSONS = Lessons(Growth(least_mixing_macs=6400, mixing=0.2))
JUDGE = Judge(labels=LABELS, offers=(cloud_offer(2.0, 100.0), cloud_offer(4.0, 110.0)), min_coverage=0.7)


def looked_at(space, *, price, score, trials, seed, folder, identity, told):
    """A random search that keeps the engine's contract."""
    rng, found = np.random.default_rng(seed), {}
    for _ in range(40 * trials):
        arch = sample(space, rng)
        if arch in found or sum(c.status == "scored" for c in found.values()) == trials:
            continue
        found[arch] = price(arch)
        if found[arch].status == "fits":
            found[arch] = replace(found[arch], score=score(found[arch]), status="scored")
            told(found[arch])
    return tuple(found.values())


class Listening:
    """Keeps what it is told."""

    def __init__(self):
        self.said, self.notes = [], []

    def say(self, text):
        self.said.append(text)

    @contextmanager
    def track(self, label, total):
        yield lambda steps, note: self.notes.append(note)


def run_search(folder, *, spec=SPEC, fits=fits, **changes):
    asked = {
        "judge": JUDGE,
        "outputs": outputs,
        "lessons": LESSONS,
        "alone": outputs,
        "clouds": CLOUDS,
        "explore": looked_at,
        "seed": 5,
        "folder": folder,
        "identity": "toy",
    }
    return nas_search.search(SPACE, pricing=pricing_of(spec, fits=fits), **(asked | changes))


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return run_search(tmp_path_factory.mktemp("search"))


def test_every_candidate_has_its_costs_and_what_fits_its_score(result):
    assert result.counts["scored"] == 12
    assert result.counts["skipped"] > 0
    for c in result.candidates:
        cost = estimate(c.arch)
        assert (c.macs, c.flash_bytes, c.peak_sram_bytes) == (cost.macs, cost.flash_bytes, cost.peak_sram_bytes)
        assert c.latency_ms == cost.macs / 1000
        assert (c.status == "skipped") == (cost.flash_bytes > 2800) == ("narrow it" in c.reason)
        assert (c.score is None) == (c.status == "skipped")
        assert c.score is None or c.score.edge_accuracy <= c.score.hybrid_accuracy <= c.score.bound


def test_the_chosen_pair_is_within_the_noise_of_the_best_and_its_cloud_is_the_better_one(result):
    score = result.chosen.score
    best = max(c.score.hybrid_accuracy for c in result.candidates if c.score)
    assert best - score.hybrid_accuracy <= 2**0.5 * (best * (1 - best) / N) ** 0.5
    assert result.place == score.cloud == 1
    assert result.cloud == CLOUDS[1]
    assert result.front
    assert all(c.score for c in result.front)


def test_the_progress_line_tells_the_best_pair_so_far(tmp_path):
    narrator = Listening()
    found = run_search(tmp_path, narrator=narrator)
    scores = [c.score for c in found.candidates if c.score]
    best = max(scores, key=lambda s: (s.expected_accuracy, -s.mean_latency_ms))
    assert len(narrator.notes) == 12
    assert narrator.notes[0].startswith(f"best pair {scores[0].hybrid_accuracy:.1%} at ")
    assert narrator.notes[-1] == f"best pair {best.hybrid_accuracy:.1%} at {best.mean_latency_ms:.0f} ms"
    (line,) = narrator.said
    assert line.startswith(f"scored 12, {found.counts['skipped']} did not fit; {found.edge.name} goes on: ")


def test_a_worker_has_no_result(tmp_path):
    with pytest.raises(WorkerDoneError, match="the chief of the search has its results"):
        run_search(tmp_path, explore=lambda space, **asked: ())


def test_the_best_finalist_goes_on_even_where_it_was_not_expected_to(tmp_path):
    """Trained on their own, narrower nets are the better ones here, contrary to what shared weights say."""

    def contrary(arch):
        width = sum(block.width for block in arch.blocks)
        return said(4.0 - width / 10, seed=width).astype(np.float32)

    narrator = Listening()
    found = run_search(tmp_path, spec=replace(SPEC, finalists=4), alone=contrary, narrator=narrator)
    before = run_search(tmp_path)
    finalists = found.finalists
    assert len(finalists) == 4 == len({layout(c.arch) for c in finalists})
    assert before.chosen.arch in [c.arch for c in finalists]
    assert found.chosen in finalists
    best = max(c.alone.hybrid_accuracy for c in finalists)
    assert best - found.chosen.alone.hybrid_accuracy <= 2**0.5 * (best * (1 - best) / N) ** 0.5
    assert found.chosen.macs < before.chosen.macs
    assert found.place == found.chosen.alone.cloud
    assert [replace(c, alone=None) for c in found.candidates] == list(before.candidates)
    assert [c.arch for c in found.front] == [c.arch for c in before.front]
    assert set(found.front) <= set(found.candidates)
    assert set(finalists) & set(found.front)
    told = {line.split(" once")[0] for line in narrator.said[:-1]}
    assert told == {f"Finalist {c.arch.name}: {c.alone.hybrid_accuracy:.1%} with the cloud" for c in finalists}
    assert f"{found.edge.name} goes on: {found.chosen.alone.hybrid_accuracy:.1%} with the cloud" in narrator.said[-1]
    nas_search.write(found, tmp_path / "kept")
    assert nas_search.read(tmp_path / "kept") == found


# What fits


def test_nothing_fits_tells_what_the_smallest_net_needs():
    def narrow(cost):
        if cost.flash_bytes > 100:
            raise BudgetError("flash_bytes", cost.flash_bytes, 100, "toy", "narrow it")

    # The smallest net: stem 4 and one stage of 4, 8 channels, 100 bytes each.
    with pytest.raises(BudgetError, match="needs 800, device toy has 100; this is the smallest net") as refusal:
        nas_search.check(SPACE, toy_data(), pricing_of(fits=narrow), seed=0)
    assert (refusal.value.needed, refusal.value.available) == (800, 100)
    assert estimate(smallest(SPACE)).flash_bytes == 800


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ({"max_macs": 7999}, "macs: needs 8,000, device toy under search.max_macs has 7,999"),
        ({"max_flash_bytes": 799}, "flash_bytes: needs 800, device toy under search.max_flash_bytes has 799"),
        ({"max_peak_sram_bytes": 7}, "peak_sram_bytes: needs 8, device toy under search.max_peak_sram_bytes has 7"),
        (
            {"max_latency_ms": 7.5},
            "latency_ms: needs 8, device toy under search.max_latency_ms has 7.5; this is the smallest net",
        ),
    ],
)
def test_a_ceiling_below_the_smallest_net_is_refused_before_anything_is_trained(limits, complaint):
    with pytest.raises(BudgetError, match=complaint):
        nas_search.check(SPACE, toy_data(), pricing_of(replace(SPEC, **limits)), seed=0)


def test_the_ceilings_of_the_spec_skip_what_is_above(tmp_path):
    found = run_search(tmp_path, spec=replace(SPEC, max_latency_ms=20.0, max_macs=18_000))
    scored = [c for c in found.candidates if c.score]
    assert scored
    assert all(c.latency_ms <= 18 for c in scored)
    reasons = {c.reason.partition(":")[0] for c in found.candidates if c.status == "skipped" and c.flash_bytes <= 2800}
    assert reasons == {"macs"}
    slow = pricing_of(replace(SPEC, max_latency_ms=10.0)).price(GIVEN)  # 14 channels, 14 ms
    assert slow.status == "skipped"
    assert slow.reason == (
        "latency_ms: needs 14, device toy under search.max_latency_ms has 10; "
        "raise search.max_latency_ms (0: no ceiling)"
    )


def test_a_space_that_fits_is_let_through_even_where_its_smallest_net_does_not():
    def odd(cost):
        if cost.flash_bytes == 800:
            raise BudgetError("flash_bytes", 800, 0, "toy", "widen it")

    nas_search.check(SPACE, toy_data(), pricing_of(fits=odd), seed=0)


def test_a_space_of_other_shapes_is_refused():
    with pytest.raises(SpecError, match=r"inputs of \[28, 28, 1\], 10 classes, but toy has \[8, 8, 1\], 3 classes"):
        nas_search.check(edge_space((28, 28, 1), 10), toy_data(), pricing_of(), seed=0)


# A net of the user's own


def written(path, arch=GIVEN):
    path.write_text(to_toml(arch))
    return path


def test_a_given_net_is_priced_not_searched(tmp_path):
    path = written(tmp_path / "mine.toml")
    found = nas_search.given(path, toy_data(), pricing_of(), CLOUDS[0])
    assert (found.edge, found.cloud, found.place, found.front) == (GIVEN, CLOUDS[0], 0, ())
    assert [(c.status, c.macs, c.score) for c in found.candidates] == [("fits", 14_000, None)]
    with pytest.raises(BudgetError, match=r"macs: needs 14,000, device toy under search.max_macs has 100; raise"):
        nas_search.given(path, toy_data(), pricing_of(replace(SPEC, max_macs=100)), CLOUDS[0])


@pytest.mark.parametrize(
    ("arch", "complaint"),
    [
        (replace(GIVEN, num_classes=4), "4 classes, but toy has .* 3 classes"),
        (replace(GIVEN, blocks=()), "needs one block or more"),
        (replace(GIVEN, blocks=(BlockSpec(kind="conv", width=0),)), "width.* of 1 or more"),
    ],
)
def test_a_given_net_that_cannot_be_used_is_refused(tmp_path, arch, complaint):
    with pytest.raises(SpecError, match=complaint):
        nas_search.given(written(tmp_path / "mine.toml", arch), toy_data(), pricing_of(), CLOUDS[0])


# The choice


def candidate(name, hybrid_accuracy, mean_latency_ms):
    """With a net of its own, and where it is right: the first rows of 1,000."""
    score = PairScore(
        cloud=0,
        edge_accuracy=0.5,
        hybrid_accuracy=hybrid_accuracy,
        mendable=0.0,
        expected_accuracy=hybrid_accuracy,
        bound=1.0,
        coverage=0.7,
        mean_latency_ms=mean_latency_ms,
    )
    return Candidate(
        arch=replace(GIVEN, name=name),
        macs=1,
        flash_bytes=1,
        peak_sram_bytes=1,
        latency_ms=1.0,
        score=score,
        status="scored",
    )


def nested(c):
    """Right on the first rows: a pair that is less accurate is wrong on some more, and right on no others."""
    return np.arange(1000) < round(1000 * c.score.hybrid_accuracy)


def scattered(c):
    """As often right, but on rows that have nothing to do with those of the others."""
    wrong = np.random.default_rng(len(c.arch.name)).permutation(1000)[round(1000 * c.score.hybrid_accuracy) :]
    right = np.ones(1000, bool)
    right[wrong] = False
    return right


def test_within_the_noise_of_the_same_rows_the_faster_wins():
    best, near, far = candidate("a", 0.900, 90.0), candidate("bb", 0.899, 50.0), candidate("ccc", 0.895, 10.0)
    skipped = replace(candidate("dddd", 1.0, 0.1), score=None, status="skipped")
    # One row of 1,000 differs: error sqrt(0.001 * 0.999 / 1000) = 0.001, as large as the gap (to rounding: tolerance
    # 1.01). Five differ: error 0.0022, gap 0.005.
    assert nas_search.choose((skipped, far, near, best), nested, tolerance=1.01)[0] is near
    # Unrelated rows: nine in a hundred differ twice over, error sqrt(0.18 / 1000) = 0.013, above both gaps.
    assert nas_search.choose((skipped, best, near, far), scattered)[0] is far
    assert nas_search.choose((near, far, best), scattered, tolerance=0)[0] is best


def test_equals_go_to_the_faster_and_then_to_the_first():
    slow, fast, also = candidate("a", 0.9, 9.0), candidate("b", 0.9, 5.0), candidate("c", 0.9, 5.0)
    assert nas_search.choose((slow, fast, also), nested, tolerance=0)[0] is fast


def test_a_slower_pair_is_never_chosen_for_noise():
    best, slower = candidate("a", 0.9, 9.0), candidate("b", 0.899, 10.0)
    assert nas_search.choose((slower, best), scattered, tolerance=9)[0] is best


def test_where_pairs_are_right_is_remembered_or_scored_again():
    asked = []

    def counted(arch):
        asked.append(arch)
        return outputs(arch)

    scorer, one = Scorer(judge=JUDGE, outputs=counted), pricing_of().price(smallest(SPACE))
    score = scorer.score(one)
    assert scorer.right(one).mean() == pytest.approx(score.hybrid_accuracy)
    assert len(asked) == 1
    other = Scorer(judge=JUDGE, outputs=counted)  # as after an interruption, or where a worker scored it
    assert (other.right(one) == scorer.right(one)).all()
    assert len(asked) == 2


def test_of_equals_with_shared_weights_more_is_expected_of_the_one_that_computes_more(result, tmp_path):
    one = pricing_of().price(smallest(SPACE))
    small, large = (
        Scorer(judge=JUDGE, outputs=outputs, errors_left=lambda arch, left=left: left).score(one) for left in (1.0, 0.5)
    )
    assert small.expected_accuracy == small.hybrid_accuracy == large.hybrid_accuracy < 1
    assert small.hybrid_accuracy < large.expected_accuracy <= (1 + small.hybrid_accuracy) / 2
    gains = [c.score.expected_accuracy - c.score.hybrid_accuracy for c in result.candidates if c.score]
    assert min(gains) >= 0
    assert max(gains) > 0
    as_they_are = run_search(tmp_path, lessons=Lessons(Growth()))
    assert all(c.score.expected_accuracy == c.score.hybrid_accuracy for c in as_they_are.candidates if c.score)


def test_logits_that_are_no_numbers_are_refused():
    scorer = Scorer(judge=JUDGE, outputs=lambda arch: np.full((N, 3), np.nan, np.float32))
    with pytest.raises(SpecError, match=r"edge-.*: its logits with shared weights are not finite; the supernet's"):
        scorer.score(pricing_of().price(smallest(SPACE)))


def test_where_no_net_can_be_scored_the_reason_of_the_first_is_told(tmp_path):
    def never(space, *, price, **_):
        return (replace(price(smallest(space)), status="skipped", reason="too slow to score"),)

    with pytest.raises(SpecError, match=r"search: no net was scored; edge-\w+: too slow to score"):
        run_search(tmp_path, explore=never)


# The folder


def test_write_and_read(result, tmp_path):
    nas_search.write(result, tmp_path)
    assert nas_search.read(tmp_path) == result
    assert {path.name for path in tmp_path.iterdir()} == {"candidates.json", "pareto.json", "edge.toml", "cloud.toml"}
    front = json.loads((tmp_path / "pareto.json").read_text())
    assert [c["arch"]["name"] for c in front] == [c.arch.name for c in result.front]
    (tmp_path / "edge.toml").write_text(to_toml(GIVEN))
    with pytest.raises(SpecError, match=r"edge\.toml: is no candidate of this search"):
        nas_search.read(tmp_path)
    (tmp_path / "candidates.json").write_text("{")
    with pytest.raises(
        SpecError, match=r"candidates\.json: cannot be read .*; delete .*, then give the same command again"
    ):
        nas_search.read(tmp_path)
