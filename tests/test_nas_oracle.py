"""The engine of the search: proposals, the record, going on after a kill, and the leases of workers."""

import errno
import importlib
import importlib.util
import itertools
import os
import resource
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from hybrid.errors import BudgetError, ClusterError, SpecError
from nas.candidate import Candidate, PairScore
from nas.evolution import POPULATION, SAMPLED_FIRST, propose
from nas.journal import Journal
from nas.ledger import MAX_SKIPPED, Ledger, evaluate, from_text, to_text
from nas.oracle import MAX_FAILURES, PairOracle, explore, hyperparameters
from nas.space import Choices, Space, edge_space, genes_of, sample, shrunk, smallest, widened

ROOT = Path(__file__).parent.parent
SPACE = Space(
    input_shape=(8, 8, 1),
    num_classes=3,
    stem=Choices(width=(4, 8), stride=(1, 2)),
    stages=(
        Choices(kind=("conv", "ib"), width=(4, 8, 12), kernel=(3, 5), expansion=(2, 3)),
        Choices(width=(8, 16), kernel=(3, 5)),
    ),
    num_stages=(1, 2),
)
TINY = replace(SPACE, stem=Choices(width=(4,)), stages=(Choices(width=(4, 8)),), num_stages=(1,))


def width(arch):
    return sum(block.width * block.depth * block.expansion for block in arch.blocks)


def price(arch):
    """Widths alone; the widest do not fit."""
    size = width(arch)
    cost = Candidate(arch=arch, macs=1000 * size, flash_bytes=100 * size, peak_sram_bytes=size, latency_ms=size / 3)
    return cost if size <= 50 else replace(cost, status="skipped", reason="too wide")


def fits(arch):
    return price(arch).status == "fits"


def pair(accuracy):
    return PairScore(
        cloud=1,
        edge_accuracy=accuracy / 2,
        hybrid_accuracy=accuracy,
        mendable=0.0,
        expected_accuracy=accuracy,
        bound=1.0,
        coverage=0.7,
        mean_latency_ms=1 / 3,
    )


def score(candidate):
    return pair(width(candidate.arch) / 100 + candidate.arch.blocks[0].stride / 1000)


ASKED = {"price": price, "score": score, "trials": 30, "seed": 5, "identity": "toy"}


def search(folder, space=SPACE, **changes):
    return explore(space, folder=folder, **(ASKED | changes))


def timeless(candidates):
    return [replace(c, seconds=0.0) for c in candidates]


