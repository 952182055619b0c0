"""What all drawn operators share: shapes, scales, zero points, activations."""

from collections.abc import Callable
from typing import Any

import numpy as np
from engine_build import Draft

Rng = np.random.Generator
Draw = Callable[[Draft, Rng, int], int]
ACTIVATIONS = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")


def random_shape(rng: Rng, rank: int) -> tuple[int, ...]:
    """One example: batch 1, and at most some thousand elements."""
    largest = {1: 64, 2: 200, 3: 40, 4: 14, 5: 6}[rank]
    sizes = [int(rng.integers(1, largest + 1)) for _ in range(rank)]
    return tuple(sizes) if rank == 1 else (1, *sizes[1:])


def random_scale(rng: Rng, low: float = 1e-3, high: float = 0.5) -> float:
    """Draw a scale, uniform in its logarithm."""
    return float(np.float32(np.exp(rng.uniform(np.log(low), np.log(high)))))


def random_zero_point(rng: Rng) -> int:
    """Draw a zero point, often at an end."""
    return int(rng.choice([-128, 127, 0, rng.integers(-128, 128)]))


def random_affine(rng: Rng, **fixed: Any) -> dict[str, Any]:
    """Draw a scale and a zero point, but for what is fixed."""
    return {"scale": random_scale(rng), "zero_point": random_zero_point(rng), **fixed}


def same_affine(draft: Draft, x: int) -> dict[str, Any]:
    """Give the quantisation of a tensor."""
    tensor = draft.tensors[x]
    return {"scales": tensor.scales, "zero_points": tensor.zero_points}


def random_activation(rng: Rng) -> str:
    """Draw a fused activation."""
    return str(rng.choice(ACTIVATIONS, p=[0.4, 0.2, 0.2, 0.2]))
