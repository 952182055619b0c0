"""Packed pixels: by hand, by Python and by C they are the same, and come back; nothing hostile gets through."""

import io
import subprocess
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from firmware_export.host import C_FLAGS, SANITIZERS, c_compiler
from firmware_export.packing import PackingError, pack, packed_bytes, unpack
from firmware_export.tflm import render

SHAPES = [(1, 1, 1), (1, 9, 1), (9, 1, 1), (2, 2, 1), (5, 7, 1), (28, 28, 1), (1, 1, 6), (12, 11, 3), (16, 1, 6)]
SHAPES += [(6, 1, channels) for channels in range(2, 6)] + [(1, 2, 3), (3, 2, 2)]


def image(rows) -> np.ndarray:
    return np.array(rows, np.uint8)[..., None]


def packed(one) -> bytes:
    return pack(one[None])[0]


def bits(text) -> bytes:
    text = text.replace(" ", "")
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")


# By hand. A context starts with a sum of 8 over 1 residual, so that its code begins with 3 bits behind the one.


def test_one_black_pixel_is_a_run_of_one():
    assert packed(image([[0]])) == bits("1")


def test_one_pixel():
    """Flat, so 0 ends a run of length 0; the residual 3 folds to 6, less 1 as it is not 0: 5 < 8."""
    assert packed(image([[3]])) == bits("0 1 101")


def test_one_bright_pixel():
    """200 is -56 modulo 256, folded 111, less 1: 110 >> 3 is 13, too many zeros, so 12 of them and 8 bits."""
    assert packed(image([[200]])) == bits("0 000000000000 01101110")


def test_runs_grow():
    """Of 12 zeros: runs of 1, 1, 2, 2, 4; the last 2 are told by the image's end."""
    assert packed(image([[0] * 12])) == bits("1 1 1 1 1 1")


def test_a_run_that_a_residual_ends():
    """Runs of 1 and 1 (step 2, so 1 bit of length); 1 zero more; then 1, folded 2, less 1."""
    assert packed(image([[0, 0, 0, 1]])) == bits("1 1 01 1 001")


def test_an_active_pixel_has_another_context():
    """By pixel.

    8, folded 16, less 1: 15 >> 3 is 1 zero. The next has neighbours 8, 8 and 8: flat, a run of 1. The third is 9,
    folded 2, less 1; the flat context's sum is now 8 + 8 over 2: again 3 bits. The fourth lies beside 9 and, before
    that, 8: activity 2, a context of its own, where 9 is residual 0.
    """
    assert packed(image([[8, 8, 9, 9]])) == bits("0 01 111 1 0 1 001 1 000")


def test_channels_are_coupled_where_that_pays():
    """Grey as three channels is coded once: after the first channel the residuals are 0, if not flat in 4 bits."""
    grey = np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8).repeat(3, axis=2)
    apart = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert packed(grey)[0] & 128
    assert len(packed(grey)) < 0.6 * len(packed(apart))
    steps = np.stack([np.arange(32), np.full(32, 7)], axis=1).astype(np.uint8)[:, None]
    assert not packed(steps)[0] & 128


# There and back


def samples(shape) -> list[np.ndarray]:
    """Extremes, noise of any strength, ramps, and flat images with something on them."""
    rng = np.random.default_rng(prod(shape))
    noise = [rng.integers(0, high, shape) for high in (2, 3, 9, 40, 256)]
    ramps = [np.indices(shape)[axis] * 3 + rng.integers(0, 4, shape) for axis in range(3)]
    spots = [np.where(rng.random(shape) < share, rng.integers(0, 256, shape), 77) for share in (0.01, 0.1, 0.5)]
    blocks = [np.where(rng.random(shape) < 0.5, 0, 255), np.zeros(shape), np.full(shape, 255), np.full(shape, 128)]
    walks = [rng.integers(-4, 5, shape).cumsum(axis=axis) for axis in (0, 1)]
    return [np.asarray(one).astype(np.int64).astype(np.uint8) for one in noise + ramps + spots + blocks + walks]


@pytest.mark.parametrize("shape", SHAPES)
def test_there_and_back(shape):
    images = np.stack(samples(shape))
    coded = pack(images)
    assert packed_bytes(images).tolist() == [len(one) for one in coded]
    for one, expected in zip(coded, images, strict=True):
        np.testing.assert_array_equal(unpack(one, shape), expected)


def test_an_image_is_coded_alike_alone_and_among_many(monkeypatch):
    images = np.stack(samples((5, 7, 1)))
    alone = [packed(one) for one in images]
    assert pack(images) == alone
    monkeypatch.setattr("firmware_export.packing._CHUNK_SAMPLES", 3 * 35)
    assert pack(images) == alone
    assert packed_bytes(images[:0]).tolist() == [len(one) for one in pack(images[:0])] == []


def test_flat_images_take_next_to_nothing():
    assert len(packed(np.full((64, 64, 1), 9, np.uint8))) < 20


def test_smooth_images_become_much_smaller():
    """A photograph's like: a smooth surface with noise of about one bit."""
    rows, columns = np.indices((32, 32))
    surface = 100 + 60 * np.sin(rows / 9) * np.cos(columns / 7) + np.random.default_rng(0).normal(0, 1, (32, 32))
    assert len(packed(surface.astype(np.uint8)[..., None])) < 0.45 * 1024