def start(folder, mode):
    """Run this file as a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, str(folder), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)


def counted(scored):
    """A score that notes what it was asked."""
    return lambda candidate: scored.append(candidate.arch) or score(candidate)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, search(folder)


def test_what_does_not_fit_is_recorded_never_scored_and_costs_no_trial(tmp_path):
    asked = []
    candidates = search(tmp_path, score=counted(asked))
    skipped = [c for c in candidates if c.status == "skipped"]
    assert len(asked) == 30
    assert skipped
    assert all(width(c.arch) > 50 and c.reason == "too wide" and c.score is None for c in skipped)
    assert len({*asked, *(c.arch for c in skipped)}) == len(candidates)  # no net twice
    for c in candidates:
        assert timeless([c]) == [
            price(c.arch) if c in skipped else replace(price(c.arch), score=score(c), status="scored")
        ]


def test_the_same_seed_makes_the_same_search_and_another_does_not(whole, tmp_path):
    assert timeless(search(tmp_path / "a")) == timeless(whole[1])
    assert timeless(search(tmp_path / "b", seed=6)) != timeless(whole[1])


def test_a_finished_search_answers_at_once_and_tells_what_it_knew(whole):
    told = []
    assert search(*whole[:1], score=None, told=told.append) == whole[1]
    assert told == [c for c in whole[1] if c.status == "scored"]


def test_a_finished_search_can_be_prolonged_and_shortened(whole, tmp_path):
    asked = []
    search(tmp_path, trials=11)
    assert timeless(search(tmp_path, score=counted(asked))) == timeless(whole[1])
    assert len(asked) == 19
    assert timeless(search(tmp_path, trials=3, score=None)) == timeless(whole[1])


def test_a_killed_search_goes_on_and_ends_like_an_undisturbed_one(whole, tmp_path):
    child = start(tmp_path, "to be killed")
    lines = [child.stdout.readline() for _ in range(5)]
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert all(line.startswith("scored edge-") for line in lines[:4])  # and keras-tuner printed nothing
    assert lines[4] == "waiting\n"

    asked = []
    assert timeless(search(tmp_path, score=counted(asked))) == timeless(whole[1])
    assert len(asked) == 26


def test_a_search_killed_while_it_draws_goes_on_where_it_was(tmp_path):
    """Most nets do not fit, and are recorded on the way to one that does."""

    def searched(folder, killed_at=0):
        calls = itertools.count(1)

        def mostly_too_wide(arch):
            if next(calls) == killed_at:
                raise KeyboardInterrupt
            found = price(arch)
            fits = width(arch) <= 50 and sum(block.kernel * block.stride for block in arch.blocks) % 3 == 0
            return found if fits else replace(found, status="skipped", reason="too wide")

        found = search(folder, price=mostly_too_wide, trials=40)
        return [c.arch for c in found if c.status == "scored"], next(calls) - 1

    whole, calls = searched(tmp_path / "whole")
    for killed_at in range(calls // 2, calls, max(1, calls // 30)):
        folder = tmp_path / str(killed_at)
        with pytest.raises(KeyboardInterrupt):
            searched(folder, killed_at)
        assert searched(folder)[0] == whole


def test_a_torn_last_line_is_dropped(whole, tmp_path):
    text = (whole[0] / "journal.jsonl").read_bytes()
    for end in (3, len(text) // 2, len(text) - 1):  # in the first line, in the middle of some line, before the last \n
        folder = tmp_path / str(end)
        folder.mkdir()
        (folder / "journal.jsonl").write_bytes(text[:end])
        assert timeless(search(folder)) == timeless(whole[1])


def test_other_damage_is_refused_with_its_line(whole, tmp_path):
    lines = (whole[0] / "journal.jsonl").read_bytes().splitlines(keepends=True)
    twice, missing, foreign = [*lines, lines[-1]], lines[:1] + lines[2:], b'{"trial": 0, "candidate": 3}\n'
    path = tmp_path / "journal.jsonl"
    for damaged, complaint in (
        ([*lines[:4], b"\x00\x00\n", *lines[4:]], r"journal\.jsonl, line 5: damaged \(.*\); delete .* to search anew"),
        ([*lines[:2], lines[2][:20] + b"\n"], "line 3: damaged"),
        ([lines[0], b"\xff\n"], "line 2: damaged"),
        ([lines[0], foreign], "line 2"),
        ([b"[]\n"], "line 1"),
        ([b'{"identity": 1}\n'], "line 1"),
        (twice, rf"line {len(twice)}: damaged \(edge-\w+ cannot be here\)"),
        (missing, "cannot be here"),
    ):
        path.write_bytes(b"".join(damaged))
        with pytest.raises(SpecError, match=complaint):
            search(tmp_path)
        assert path.read_bytes() == b"".join(damaged)  # and it is left for a look


def test_a_folder_is_not_taken_for_another_search(whole):
    with pytest.raises(
        SpecError, match=r"another space, data, .*, weights, probes or cloud answers; choose another run folder"
    ):
        search(whole[0], identity="other")


def test_two_searches_do_not_share_a_folder(tmp_path):
    journal = Journal(tmp_path, identity="toy")
    with pytest.raises(SpecError, match="another search is at work here; wait for it, or stop it"):
        search(tmp_path)
    journal.close()
    assert search(tmp_path, trials=1)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match=r"file/search/journal\.jsonl: cannot be opened \(Not a directory\)"):
        search(tmp_path / "file" / "search")


def test_a_full_disk_ends_the_search_with_one_line_and_loses_nothing(whole, tmp_path):
    """The limit on a file's size is met in the middle of a line, as the end of a disk would be."""
    *scored, complaint = start(tmp_path, "9000").communicate()[0].splitlines()
    assert f"journal.jsonl: cannot be written ({os.strerror(errno.EFBIG)}); make room" in complaint
    assert (tmp_path / "journal.jsonl").stat().st_size == 9000

    asked = []
    assert timeless(search(tmp_path, score=counted(asked))) == timeless(whole[1])
    assert len(scored) - 1 <= 30 - len(asked) <= len(scored)


