"""What a device sends when it asks the cloud: the Python twin of ``hybrid_payload.c``.

``cbor`` is a map in the core deterministic encoding of RFC 8949 section 4.2 (shortest heads, keys in byte order):
``{"c": edge class, "m": first 8 bytes of `DeviceProgram.digest`, "s": router score, "v": 1, "x": pixels}``.
``packed`` is that map with ``"z"``, the pixels as `firmware_export.packing` codes them, in the place of ``"x"``; where
they would not become smaller it is ``cbor``, so that it is never longer. ``raw`` is the pixels alone.
Pixels are uint8, row by row, channels last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from firmware_export.packing import PackingError, pack, packed_bytes, unpack
from hybrid.errors import HybridError, SpecError

PAYLOAD_VERSION = 1
MODEL_DIGEST_BYTES = 8
MAX_CLASS = 65535
Encoding = Literal["raw", "cbor", "packed"]
_PIXELS, _PACKED = "x", "z"
_KEYS = ("c", "m", "s", "v")
_PACKED_SAMPLES = 1 << 24
_KINDS = ("an integer", "an integer", "bytes", "text", "a list", "a map", "a tag", "a simple value or float")
"""CBOR's major types."""
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _MAP = 0, 1, 2, 3, 5


class PayloadError(HybridError, ValueError):
    """A query's bytes cannot be understood."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """One hard example on its way to the cloud; a ``raw`` payload carries the pixels alone, the rest is None."""

    pixels: NDArray[np.uint8]
    """Flat, ``(height * width * channels,)``; of those to be packed, ``(height, width, channels)``."""
    edge_class: int | None
    score: int | None
    model: bytes | None
    """First 8 bytes of `DeviceProgram.digest`."""


def encode_payload(query: Query, encoding: Encoding = "cbor") -> bytes:
    """Write `query` as the firmware does. Raises: PayloadError where a field is missing or out of range."""
    return encode_payloads([query], encoding)[0]


def encode_payloads(queries: Sequence[Query], encoding: Encoding = "cbor") -> list[bytes]:
    """Write queries with pixels of one shape; many at a time are packed much faster. Raises: as `encode_payload`."""
    _check_encoding(encoding)
    if encoding == "packed" and queries:
        packed = pack(np.stack([query.pixels for query in queries]))
        return [_frame(query, coded) for query, coded in zip(queries, packed, strict=True)]
    return [query.pixels.tobytes() if encoding == "raw" else _frame(query, None) for query in queries]


def _frame(query: Query, packed: bytes | None) -> bytes:
    import cbor2

    _check_fields(query.edge_class, query.score, query.model)
    fields = dict(zip(_KEYS, (query.edge_class, query.model, query.score, PAYLOAD_VERSION), strict=True))
    smaller = packed is not None and len(packed) < query.pixels.size
    content = {_PACKED: packed} if smaller else {_PIXELS: query.pixels.tobytes()}
    return cbor2.dumps({**fields, **content}, canonical=True)


def decode_payload(payload: bytes, encoding: Encoding, input_shape: tuple[int, ...]) -> Query:
    """Read what a device sent; both frames are taken for ``cbor`` and for ``packed``.

    Raises: PayloadError naming the field that is wrong, among them pixels that are not those of `input_shape`.
    """
    _check_encoding(encoding)
    if encoding == "raw":
        pixels = _check_size(_PIXELS, payload, input_shape)
        return Query(pixels=pixels, edge_class=None, score=None, model=None)
    fields = _read_map(payload)
    if fields.get("v") != PAYLOAD_VERSION:
        version = _told(fields["v"]) if "v" in fields else "missing"
        raise PayloadError(f"payload: v is {version}, expected {PAYLOAD_VERSION}; update the endpoint")
    if set(fields) not in ({*_KEYS, _PIXELS}, {*_KEYS, _PACKED}):
        expected = f"{[*_KEYS, _PIXELS]} or {_PACKED} in the place of {_PIXELS}"
        raise PayloadError(f"payload: keys {sorted(fields)}, expected {expected}")
    _check_fields(fields["c"], fields["s"], fields["m"])
    pixels = _read_pixels(fields, input_shape)
    return Query(pixels=pixels, edge_class=fields["c"], score=fields["s"], model=fields["m"])


def payload_bytes(input_shape: tuple[int, ...], encoding: Encoding = "cbor") -> int:
    """Count the most bytes that a query of `input_shape` takes; a small class or score saves up to three of them.

    >>> payload_bytes((32, 32, 3), "raw"), payload_bytes((32, 32, 3), "cbor"), payload_bytes((32, 32, 3), "packed")
    (3072, 3101, 3101)
    """
    _check_encoding(encoding)
    size = prod(input_shape)
    return size if encoding == "raw" else _frame_bytes(size)


def payload_sizes(images: NDArray[np.uint8], encoding: Encoding = "cbor") -> NDArray[np.int64]:
    """Count the bytes that the query of each image ``(n, height, width, channels)`` takes, ``(n,)``.

    With a class and a score of the longest, as in `payload_bytes`. Of so many or so large images that packing them all
    would take minutes, every second, third .. is packed and stands for its neighbours.
    """
    most = payload_bytes(images.shape[1:], encoding)
    if encoding != "packed":
        return np.full(len(images), most, np.int64)
    step = -(-images.size // _PACKED_SAMPLES) or 1
    packed = np.repeat(packed_bytes(images[::step]), step)[: len(images)]
    sizes, places = np.unique(packed, return_inverse=True)
    return np.minimum(np.array([_frame_bytes(int(size)) for size in sizes], np.int64)[places], most)


def _frame_bytes(content_bytes: int) -> int:
    """Length of a frame around pixels that take so many bytes, with the longest class and score."""
    longest = Query(pixels=np.zeros(0, np.uint8), edge_class=MAX_CLASS, score=-128, model=bytes(MODEL_DIGEST_BYTES))
    head = 0 if content_bytes < 24 else 1 if content_bytes < 256 else 2 if content_bytes < 65_536 else 4
    return len(_frame(longest, None)) + head + content_bytes


def _check_encoding(encoding: str) -> None:
    if encoding not in get_args(Encoding):
        raise SpecError(f"payload encoding: got {encoding!r}, allowed {', '.join(get_args(Encoding))}")


def _check_fields(edge_class: Any, score: Any, model: Any) -> None:
    for name, value, low, high in (("c", edge_class, 0, MAX_CLASS), ("s", score, -128, 127)):
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise PayloadError(f"payload: {name} is {_told(value)}, expected an integer in [{low}, {high}]")
    if not isinstance(model, bytes) or len(model) != MODEL_DIGEST_BYTES:
        raise PayloadError(f"payload: m is {_told(model)}, expected {MODEL_DIGEST_BYTES} bytes")


def _told(value: Any) -> str:
    """An integer as it is; of anything else, which may be long, the type."""
    return str(value) if type(value) is int else type(value).__name__


def _read_pixels(fields: Mapping[Any, Any], input_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    name = _PIXELS if _PIXELS in fields else _PACKED
    content = fields[name]
    if not isinstance(content, bytes):
        raise PayloadError(f"payload: {name} is {type(content).__name__}, expected bytes")
    if name == _PIXELS:
        return _check_size(name, content, input_shape)
    try:
        return unpack(content, input_shape).ravel()
    except PackingError as exc:
        raise PayloadError(f"payload: z is not packed pixels ({exc})") from exc


def _check_size(name: str, content: bytes, input_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    if len(content) != prod(input_shape):
        told = f"got {len(content):,} bytes, expected {prod(input_shape):,} for pixels of shape {list(input_shape)}"
        raise PayloadError(f"payload: {name}: {told}")
    return np.frombuffer(content, np.uint8)


def _read_map(frame: bytes) -> dict[str, Any]:
    """Read a map from single letters to integers of at most 64 bits and byte strings, and nothing else of CBOR.

    What else there is, such as shared references, makes of a few bytes as much work and memory as their writer likes.
    """
    kind, entries, at = _read_head(frame, 0)
    if kind != _MAP:
        raise PayloadError(f"payload: {_KINDS[kind]}, expected a map")
    fields: dict[str, Any] = {}
    for _ in range(entries):
        key, at = _read_key(frame, at)
        if key in fields:
            raise PayloadError(f"payload: {key} comes twice")
        fields[key], at = _read_value(frame, at, key)
    if at != len(frame):
        raise PayloadError(f"payload: {len(frame) - at} bytes after the map, expected none")
    return fields


def _read_key(frame: bytes, at: int) -> tuple[str, int]:
    kind, size, at = _read_head(frame, at)
    if (kind, size) != (_TEXT, 1):
        found = f"text of {size} bytes" if kind == _TEXT else _KINDS[kind]
        raise PayloadError(f"payload: {found} as a key, expected a letter")
    letter = _cut(frame, at, 1)
    if not letter.isalpha():  # of bytes: in ASCII
        raise PayloadError("payload: a key that is no letter")
    return letter.decode("ascii"), at + 1


def _read_value(frame: bytes, at: int, key: str) -> tuple[int | bytes, int]:
    kind, number, at = _read_head(frame, at)
    if kind == _BYTES:
        return _cut(frame, at, number), at + number
    if kind not in (_UNSIGNED, _NEGATIVE):
        raise PayloadError(f"payload: {key} is {_KINDS[kind]}, expected an integer or bytes")
    return (number if kind == _UNSIGNED else -1 - number), at


def _read_head(frame: bytes, at: int) -> tuple[int, int, int]:
    """Kind and number of the item at `at`, and where what follows begins (RFC 8949, section 3)."""
    kind, detail = divmod(_cut(frame, at, 1)[0], 32)
    if detail < 24:
        return kind, detail, at + 1
    if detail > 27:
        raise PayloadError(f"payload: {_KINDS[kind]} of indefinite or unknown length")
    size = 1 << (detail - 24)
    return kind, int.from_bytes(_cut(frame, at + 1, size), "big"), at + 1 + size


def _cut(frame: bytes, at: int, size: int) -> bytes:
    if at + size > len(frame):
        raise PayloadError("payload: ends early; send it whole")
    return frame[at : at + size]
