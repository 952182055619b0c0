"""Which nets are best when several things count: non-dominated sorting and crowding distance of NSGA-II.

Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002, sections III-A and III-B.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nas.candidate import Candidate

Values = NDArray[np.float64]


def objectives(candidates: Sequence[Candidate]) -> Values:
    """Return what counts, each to be small, shape ``(n, 4)``: -expected accuracy, latency in ms, SRAM, flash in bytes.

    Every candidate has a score.
    """
    rows = [
        (-c.score.expected_accuracy, c.latency_ms, c.peak_sram_bytes, c.flash_bytes)
        for c in candidates
        if c.score is not None
    ]
    return np.array(rows, dtype=np.float64).reshape(len(rows), 4)


def fronts(values: Values) -> NDArray[np.intp]:
    """Sort rows of `values`, all to be small, into fronts ``(n,)``: 0 is dominated by none, 1 only by those of 0...

    >>> fronts(np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0], [3.0, 3.0]])).tolist()
    [0, 0, 1, 2]
    """
    dominates = _dominates(values)
    dominated_by = dominates.sum(axis=0)
    front = np.full(len(values), -1, dtype=np.intp)
    rank = 0
    while (unranked := front < 0).any():
        best = unranked & (dominated_by == 0)
        front[best] = rank
        dominated_by -= dominates[best].sum(axis=0)
        rank += 1
    return front


def _dominates(values: Values) -> NDArray[np.bool_]:
    """Entry (i, j): row i is nowhere worse than row j and somewhere better."""
    rows, columns = values.shape
    no_worse, better = np.ones((rows, rows), dtype=bool), np.zeros((rows, rows), dtype=bool)
    for column in range(columns):
        one, other = values[:, column, None], values[None, :, column]
        no_worse &= one <= other
        better |= one < other
    return no_worse & better


def crowding(values: Values, front: NDArray[np.intp]) -> Values:
    """Say how far the neighbours in the same front are, ``(n,)``: summed over objectives, as a share of their range.

    The ends of a front have no neighbour on one side, and infinite distance.
    """
    distance = np.zeros(len(values))
    for rank in np.unique(front):
        members = np.flatnonzero(front == rank)
        for column in range(values.shape[1]):
            order = members[np.argsort(values[members, column], kind="stable")]
            ordered = values[order, column]
            distance[order[[0, -1]]] = np.inf
            if (extent := ordered[-1] - ordered[0]) > 0:
                distance[order[1:-1]] += (ordered[2:] - ordered[:-2]) / extent
    return distance


def ranking(candidates: Sequence[Candidate]) -> NDArray[np.intp]:
    """Return the places of `candidates` from best to worst: earlier front first, in a front the least crowded first.

    Every candidate has a score; equals stay in their order.
    """
    values = objectives(candidates)
    front = fronts(values)
    return np.lexsort((-crowding(values, front), front))


def pareto_set(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Return the scored candidates that none is better than in all that counts, in their order."""
    scored = [c for c in candidates if c.score is not None]
    front = fronts(objectives(scored))
    return tuple(candidate for candidate, rank in zip(scored, front, strict=True) if rank == 0)
