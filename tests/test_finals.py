"""The finalists of a search: who they are, in which order, and what each teaches about the next."""

from dataclasses import dataclass

import numpy as np
import pytest

from hybrid.specs import ArchSpec, BlockSpec
from nas.candidate import Candidate
from nas.finals import finals, layout
from nas.growth import Growth, Lessons, probe
from nas.score import Judge, Offer, Scorer

N = 1000
LABELS = np.zeros(N, np.int32)


@dataclass(frozen=True)
class Cost:
    macs: int
    mixing_macs: int
    mixing_layers: int


def logits(right):
    """Two classes, right on the first rows of a thousand."""
    return np.where((np.arange(N) < right)[:, None], [1.0, 0.0], [0.0, 1.0]).astype(np.float32)


CLOUD = Offer(probabilities=logits(950), query_ms=1.0)  # right on the first 950
JUDGE = Judge(labels=LABELS, offers=(CLOUD,), min_coverage=1.0)  # the edge alone
MACS = {8: 1_000_000, 12: 2_000_000, 16: 4_000_000}


def net(width, depth, *, stride=1):
    blocks = (BlockSpec(kind="conv", width=8), BlockSpec(kind="ds", width=width, depth=depth, stride=stride))
    name = f"w{width}d{depth}s{stride}"
    return ArchSpec(name=name, input_shape=(8, 8, 1), num_classes=2, blocks=blocks)


def cost(arch):
    macs, depth = MACS[arch.blocks[1].width], arch.blocks[1].depth
    return Cost(macs=macs, mixing_macs=macs, mixing_layers=depth)


SHARED = {net(8, 1): 600, net(12, 1): 620, net(16, 1): 640, net(16, 2): 610, net(12, 2): 620, net(16, 3): 590}
"""How many rows of a thousand nets are right on with shared weights."""


def played(count, trained, *, lessons=None, shared=SHARED):
    """Finals among the nets of `shared`; `trained` says how many rows a net is right on after its own training.

    They take scores as another process kept them: a search that goes on after a kill scores none again.
    """
    scorer = Scorer(judge=JUDGE, outputs=lambda arch: logits(shared[arch]))
    priced = [
        Candidate(arch=arch, macs=cost(arch).macs, flash_bytes=1, peak_sram_bytes=1, latency_ms=1.0) for arch in shared
    ]
    scored = [Candidate(**{**vars(c), "score": scorer.score(c), "status": "scored"}) for c in priced]
    asked, inferred = [], []

    def alone(arch):
        asked.append(arch)
        return logits(trained(arch))

    def outputs(arch):
        inferred.append(arch)
        return logits(shared[arch])

    scorer = Scorer(judge=JUDGE, outputs=outputs)
    lessons = lessons or Lessons(Growth(least_mixing_macs=1_000_000, mixing=0.2))
    skipped = Candidate(arch=net(8, 9), macs=1, flash_bytes=1, peak_sram_bytes=1, latency_ms=1.0, status="skipped")
    found = list(finals([skipped, *scored], count, scorer=scorer, lessons=lessons, compute=cost, alone=alone))
    assert [final.candidate.arch for final in found] == asked == inferred
    return found


def test_each_finalist_is_the_best_of_a_layout_that_was_not_tried():
    found = played(9, lambda arch: SHARED[arch] + 100)
    # Of depth 1 the widest; of depth 2 the wider one: 610 + .24 * 340 > 620 + .13 * 330; three layouts, no ninth net.
    assert [final.candidate.arch.name for final in found] == ["w16d1s1", "w16d2s1", "w16d3s1"]
    assert [final.candidate.alone.hybrid_accuracy for final in found] == [0.74, 0.71, 0.69]
    assert [final.right.sum() for final in found] == [740, 710, 690]
    assert all(final.candidate.score.hybrid_accuracy < 0.65 for final in found)  # stays what it was
    assert [final.candidate.arch.name for final in played(2, SHARED.__getitem__)] == ["w16d1s1", "w16d2s1"]
    assert played(0, SHARED.__getitem__) == []


def test_a_finalist_teaches_the_law_that_picks_the_next():
    """Small nets are known to keep four fifths of their errors; one that computes more turns out to keep them all."""
    shared = {net(16, 1): 640, net(16, 2): 608, net(8, 3): 630}
    smallest = np.arange(N) < 600
    known = probe(cost(net(8, 1)), smallest, np.arange(N) < 670, np.arange(N) < 950)
    lessons = Lessons(Growth(least_mixing_macs=1_000_000, mixing=0.2), (known,) * 3)
    believing = played(2, lambda arch: shared[arch] + 122, shared=shared, lessons=lessons)
    disappointed = played(2, shared.__getitem__, shared=shared, lessons=lessons)
    assert [final.candidate.arch.name for final in believing] == ["w16d1s1", "w16d2s1"]
    assert [final.candidate.arch.name for final in disappointed] == ["w16d1s1", "w8d3s1"]


@pytest.mark.parametrize(
    ("other", "same"), [(net(12, 2), True), (net(16, 3), False), (net(16, 2, stride=2), False), (net(16, 2), True)]
)
def test_a_layout_is_all_but_widths(other, same):
    assert (layout(net(16, 2)) == layout(other)) is same