def test_keras_tuner_leaves_no_files_of_its_own(whole):
    assert [path.name for path in whole[0].iterdir()] == ["journal.jsonl"]


def test_a_small_space_is_exhausted_not_repeated(tmp_path):
    assert len(search(tmp_path, space=TINY, trials=10)) == 2


def test_where_nothing_fits_the_smallest_was_tried(tmp_path):
    def hopeless(arch):
        return replace(price(arch), status="skipped", reason="too wide")

    candidates = search(tmp_path, space=edge_space((28, 28, 1), 10), price=hopeless)
    assert {c.status for c in candidates} == {"skipped"}
    assert len(candidates) == MAX_SKIPPED
    assert smallest(TINY) in [c.arch for c in search(tmp_path / "b", space=TINY, price=hopeless)]


def test_no_more_than_so_many_misfits_are_kept(tmp_path):
    def mostly(arch):
        return replace(price(arch), status="fits" if arch.blocks[0].width == arch.blocks[1].width == 8 else "skipped")

    candidates = search(tmp_path, space=replace(edge_space((28, 28, 1), 10), num_stages=(4,)), price=mostly, trials=1)
    assert sum(c.status == "skipped" for c in candidates) <= MAX_SKIPPED


def test_a_budget_error_in_scoring_skips_the_net_and_uses_up_its_trial(tmp_path):
    def narrow(candidate):
        if len(candidate.arch.blocks) == 3:
            raise BudgetError("flash_bytes", 2, 1, "toy", "narrow it")
        return score(candidate)

    candidates = search(tmp_path, score=narrow)
    refused = [c for c in candidates if c.reason.startswith("flash_bytes: needs 2")]
    assert refused
    assert {c.status for c in refused} == {"skipped"}
    assert sum(c.status == "scored" for c in candidates) == 30 - len(refused)
    assert search(tmp_path, score=None) == candidates


def test_another_error_in_scoring_ends_the_search_as_itself(tmp_path):
    def broken(candidate):
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        search(tmp_path, score=broken)
    with pytest.raises(SpecError, match=r"edge-\w+: got a score that is not finite"):
        search(tmp_path, score=lambda candidate: pair(float("nan")))
    assert len([c for c in search(tmp_path) if c.status == "scored"]) == 30


def test_an_interruption_passes_through(tmp_path):
    calls = []

    def interrupted(candidate):
        calls.append(candidate.arch)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(candidate)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, score=interrupted, trials=4)
    candidates = search(tmp_path, score=interrupted, trials=4)
    assert len(calls) == 5  # two, the interrupted one, that one again, and the fourth
    assert calls[2] == calls[3] == [c for c in candidates if c.status == "scored"][2].arch


def test_evolution_finds_better_pairs_than_sampling(tmp_path):
    space = edge_space((28, 28, 1), 10)

    def worth(arch):  # plain convolutions, wide and deep, with large kernels
        return sum(b.width * b.depth * (b.kind == "conv") * b.kernel for b in arch.blocks) / 10_000

    def free(arch):
        return replace(price(arch), status="fits", reason="")

    evolved = search(tmp_path, space=space, price=free, score=lambda c: pair(worth(c.arch)), trials=150)
    rng = np.random.default_rng(0)
    assert max(c.score.hybrid_accuracy for c in evolved) > max(worth(sample(space, rng)) for _ in range(1000))


