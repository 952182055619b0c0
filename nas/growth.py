"""How much better is a net once it is trained on its own?  What shared weights do not tell, learned from probes.

A supernet is trained briefly, and that is unfair to some nets: those that compute more learn for longer, and large
depthwise filters do well at once and gain little later. Of the errors with shared weights where the cloud is right,
training a net on its own is taken to leave the share

    exp(offset) * (M0 / M) ** mixing * (A / M) ** spatial * (L0 / L) ** depth,

A being all of its MACs, M those that mix channels (all but the depthwise ones), L the layers that do; M0 and L0 are
those of the space's smallest net. What depth does is not known beforehand: five probes on CIFAR-10, trained for eight
epochs, said that twice the layers for as many MACs leave 1.3 times the errors. Without that term they made the law
expect 1.5 points less of a DS-CNN's layout than of its choice, with it 0.4; trained alone for 40 epochs, the layouts
were level.
`mixing` is known roughly beforehand: over 15 random nets for Fashion-MNIST, Kendall's tau between expected accuracy and
that after training alone was 0.73, 0.69 and 0.65 at coverages of 1, 0.95 and 0.85 with a power of 0.2, which was chosen
on other nets; 0.55, 0.43 and 0.58 without. Since supernets start near the identity it is 0.83 with it and 0.76 without,
at a coverage of 1, over 16 others. Where probes are asked for, all four are fitted to them: nets of the space that are
trained on their own before the search. It is a Bayesian linear regression of the logarithm, for a few probes must not
say too much.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import exp, hypot, log
from typing import Protocol

import numpy as np

from hybrid.artifacts import Bools
from hybrid.specs import ArchSpec
from nas.score import paired_error
from nas.space import Space, sample, shrunk, smallest, widened

POOL = 64
"""Nets from which the probes are picked: one half drawn, one half widened to the limits, near which the best net lies.
Growing all choices would end in nets of large kernels and many layers, too narrow to tell of those that matter."""
PRIOR_SPREAD = (1.0, 0.1, 0.5, 0.3)
"""Standard deviations of offset, mixing, spatial and depth before any probe. Of trained nets `mixing` came out 0.2 on
Fashion-MNIST and 0.27 on CIFAR-10."""
LUCK = 0.05
"""Standard deviation of a probe's logarithm that more examples would not take away: one training's luck, and what the
law does not know. That of the accuracies comes on top."""
LEAST_LEFT, MOST_LEFT = 0.05, 2.0
"""Bounds of a share, for its logarithm's sake: a probe may gain more than the cloud knows better, or lose."""
DECIMALS = 4
_TINY = 1e-9


class Compute(Protocol):
    """What must be known of a net."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""

    @property
    def mixing_macs(self) -> int:
        """Those that mix channels: of all layers but the depthwise ones."""

    @property
    def mixing_layers(self) -> int:
        """How many layers do."""


@dataclass(frozen=True, kw_only=True)
class Growth:
    """The share of its errors that a net keeps, by what it computes."""

    least_mixing_macs: int = 1
    least_mixing_layers: int = 1
    offset: float = 0.0
    """Logarithm of the share that the smallest net keeps, without depthwise layers."""
    mixing: float = 0.0
    """Power by which the share falls with the MACs that mix channels; known beforehand as `search.macs_exponent`."""
    spatial: float = 0.0
    """Power by which it rises with all MACs in terms of those."""
    depth: float = 0.0
    """Power by which it falls with the layers that mix channels."""

    def errors_left(self, net: Compute) -> float:
        """The share, above 0 and at most `MOST_LEFT`: a net may come out worse than it is with shared weights.

        >>> from types import SimpleNamespace
        >>> net = SimpleNamespace(macs=12_000_000, mixing_macs=8_000_000, mixing_layers=8)
        >>> round(Growth(least_mixing_macs=1_000_000, mixing=1 / 3).errors_left(net), 9)
        0.5
        >>> round(Growth(least_mixing_macs=1_000_000, mixing=1 / 3, spatial=1.0).errors_left(net), 9)
        0.75
        >>> round(Growth(least_mixing_layers=4, depth=2.0).errors_left(net), 9)
        0.25
        """
        parts = zip(_terms(self, net), self.powers, strict=True)
        return exp(min(log(MOST_LEFT), sum(term * power for term, power in parts)))

    @property
    def powers(self) -> tuple[float, float, float, float]:
        """Offset, mixing, spatial and depth."""
        return self.offset, self.mixing, self.spatial, self.depth


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A net that was trained on its own for a while, and what it was with shared weights; shares of the same rows."""

    macs: int
    mixing_macs: int
    mixing_layers: int
    shared_accuracy: float
    mendable: float
    """Where it is wrong with shared weights and the cloud is right."""
    alone_accuracy: float
    gain_error: float
    """Standard error of what it gained."""

    @property
    def errors_left(self) -> float:
        """Share of the mendable errors that its own training left, in all: what it lost elsewhere counts as well."""
        gain = self.alone_accuracy - self.shared_accuracy
        return min(MOST_LEFT, max(LEAST_LEFT, 1.0 - gain / max(self.mendable, _TINY)))

    @property
    def noise(self) -> float:
        """Standard deviation of the logarithm of that; a probe with hardly an error to mend says hardly anything."""
        return hypot(LUCK, self.gain_error / max(self.mendable * self.errors_left, _TINY))


