"""A device program but for its flatbuffers as plain data, and back: what a run folder and a bundle keep of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.artifacts import Affine
from hybrid.cascade import DeviceProgram, Mix, Stage
from hybrid.device_router import CUTS, SUM_MAX, IntegerRouter, RouterInputs
from hybrid.errors import SpecError


def program_values(program: DeviceProgram) -> dict[str, Any]:
    """Give every number of `program` beside the flatbuffers; JSON keeps it as it is."""
    return {"stages": [_stage_values(stage) for stage in program.stages]}


def _stage_values(stage: Stage) -> dict[str, Any]:
    router = stage.router
    return {
        "reads": stage.reads,
        "look_below": stage.look_below,
        "mix": asdict(stage.mix) | {"multipliers": list(stage.mix.multipliers)},
        "router": {
            "inputs": asdict(router.inputs) | {"betas": list(router.inputs.betas)},
            "weights": router.weights.tolist(),
            "bias": router.bias.tolist(),
            "shift": router.shift,
            "out": None if router.out is None else router.out.tolist(),
            "out_bias": router.out_bias,
            "cuts": router.cuts.tolist(),
        },
    }


def program_from(values: Mapping[str, Any], flatbuffers: Sequence[bytes]) -> DeviceProgram:
    """Put a program together again. Raises: SpecError where `values` are not those of `program_values`."""
    try:
        pairs = zip(values["stages"], flatbuffers, strict=True)
        return DeviceProgram(stages=tuple(_stage(stage, flatbuffer) for stage, flatbuffer in pairs))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as exc:
        raise SpecError(f"device program: cannot be read ({type(exc).__name__}: {exc}); make it again") from exc


def _stage(values: Mapping[str, Any], flatbuffer: bytes) -> Stage:
    mix = values["mix"]
    if values["reads"] not in ("image", "trunk"):
        raise ValueError(f"reads {values['reads']!r}, allowed image, trunk")
    return Stage(
        flatbuffer=flatbuffer,
        router=_router(values["router"]),
        reads=values["reads"],
        mix=Mix(**{**mix, "multipliers": tuple(mix["multipliers"]), "affine": Affine(**mix["affine"])}),
        look_below=int(values["look_below"]),
    )


def _router(values: Mapping[str, Any]) -> IntegerRouter:
    inputs, out = values["inputs"], values["out"]
    cuts = _stored(values["cuts"], np.int64)
    if cuts.shape != (CUTS,) or (np.diff(cuts) < 0).any() or (np.abs(cuts) > SUM_MAX).any():
        raise ValueError(f"cuts: expected {CUTS} ascending integers of 32 bits")
    return IntegerRouter(
        inputs=RouterInputs(**{**inputs, "betas": tuple(inputs["betas"])}),
        weights=_stored(values["weights"], np.int32),
        bias=_stored(values["bias"], np.int32),
        shift=int(values["shift"]),
        out=None if out is None else _stored(out, np.int16),
        out_bias=int(values["out_bias"]),
        cuts=cuts,
    )


def _stored(values: Any, kind: type) -> NDArray[Any]:
    """Integers that `kind` can hold; numpy alone would let others wrap around."""
    wide = np.array(values, np.int64)
    stored: NDArray[Any] = wide.astype(kind)
    if (stored != wide).any():
        raise ValueError(f"a number does not fit {np.dtype(kind).name}")
    return stored
