"""Walks over tensors as the kernels take them: boxes of few dimensions, each with a size and a step."""

from collections.abc import Sequence
from math import prod

BOX = 5
"""Dimensions that the kernels' boxes have."""


def steps_in(shape: Sequence[int]) -> list[int]:
    """How far neighbours along each dimension lie apart in a tensor of this shape, in values.

    >>> steps_in((2, 3, 4))
    [12, 4, 1]
    """
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


def join(rows: list[tuple[int, ...]]) -> list[list[int]]:
    """Join neighbouring dimensions ``(size, step, step...)`` that are walked as one; at least one is left.

    >>> join([(2, 12), (3, 4), (4, 1)])
    [[24], [1]]
    """
    joined: list[tuple[int, ...]] = []
    for row in (row for row in rows if row[0] != 1):
        if joined and all(outer == inner * row[0] for outer, inner in zip(joined[-1][1:], row[1:], strict=True)):
            joined[-1] = (joined[-1][0] * row[0], *row[1:])
        else:
            joined.append(row)
    filled = joined or [(1, *([0] * (len(rows[0]) - 1 if rows else 2)))]
    return [list(column) for column in zip(*filled, strict=True)]


def box(values: Sequence[int], filler: int, rank: int = BOX) -> tuple[int, ...]:
    """Sizes or steps of all dimensions of a box, the outer ones filled up.

    >>> box([4, 3], 1)
    (1, 1, 1, 4, 3)
    """
    return (filler,) * (rank - len(values)) + tuple(values)
