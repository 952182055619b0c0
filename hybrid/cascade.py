"""What the device runs: stages of one or more int8 nets, each with its router.

The first stage runs on every example. Where its score is below `Stage.look_below`, the next one looks again; its
logits are mixed with those before, and its router judges the mixed answer. All routers of a program score on one scale,
so that one threshold on the last score that was made decides about the cloud.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hybrid.device_router import IntegerRouter

Reads = Literal["image", "trunk"]
NEVER = -128
"""No int8 score is below it."""


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Logits of the stages so far in one: ``clip((sum of multiplier_k * (q_k - zero_point_k) + half) >> shift)``.

    `half` is ``1 << shift >> 1``, the result int8; `multipliers` stay below 2^15, `shift` at or below 15. One stage
    alone keeps its logits as they are: multiplier 1, zero point 0, shift 0.
    """

    multipliers: tuple[int, ...] = (1,)
    zero_points: tuple[int, ...] = (0,)
    shift: int = 0

    def logits(self, stages: "tuple[NDArray[np.int8], ...]") -> NDArray[np.int8]:
        """Mix the int8 logits ``(n, num_classes)`` of each stage.

        >>> Mix(multipliers=(1, 1), zero_points=(0, 10), shift=1).logits((np.array([[4]]), np.array([[17]])))
        array([[6]], dtype=int8)
        """
        total = sum(
            multiplier * (logits.astype(np.int64) - zero_point)
            for multiplier, zero_point, logits in zip(self.multipliers, self.zero_points, stages, strict=True)
        )
        return np.clip((total + (1 << self.shift >> 1)) >> self.shift, -128, 127).astype(np.int8)


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


@dataclass(frozen=True, kw_only=True)
class DeviceProgram:
    """All that the device computes before anybody is asked; at least one stage."""

    stages: tuple[Stage, ...]


@dataclass(frozen=True, kw_only=True)
class DeviceOutputs:
    """What the device says: int8 `logits` ``(n, num_classes)``, int8 `score` and last `stage` run, each ``(n,)``."""

    logits: NDArray[np.int8]
    score: NDArray[np.int8]
    stage: NDArray[np.int32]
