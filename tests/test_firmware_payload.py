from typing import get_args

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_edge import program, sources

from firmware_export.host import compile_decision
from firmware_export.packing import pack
from firmware_export.payload import (
    Encoding,
    PayloadError,
    Query,
    decode_payload,
    encode_payload,
    encode_payloads,
    payload_bytes,
    payload_sizes,
)
from hybrid.errors import HybridError, SpecError

MODEL = bytes(range(8))


def query(count=2, edge_class=0, score=0) -> Query:
    return Query(pixels=np.arange(count, dtype=np.uint8), edge_class=edge_class, score=score, model=MODEL)


def test_pencil():
    # a5: map of 5; 61: text of 1; 02; 48: 8 bytes; 20: -1; 01; 42: 2 bytes
    expected = "a5 6163 02 616d 48 0001020304050607 6173 20 6176 01 6178 42 0001"
    assert encode_payload(query(edge_class=2, score=-1)) == bytes.fromhex(expected)


def test_raw_is_the_pixels():
    assert encode_payload(query(), "raw") == b"\x00\x01"
    asked = decode_payload(b"\x00\x01", "raw", (2,))
    assert asked.pixels.tolist() == [0, 1]
    assert (asked.edge_class, asked.score, asked.model) == (None, None, None)


@given(edge_class=st.integers(0, 65535), score=st.integers(-128, 127), pixels=st.binary(max_size=300))
def test_what_is_encoded_is_decoded_and_never_longer_than_announced(edge_class, score, pixels):
    sent = Query(pixels=np.frombuffer(pixels, np.uint8), edge_class=edge_class, score=score, model=MODEL)
    message = encode_payload(sent)
    assert len(message) <= payload_bytes((len(pixels),))
    got = decode_payload(message, "cbor", (len(pixels),))
    assert (got.edge_class, got.score, got.model, got.pixels.tobytes()) == (edge_class, score, MODEL, pixels)


GOOD = {"c": 1, "m": MODEL, "s": 2, "v": 1, "x": b"abc"}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"v": 2}, "v is 2, expected 1"),
        ({"v": True}, "v is a simple value or float, expected an integer or bytes"),
        ({"v": b"1"}, "v is bytes, expected 1"),
        ({"c": -1}, "c is -1"),
        ({"c": 65536}, "c is 65536"),
        ({"c": 2**64 - 1}, "c is 18446744073709551615, expected an integer in"),
        ({"s": 128}, "s is 128"),
        ({"s": "a"}, "s is text, expected an integer or bytes"),
        ({"s": b"a"}, "s is bytes, expected an integer in"),
        ({"m": b"short"}, "m is bytes, expected 8 bytes"),
        ({"m": 8}, "m is 8, expected 8 bytes"),
        ({"x": "text"}, "x is text, expected an integer or bytes"),
        ({"x": 1}, "x is int, expected bytes"),
        ({"x": b"ab"}, r"x: got 2 bytes, expected 3 for pixels of shape \[3\]"),
        ({"y": 1}, "keys"),
        ({"z": b""}, "keys"),
    ],
)
def test_wrong_fields_are_named(change, complaint):
    with pytest.raises(PayloadError, match=complaint):
        decode_payload(cbor2.dumps({**GOOD, **change}), "cbor", (3,))


@pytest.mark.parametrize(
    ("junk", "complaint"),
    [
        (b"", "ends early"),
        (b"\xff", "indefinite or unknown length"),
        (b"\x01", "an integer, expected a map"),
        (cbor2.dumps(GOOD) + b"\0", "1 bytes after the map, expected none"),
        (cbor2.dumps(GOOD)[:-1], "ends early"),
        (cbor2.dumps(GOOD)[:-4], "ends early"),
        (b"\xa5\x18", "ends early"),
        (b"\xa1\x80\x01", "a list as a key, expected a letter"),
        (b"\xa1\x01\x01", "an integer as a key, expected a letter"),
        (b"\xa1\x62vv\x01", "text of 2 bytes as a key, expected a letter"),
        (b"\xa1\x61\xff\x01", "a key that is no letter"),
        (b"\xa2\x61v\x01\x61v\x01", "v comes twice"),
        (b"\xbf\x61v\x01\xff", "indefinite or unknown length"),
        (b"\xa1\x61x\x5f\x41\x00\xff", "indefinite or unknown length"),
        (b"\xa1\x61v\xc2\x41\x01", "v is a tag, expected an integer or bytes"),
        (b"\xa1\x61v\xa0", "v is a map, expected"),
        (b"\xa1\x61x\x5b" + b"\xff" * 8, "ends early"),
        (b"\xbb" + b"\xff" * 8, "ends early"),
    ],
)
def test_junk_is_refused(junk, complaint):
    with pytest.raises(PayloadError, match=f"^payload: .*{complaint}"):
        decode_payload(junk, "packed", (3,))


