"""The engine by itself: what it finds where accuracy is a known law, with and without widening, and random sampling.

The law is the one that five probes taught on CIFAR-10; on top of it every layout and every net has a fortune of its
own, and a net's own is hidden from the truth, as the noise of shared weights is. Nothing is trained.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from hybrid.cost import Estimate
from hybrid.specs import ArchSpec
from nas import evolution
from nas.candidate import Candidate, PairScore
from nas.finals import layout
from nas.growth import Growth
from nas.oracle import explore
from nas.search import Pricing
from nas.space import Space

LAW = Growth(least_mixing_macs=172_512, least_mixing_layers=5, offset=-0.239, mixing=0.283, spatial=0.25, depth=-0.383)
MENDABLE = 0.4
"""Share of answers that are wrong with shared weights, in all nets."""
LAYOUT_SPREAD, NET_SPREAD = 0.004, 0.003
TRIALS, FINALISTS, SEEDS = 500, 3, 20
WAYS: dict[str, dict[str, Any]] = {
    "evolution": {},
    "not_widened": {"WIDENED_SHARE": 0.0},
    "sampled": {"SAMPLED_FIRST": TRIALS},
}


def engine_figures(space: Space, pricing: Pricing[Estimate]) -> dict[str, Any]:
    """For each way the true accuracy of the best of a search's finalists: mean over seeds, and its standard error."""
    made = {}
    for way, constants in WAYS.items():
        with changed(constants):
            best = [100 * best_found(space, pricing, seed) for seed in range(SEEDS)]
        made[way] = {"accuracy_pct": float(np.mean(best)), "standard_error": float(np.std(best, ddof=1) / SEEDS**0.5)}
    return made


def best_found(space: Space, pricing: Pricing[Estimate], seed: int) -> float:
    """The truth about the best of the finalists of one search."""

    def truth(arch: ArchSpec) -> float:
        expected = 1 - MENDABLE * LAW.errors_left(pricing.estimate(arch))
        return expected + LAYOUT_SPREAD * fortune(repr(layout(arch)), seed)

    def score(candidate: Candidate) -> PairScore:
        said = truth(candidate.arch) + NET_SPREAD * fortune(candidate.arch.name, seed)
        return PairScore(
            cloud=0,
            edge_accuracy=said,
            hybrid_accuracy=said,
            mendable=MENDABLE,
            expected_accuracy=said,
            bound=1.0,
            coverage=1.0,
            mean_latency_ms=candidate.latency_ms,
        )

    by_layout: dict[Any, Candidate] = {}
    for candidate in sorted(searched(space, pricing.price, score, seed), key=_merit):
        by_layout.setdefault(layout(candidate.arch), candidate)
    return max(truth(candidate.arch) for candidate in list(by_layout.values())[:FINALISTS])


def searched(
    space: Space, price: Callable[[ArchSpec], Candidate], score: Callable[[Candidate], PairScore], seed: int
) -> list[Candidate]:
    """All that one search scored."""
    with tempfile.TemporaryDirectory() as folder:
        found = explore(
            space, price=price, score=score, trials=TRIALS, seed=seed, folder=Path(folder) / "search", identity="law"
        )
    return [candidate for candidate in found if candidate.score]


def _merit(candidate: Candidate) -> float:
    return -candidate.score.expected_accuracy if candidate.score else 0.0


def fortune(text: str, seed: int) -> float:
    """A normal deviate that belongs to `text`."""
    return float(np.random.default_rng([seed, int(sha256(text.encode()).hexdigest()[:8], 16)]).normal())


@contextmanager
def changed(constants: dict[str, Any]) -> Iterator[None]:
    """The engine with other constants for a while."""
    before = {name: getattr(evolution, name) for name in constants}
    try:
        for name, value in constants.items():
            setattr(evolution, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(evolution, name, value)
