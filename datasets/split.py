"""Stratified division: every split has each class in (nearly) the same share."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from datasets.errors import DatasetError

Indices = NDArray[np.int64]


def shares(counts: Indices, total: int) -> Indices:
    """Divide `total` among classes in proportion to their `counts` ``(num_classes,)``, by largest remainder.

    Every class gets at least one and at most what it has, so that the sum is `total` for totals from the number of
    classes up to the number of examples.

    >>> shares(np.array([50, 30, 20]), 7).tolist()  # exact: 3.5, 2.1, 1.4
    [4, 2, 1]
    """
    quota = total * counts / counts.sum()
    above_one = np.maximum(quota - 1, 0)
    spare = max(total - len(counts), 0)
    exact = above_one * (spare / max(above_one.sum(), 1))
    whole = np.floor(exact).astype(np.int64)
    largest_remainder_first = np.argsort(whole - exact, kind="stable")
    whole[largest_remainder_first[: spare - whole.sum()]] += 1
    return np.minimum(1 + whole, counts)


def take(y: NDArray[np.int32], per_class: Indices, order: Indices) -> tuple[Indices, Indices]:
    """Divide the indices `order` into the first ``per_class[c]`` of each class c, and the others; both stay ordered."""
    taken = np.zeros(len(y), bool)
    for label, count in enumerate(per_class):
        taken[order[y[order] == label][:count]] = True
    return order[taken[order]], order[~taken[order]]


def divide(
    y: NDArray[np.int32],
    totals: Sequence[int],
    *,
    class_names: Sequence[str],
    rng: np.random.Generator,
    leave: int = 1,
) -> list[Indices]:
    """Shuffle, then cut off one stratified part per entry of `totals`; the last index array is the rest.

    Each part is shuffled once more: where a part has drawn all it takes of a class, only that class is left early on.
    A part has exactly its total, or less where a class is so small that the later parts would go without it. The rest
    keeps at least `leave` examples of each class.

    Raises: DatasetError for a class with fewer examples than all parts need.
    """
    counts = np.bincount(y, minlength=len(class_names))
    needed = len(totals) + leave
    if counts.min() < needed:
        label = int(counts.argmin())
        raise DatasetError(
            f"class {class_names[label]}: has {counts[label]} examples to divide, needs {needed} to be in every split; "
            "add examples or leave the class out"
        )
    left, order, parts = counts.copy(), rng.permutation(len(y)), []
    for position, total in enumerate(totals):
        per_class = np.minimum(shares(counts, total), left - (len(totals) - 1 - position) - leave)
        left -= per_class
        part, order = take(y, per_class, order)
        parts.append(part)
    return [rng.permutation(part) for part in (*parts, order)]