def scored(arch, accuracy):
    return replace(price(arch), score=pair(accuracy), status="scored")


def test_parents_die_of_age():
    space = edge_space((28, 28, 1), 10)
    rng = np.random.default_rng(0)
    founder = replace(sample(space, rng), name="founder")
    young = [scored(sample(space, rng), 0.1) for _ in range(POPULATION)]

    def kin(population):  # children that have all but a few of the founder's blocks
        children = [
            propose(space, population, (), np.random.default_rng(n), allowed=lambda arch: True) for n in range(400)
        ]
        return sum(sum(a == b for a, b in zip(c.blocks, founder.blocks, strict=False)) >= 3 for c in children)

    assert kin([scored(founder, 0.9), *young[1:]]) > 5 * kin([scored(founder, 0.9), *young]) + 5


def test_half_of_the_children_use_what_the_limits_leave():
    space = edge_space((28, 28, 1), 10)
    rng = np.random.default_rng(0)

    def small_enough(arch):
        return width(arch) <= 400

    population = [scored(shrunk(sample(space, rng), space, rng, small_enough), 0.5) for _ in range(POPULATION)]
    children = [propose(space, population, (), np.random.default_rng(n), allowed=small_enough) for n in range(200)]
    widest = [widened(child, space, rng, small_enough) == child for child in children]
    assert 0.4 < np.mean(widest) < 0.8  # some others are as wide by themselves


def test_the_first_are_drawn_at_random():
    archs = [sample(SPACE, np.random.default_rng(n)) for n in range(SAMPLED_FIRST - 1)]
    few = [scored(arch, 0.5) for arch in archs]
    assert propose(SPACE, few, (), np.random.default_rng(3), allowed=fits) == sample(SPACE, np.random.default_rng(3))


def test_a_candidate_travels_without_loss():
    candidate = evaluate(price(smallest(SPACE)), score)
    assert candidate.score.mean_latency_ms == 1 / 3
    assert from_text(to_text(candidate)) == candidate


def test_every_gene_is_a_hyperparameter():
    names = {hp.name for hp in hyperparameters(SPACE).space}
    drawn = [genes_of(sample(SPACE, np.random.default_rng(n))) for n in range(50)]
    assert set().union(*drawn) <= names


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_ray_is_an_extra_that_says_how_to_get_it():
    with pytest.raises(SpecError, match=r"No module named 'ray'\); install the extra: pip install .*\[ray\]"):
        importlib.import_module("nas.ray_tune")


@pytest.fixture
def chief(tmp_path):
    """An oracle whose clock the test turns: ``chief(hour)`` sets it."""
    time = [0.0]
    with Ledger(SPACE, folder=tmp_path, told=lambda c: None, **(LEDGER | {"trials": 3})) as ledger:
        oracle = PairOracle(ledger, lease_s=60.0, clock=lambda: time[0])
        oracle.turn = lambda now: time.__setitem__(0, now)
        yield oracle


LEDGER = {name: value for name, value in ASKED.items() if name != "score"}


def answer(trial, status="scored", accuracy=0.5):
    """What a worker sends back; the trial that it got is a copy."""
    candidate = from_text(trial.hyperparameters.values["candidate"])
    found = replace(candidate, status=status, score=pair(accuracy) if status == "scored" else None, reason="why")
    back = type(trial)(trial.hyperparameters.copy(), trial_id=trial.trial_id, status="COMPLETED")
    back.hyperparameters.values["candidate"] = to_text(found)
    return back


def test_a_worker_that_asks_again_gets_its_own_trial(chief):
    first = chief.create_trial("a")
    assert chief.create_trial("a").trial_id == first.trial_id == "0"
    assert chief.create_trial("b").trial_id == "1"


