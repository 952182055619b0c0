"""Depthwise convolutions as calls of kernels."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine.checks import describe, refuse, result_of, tensor_of
from firmware_export.engine.common_shift import Common, common_shift
from firmware_export.engine.filters import (
    CHANNEL,
    channel_constants,
    form_fields,
    geometry_of,
    image_filter,
    image_sizes,
    layer_call,
    rescaling_of,
    swings_of,
)
from firmware_export.engine.graph import Graph, Op, Tensor
from firmware_export.engine.layer import Call, Constant, InPlace
from firmware_export.engine.requantise import LONG, Rescaling

_SHIFT = 10
"""The common shift of `kernels/plane_fill.h`."""
_MOST_ROWS = 8
"""Lines of a phase that `kernels/planes_any.h` multiplies."""
_MOST_SPREAD = 4
"""Pairs of weights, zeros among them, for each weight of the model."""

_LEAST_SHARE = 4
"""How many times larger than planes tensors must be where RAM is short."""


def depthwise(graph: Graph, op: Op, *, low_ram: bool) -> list[Call]:
    """DEPTHWISE_CONV_2D with any multiplier; `low_ram` unpacks one channel at a time, or none."""
    source, target = tensor_of(graph, op, 0), result_of(graph, op)
    weights, geometry = image_filter(graph, op), geometry_of(graph, op, tensor_of(graph, op, 1).shape[1:3])
    outputs = weights.shape[3]
    if outputs % source.shape[3]:
        raise refuse(op, f"{describe(source)}: {outputs} outputs are no multiple of its channels")
    scaled, limits = rescaling_of(graph, op, np.moveaxis(weights[0], 2, 0))
    image = _Image(source=source, target=target, weights=weights[0], geometry=geometry, low_ram=low_ram)
    return [_over_planes(op, image, scaled, limits) or _by_values(op, image, scaled, limits)]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Image:
    source: Tensor
    target: Tensor
    weights: NDArray[np.int8]
    """``(kernel_h, kernel_w, outputs)``."""
    geometry: dict[str, int]
    low_ram: bool

    @property
    def group(self) -> int:
        """Channels at a time."""
        return 1 if self.low_ram else min(4, self.source.shape[3])

    def sides(self, name: str, line: int) -> tuple[int, int]:
        """Kernel, stride, dilation or padding along lines and along places; lines are rows where `line` is 0."""
        pair = self.geometry[f"{name}_h"], self.geometry[f"{name}_w"]
        return pair[line], pair[1 - line]


_Found = tuple[str, dict[str, object], NDArray[np.int8], int]
"""Kernel, fields, weights by channels, words of scratch."""


def _over_planes(op: Op, image: _Image, scaled: Rescaling, limits: tuple[int, int]) -> Call | None:
    """Planes, None where they do not serve, or would be large beside the tensors while RAM is short."""
    found = _planes(image) or _planes_any(image) if scaled.form != LONG else None
    if found is None:
        return None
    kernel, fields, taps, words = found
    if image.low_ram and _LEAST_SHARE * 4 * words > image.source.size + image.target.size:
        return None
    rescaled = _rescaled(taps, image, scaled, limits)
    name = kernel if rescaled["common"] else f"{kernel}_own"
    leave = (InPlace(read=0, lowest=0, highest=0),) if _follows(image, fields) else ()
    fields = {**fields, **rescaled, "low": limits[0], "high": limits[1]}
    return replace(layer_call(name, name, fields, op, 4 * words, leave), struct=kernel)


def _follows(image: _Image, fields: Mapping[str, object]) -> bool:
    """Whether the output may lie over the input: a group of channels is read before it is written."""
    lines = fields["out_lines"]
    return image.weights.shape[2] == image.source.shape[3] and fields.get("band", lines) == lines


def _by_values(op: Op, image: _Image, scaled: Rescaling, limits: tuple[int, int]) -> Call:
    """The plain loop, for all the rest."""
    fields = {
        "weights": Constant(values=image.weights),
        **channel_constants(scaled, 1),
        **form_fields(scaled, limits, False),
        **image_sizes(image.source, image.target),
        "multiplier": image.weights.shape[2] // image.source.shape[3],
        **image.geometry,
        "in_zero": image.source.zero_points[0],
    }
    return layer_call("depthwise", "depthwise", fields, op, 0)


def _fits_planes(image: _Image) -> bool:
    """Whether `kernels/planes.h` computes it."""
    square = image.weights.shape == (3, 3, image.source.shape[3])
    dense = image.sides("dilation", 0) == (1, 1)
    return square and dense and image.sides("stride", 0) in ((1, 1), (2, 2)) and max(image.target.shape[1:3]) > 1


def _planes(image: _Image) -> _Found | None:
    """3x3 over planes. Lines are what takes fewer instructions."""
    if not _fits_planes(image):
        return None
    target, stride = image.target, image.geometry["stride_h"]
    line = min((0, 1), key=lambda line: _line_cost(image, line))
    pairs = -(-target.shape[2 - line] // 2) * stride + 1
    lines = (target.shape[1 + line] - 1) * stride + 3
    taps = image.weights.transpose(2, line, 1 - line)[..., [0, 1, 1, 2]]
    fields = {
        "image": _plane_image(image, line, pairs=pairs, phases=1, lines=lines),
        "group": image.group,
        "stride": stride,
        **_line_sizes("out", target, line),
    }
    return "planes", fields, taps, image.group * pairs * lines


def _planes_any(image: _Image) -> _Found | None:
    """Any kernel over planes, None where it has too many lines, or dilation or stride would leave mostly zeros."""
    fitting = [line for line in (0, 1) if _any_fits(image, line)]
    if not fitting:
        return None
    line = min(fitting, key=lambda line: _any_cost(image, line))
    columns, rows = _any_sizes(image, line)
    phases, place_stride = image.sides("stride", line)
    pairs = -(-image.target.shape[2 - line] // 2) * place_stride - place_stride + columns
    band = _band(image, line, 4 * pairs * phases) if image.low_ram else image.target.shape[1 + line]
    lines = max(band, 4) - 1 + rows
    fields = {
        "image": _plane_image(image, line, pairs=pairs, phases=phases, lines=lines),
        "group": image.group,
        "band": band,
        "times": image.weights.shape[2] // image.source.shape[3],
        "columns": columns * phases,
        "rows": rows,
        "place_stride": place_stride,
        **_line_sizes("out", image.target, line),
    }
    return "planes_any", fields, _any_taps(image, line), image.group * pairs * phases * lines


def _band(image: _Image, line: int, line_bytes: int) -> int:
    """Lines of outputs at a time, fewer than all only where planes would be large beside the tensors."""
    lines, (_, rows) = image.target.shape[1 + line], _any_sizes(image, line)
    room = (image.source.size + image.target.size) // _LEAST_SHARE // line_bytes + 1 - rows
    return lines if room >= lines else max(room // 4 * 4, 4)


def _any_sizes(image: _Image, line: int) -> tuple[int, int]:
    """How many pairs of places two neighbouring outputs read, and how many lines of each phase."""
    kernel, dilation, stride = (image.sides(name, line) for name in ("kernel", "dilation", "stride"))
    extents = [(size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True)]
    return -(-(extents[1] + stride[1]) // 2), -(-extents[0] // stride[0])


def _any_fits(image: _Image, line: int) -> bool:
    (columns, rows), phases = _any_sizes(image, line), image.sides("stride", line)[0]
    taps = image.weights.shape[0] * image.weights.shape[1]
    return rows <= _MOST_ROWS and columns * phases * rows <= _MOST_SPREAD * (taps + 2)


def _any_taps(image: _Image, line: int) -> NDArray[np.int8]:
    """Weights ``(channels, pairs, phases, rows, output of two, place of two)``, zeros between dilated ones."""
    (columns, rows), (phases, place_stride) = _any_sizes(image, line), image.sides("stride", line)
    steps, weights = image.sides("dilation", line), image.weights.transpose(2, line, 1 - line)
    spread = np.zeros((2, len(weights), rows * phases, 2 * columns), np.int8)
    for output in (0, 1):
        spread[output, :, :: steps[0], output * place_stride :: steps[1]][:, : weights.shape[1], : weights.shape[2]] = (
            weights
        )
    apart = spread.reshape(2, len(weights), rows, phases, columns, 2)
    return np.ascontiguousarray(apart.transpose(1, 4, 3, 2, 0, 5))


def _any_cost(image: _Image, line: int) -> int:
    """About how many instructions the outputs of a channel take."""
    (columns, rows), phases = _any_sizes(image, line), image.sides("stride", line)[0]
    lines, places = image.target.shape[1 + line], image.target.shape[2 - line]
    outputs = -(-places // 2) * (20 + -(-lines // 4) * (50 + columns * phases * (5 + 11 * rows)))
    return outputs + _fill_cost(image, line)


def _rescaled(taps: NDArray[np.int8], image: _Image, scaled: Rescaling, limits: tuple[int, int]) -> dict[str, object]:
    """Weights ``(channels, ...)`` and channels, with a common shift where that is proven."""
    by_channel = np.moveaxis(image.weights, 2, 0)
    swings = swings_of(by_channel, image.source.zero_points[0])
    found = common_shift(scaled, by_channel, swings, limits, _SHIFT)
    made = found or Common(channels=scaled.channels, bias=scaled.bias, scales=np.full(len(taps), 2, np.int16))
    return {
        "weights": Constant(values=taps.astype(np.int16) * made.scales.reshape(-1, *[1] * (taps.ndim - 1))),
        "bias": Constant(values=made.bias),
        "channels": Constant(values=made.channels, ctype=CHANNEL),
        "common": int(found is not None),
    }


def _line_cost(image: _Image, line: int) -> float:
    """About how many instructions a channel takes; the kernel wants two lines."""
    lines, places = image.target.shape[1 + line], image.target.shape[2 - line]
    pair, alone = (49, 31) if image.geometry["stride_h"] == 1 else (56, 33)
    twos, odd = divmod(lines, 2)
    cost = places // 2 * (15 + pair * twos + 27 * odd) + places % 2 * (20 + alone * twos + 28 * odd)
    return cost + _fill_cost(image, line) if twos else inf


def _fill_cost(image: _Image, line: int) -> int:
    return -(-image.source.shape[2 - line] // 2) * (7 + 4 * image.source.shape[1 + line])


def _plane_image(image: _Image, line: int, **sizes: int) -> dict[str, int]:
    """An image as planes, `kernels/plane_fill.h`."""
    pads = image.sides("pad", line)
    return {
        "depth": image.source.shape[3],
        **_line_sizes("in", image.source, line),
        "line_pad": pads[0],
        "place_pad": pads[1],
        **sizes,
        "in_zero": image.source.zero_points[0],
    }


def _line_sizes(name: str, tensor: Tensor, line: int) -> dict[str, int]:
    steps = (tensor.shape[2] * tensor.shape[3], tensor.shape[3])
    return {
        f"{name}_lines": tensor.shape[1 + line],
        f"{name}_places": tensor.shape[2 - line],
        f"{name}_line": steps[line],
        f"{name}_place": steps[1 - line],
    }
