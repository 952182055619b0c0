import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_edge import program, sources

from firmware_export.host import compile_decision
from firmware_export.payload import PayloadError, Query, decode_payload, encode_payload, payload_bytes
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
    asked = decode_payload(b"\x00\x01", "raw")
    assert asked.pixels.tolist() == [0, 1]
    assert (asked.edge_class, asked.score, asked.model) == (None, None, None)


@given(edge_class=st.integers(0, 65535), score=st.integers(-128, 127), pixels=st.binary(max_size=300))
def test_what_is_encoded_is_decoded_and_never_longer_than_announced(edge_class, score, pixels):
    sent = Query(pixels=np.frombuffer(pixels, np.uint8), edge_class=edge_class, score=score, model=MODEL)
    message = encode_payload(sent)
    assert len(message) <= payload_bytes((len(pixels),))
    got = decode_payload(message)
    assert (got.edge_class, got.score, got.model, got.pixels.tobytes()) == (edge_class, score, MODEL, pixels)


GOOD = {"c": 1, "m": MODEL, "s": 2, "v": 1, "x": b"abc"}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"v": 2}, "v is 2, expected 1"),
        ({"v": True}, "v is True"),
        ({"c": -1}, "c is -1"),
        ({"c": 65536}, "c is 65536"),
        ({"s": 128}, "s is 128"),
        ({"s": "a"}, "s is 'a'"),
        ({"m": b"short"}, "expected 8 bytes"),
        ({"x": "text"}, "x is str, expected bytes"),
        ({"y": 1}, "keys"),
    ],
)
def test_wrong_fields_are_named(change, complaint):
    with pytest.raises(PayloadError, match=complaint):
        decode_payload(cbor2.dumps({**GOOD, **change}))


@pytest.mark.parametrize(
    "junk", [b"", b"\xff", b"\x01", cbor2.dumps(GOOD) + b"\0", cbor2.dumps(GOOD)[:-1], b"\xa1\x80\x01"]
)
def test_junk_is_refused(junk):
    with pytest.raises(PayloadError, match="payload: "):
        decode_payload(junk)


def test_unknown_encoding():
    with pytest.raises(SpecError, match="got 'png', allowed raw, cbor"):
        payload_bytes((2, 2, 1), "png")


@pytest.fixture(scope="module")
def c():
    return compile_decision(sources())


def on_device(edge_class, score, seed=0) -> Query:
    pixels = np.random.default_rng(seed).integers(0, 256, 64, dtype=np.uint8)
    return Query(pixels=pixels, edge_class=edge_class, score=score, model=bytes.fromhex(program().digest)[:8])


@settings(max_examples=200, deadline=None)
@given(edge_class=st.integers(0, 65535), score=st.integers(-128, 127), seed=st.integers(0, 9))
def test_c_encoder_writes_the_same_bytes(c, edge_class, score, seed):
    sent = on_device(edge_class, score, seed)
    assert c.payload(sent, "cbor") == encode_payload(sent)


@pytest.mark.parametrize("edge_class", [0, 23, 24, 255, 256, 65535])
@pytest.mark.parametrize("score", [-128, -25, -24, -1, 0, 23, 24, 127])
def test_c_encoder_at_the_edges_of_heads(c, edge_class, score):
    sent = on_device(edge_class, score)
    assert c.payload(sent, "cbor") == encode_payload(sent)
    assert c.payload(sent, "raw") == sent.pixels.tobytes()


def test_c_encoder_refuses(c):
    sent = on_device(3, 4)
    size = len(encode_payload(sent))
    assert c.payload(sent, "cbor", capacity=size) == encode_payload(sent)
    with pytest.raises(HybridError, match="buffer is too small"):
        c.payload(sent, "cbor", capacity=size - 1)
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
