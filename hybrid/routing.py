"""From int8 nets to what the device runs: a router for each stage, all on one score scale, and where to look again.

Routers are fitted and chosen on the validation split, with the training split beside it where the spec asks for that;
the calibration split is left to the threshold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from datasets import Split
from hybrid.artifacts import Floats
from hybrid.cascade import NEVER, DeviceProgram, Mix, Stage, combined, mix_of
from hybrid.cost import flatbuffer_macs
from hybrid.device_router import StoredOutputs, program_routers
from hybrid.flatbuffers import Graph
from hybrid.look import mix_weights, reads
from hybrid.predict import StageOutputs, stage_outputs, trunk_of
from hybrid.progress import Narrator
from hybrid.quantize import Int8Edge
from hybrid.router import Chosen, choose
from hybrid.specs import RouterSpec, RunSpec
from hybrid.supervision import Evidence

MACS_SHARE = 0.02
"""Most multiply-accumulates of a router, as a share of its net's."""
LEAST_PARAMETERS = 64
"""A router of the confidences alone; a net too small for it is hardly worth one."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Examples, and the cloud's probabilities for them, ``(n, num_classes)``."""

    split: Split
    cloud: Floats


@dataclass(frozen=True, kw_only=True)
class Routed:
    """The device program; of each stage's router its kind and what every candidate reached in cross-validation."""

    program: DeviceProgram
    kinds: tuple[str, ...]
    nauc: tuple[Mapping[str, float], ...]

    @property
    def kind(self) -> str:
        """Kind of the router that judges last."""
        return self.kinds[-1]


def route(nets: Sequence[Int8Edge], held_out: Rows, extra: Rows | None, spec: RunSpec, *, narrator: Narrator) -> Routed:
    """Fit, choose and quantise a router for each of `nets`, and set where the next stage looks again."""
    held = _outputs(nets, held_out, spec, "held out", narrator)
    mixes = _mixes(nets, held, spec)
    further = None if extra is None else _outputs(nets, extra, spec, "further examples", narrator)
    chosen = []
    for stage in range(len(nets)):
        learned = None if extra is None or further is None else _evidence(extra, further, mixes, stage)
        evidence = _evidence(held_out, held, mixes, stage)
        small = _affordable(spec.router, nets[stage])
        chosen.append(choose(evidence, learned, small, seed=spec.seed + stage, narrator=narrator))
    program = _program(nets, mixes, chosen, held, spec)
    return Routed(
        program=program,
        kinds=tuple(one.kind for one in chosen),
        nauc=tuple({kind: reached.mean for kind, reached in one.reached.items()} for one in chosen),
    )


def _affordable(spec: RouterSpec, net: Int8Edge) -> RouterSpec:
    """Bound the router by `MACS_SHARE` of its net as well; a parameter is about one multiply-accumulate."""
    macs = sum(flatbuffer_macs(net.flatbuffer).values())
    return replace(spec, max_parameters=max(LEAST_PARAMETERS, min(spec.max_parameters, int(MACS_SHARE * macs))))


def _outputs(nets: Sequence[Int8Edge], rows: Rows, spec: RunSpec, label: str, narrator: Narrator) -> list[StageOutputs]:
    """What every net says of every row, whether it would run there or not."""
    said: list[StageOutputs] = []
    for index, net in enumerate(nets):
        x = rows.split.x if reads(spec.look, index) == "image" else trunk_of(said[-1])
        said.append(stage_outputs(net.flatbuffer, x, label=f"stage {index}, {label}", narrator=narrator))
    return said


def _mixes(nets: Sequence[Int8Edge], held: Sequence[StageOutputs], spec: RunSpec) -> list[Mix]:
    affines = [Graph(net.flatbuffer).edge_outputs().logits_affine for net in nets]
    logits = [outputs.own.logits for outputs in held]
    return [
        mix_of(affines[: stage + 1], mix_weights(spec.look, stage), logits[: stage + 1]) for stage in range(len(nets))
    ]


def _stored(said: Sequence[StageOutputs], mixes: Sequence[Mix], stage: int) -> StoredOutputs:
    return combined(mixes[stage], [outputs.own for outputs in said[: stage + 1]])


def _evidence(rows: Rows, said: Sequence[StageOutputs], mixes: Sequence[Mix], stage: int) -> Evidence:
    return Evidence(stored=_stored(said, mixes, stage), labels=rows.split.y, cloud_probabilities=rows.cloud)


def _program(
    nets: Sequence[Int8Edge],
    mixes: Sequence[Mix],
    chosen: Sequence[Chosen],
    held: Sequence[StageOutputs],
    spec: RunSpec,
) -> DeviceProgram:
    stored = [_stored(held, mixes, stage) for stage in range(len(nets))]
    reached = _reached([one.net.raw(outputs) for one, outputs in zip(chosen, stored, strict=True)], spec.look.share)
    nobody: NDArray[np.intp] = np.zeros(0, np.intp)
    last = [np.setdiff1d(here, there) for here, there in zip(reached, [*reached[1:], nobody], strict=True)]
    answered = [outputs.take(rows) for outputs, rows in zip(stored, last, strict=True)]
    routers = program_routers([one.net for one in chosen], answered)
    stages = []
    for index, net in enumerate(nets):
        scores = routers[index].score(stored[index].take(reached[index]))
        final = index + 1 == len(nets)
        stages.append(
            Stage(
                flatbuffer=net.flatbuffer,
                router=routers[index],
                reads=reads(spec.look, index),
                mix=mixes[index],
                look_below=NEVER if final else threshold_of(scores, spec.look.share),
            )
        )
    return DeviceProgram(stages=tuple(stages))


def _reached(raw: Sequence[Floats], share: float) -> list[NDArray[np.intp]]:
    """Rows that each stage sees: at each, the least sure `share` of those that the stage before saw."""
    rows = [np.arange(len(raw[0]))]
    for scores in raw[:-1]:
        order = np.argsort(scores[rows[-1]], kind="stable")
        rows.append(rows[-1][order[: max(1, round(share * len(order)))]])
    return rows


def threshold_of(scores: NDArray[np.int8], share: float) -> int:
    """The int8 threshold below which the share of `scores` is nearest to `share`, above `NEVER`.

    >>> threshold_of(np.array([-3, 0, 0, 5], np.int8), 0.5)  # 1 of 4 below 0, 3 of 4 below 1: as near; the lower
    -2
    """
    candidates = np.arange(NEVER + 1, 128)
    below = np.searchsorted(np.sort(scores), candidates) / len(scores)
    return int(candidates[np.argmin(np.abs(below - share))])
