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
SMALL_NET_PARAMETERS = 64
"""A router of the confidences alone, which the smallest net is granted; one too small for it is hardly worth one."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Examples, and the cloud's probabilities for them, ``(n, num_classes)``."""

    split: Split
    cloud: Floats


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the net of every stage says of every row, whether it would run there or not."""

    rows: Rows
    nets: Sequence[StageOutputs]

    def stored(self, mix: Mix, stage: int) -> StoredOutputs:
        """What the router of `stage` reads."""
        return combined(mix, [outputs.own for outputs in self.nets[: stage + 1]])

    def evidence(self, mix: Mix, stage: int) -> Evidence:
        """What the router of `stage` learns from."""
        return Evidence(stored=self.stored(mix, stage), labels=self.rows.split.y, cloud_probabilities=self.rows.cloud)


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
    """Run `nets` on all rows, then `route_outputs`."""
    said = _outputs(nets, held_out, spec, "held out", narrator)
    further = None if extra is None else Said(rows=extra, nets=_outputs(nets, extra, spec, "further", narrator))
    flatbuffers = [net.flatbuffer for net in nets]
    return route_outputs(flatbuffers, Said(rows=held_out, nets=said), further, spec, narrator=narrator)


def route_outputs(
    flatbuffers: Sequence[bytes], held_out: Said, extra: Said | None, spec: RunSpec, *, narrator: Narrator
) -> Routed:
    """Fit, choose and quantise a router for each stage, and set where the next one looks again."""
    mixes = _mixes(flatbuffers, held_out, spec)
    chosen = [
        choose(
            held_out.evidence(mixes[stage], stage),
            None if extra is None else extra.evidence(mixes[stage], stage),
            _affordable(spec.router, flatbuffer),
            seed=spec.seed + stage,
            narrator=narrator,
        )
        for stage, flatbuffer in enumerate(flatbuffers)
    ]
    return Routed(
        program=_program(flatbuffers, mixes, chosen, held_out, spec),
        kinds=tuple(one.kind for one in chosen),
        nauc=tuple({kind: reached.mean for kind, reached in one.reached.items()} for one in chosen),
    )


def _affordable(spec: RouterSpec, flatbuffer: bytes) -> RouterSpec:
    """Bound the router by `MACS_SHARE` of its net as well; a parameter is about one multiply-accumulate."""
    macs = sum(flatbuffer_macs(flatbuffer).values())
    return replace(spec, max_parameters=min(spec.max_parameters, max(SMALL_NET_PARAMETERS, int(MACS_SHARE * macs))))


def _outputs(nets: Sequence[Int8Edge], rows: Rows, spec: RunSpec, label: str, narrator: Narrator) -> list[StageOutputs]:
    said: list[StageOutputs] = []
    for index, net in enumerate(nets):
        x = rows.split.x if reads(spec.look, index) == "image" else trunk_of(said[-1])
        said.append(stage_outputs(net.flatbuffer, x, label=f"stage {index}, {label}", narrator=narrator))
    return said


def _mixes(flatbuffers: Sequence[bytes], held_out: Said, spec: RunSpec) -> list[Mix]:
    affines = [Graph(flatbuffer).edge_outputs().logits_affine for flatbuffer in flatbuffers]
    logits = [outputs.own.logits for outputs in held_out.nets]
    return [
        mix_of(affines[: stage + 1], mix_weights(spec.look, stage), logits[: stage + 1])
        for stage in range(len(flatbuffers))
    ]


def _program(
    flatbuffers: Sequence[bytes], mixes: Sequence[Mix], chosen: Sequence[Chosen], held_out: Said, spec: RunSpec
) -> DeviceProgram:
    stored = [held_out.stored(mix, stage) for stage, mix in enumerate(mixes)]
    reached = _reached([one.net.raw(outputs) for one, outputs in zip(chosen, stored, strict=True)], spec.look.share)
    nobody: NDArray[np.intp] = np.zeros(0, np.intp)
    last = [np.setdiff1d(here, there) for here, there in zip(reached, [*reached[1:], nobody], strict=True)]
    answered = [outputs.take(rows) for outputs, rows in zip(stored, last, strict=True)]
    routers = program_routers([one.net for one in chosen], answered)
    final = len(flatbuffers) - 1
    return DeviceProgram(
        stages=tuple(
            Stage(
                flatbuffer=flatbuffer,
                router=routers[index],
                reads=reads(spec.look, index),
                mix=mixes[index],
                look_below=NEVER
                if index == final
                else threshold_of(routers[index].score(stored[index].take(reached[index])), spec.look.share),
            )
            for index, flatbuffer in enumerate(flatbuffers)
        )
    )


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
