"""A device program over many examples, as the device computes it; and beside the cloud over a split: `Predictions`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets import Split
from hybrid import runtimes
from hybrid.artifacts import Floats, Predictions
from hybrid.cascade import DeviceOutputs, DeviceProgram, combined
from hybrid.device_router import StoredOutputs
from hybrid.errors import BundleError
from hybrid.flatbuffers import dequantise
from hybrid.progress import SILENT, Narrator
from hybrid.runtimes import Engine

Stored = NDArray[np.uint8] | NDArray[np.int8]
"""Examples as stored: images, or the trunk of the stage before."""
Run = Callable[[bytes, Stored], list[NDArray[np.int8]]]
"""Runs a flatbuffer over examples; gives its outputs in order."""


@dataclass(frozen=True, kw_only=True)
class StageOutputs:
    """What one stage's net says about `n` examples; `trunk` ``(n, ...)`` is None where the net has none."""

    own: StoredOutputs
    trunk: NDArray[np.int8] | None

    def take(self, rows: NDArray[np.intp]) -> "StageOutputs":
        """Some of the examples."""
        return StageOutputs(own=self.own.take(rows), trunk=None if self.trunk is None else self.trunk[rows])


def stage_outputs(
    flatbuffer: bytes, x: Stored, *, engine: Engine = "host", label: str = "int8 net", narrator: Narrator = SILENT
) -> StageOutputs:
    """Run one stage's net on all of `x`, ``(n, ...)``: images, or the trunk of the stage before."""
    return _stage_outputs(runtimes.run(flatbuffer, x, engine=engine, label=label, narrator=narrator))


def _stage_outputs(outputs: list[NDArray[np.int8]]) -> StageOutputs:
    logits, features, *trunk = outputs
    flat = StoredOutputs(logits=logits.reshape(len(logits), -1), features=features.reshape(len(features), -1))
    return StageOutputs(own=flat, trunk=trunk[0] if trunk else None)


def run_program(
    program: DeviceProgram,
    x: Stored,
    *,
    engine: Engine = "tflm",
    label: str = "device",
    narrator: Narrator = SILENT,
) -> DeviceOutputs:
    """Run `program` over stored images `x` ``(n, height, width, channels)``; a stage sees only what asks for it."""
    names = iter(program.names)

    def run(flatbuffer: bytes, source: Stored) -> list[NDArray[np.int8]]:
        return runtimes.run(flatbuffer, source, engine=engine, label=f"{label}, {next(names)}", narrator=narrator)

    return device_outputs(program, x, run)


def device_outputs(program: DeviceProgram, x: Stored, run: Run) -> DeviceOutputs:
    """Run `program` over `x`, each stage's net by `run`."""
    rows: NDArray[np.intp] = np.arange(len(x))
    so_far: list[StageOutputs] = []
    logits, score, stage = [], np.zeros(len(x), np.int8), np.zeros(len(x), np.int32)
    for number, part in enumerate(program.stages):
        source = x[rows] if part.reads == "image" else trunk_of(so_far[-1])
        so_far.append(_stage_outputs(run(part.flatbuffer, source)))
        said = combined(part.mix, [outputs.own for outputs in so_far])
        score[rows], stage[rows] = part.router.score(said), number
        logits.append((rows, said.logits))
        again = np.flatnonzero(score[rows] < part.look_below)
        if number + 1 == len(program.stages) or not len(again):
            break
        rows, so_far = rows[again], [outputs.take(again) for outputs in so_far]
    return DeviceOutputs(logits=_latest(logits), score=score, stage=stage)


def trunk_of(outputs: StageOutputs) -> NDArray[np.int8]:
    """The trunk that the next stage reads. Raises: BundleError where the net does not give it."""
    if outputs.trunk is None:
        raise BundleError("a stage reads the trunk, which the net before it does not give; export that net with one")
    return outputs.trunk


def _latest(parts: list[tuple[NDArray[np.intp], NDArray[np.int8]]]) -> NDArray[np.int8]:
    """Logits of the last stage of each example; the first part has all rows."""
    latest = parts[0][1].copy()
    for rows, logits in parts[1:]:
        latest[rows] = logits
    return latest


def predictions(
    program: DeviceProgram,
    split: Split,
    cloud_scores: Floats,
    *,
    label: str = "device",
    narrator: Narrator = SILENT,
) -> Predictions:
    """Run `program` over `split` as the device does, beside the cloud's class scores ``(n, num_classes)``."""
    said = run_program(program, split.x, engine="tflm", label=label, narrator=narrator)
    return Predictions(
        labels=split.y,
        edge_logits=real_logits(program, said),
        router_score=said.score.astype(np.int32),
        cloud_scores=cloud_scores,
        stage=said.stage,
    )


def real_logits(program: DeviceProgram, said: DeviceOutputs) -> Floats:
    """Dequantise the mixed logits, each example's by its last stage's quantisation; ``(n, num_classes)``."""
    real = np.zeros(said.logits.shape, np.float32)
    for number, stage in enumerate(program.stages):
        rows = said.stage == number
        real[rows] = dequantise(said.logits[rows], stage.mix.affine)
    return real
