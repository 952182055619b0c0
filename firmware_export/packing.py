"""Lossless coding of small uint8 images and sensor windows: the Python twin of ``hybrid_pack.c``.

A sample is predicted from its left, upper and upper left neighbours by the median edge detector of LOCO-I (Weinberger,
Seroussi, Sapiro: The LOCO-I lossless image compression algorithm, IEEE Trans. Image Processing 9, 2000), the residual
coded by an adaptive Golomb-Rice code with one of six contexts, chosen by how much the neighbours differ; where they do
not, runs of correct predictions are counted. An image says in its first bit whether the residual of the channel before
is added to the prediction, as suits colours and not a sensor's axes.

Why not a PNG, which anything reads: mean bytes of the first 500 test images of Fashion-MNIST, of CIFAR-10 and of 440
HAPT windows (128, 1, 6) are 382, 1,643 and 354 of 784, 3,072 and 768. PNG's filters with the fixed Huffman codes and
runs that fit into a microcontroller give 592, 3,162 and 882; a PNG by Pillow at its best 509 and 2,252. An adaptive
binary range coder instead of Golomb-Rice would save 0.5 to 2 % more, at several times the work.

The bits, most significant first, of samples row by row, channels last: where there are several channels one bit, 1 if
they are coupled; then for each sample what `_State` says; zero bits up to the next byte.
"""

from bisect import bisect_left
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import HybridError

LEVELS = (0, 4, 10, 20, 40)
"""A sample's context is the number of these that its activity exceeds, apart for the first channel and the others."""
START, RECENT = (8, 1), 16
"""Sum and number of residuals that a context starts with; at this number both are halved."""
UNARY = 12
"""Zeros of the longest unary part; that many stand for a residual in 8 bits."""
MAX_STEP = 16
LOOKED_AT = 4
"""Every so many rows of an image (all of a window) decide whether channels are coupled."""
_CHUNK_SAMPLES = 1 << 22
_CONTEXTS = len(LEVELS) + 1
_WIDTHS = np.arange(8)[:, None]

Shape = tuple[int, ...]
Values = NDArray[Any]
"""Whole numbers, of any width."""
Write = Callable[[Values, Values], object]
"""Takes the values ``(n,)`` of one code of each image, and their lengths in bits; 0 where an image has none."""


class PackingError(HybridError, ValueError):
    """Bytes that no encoder has written."""


def pack(images: NDArray[np.uint8]) -> list[bytes]:
    """Code each of `images` ``(n, height, width, channels)``, whether that makes it smaller or not."""
    return [packed for chunk in _chunks(images) for packed in _packed(chunk)]


