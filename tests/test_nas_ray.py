"""The search run by Ray Tune with two workers on this machine: every trial once, also where another engine began."""

import os
import sys
from dataclasses import replace

import pytest

from hybrid.errors import BudgetError, ClusterError
from nas.candidate import Candidate, PairScore
from nas.oracle import explore
from nas.space import Choices, Space

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow

SPACE = Space(
    input_shape=(8, 8, 1),
    num_classes=3,
    stem=Choices(width=(4, 8), stride=(1, 2)),
    stages=(Choices(kind=("conv", "ds"), width=(4, 8, 12), kernel=(3, 5)), Choices(width=(8, 16), kernel=(3, 5))),
    num_stages=(1, 2),
)


def price(arch):
    width = sum(block.width for block in arch.blocks)
    cost = Candidate(arch=arch, macs=width, flash_bytes=width, peak_sram_bytes=width, latency_ms=width / 3)
    return replace(cost, status="skipped", reason="too wide") if width > 30 else cost


def scoring(*, fails=False):
    """A score that travels to Ray's workers by value: they cannot import this file."""

    def score(candidate):
        if fails:
            raise MemoryError("no room")
        if candidate.arch.blocks[0].width == 8:
            raise BudgetError("flash_bytes", 2, 1, "toy", "narrow it")
        accuracy = candidate.macs / 100 + candidate.arch.blocks[0].stride / 3000
        return PairScore(
            cloud=1,
            edge_accuracy=accuracy / 7,
            hybrid_accuracy=accuracy,
            mendable=0.0,
            expected_accuracy=accuracy,
            bound=1.0,
            coverage=0.7,
            mean_latency_ms=1 / 3,
        )

    return score


@pytest.fixture(scope="module")
def cluster():
    """Two workers; the variable is for their processes, which do not know pytest's path."""
    variables = {"PYTHONPATH": os.pathsep.join(sys.path)}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": variables})
    yield
    ray.shutdown()


def search(folder, **changes):
    from nas.ray_tune import explore_with_ray

    asked = {"price": price, "score": scoring(), "trials": 20, "seed": 5, "identity": "toy"}
    return explore_with_ray(SPACE, folder=folder, **(asked | changes))


@pytest.mark.usefixtures("cluster")
def test_ray_scores_every_trial_once_and_goes_on_with_what_another_engine_began(tmp_path):
    asked = {"price": price, "score": scoring(), "seed": 5, "identity": "toy", "folder": tmp_path}
    begun = explore(SPACE, trials=6, **asked)
    told = []
    candidates = search(tmp_path, told=told.append)
    scored = [c for c in candidates if c.status == "scored"]
    refused = [c for c in candidates if c.reason.startswith("flash_bytes")]
    assert sorted(map(str, scored)) == sorted(map(str, told))
    assert len(scored) + len(refused) == len({c.arch for c in scored + refused}) == 20
    assert len(refused) > len([c for c in refused if c in begun])
    assert all(c in candidates for c in begun)
    assert all(c.score == scoring()(c) for c in scored)  # to the last digit
    assert any(c.reason == "too wide" for c in candidates)
    assert search(tmp_path) == candidates
    assert explore(SPACE, trials=20, **asked) == candidates


@pytest.mark.usefixtures("cluster")
def test_a_score_that_fails_everywhere_ends_the_search_with_its_cause(tmp_path):
    complaint = r"trial \d failed 3 times, last with .*MemoryError: no room; mend that"
    with pytest.raises(ClusterError, match=complaint):
        search(tmp_path, score=scoring(fails=True))
    assert sum(c.seconds > 0 for c in search(tmp_path, trials=4)) == 4
