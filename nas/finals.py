"""The last word of a search: its best nets, each of another layout, are trained on their own; the best of them goes on.

What a search expects of a net is a law's opinion, and evolution ends in a crowd of nets that resemble each other and
share that opinion's error. So the finalists are taken one by one: the best by the law among layouts that were not yet
tried, after which the law has learned from that net as well.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hybrid.artifacts import Bools, Floats
from hybrid.specs import ArchSpec
from nas.candidate import Candidate
from nas.growth import Compute, Lessons, probe
from nas.score import Scorer

Alone = Callable[[ArchSpec], Floats]
"""Logits ``(n, num_classes)`` of a net on the judge's rows, after a short training on its own."""


@dataclass(frozen=True, kw_only=True)
class Final:
    """A candidate whose score `alone` is known, and where that pair is right, ``(n,)``."""

    candidate: Candidate
    right: Bools


def finals(
    candidates: Sequence[Candidate],
    count: int,
    *,
    scorer: Scorer,
    lessons: Lessons,
    compute: Callable[[ArchSpec], Compute],
    alone: Alone,
) -> Iterator[Final]:
    """Train `count` of the scored candidates, fewer where fewer differ in layout; the best by the law comes first."""
    left = [(candidate, candidate.score) for candidate in candidates if candidate.score is not None]
    for _ in range(count):
        if not left:
            return
        growth = lessons.growth
        best, _score = max(left, key=lambda pair: pair[1].expected(growth.errors_left(compute(pair[0].arch))))
        logits = alone(best.arch)
        judged = scorer.judge.judge(logits, best.latency_ms)
        labels, cloud = scorer.judge.labels, scorer.judge.offers[judged.score.cloud].probabilities
        shared_right, alone_right = (said.argmax(axis=1) == labels for said in (scorer.outputs(best.arch), logits))
        lesson = probe(compute(best.arch), shared_right, alone_right, cloud.argmax(axis=1) == labels)
        lessons = lessons.with_probe(lesson)
        left = [pair for pair in left if layout(pair[0].arch) != layout(best.arch)]
        yield Final(candidate=replace(best, alone=judged.score), right=judged.right)


def layout(arch: ArchSpec) -> tuple[Any, ...]:
    """What makes nets of one kind to look at: all but widths, kernels and expansions."""
    return arch.input_pool, arch.grey, *((block.kind, block.stride, block.depth) for block in arch.blocks)