def test_a_lease_that_is_over_goes_to_the_next_and_the_first_answer_counts(chief):
    late = chief.create_trial("dead")
    chief.turn(59.0)
    assert chief.create_trial("b").trial_id == "1"
    chief.turn(60.0)
    again = chief.create_trial("c")
    assert again.trial_id == "0"
    chief.end_trial(answer(again, accuracy=0.5))
    chief.end_trial(answer(late, accuracy=0.4))
    chief.end_trial(answer(again, accuracy=0.3))
    assert chief.ledger.candidate(0).score.hybrid_accuracy == 0.5
    assert [trial.trial_id for trial in chief.get_best_trials()] == ["0"]


def test_a_late_answer_counts_while_another_still_works_on_it(chief):
    late = chief.create_trial("slow")
    chief.turn(60.0)
    assert chief.create_trial("b").trial_id == "0"
    chief.end_trial(answer(late))
    assert chief.ledger.candidate(0).status == "scored"
    assert chief.create_trial("b").trial_id == "1"  # its own is settled


def test_who_asks_while_the_last_run_is_told_to_wait_then_to_stop(chief):
    trials = [chief.create_trial(who) for who in "abc"]
    assert chief.create_trial("d").status == "IDLE"
    for trial in trials:
        assert chief.goes_on()
        chief.end_trial(answer(trial))
    assert not chief.goes_on()
    assert chief.create_trial("d").status == "STOPPED"


def test_an_answer_to_what_was_never_asked_is_ignored(chief):
    trial = chief.create_trial("a")
    trial.trial_id = "7"
    chief.end_trial(answer(trial))
    trial.trial_id = "1"
    chief.create_trial("b")
    chief.end_trial(answer(trial))  # another chief's trial 1
    assert chief.ledger.running == (0, 1)


def test_a_failed_trial_goes_to_the_next_who_asks_until_it_failed_too_often(chief):
    for number in range(MAX_FAILURES - 1):
        trial = chief.create_trial(f"worker{number}")
        assert trial.trial_id == "0"
        chief.end_trial(answer(trial, "failed"))
    with pytest.raises(ClusterError, match=r"trial 0 \(edge-\w+\) failed 3 times, last with why; mend that"):
        chief.end_trial(answer(chief.create_trial("last"), "failed"))


def test_proposals_outlive_the_chief(chief, tmp_path):
    trials = [chief.create_trial(who) for who in "ab"]
    chief.ledger.close()
    with Ledger(SPACE, folder=tmp_path, told=lambda c: None, **(LEDGER | {"trials": 3})) as ledger:
        fresh = PairOracle(ledger, lease_s=60.0)
        fresh.end_trial(answer(trials[1]))  # lent by the chief before
        assert ledger.candidate(1).status == "scored"
        again = fresh.create_trial("c")
        assert again.hyperparameters.values == trials[0].hyperparameters.values


def test_keras_tuner_knows_costs_and_scores(chief):
    trial = chief.create_trial("a")
    chief.end_trial(answer(trial, accuracy=0.75))
    best = chief.get_best_trials()[0]
    assert (best.status, best.score) == ("COMPLETED", 0.75)
    candidate = chief.ledger.candidate(0)
    expected = {"macs": candidate.macs, "latency_ms": candidate.latency_ms, "cloud": 1, "hybrid_accuracy": 0.75}
    assert {name: best.metrics.get_best_value(name) for name in expected} == expected
    assert asdict(candidate.score).keys() < best.metrics.metrics.keys()


def score_four_then_wait(candidate):
    if next(CALLS) == 4:
        print("waiting", flush=True)
        signal.pause()
    return score(candidate)


CALLS = itertools.count()


def limit_files(size):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


if __name__ == "__main__":
    killed = sys.argv[2] == "to be killed"
    if not killed:
        limit_files(int(sys.argv[2]))
    asked = score_four_then_wait if killed else score
    try:
        search(
            Path(sys.argv[1]), score=asked, told=lambda candidate: print(f"scored {candidate.arch.name}", flush=True)
        )
    except SpecError as error:
        print(error, flush=True)