def probe(cost: Compute, shared: Bools, alone: Bools, cloud: Bools) -> Probe:
    """Compare a net with itself: where it is right with shared weights, and alone, and where the cloud is, ``(n,)``."""
    return Probe(
        macs=cost.macs,
        mixing_macs=cost.mixing_macs,
        mixing_layers=cost.mixing_layers,
        shared_accuracy=float(shared.mean()),
        mendable=float((~shared & cloud).mean()),
        alone_accuracy=float(alone.mean()),
        gain_error=paired_error(alone, shared),
    )


@dataclass(frozen=True)
class Lessons:
    """What is known of growth: beforehand, and from nets that were trained on their own."""

    prior: Growth
    probes: tuple[Probe, ...] = ()

    @cached_property
    def growth(self) -> Growth:
        """The growth that both together make likeliest."""
        return learned(self.prior, self.probes)

    def with_probe(self, probe: Probe) -> "Lessons":
        """One more lesson."""
        return replace(self, probes=(*self.probes, probe))


def learned(prior: Growth, probes: Sequence[Probe]) -> Growth:
    """Return the growth that `prior` and `probes` together make likeliest.

    It is rounded, for all machines of a search must come to the same from the same probes.
    """
    if not probes:
        return prior
    x = np.array([_terms(prior, probe) for probe in probes])
    before = np.array(prior.powers)
    surprise = np.array([log(probe.errors_left) for probe in probes]) - x @ before
    weight = np.array([probe.noise for probe in probes]) ** -2
    precision = (x.T * weight) @ x + np.diag([1.0 / spread**2 for spread in PRIOR_SPREAD])
    after = before + np.linalg.solve(precision, x.T @ (weight * surprise))
    offset, mixing, spatial, depth = (round(float(value), DECIMALS) for value in after)
    return replace(prior, offset=offset, mixing=mixing, spatial=spatial, depth=depth)


def _terms(growth: Growth, net: Compute) -> tuple[float, float, float, float]:
    """What offset, mixing, spatial and depth are multiplied by."""
    return (
        1.0,
        -log(max(net.mixing_macs / growth.least_mixing_macs, 1.0)),
        log(max(net.macs / max(net.mixing_macs, 1), 1.0)),
        -log(max(net.mixing_layers / growth.least_mixing_layers, 1.0)),
    )


def probe_nets(
    space: Space,
    count: int,
    *,
    compute: Callable[[ArchSpec], Compute],
    allowed: Callable[[ArchSpec], bool],
    seed: int,
) -> tuple[ArchSpec, ...]:
    """Pick `count` nets that fit and tell most of a growth: each as unlike those before it as the pool has.

    The first is the one that mixes channels most; fewer where the pool has fewer that differ.
    """
    rng = np.random.default_rng([seed, 2])
    drawn = [shrunk(sample(space, rng), space, rng, allowed) for _ in range(POOL)]
    drawn = [arch for arch in drawn if allowed(arch)] or [arch for arch in [smallest(space)] if allowed(arch)]
    half_widened = (widened(arch, space, rng, allowed) if index % 2 else arch for index, arch in enumerate(drawn))
    pool = list(dict.fromkeys(half_widened))
    if not pool:
        return ()
    terms = np.array([_terms(Growth(), compute(arch))[1:] for arch in pool])
    terms = (terms - terms.mean(axis=0)) / np.maximum(terms.std(axis=0), 1e-9)
    picked = [int(np.argmin(terms[:, 0]))]
    while len(picked) < count:
        apart = np.min([np.linalg.norm(terms - terms[place], axis=1) for place in picked], axis=0)
        if apart.max() <= 0:
            break
        picked.append(int(np.argmax(apart)))
    return tuple(pool[place] for place in picked[:count])
