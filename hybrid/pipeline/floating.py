"""The float nets in the place of the int8 ones, under the same routers: what quantisation changed."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datasets import Split
from hybrid.artifacts import Affine, Bools, Floats
from hybrid.cascade import DeviceOutputs, DeviceProgram
from hybrid.fitting import PREDICT_BATCH
from hybrid.flatbuffers import Graph, dequantise
from hybrid.look import mix_weights
from hybrid.nets import normalise
from hybrid.predict import Stored, device_outputs

if TYPE_CHECKING:
    from hybrid.pipeline import Run
    from hybrid.specs import LookSpec


def float_outputs(run: "Run", split: Split) -> tuple[DeviceOutputs, Bools]:
    """What the device would say with float nets, and where its mixed float logits are right, ``(n,)``.

    Between nets and routers everything is stored in int8, as the routers read nothing else.
    """
    program, nets = run.quantized.routed.program, run.trained.stage_nets
    logits: list[Floats] = []

    def compute(_flatbuffer: bytes, x: Stored) -> list[NDArray[np.int8]]:
        index = len(logits)
        outputs = nets[index].predict(_inputs(program, index, x), batch_size=PREDICT_BATCH, verbose=0)
        logits.append(outputs[0])
        found = Graph(program.stages[index].flatbuffer).edge_outputs()
        affines = [found.logits_affine, found.features_affine, found.trunk_affine]
        return [_store(values, affine) for values, affine in zip(outputs, affines, strict=False) if affine is not None]

    said = device_outputs(program, split.x, compute)
    return said, _answers(said, logits, run.spec.look) == split.y


def _inputs(program: DeviceProgram, index: int, x: Stored) -> Floats:
    if x.dtype == np.uint8:
        return normalise(x.astype(np.uint8))
    affine = Graph(program.stages[index - 1].flatbuffer).edge_outputs().trunk_affine
    return dequantise(x.astype(np.int8), affine or Affine(scale=1.0, zero_point=0))


def _store(values: NDArray[Any], affine: Affine) -> NDArray[np.int8]:
    return np.clip(np.rint(values / affine.scale) + affine.zero_point, -128, 127).astype(np.int8)


def _answers(said: DeviceOutputs, logits: list[Floats], look: "LookSpec") -> NDArray[np.int64]:
    """Class of the mixed float logits of the last stage that ran, ``(n,)``; ``logits[k]`` are of the rows it saw."""
    classes = np.zeros(len(said.stage), np.int64)
    for stage in range(len(logits)):
        mixed = sum(
            weight * logits[k][(said.stage >= stage)[said.stage >= k]]
            for k, weight in enumerate(mix_weights(look, stage))
        )
        classes[said.stage >= stage] = np.asarray(mixed).argmax(axis=1)
    return classes
