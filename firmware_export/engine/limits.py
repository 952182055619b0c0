"""Scales and sizes that TFLite Micro's kernels refuse, or abort on, so that there is nothing to be equal to.

Sources: the ``Prepare`` functions of tflite-micro at 90b983c (2026-08), and ``quantization_util.cc``.
"""

from collections.abc import Callable, Sequence

import numpy as np

from firmware_export.engine.arithmetic import SUM_SHIFT
from firmware_export.engine.graph import Op, Tensor
from hybrid.errors import UnsupportedOpError

_SOFTMAX_SHIFT = 26
_HARD_SWISH_SHIFT = 7
_BIAS_TOLERANCE = 0.02
_MOST_INPUTS = 10
_MOST_AXES = {"PAD": 5, "PADV2": 5, "STRIDED_SLICE": 4, "TRANSPOSE": 5}


def check_limits(op: Op, given: Sequence[Tensor], output: Tensor, what: str) -> None:
    """Raise: UnsupportedOpError where TFLite Micro would refuse an operator's number of inputs or axes, or scales."""
    axes, most = len(given[0].shape), _MOST_AXES.get(op.kind, len(given[0].shape))
    if axes > most or len(given) > _MOST_INPUTS:
        raise UnsupportedOpError(
            f"{what}: {len(given)} inputs, {axes} axes, supported are {_MOST_INPUTS} inputs of {most} axes; TFLite "
            f"Micro refuses more as well"
        )
    complaint = _LIMITS[op.kind](op, given, output) if op.kind in _LIMITS else None
    if complaint:
        scales = ", ".join(f"{tensor.scales[0]:.6g}" for tensor in given if tensor.scales)
        raise UnsupportedOpError(
            f"{what}: input scales {scales} and output scale {output.scales[0]:.6g}, {complaint}; TFLite Micro refuses "
            f"it as well"
        )


def _sum(op: Op, given: Sequence[Tensor], output: Tensor) -> str | None:
    """Sums are shifted 20 bits to the left; an output finer than that has no multiplier below 1."""
    largest = max(tensor.scales[0] for tensor in given)
    fine = 2 * largest / (2.0**SUM_SHIFT * output.scales[0]) >= 1
    return f"supported are output scales above {2 * largest / 2**SUM_SHIFT:.6g}" if fine else None


def _hard_swish(op: Op, given: Sequence[Tensor], output: Tensor) -> str | None:
    scale, made = np.float32(given[0].scales[0]), np.float32(output.scales[0])
    with np.errstate(over="ignore"):
        fine = scale * np.float32(2.0**-_HARD_SWISH_SHIFT) / made >= 1
    return f"supported are output scales above {scale / 2**_HARD_SWISH_SHIFT:.6g}" if fine else None


def _softmax(op: Op, given: Sequence[Tensor], output: Tensor) -> str | None:
    beta = op.options["beta"]
    fine = beta * given[0].scales[0] * 2.0**_SOFTMAX_SHIFT <= 1
    return f"beta {beta:.6g}, supported are products of both above {2.0**-_SOFTMAX_SHIFT:.6g}" if fine else None


def _fully_connected(op: Op, given: Sequence[Tensor], output: Tensor) -> str | None:
    """With one scale for all weights, the bias must be scaled as the products are."""
    x, weights, *bias = given
    if not bias or len(weights.scales) > 1:
        return None
    product, stored = x.scales[0] * weights.scales[0], (bias[0].scales or (0.0,))[0]
    far = abs(product - stored) / output.scales[0] > _BIAS_TOLERANCE
    return f"bias scale {stored:.6g}, expected the product of the inputs' {product:.6g}" if far else None


_LIMITS: dict[str, Callable[[Op, Sequence[Tensor], Tensor], str | None]] = {
    "ADD": _sum,
    "FULLY_CONNECTED": _fully_connected,
    "HARD_SWISH": _hard_swish,
    "SOFTMAX": _softmax,
    "SUB": _sum,
}
