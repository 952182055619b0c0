"""Random operators that move stored values without computing with them; see `engine_models`."""

from math import prod

import numpy as np
from engine_build import Draft
from engine_random import Draw, Rng, same_affine


def draw_pad(kind: str) -> Draw:
    def draw(draft: Draft, rng: Rng, x: int) -> int:
        shape = draft.tensors[x].shape
        around = rng.integers(0, 4, (len(shape), 2))
        around[0] = 0
        inputs = [x, draft.constant(around)]
        if kind == "PADV2":
            inputs.append(draft.constant(rng.integers(-128, 128, 1), "int8", **same_affine(draft, x)))
        return draft.op(kind, inputs, draft.tensor(np.array(shape) + around.sum(axis=1), **same_affine(draft, x)))

    return draw


def draw_reshape(draft: Draft, rng: Rng, x: int) -> int:
    """RESHAPE to a random factorisation, given by an input, perhaps with -1, or by the option."""
    left = prod(draft.tensors[x].shape)
    shape = [1]
    while len(shape) < int(rng.integers(2, 5)):
        shape.append(int(rng.choice([size for size in range(1, left + 1) if left % size == 0])))
        left //= shape[-1]
    shape[-1] *= left
    said = [-1 if rng.random() < 0.3 and axis == len(shape) - 1 else size for axis, size in enumerate(shape)]
    y = draft.tensor(shape, **same_affine(draft, x))
    if rng.random() < 0.2:
        return draft.op("RESHAPE", [x], y, new_shape=tuple(said))
    return draft.op("RESHAPE", [x, draft.constant(said)], y)


def draw_squeeze(draft: Draft, rng: Rng, x: int) -> int:
    """SQUEEZE of all axes of one element, or of the first."""
    shape = draft.tensors[x].shape
    every = rng.random() < 0.5
    left = [size for axis, size in enumerate(shape) if size != 1 or (axis > 0 and not every)]
    y = draft.tensor(left, **same_affine(draft, x))
    return draft.op("SQUEEZE", [x], y, squeeze_dims=() if every else (int(rng.choice([0, -len(shape)])),))


def draw_expand_dims(draft: Draft, rng: Rng, x: int) -> int:
    """EXPAND_DIMS at any axis."""
    shape = draft.tensors[x].shape
    axis = int(rng.integers(0, len(shape) + 1))
    y = draft.tensor((*shape[:axis], 1, *shape[axis:]), **same_affine(draft, x))
    said = axis - len(shape) - 1 if rng.random() < 0.3 else axis
    return draft.op("EXPAND_DIMS", [x, draft.constant(said if rng.random() < 0.5 else [said])], y)


def draw_concatenation(draft: Draft, rng: Rng, x: int) -> int:
    """CONCATENATION of up to four tensors: inputs, constants, or the same again."""
    shape, affine = draft.tensors[x].shape, same_affine(draft, x)
    axis = int(rng.integers(0, len(shape)))
    parts = [x]
    for _ in range(int(rng.integers(1, 4))):
        part = [int(rng.integers(1, 6)) if at == axis else size for at, size in enumerate(shape)]
        kind = rng.choice(["input", "constant", "same"])
        if kind == "same":
            parts.append(x)
        else:
            values = rng.integers(-128, 128, part)
            parts.append(draft.input(part, **affine) if kind == "input" else draft.constant(values, "int8", **affine))
    parts = [parts[index] for index in rng.permutation(len(parts))]
    total = sum(draft.tensors[part].shape[axis] for part in parts)
    y = draft.tensor((*shape[:axis], total, *shape[axis + 1 :]), **affine)
    return draft.op("CONCATENATION", parts, y, axis=axis - len(shape) if rng.random() < 0.5 else axis)


def draw_split(draft: Draft, rng: Rng, x: int) -> int:
    """SPLIT into equal parts."""
    shape, affine = draft.tensors[x].shape, same_affine(draft, x)
    axis = int(rng.integers(0, len(shape)))
    count = int(rng.choice([n for n in range(1, min(shape[axis], 6) + 1) if shape[axis] % n == 0]))
    part = (*shape[:axis], shape[axis] // count, *shape[axis + 1 :])
    parts = [draft.tensor(part, **affine) for _ in range(count)]
    said = axis - len(shape) if rng.random() < 0.5 else axis
    return draft.op("SPLIT", [draft.constant(said), x], parts, num_splits=count)[0]


def draw_strided_slice(draft: Draft, rng: Rng, x: int) -> int:
    """STRIDED_SLICE forwards and backwards, with masks for begin, end and axes to drop."""
    shape = draft.tensors[x].shape
    masks = {"begin_mask": 0, "end_mask": 0, "shrink_axis_mask": 0}
    begin, end, strides, left = [], [], [], []
    for axis, size in enumerate(shape):
        slot, drop = _slice(rng, size), axis > 0 and rng.random() < 0.2
        start, stop, step = slot.indices(size)
        masks["begin_mask"] |= (slot.start is None and not drop) << axis
        masks["end_mask"] |= (slot.stop is None and not drop) << axis
        masks["shrink_axis_mask"] |= int(drop) << axis
        begin.append(start if drop or slot.start is None else slot.start)
        end.append((start + 1 if drop else slot.stop) if drop or slot.stop is not None else 0)
        strides.append(1 if drop else step)
        left += [] if drop else [len(range(start, stop, step))]
    y = draft.tensor(left, **same_affine(draft, x))
    return draft.op("STRIDED_SLICE", [x, *(draft.constant(part) for part in (begin, end, strides))], y, **masks)


def _slice(rng: Rng, size: int) -> slice:
    """Draw a slice that is not empty."""
    first, last = sorted(int(index) for index in rng.integers(0, size, 2))
    step = int(rng.integers(1, 4))
    if rng.random() < 0.25:
        return slice(last, first - 1 if first else None, -step)
    begin = rng.choice([None, first, first - size])
    return slice(begin, rng.choice([None, last + 1]), step)


def draw_resize(draft: Draft, rng: Rng, x: int) -> int:
    """RESIZE_NEAREST_NEIGHBOR to smaller and larger sizes."""
    _, height, width, depth = draft.tensors[x].shape
    size = [int(rng.integers(1, 2 * side + 2)) for side in (height, width)]
    options = ({}, {"align_corners": True}, {"half_pixel_centers": True})[int(rng.integers(3))]
    y = draft.tensor((1, *size, depth), **same_affine(draft, x))
    return draft.op("RESIZE_NEAREST_NEIGHBOR", [x, draft.constant(size)], y, **options)


def draw_transpose(draft: Draft, rng: Rng, x: int) -> int:
    """TRANSPOSE by any permutation."""
    shape = draft.tensors[x].shape
    order = rng.permutation(len(shape))
    y = draft.tensor([shape[axis] for axis in order], **same_affine(draft, x))
    return draft.op("TRANSPOSE", [x, draft.constant(order)], y)
