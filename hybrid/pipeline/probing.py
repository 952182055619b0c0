"""The probes of a search: a few nets of the space, trained on their own, from which to learn what training does."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from datasets import Split
from hybrid import fitting
from hybrid.arrays import write_arrays
from hybrid.artifacts import Bools, Floats
from hybrid.cost import Estimate
from hybrid.pipeline.storage import read_arrays
from hybrid.specs import ArchSpec
from hybrid.train import Trainer
from hybrid.units import percent
from nas.growth import Compute, Growth, Probe, learned, probe_nets
from nas.score import paired_error
from nas.search import Pricing
from nas.space import Space, smallest

if TYPE_CHECKING:
    from hybrid.pipeline import Run

STAGE, RIGHT_FILE = "probes", "right.npz"


def growth(
    run: "Run",
    space: Space,
    pricing: Pricing[Estimate],
    *,
    rows: Split,
    cloud: Floats,
    soft: Floats | None,
    outputs: Callable[[ArchSpec], Floats],
) -> Growth:
    """What the probes say of training a net on its own; where none is asked for, what is known without.

    `cloud` are probabilities on the held-out `rows`, `outputs` gives a net's logits on them with shared weights. `soft`
    are the cloud's probabilities on the training split, None where it gives none.
    Raises: HybridError where what is kept of them is damaged.
    """
    known, archs = prior(space, pricing), _nets(run, space, pricing)
    if not archs:
        return known
    alone, cloud_right = _right_alone(run, archs, rows, soft), cloud.argmax(axis=1) == rows.y
    probes = [
        probe(pricing.estimate(arch), outputs(arch).argmax(axis=1) == rows.y, alone[arch.name], cloud_right)
        for arch in archs
    ]
    found = learned(known, probes)
    run.narrator.say(told(found, depthwise=any(one.macs > one.mixing_macs for one in probes)))
    return found


def prior(space: Space, pricing: Pricing[Estimate]) -> Growth:
    """What is known without probes."""
    least = pricing.estimate(smallest(space)).mixing_macs
    return Growth(least_mixing_macs=least, mixing=pricing.spec.macs_exponent)


def count(run: "Run") -> int:
    """How many nets were trained for the search of this run."""
    done = run.folder.is_done(STAGE, run.key(STAGE))
    return len(read_arrays(run.folder.root / STAGE / RIGHT_FILE)) if done else 0


def probe(cost: Compute, shared: Bools, alone: Bools, cloud: Bools) -> Probe:
    """Compare a net with itself: where it is right with shared weights, and alone, and where the cloud is, ``(n,)``."""
    return Probe(
        macs=cost.macs,
        mixing_macs=cost.mixing_macs,
        shared_accuracy=float(shared.mean()),
        mendable=float((~shared & cloud).mean()),
        alone_accuracy=float(alone.mean()),
        gain_error=paired_error(alone, shared),
    )


def told(growth: Growth, *, depthwise: bool) -> str:
    """A growth in words.

    >>> print(told(Growth(mixing=1.0, spatial=0.5), depthwise=True).replace("\u00a0", " "))
    Probes: training leaves the smallest net 100.0 % of its errors; times 0.50 for twice the MACs, 1.41 if depthwise.
    """
    left, twice, on_top = percent(exp(growth.offset)), 2**-growth.mixing, 2**growth.spatial
    said = f"Probes: training leaves the smallest net {left} of its errors; times {twice:.2f} for twice the MACs"
    return said + (f", {on_top:.2f} if depthwise." if depthwise else ".")


def _nets(run: "Run", space: Space, pricing: Pricing[Estimate]) -> tuple[ArchSpec, ...]:
    if not run.spec.search.probes:
        return ()
    return probe_nets(
        space,
        run.spec.search.probes,
        compute=pricing.estimate,
        allowed=pricing.allows,
        seed=run.spec.seed,
    )


def _right_alone(
    run: "Run", archs: Sequence[ArchSpec], rows: Split, soft: Floats | None
) -> dict[str, NDArray[np.bool_]]:
    """Where on `rows` each net is right once it is trained on its own, ``(n,)``, by its name."""

    def make(folder: Path) -> None:
        run.narrator.say(f"Probes: {len(archs)} nets trained on their own, to learn what shared weights do not tell.")
        names = [arch.name for arch in archs]
        write_arrays(folder / RIGHT_FILE, dict(zip(names, _trained(run, archs, rows, soft), strict=True)))

    return read_arrays(run.folder.stage(STAGE, run.key(STAGE), make) / RIGHT_FILE)


def _trained(run: "Run", archs: Sequence[ArchSpec], rows: Split, soft: Floats | None) -> Iterator[Bools]:
    """Train each as an edge is trained, for a shorter while; where on `rows` it is right then, ``(n,)``."""
    short = replace(run.spec.train, edge_epochs=run.spec.search.probe_epochs, rounds=0)
    checkpoints = run.folder.scratch(STAGE, run.key(STAGE))
    spec = replace(run.spec, train=short)
    trainer = Trainer(data=run.data, spec=spec, narrator=run.narrator, checkpoints=checkpoints)
    for number, arch in enumerate(archs, 1):
        net, label = trainer.new_edge(arch), f"probe {number} of {len(archs)}"
        trainer.fit_edge(net, run.data.train, soft, label=label)
        yield fitting.predict(net, rows.x, label=label, narrator=run.narrator).logits.argmax(axis=1) == rows.y