def shared_lists(depth):
    """Lists of ten times the list before, by shared references: 10**depth items in 34 bytes each."""
    levels = [b"\xd8\x1c\x81\x00"]
    levels += [b"\xd8\x1c\x8a" + 10 * bytes([0xD8, 0x1D, level]) for level in range(depth)]
    return bytes([0x80 + len(levels)]) + b"".join(levels)


def with_class(coded):
    """The good frame, with other bytes for the value of c."""
    start, end = cbor2.dumps(GOOD, canonical=True).split(b"\x61c\x01")
    return start + b"\x61c" + coded + end


@pytest.mark.parametrize("frame", [with_class(shared_lists(4)), b"\xa1" + shared_lists(4) + b"\x00"])
def test_a_few_bytes_are_not_blown_up(frame):
    with pytest.raises(PayloadError) as caught:
        decode_payload(frame, "cbor", (3,))
    assert len(str(caught.value)) < 100


def test_an_integer_of_any_length_is_read_or_refused():
    assert decode_payload(with_class(b"\x1b" + bytes(7) + b"\x05"), "cbor", (3,)).edge_class == 5
    with pytest.raises(PayloadError, match="c is a tag"):
        decode_payload(with_class(b"\xc2\x59\x10\x00" + b"\xff" * 4096), "cbor", (3,))


SMOOTH = np.arange(24, dtype=np.uint8).reshape(4, 3, 2) // 3
NOISE = np.random.default_rng(0).integers(0, 256, (4, 3, 2), dtype=np.uint8)


def framed(pixels) -> Query:
    return Query(pixels=pixels, edge_class=2, score=-1, model=MODEL)


def test_packed_pixels_take_the_place_of_the_plain_ones():
    message = encode_payload(framed(SMOOTH), "packed")
    assert cbor2.loads(message) == {"c": 2, "m": MODEL, "s": -1, "v": 1, "z": pack(SMOOTH[None])[0]}
    assert len(message) < len(encode_payload(framed(SMOOTH)))


def test_pixels_that_do_not_become_smaller_stay_as_they_are():
    assert encode_payload(framed(NOISE), "packed") == encode_payload(framed(NOISE))


@pytest.mark.parametrize("encoding", ["cbor", "packed"])
@pytest.mark.parametrize("pixels", [SMOOTH, NOISE])
def test_both_frames_are_read(encoding, pixels):
    got = decode_payload(encode_payload(framed(pixels), "packed"), encoding, (4, 3, 2))
    assert got.pixels.tobytes() == pixels.tobytes()
    assert (got.edge_class, got.score, got.model) == (2, -1, MODEL)


@pytest.mark.parametrize(
    ("packed", "complaint"), [("text", "z is text, expected an integer or bytes"), (b"", "0 bytes for an image")]
)
def test_what_is_not_packed_pixels(packed, complaint):
    frame = cbor2.dumps({"c": 1, "m": MODEL, "s": 2, "v": 1, "z": packed})
    with pytest.raises(PayloadError, match=f"payload: z.*{complaint}" if packed == b"" else complaint):
        decode_payload(frame, "packed", (4, 3, 2))


