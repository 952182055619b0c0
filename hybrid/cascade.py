"""What the device runs: stages of one or more int8 nets, each with its router.

The first stage runs on every example. Where its score is below `Stage.look_below`, the next one looks again; its
logits are mixed with those before, and its router judges the mixed answer. All routers of a program score on one scale,
so that one threshold on the last score that was made decides about the cloud.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hybrid.artifacts import Affine
from hybrid.device_router import IntegerRouter, StoredOutputs
from hybrid.errors import SpecError

Reads = Literal["image", "trunk"]
NEVER = -128
"""No int8 score is below it."""
MOST_SHIFT = 15
MULTIPLIER_MAX = (1 << 15) - 1
PLAIN = Affine(scale=1.0, zero_point=0)
LOWEST_SHARE = 0.001
"""Share of the mixed logits that may saturate at the lower end of int8; at the upper end none do, for they answer."""


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Logits of the stages so far in one: ``clip((sum of multiplier_k * q_k + bias) >> shift, -128, 127)``.

    `multipliers` are below 2^15 in size and `shift` is at most 15; `bias`, 32 bits, holds the zero points and the half
    that makes the shift round. `affine` says what the result stands for. One stage alone keeps its logits as they are.
    """

    multipliers: tuple[int, ...] = (1,)
    bias: int = 0
    shift: int = 0
    affine: Affine = PLAIN

    def logits(self, stages: Sequence[NDArray[np.int8]]) -> NDArray[np.int8]:
        """Mix the int8 logits ``(n, num_classes)`` of each stage.

        >>> Mix(multipliers=(1, 1), bias=-10 + 1, shift=1).logits((np.array([[4]]), np.array([[17]])))
        array([[6]], dtype=int8)
        """
        pairs = zip(self.multipliers, stages, strict=True)
        total = sum((multiplier * logits.astype(np.int64) for multiplier, logits in pairs), np.int64(self.bias))
        return np.clip(total >> self.shift, -128, 127).astype(np.int8)


def mix_of(
    affines: Sequence[Affine], weights: Sequence[float], logits: Sequence[NDArray[np.int8]] | None = None
) -> Mix:
    """Mix stages by ``sum of weights[k] * (real logits of stage k)``.

    `affines` are those of the stages' stored logits. The result's scale is such that the mixed `logits` of examples,
    stored ``(n, num_classes)`` of each stage, fill int8: none saturates at the top, `LOWEST_SHARE` at the bottom. One
    stage alone needs no examples and stays as it is, whatever its weight. Raises: SpecError without examples else.
    """
    if len(affines) == 1:
        return Mix(affine=affines[0])
    if logits is None:
        raise SpecError(f"mix_of: got no logits of {len(affines)} stages; give some examples' to set the scale")
    real = sum(
        weight * affine.scale * (stored.astype(np.float64) - affine.zero_point)
        for weight, affine, stored in zip(weights, affines, logits, strict=True)
    )
    into = _filling(np.asarray(real))
    ratios = [weight * affine.scale / into.scale for weight, affine in zip(weights, affines, strict=True)]
    shift = _shift(max(abs(ratio) for ratio in ratios))
    offset = into.zero_point - sum(ratio * affine.zero_point for ratio, affine in zip(ratios, affines, strict=True))
    return Mix(
        multipliers=tuple(round(ratio * 2**shift) for ratio in ratios),
        bias=round(offset * 2**shift) + (1 << shift >> 1),
        shift=shift,
        affine=into,
    )


def _filling(real: NDArray[np.float64]) -> Affine:
    low, high = float(np.quantile(real, LOWEST_SHARE)), float(real.max())
    scale = max(high - low, 1e-6) / 255.0
    return Affine(scale=scale, zero_point=round(127 - high / scale))


def _shift(largest: float) -> int:
    """Find the finest shift at which a multiplier of this size stays below 2^15."""
    return next(shift for shift in range(MOST_SHIFT, -1, -1) if round(largest * 2**shift) <= MULTIPLIER_MAX)


def combined(mix: Mix, stages: Sequence[StoredOutputs]) -> StoredOutputs:
    """Give what the router of the last of `stages` reads: the mixed logits, and the features of all stages in order."""
    return StoredOutputs(
        logits=mix.logits([stage.logits for stage in stages]),
        features=np.concatenate([stage.features for stage in stages], axis=1),
    )


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One int8 net with its router.

    The flatbuffer's outputs are ``logits``, ``features`` and, where the next stage reads it, ``trunk``; its input is
    the image, or the trunk of the stage before (an early exit). `router` reads the mixed logits and the features of all
    stages so far, in order. The next stage runs where the score is below `look_below`.
    """

    flatbuffer: bytes
    router: IntegerRouter
    reads: Reads = "image"
    mix: Mix = Mix()
    look_below: int = NEVER


def stage_names(count: int) -> tuple[str, ...]:
    """What `count` stages are called.

    >>> stage_names(3)
    ('edge', 'look_1', 'look_2')
    """
    return ("edge", *(f"look_{index}" for index in range(1, count)))


@dataclass(frozen=True, kw_only=True)
class DeviceProgram:
    """All that the device computes before anybody is asked; at least one stage."""

    stages: tuple[Stage, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What the stages are called, in order."""
        return stage_names(len(self.stages))

    @property
    def digest(self) -> str:
        """SHA-256 of the stages' flatbuffers, one after the other; 64 hex digits. Of one stage, the flatbuffer's."""
        return hashlib.sha256(b"".join(stage.flatbuffer for stage in self.stages)).hexdigest()


@dataclass(frozen=True, kw_only=True)
class DeviceOutputs:
    """What the device says: int8 `logits` ``(n, num_classes)``, int8 `score` and last `stage` run, each ``(n,)``."""

    logits: NDArray[np.int8]
    score: NDArray[np.int8]
    stage: NDArray[np.int32]
