"""The probes of a search: a few nets of the space, trained on their own, from which to learn what training does."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Split
from hybrid import fitting
from hybrid.artifacts import Bools, Floats
from hybrid.configure import structure
from hybrid.cost import Estimate
from hybrid.errors import SpecError
from hybrid.specs import ArchSpec
from hybrid.train import Trainer
from hybrid.units import percent
from nas.growth import Growth, Probe, fitted, probe_nets
from nas.search import Pricing
from nas.space import Space, smallest

if TYPE_CHECKING:
    from hybrid.pipeline import Run

STAGE, PROBES_FILE = "probes", "probes.json"


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
    """
    least = pricing.estimate(smallest(space)).mixing_macs
    prior = Growth(least_mixing_macs=least, mixing=run.spec.search.macs_exponent)
    if not run.spec.search.probes:
        return prior

    def make(folder: Path) -> None:
        archs = probe_nets(
            space,
            run.spec.search.probes,
            compute=pricing.estimate,
            allowed=lambda arch: pricing.price(arch).status == "fits",
            seed=run.spec.seed,
        )
        run.narrator.say(f"Probes: {len(archs)} nets trained on their own, to learn what shared weights do not tell.")
        cloud_right = cloud.argmax(axis=1) == rows.y
        probes = []
        for arch, right_alone in zip(archs, _trained(run, archs, rows, soft), strict=True):
            cost, right = pricing.estimate(arch), outputs(arch).argmax(axis=1) == rows.y
            probe = Probe(
                macs=cost.macs,
                mixing_macs=cost.mixing_macs,
                shared_accuracy=float(right.mean()),
                mendable=float((~right & cloud_right).mean()),
                alone_accuracy=float(right_alone.mean()),
            )
            probes.append(probe)
        run.narrator.say(told(fitted(prior, probes)))
        (folder / PROBES_FILE).write_text(json.dumps([asdict(probe) for probe in probes], indent=1), encoding="utf-8")

    folder = run.folder.stage(STAGE, run.key(STAGE), make)
    return fitted(prior, _read(folder))


def told(growth: Growth) -> str:
    """A growth in words.

    >>> print(told(Growth(mixing=1.0, spatial=0.5)).replace("\u00a0", " "))
    Probes: twice the MACs leave 50.0 % of the errors after training, as many depthwise ones on top 141.4 %.
    """
    twice, on_top = percent(2**-growth.mixing), percent(2**growth.spatial)
    return f"Probes: twice the MACs leave {twice} of the errors after training, as many depthwise ones on top {on_top}."


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


def _read(folder: Path) -> tuple[Probe, ...]:
    path = folder / PROBES_FILE
    try:
        return structure(json.loads(path.read_text(encoding="utf-8")), tuple[Probe, ...], where=PROBES_FILE)
    except (OSError, ValueError) as exc:  # SpecError is a ValueError
        raise SpecError(f"{path}: damaged ({exc}); delete {folder} to train the probes anew") from exc
