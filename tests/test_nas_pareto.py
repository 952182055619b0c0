"""NSGA-II by hand: fronts, crowding, and the set that none is better than."""

import numpy as np
import pytest

from hybrid.specs import ArchSpec, BlockSpec
from nas.candidate import Candidate, PairScore
from nas.pareto import crowding, fronts, objectives, pareto_set, ranking


def net(accuracy, latency_ms=1.0, sram=1, flash=1):
    arch = ArchSpec(name="toy", input_shape=(8, 8, 1), num_classes=3, blocks=(BlockSpec(kind="conv", width=4),))
    score = None
    if accuracy is not None:
        score = PairScore(
            cloud=0,
            edge_accuracy=0.5,
            hybrid_accuracy=accuracy,
            mendable=0.0,
            expected_accuracy=accuracy,
            bound=1.0,
            coverage=0.7,
            mean_latency_ms=9.0,
        )
    return Candidate(
        arch=arch, macs=1, flash_bytes=flash, peak_sram_bytes=sram, latency_ms=latency_ms, score=score, status="scored"
    )


def test_fronts_peel_off_one_by_one():
    # a and b are each better in one; c is worse than b in both; d than c; e equals a.
    a, b, c, d = (1, 4), (2, 2), (3, 3), (4, 4)
    assert fronts(np.array([a, b, c, d, a], float)).tolist() == [0, 0, 1, 2, 0]
    assert fronts(np.zeros((0, 2))).tolist() == []


def test_the_first_front_is_what_a_search_of_all_pairs_finds():
    values = np.random.default_rng(0).integers(0, 6, (80, 3)).astype(float)
    front = fronts(values)
    for rank in range(front.max() + 1):
        rest = values[front >= rank]
        for row, found in zip(values[front >= rank], front[front >= rank], strict=True):
            beaten = any((other <= row).all() and (other < row).any() for other in rest)
            assert beaten == (found > rank)


def test_crowding_adds_the_gaps_between_neighbours():
    # One front of four: x 0, 1, 3, 4 and y 8, 4, 2, 0. Of the second: (3 - 0) / 4 + (8 - 2) / 8 = 1.5; of the
    # third: (4 - 1) / 4 + (4 - 0) / 8 = 1.25; the ends have one neighbour only.
    values = np.array([[0, 8], [1, 4], [3, 2], [4, 0]], float)
    assert crowding(values, np.zeros(4, int)).tolist() == [np.inf, 1.5, 1.25, np.inf]


def test_crowding_looks_at_each_front_alone_and_at_equal_values():
    values = np.array([[0, 8], [5, 9], [4, 0], [2, 4], [9, 9]], float)
    # (2, 4) between (0, 8) and (4, 0): 4 / 4 + 8 / 8; two make up the other front.
    assert crowding(values, np.array([0, 1, 0, 0, 1])).tolist() == [np.inf, np.inf, np.inf, 2.0, np.inf]
    assert crowding(np.ones((3, 2)), np.zeros(3, int))[1] == 0


def test_accuracy_counts_up_and_costs_down():
    assert objectives([net(0.9, 2.0, 3, 4)]).tolist() == [[-0.9, 2.0, 3.0, 4.0]]
    best, as_good, slower, smaller, none = net(0.9), net(0.9), net(0.9, latency_ms=2.0), net(0.1, flash=0), net(None)
    assert pareto_set([slower, best, none, as_good, smaller]) == (best, as_good, smaller)
    assert pareto_set([none]) == ()


@pytest.mark.parametrize("costs", [{"latency_ms": 2.0}, {"sram": 2}, {"flash": 2}])
def test_each_cost_alone_can_lose(costs):
    assert ranking([net(0.5, **costs), net(0.5)]).tolist() == [1, 0]


def test_ranking_is_by_front_then_by_room():
    # A line of four that trade accuracy for latency, and one behind: of the two in the middle the less crowded first.
    line = [net(0.1, 1.0), net(0.2, 2.0), net(0.3, 5.0), net(0.9, 9.0)]
    behind = net(0.05, 8.0)
    # Second: (0.3 - 0.1) / 0.8 + (5 - 1) / 8 = 0.75; third: (0.9 - 0.2) / 0.8 + (9 - 2) / 8 = 1.75.
    assert ranking([behind, *line]).tolist() == [1, 4, 3, 2, 0]