@pytest.mark.parametrize("shape", [(4, 3, 2), (8, 8, 1), (3, 90, 1)])
@pytest.mark.parametrize("encoding", get_args(Encoding))
def test_sizes_are_those_of_the_longest_frames(shape, encoding):
    rng = np.random.default_rng(1)
    images = np.stack([rng.integers(0, high, shape, dtype=np.uint8) for high in (1, 9, 256)])
    longest = [Query(pixels=one, edge_class=65535, score=-128, model=MODEL) for one in images]
    sizes = payload_sizes(images, encoding).tolist()
    assert sizes == [len(message) for message in encode_payloads(longest, encoding)]
    assert max(sizes) == payload_bytes(shape, encoding)
    assert payload_sizes(images[:0], encoding).shape == (0,)


def test_of_very_many_images_some_stand_for_their_neighbours(monkeypatch):
    monkeypatch.setattr("firmware_export.payload._PACKED_SAMPLES", 2 * 24)
    each = [SMOOTH, NOISE, NOISE, SMOOTH, SMOOTH]  # 120 samples, so every third is packed
    sizes = payload_sizes(np.stack(each), "packed").tolist()
    small, large = payload_sizes(SMOOTH[None], "packed").item(), payload_bytes((4, 3, 2))
    assert sizes == [small] * 5
    monkeypatch.undo()
    assert payload_sizes(np.stack(each), "packed").tolist() == [small, large, large, small, small]


def test_unknown_encoding():
    with pytest.raises(SpecError, match="got 'png', allowed raw, cbor, packed"):
        payload_bytes((2, 2, 1), "png")


@pytest.fixture(scope="module")
def c():
    return compile_decision(sources())


def on_device(edge_class, score, seed=0) -> Query:
    pixels = np.random.default_rng(seed).integers(0, 8 << seed % 6, (8, 8, 1), dtype=np.uint8)
    return Query(pixels=pixels, edge_class=edge_class, score=score, model=bytes.fromhex(program().digest)[:8])


@settings(max_examples=200, deadline=None)
@given(edge_class=st.integers(0, 65535), score=st.integers(-128, 127), seed=st.integers(0, 9))
def test_c_encoder_writes_the_same_bytes(c, edge_class, score, seed):
    sent = on_device(edge_class, score, seed)
    assert c.payload(sent, "cbor") == encode_payload(sent)
    assert c.payload(sent, "packed") == encode_payload(sent, "packed")


@pytest.mark.parametrize("edge_class", [0, 23, 24, 255, 256, 65535])
@pytest.mark.parametrize("score", [-128, -25, -24, -1, 0, 23, 24, 127])
def test_c_encoder_at_the_edges_of_heads(c, edge_class, score):
    sent = on_device(edge_class, score)
    assert c.payload(sent, "cbor") == encode_payload(sent)
    assert c.payload(sent, "raw") == sent.pixels.tobytes()


@pytest.mark.parametrize("encoding", get_args(Encoding))
@pytest.mark.parametrize("seed", [0, 5])
def test_c_encoder_fills_its_buffer_to_the_last_byte(c, encoding, seed):
    """Packed (seed 0) as well as not; also where the head, which tells the size, leaves no room to close up."""
    sent = on_device(3, 4, seed)
    size = len(encode_payload(sent, encoding))
    for more in range(5):
        assert c.payload(sent, encoding, capacity=size + more) == encode_payload(sent, encoding)
    for capacity in (size - 1, size - 5, 1):
        with pytest.raises(HybridError, match="buffer is too small"):
            c.payload(sent, encoding, capacity=capacity)


def test_c_encoder_refuses(c):
    with pytest.raises(HybridError, match="outside its range"):
        c.payload(on_device(65536, 0), "cbor")


def test_c_reads_the_answer(c):
    for index in range(3):
        assert c.answer_class(cbor2.dumps({"class": index, "scores": [0.5, 0.25, 0.25]}, canonical=True)) == index


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xa2",
        cbor2.dumps({"class": 3, "scores": []}),
        cbor2.dumps({"class": -1, "scores": []}),
        cbor2.dumps({"error": "x"}),
        cbor2.dumps({"class": 0, "scores": []})[:7],
    ],
)
def test_c_refuses_an_answer(c, answer):
    with pytest.raises(HybridError, match="answer cannot be understood"):
        c.answer_class(answer)
