"""The nets of a search that are trained on their own for a short while.

Before it the probes, a few nets of the space, from which to learn what training does; behind it the finalists.
"""

import shutil
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
from hybrid.files import whole
from hybrid.pipeline.folder import digest
from hybrid.pipeline.storage import read_arrays
from hybrid.specs import ArchSpec, RunSpec, TrainSpec
from hybrid.train import Trainer
from hybrid.units import percent
from nas.finals import Alone
from nas.growth import Growth, Lessons, probe, probe_nets
from nas.search import Pricing
from nas.space import Space, smallest

if TYPE_CHECKING:
    from hybrid.pipeline import Run

STAGE, RIGHT_FILE, LOGITS = "probes", "right.npz", "logits"


def lessons(
    run: "Run",
    space: Space,
    pricing: Pricing[Estimate],
    *,
    rows: Split,
    cloud: Floats,
    soft: Floats | None,
    outputs: Callable[[ArchSpec], Floats],
) -> Lessons:
    """What is known of training a net on its own, and what the probes say of it; there may be none.

    `cloud` are probabilities on the held-out `rows`, `outputs` gives a net's logits on them with shared weights. `soft`
    are the cloud's probabilities on the training split, None where it gives none.
    Raises: HybridError where what is kept of them is damaged.
    """
    known, archs = Lessons(prior(space, pricing)), _nets(run, space, pricing)
    if not archs:
        return known
    alone, cloud_right = _right_alone(run, archs, rows, soft), cloud.argmax(axis=1) == rows.y
    probes = tuple(
        probe(pricing.estimate(arch), outputs(arch).argmax(axis=1) == rows.y, alone[arch.name], cloud_right)
        for arch in archs
    )
    found = replace(known, probes=probes)
    run.narrator.say(told(found.growth, depthwise=any(one.macs > one.mixing_macs for one in probes)))
    return found


def prior(space: Space, pricing: Pricing[Estimate]) -> Growth:
    """What is known without probes."""
    least = pricing.estimate(smallest(space))
    return Growth(
        least_mixing_macs=least.mixing_macs,
        least_mixing_layers=least.mixing_layers,
        mixing=pricing.spec.macs_exponent,
    )


def count(run: "Run") -> int:
    """How many nets were trained for the search of this run."""
    done = run.folder.is_done(STAGE, run.key(STAGE))
    return len(read_arrays(run.folder.root / STAGE / RIGHT_FILE)) if done else 0


def told(growth: Growth, *, depthwise: bool) -> str:
    """A growth in words.

    >>> print(told(Growth(mixing=1.0, spatial=0.5, depth=-1.0), depthwise=True).replace("\u00a0", " "))
    Probes: the smallest net keeps 100.0 % of its errors; times 0.50 at twice the MACs, 2.00 the layers, 1.41 depthwise.
    """
    kept, macs, layers = percent(exp(growth.offset)), 2**-growth.mixing, 2**-growth.depth
    said = f"Probes: the smallest net keeps {kept} of its errors; times {macs:.2f} at twice the MACs"
    return f"{said}, {layers:.2f} the layers" + (f", {2**growth.spatial:.2f} depthwise." if depthwise else ".")


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
    """Where on `rows` each net is right once it is trained, ``(n,)``."""
    begun = run.folder.scratch(STAGE, run.key(STAGE))
    for number, arch in enumerate(archs, 1):
        logits = _logits(run, arch, rows, soft, begun=begun, label=f"probe {number} of {len(archs)}")
        yield logits.argmax(axis=1) == rows.y


def recipe(spec: RunSpec) -> TrainSpec:
    """How an edge is trained, for a shorter while."""
    return replace(spec.train, edge_epochs=spec.search.probe_epochs, rounds=0, round_epochs=1)


def _logits(run: "Run", arch: ArchSpec, rows: Split, soft: Floats | None, *, begun: Path, label: str) -> Floats:
    """What a net says of `rows` once it is trained, ``(n, num_classes)``; in `begun` is kept how far it came."""
    spec = replace(run.spec, train=recipe(run.spec))
    trainer = Trainer(data=run.data, spec=spec, narrator=run.narrator, checkpoints=begun)
    net = trainer.new_edge(arch)
    trainer.fit_edge(net, run.data.train, soft, label=label)
    return fitting.predict(net, rows.x, label=label, narrator=run.narrator).logits


def finalist(run: "Run", folder: Path, *, rows: Split, soft: Floats | None) -> Alone:
    """Training of a finalist as of a probe; what it says then is kept in `folder`, for the search may be prolonged.

    It raises HybridError where what is kept is damaged.
    """

    def alone(arch: ArchSpec) -> Floats:
        path = folder / digest(recipe(run.spec))[:12] / f"{arch.name}.npz"
        if not path.is_file():
            begun = path.with_suffix(".begun")
            logits = _logits(run, arch, rows, soft, begun=begun, label=f"finalist {arch.name}")
            with whole(path) as work:
                write_arrays(work, {LOGITS: logits})
            shutil.rmtree(begun)
        return read_arrays(path)[LOGITS]

    return alone