def test_real_images_take_less_than_pngs(fashion):
    """Of the first 100 test images of Fashion-MNIST."""
    images = fashion.test.x[:100]
    coded = pack(images)
    assert all(np.array_equal(unpack(one, (28, 28, 1)), image) for one, image in zip(coded, images, strict=True))
    assert np.mean([len(one) for one in coded]) < 0.8 * np.mean([len(png(image)) for image in images])
    assert np.mean([len(one) for one in coded]) < 0.5 * 784


def png(one) -> bytes:
    written = io.BytesIO()
    Image.fromarray(one[..., 0]).save(written, "PNG", optimize=True)
    return written.getvalue()


# C

MAIN = """
#include <stdio.h>
#include <stdlib.h>

#include "hybrid_pack.h"

int main(void) {
  unsigned shape[4];
  while (fread(shape, sizeof(shape), 1u, stdin) == 1u) {
    const size_t size = (size_t)shape[0] * shape[1] * shape[2];
    unsigned char *samples = malloc(size);
    unsigned char *out = malloc(shape[3] + 1u);
    if (samples == NULL || out == NULL || fread(samples, 1u, size, stdin) != size) {
      return 1;
    }
    out = realloc(out, shape[3] > 0u ? shape[3] : 1u);
    const unsigned used =
        (unsigned)hybrid_pack(samples, shape[0], shape[1], shape[2], shape[3] > 0u ? out : NULL, shape[3]);
    fwrite(&used, sizeof(used), 1u, stdout);
    fwrite(out, 1u, used < shape[3] ? used : shape[3], stdout);
    free(samples);
    free(out);
  }
  return 0;
}
"""


@pytest.fixture(scope="module")
def in_c(tmp_path_factory):
    """The C under address and undefined behaviour sanitizers: images and room for each -> size and bytes."""
    folder = tmp_path_factory.mktemp("pack")
    for name in ("hybrid_pack.c", "hybrid_pack.h"):
        (folder / name).write_text(render(name, {"banner": "a test"}))
    (folder / "main.c").write_text(MAIN)
    command = [c_compiler(), *C_FLAGS, "-pedantic", "-O1", *SANITIZERS, "-o", "pack", "hybrid_pack.c", "main.c"]
    subprocess.run(command, cwd=folder, check=True)

    def ask(images, rooms):
        heads = (np.array([*one.shape, room], "<u4").tobytes() for one, room in zip(images, rooms, strict=True))
        stream = b"".join(head + one.tobytes() for head, one in zip(heads, images, strict=True))
        done = subprocess.run([folder / "pack"], input=stream, capture_output=True, check=True)
        return list(read_answers(done.stdout, rooms))

    return ask


def read_answers(stream, rooms):
    at = 0
    for room in rooms:
        used = int.from_bytes(stream[at : at + 4], "little")
        at += 4 + min(used, room)
        yield used, stream[at - min(used, room) : at]
    assert at == len(stream)


def test_c_writes_the_same_bytes(in_c):
    rng = np.random.default_rng(0)
    shapes = [*SHAPES, *(tuple(rng.integers(1, (14, 14, 7))) for _ in range(80))]
    images = [one for shape in shapes for one in samples(shape)]
    coded = [packed_of for shape in shapes for packed_of in pack(np.stack(samples(shape)))]
    expected = [b"" if len(one) >= image.size else one for one, image in zip(coded, images, strict=True)]
    assert len(images) > 1500
    assert 200 < expected.count(b"") < len(images) / 2
    got = in_c(images, [one.size for one in images])
    assert got == [(len(one), one) for one in expected]


def test_c_counts_what_does_not_fit_and_writes_what_does(in_c):
    one = samples((12, 11, 3))[2]
    expected = packed(one)
    rooms = [0, 1, 7, len(expected) - 1, len(expected)]
    assert in_c([one] * 5, rooms) == [(len(expected), expected[:room]) for room in rooms]


# Hostile bytes

SHAPE = (4, 3, 2)
GOOD = pack(np.random.default_rng(1).integers(100, 120, (1, *SHAPE), dtype=np.uint8))[0]


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_give_an_image_or_an_error(content):
    try:
        got = unpack(content, SHAPE)
    except PackingError:
        return
    assert got.shape == SHAPE


@pytest.mark.parametrize("place", range(8 * len(GOOD)))
def test_every_flipped_bit_gives_another_image_or_an_error(place):
    flipped = bytearray(GOOD)
    flipped[place // 8] ^= 128 >> place % 8
    try:
        got = unpack(bytes(flipped), SHAPE)
    except PackingError:
        return
    assert not np.array_equal(got, unpack(GOOD, SHAPE))


@pytest.mark.parametrize(
    ("content", "shape", "complaint"),
    [
        (b"", (1, 1, 1), "0 bytes for an image"),
        (bytes(97), SHAPE, "97 bytes for an image of shape"),
        (GOOD[:-1], SHAPE, "ends before the image does"),
        (GOOD + b"\0", SHAPE, "goes on after the image"),
        (bits("1 1"), (1, 1, 1), "goes on after the image"),
        (bits("0 000000000000 11111111"), (1, 1, 1), "a residual of 256"),
        (bits("1 1 01"), (1, 3, 1), "a run that ends after the image"),
    ],
)
def test_bytes_that_no_encoder_writes(content, shape, complaint):
    with pytest.raises(PackingError, match=complaint):
        unpack(content, shape)