def packed_bytes(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the bytes that `pack` makes of each image, ``(n,)``."""
    bits = [np.zeros(0, np.int64), *map(_packed_bits, _chunks(images))]
    return (np.concatenate(bits) + 7) // 8


def _packed(images: NDArray[np.uint8]) -> list[bytes]:
    codes: list[tuple[Values, Values]] = []

    def keep(value: Values, length: Values) -> None:
        codes.append((value, length))

    _code(images, keep)
    values, lengths = np.array(codes, np.int32).transpose(1, 2, 0)
    return [_joined(*each) for each in zip(values, lengths, strict=True)]


def _packed_bits(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    bits = np.zeros(len(images), np.int64)

    def count(_: Values, length: Values) -> None:
        np.add(bits, length, out=bits)

    _code(images, count)
    return bits


def _chunks(images: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """As many images at a time as memory should hold."""
    step = max(1, _CHUNK_SAMPLES // max(1, prod(images.shape[1:])))
    return [images[first : first + step] for first in range(0, len(images), step)]


def _joined(values: Values, lengths: Values) -> bytes:
    """Write each value in as many bits as its length says."""
    ends = np.cumsum(lengths)
    behind = np.repeat(ends, lengths) - 1 - np.arange(ends[-1])
    return np.packbits((np.repeat(values, lengths) >> behind & 1).astype(np.uint8)).tobytes()


def _code(images: NDArray[np.uint8], write: Write) -> None:
    """Write the codes of all images: the coupling, two of each sample, the last run."""
    n, _, width, channels = images.shape
    plain, coupled, activity = _predictions(images.astype(np.int16))
    residuals = [_folded(images, predicted) for predicted in (plain, coupled)]
    rows = slice(None, None, LOOKED_AT if width > 1 else 1)
    apart, together = (((each[:, rows] + 1) // 2).sum(axis=(1, 2, 3), dtype=np.int64) for each in residuals)
    chosen = 4 * together < 3 * apart
    folded = np.where(chosen[:, None], residuals[1].reshape(n, -1), residuals[0].reshape(n, -1))
    context = np.searchsorted(LEVELS, activity).astype(np.int8) + (np.arange(channels) > 0) * np.int8(_CONTEXTS)
    if channels > 1:
        write(chosen, np.ones(n, np.int32))
    state = _State(n, write)
    for u, c in zip(folded.T.copy(), context.reshape(n, -1).T.copy(), strict=True):
        state.sample(u, c)
    state.finish()


def _predictions(x: Values) -> tuple[Values, Values, Values]:
    """Prediction of each sample from its own channel, that with the residual of the channel before, and activity."""
    left, above, corner = _neighbours(x)
    low, high = np.minimum(left, above), np.maximum(left, above)
    plain = np.where(corner >= high, low, np.where(corner <= low, high, left + above - corner))
    carried = np.zeros_like(x)
    carried[..., 1:] = (x - plain)[..., :-1]
    activity = abs(left - corner) + abs(above - corner) + abs(carried)
    return plain, np.clip(plain + carried, 0, 255), activity


def _neighbours(x: Values) -> tuple[Values, Values, Values]:
    """Left, upper, upper left.

    In the first row and column the one there is stands for two, the one before it for the third; before the first pixel
    there are zeros.
    """
    left, above, corner = np.zeros((3, *x.shape), x.dtype)
    left[:, :, 1:], left[:, 1:, 0] = x[:, :, :-1], x[:, :-1, 0]
    above[:, 1:], above[:, 0, 1:] = x[:, :-1], x[:, 0, :-1]
    corner[:, 1:, 1:] = x[:, :-1, :-1]
    corner[:, 1:, 0] = x[:, [0, *range(x.shape[1] - 2)][: x.shape[1] - 1], 0]
    corner[:, 0, 1:] = x[:, 0, [0, *range(x.shape[2] - 2)][: x.shape[2] - 1]]
    return left, above, corner


def _folded(sample: NDArray[np.uint8], predicted: Values) -> Values:
    """Residual modulo 256 in -128 .. 127 as 0, 1, 2 .. for 0, -1, 1 .."""
    error = (sample - predicted + 128 & 255) - 128
    return np.where(error >= 0, 2 * error, -2 * error - 1)


class _State:
    """What is known of `n` images while they are coded side by side, sample by sample."""

    def __init__(self, n: int, write: Write) -> None:
        self._write = write
        self._contexts = np.tile(np.array(START, np.int32)[:, None, None], (1, 2 * _CONTEXTS, n))
        self._run, self._step, self._rows = np.zeros(n, np.int32), np.zeros(n, np.int32), np.arange(n)

    def sample(self, folded: Values, context: Values) -> None:
        """Code a sample: first what it says of a run, then, where it is not part of one, its residual."""
        flat = context % _CONTEXTS == 0
        within = flat & (folded == 0)
        self._count_run(flat, within)
        self._residual(folded, flat, context, ~within)

    def _count_run(self, flat: NDArray[np.bool_], within: NDArray[np.bool_]) -> None:
        """1: the run has reached ``2**(step // 2)``, or left what is flat; 0 and its length: a residual ends it."""
        order = self._step >> 1
        self._run += within
        full = within & (self._run == 1 << order)
        broken = flat & ~within
        ended = full | (~flat & (self._run > 0))
        self._write(np.where(broken, self._run, 1), ended + broken * (1 + order))
        self._step += full & (self._step < MAX_STEP)
        self._step -= broken & (self._step > 0)
        self._run *= within & ~full

    def _residual(self, folded: Values, flat: NDArray[np.bool_], context: Values, coded: NDArray[np.bool_]) -> None:
        """Zeros, a one and as many bits as the context's mean residual has; where flat, it is at least 1."""
        sums, number = self._contexts[:, context, self._rows]
        width = (number << _WIDTHS < sums).sum(axis=0)
        value: Values = folded - flat
        zeros = value >> width
        long = zeros >= UNARY
        short = (1 << width) | (value & (1 << width) - 1)
        self._write(np.where(long, value, short), np.where(long, UNARY + 8, zeros + 1 + width) * coded)
        number = number + coded
        updated = np.stack([sums + (folded + 1 >> 1) * coded, number]) >> (number >= RECENT)
        self._contexts[:, context, self._rows] = updated

    def finish(self) -> None:
        """Tell a run that reaches the end."""
        self._write(np.ones_like(self._run), self._run > 0)


def unpack(packed: bytes, shape: Shape) -> NDArray[np.uint8]:
    """Read one image of `shape` ``(height, width, channels)``; takes memory for it and 8 times `packed`.

    Raises: PackingError where `packed` is nothing that `pack` writes for such a shape.
    """
    if not 0 < len(packed) <= 4 * prod(shape):  # 9 bits of a run and 20 of a residual for each sample
        raise PackingError(f"{len(packed):,} bytes for an image of shape {list(shape)}")
    return _Reader(packed).image(*shape)


class _Reader:
    """Bits on their way back to samples."""

    def __init__(self, packed: bytes) -> None:
        self._bits, self._at = f"{int.from_bytes(packed, 'big'):0{8 * len(packed)}b}", 0
        self._contexts = [START] * (2 * _CONTEXTS)
        self._run, self._step = 0, 0
        self._broken = False
        """Whether a residual ends the run."""

    def image(self, height: int, width: int, channels: int) -> NDArray[np.uint8]:
        """Read everything."""
        coupled = channels > 1 and self._number(1) == 1
        samples = [0] * (height * width * channels)
        for pixel in range(height * width):
            back = _back(*divmod(pixel, width), width * channels, channels)
            carried = 0
            for place in range(pixel * channels, (pixel + 1) * channels):
                left, above, corner = samples[place - back[0]], samples[place - back[1]], samples[place - back[2]]
                low, high = (left, above) if left < above else (above, left)
                plain = low if corner >= high else high if corner <= low else left + above - corner
                activity = abs(left - corner) + abs(above - corner) + abs(carried)
                folded = self._folded(activity, place % channels > 0)
                predicted = min(max(plain + carried, 0), 255) if coupled else plain
                samples[place] = predicted + (-(folded + 1 >> 1) if folded & 1 else folded >> 1) & 255
                carried = samples[place] - plain
        self._check_end()
        return np.array(samples, np.uint8).reshape(height, width, channels)

    def _folded(self, activity: int, later: bool) -> int:
        if activity:
            self._leave_run()
            return self._residual(bisect_left(LEVELS, activity) + _CONTEXTS * later, 0)
        if not self._run and not self._broken:
            self._broken = self._number(1) == 0
            self._run = self._number(self._step >> 1) if self._broken else 1 << (self._step >> 1)
        if self._run:
            self._run -= 1
            if not self._run and not self._broken:
                self._step = min(self._step + 1, MAX_STEP)
            return 0
        self._broken, self._step = False, max(self._step - 1, 0)
        return self._residual(_CONTEXTS * later, 1)

    def _leave_run(self) -> None:
        if self._broken:
            raise PackingError("a run that ends where none can")
        self._run = 0

    def _residual(self, context: int, least: int) -> int:
        sums, number = self._contexts[context]
        width = 0
        while number << width < sums:
            width += 1
        one = self._bits.find("1", self._at, self._at + UNARY)
        zeros = UNARY if one < 0 else one - self._at
        self._at += UNARY if one < 0 else zeros + 1
        folded = least + (self._number(8) if one < 0 else zeros << width | self._number(width))
        if folded > 255:
            raise PackingError(f"a residual of {folded}")
        sums, number = sums + (folded + 1 >> 1), number + 1
        self._contexts[context] = (sums >> 1, number >> 1) if number >= RECENT else (sums, number)
        return folded

    def _number(self, count: int) -> int:
        self._at += count
        if self._at > len(self._bits):
            raise PackingError("ends before the image does")
        return int(self._bits[self._at - count : self._at], 2) if count else 0

    def _check_end(self) -> None:
        if self._broken:
            raise PackingError("a run that ends after the image")
        if "1" in self._bits[self._at :] or len(self._bits) - self._at >= 8:
            raise PackingError("goes on after the image")


def _back(row: int, column: int, line: int, channels: int) -> tuple[int, int, int]:
    """How far back the three neighbours lie; 0, a sample that is not read yet and so 0, where there is none."""
    if row and column:
        return channels, line, line + channels
    if row:
        return line, line, 2 * line if row > 1 else line
    if column:
        return channels, channels, 2 * channels if column > 1 else channels
    return 0, 0, 0
