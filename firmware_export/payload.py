"""What a device sends when it asks the cloud: the Python twin of ``hybrid_payload.c``.

``cbor`` is a map in the core deterministic encoding of RFC 8949 section 4.2 (shortest heads, keys in byte order):
``{"c": edge class, "m": first 8 bytes of `DeviceProgram.digest`, "s": router score, "v": 1, "x": pixels}``.
``raw`` is the pixels alone. Pixels are uint8, row by row, channels last.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import HybridError, SpecError

PAYLOAD_VERSION = 1
MODEL_DIGEST_BYTES = 8
MAX_CLASS = 65535
Encoding = Literal["raw", "cbor"]
_KEYS = ("c", "m", "s", "v", "x")


class PayloadError(HybridError, ValueError):
    """A query's bytes cannot be understood."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """One hard example on its way to the cloud; a ``raw`` payload carries the pixels alone, the rest is None."""

    pixels: NDArray[np.uint8]
    """Flat, ``(height * width * channels,)``."""
    edge_class: int | None
    score: int | None
    model: bytes | None
    """First 8 bytes of `DeviceProgram.digest`."""


def encode_payload(query: Query, encoding: Encoding = "cbor") -> bytes:
    """Write `query` as the firmware does. Raises: PayloadError where a field is missing or out of range."""
    _check_encoding(encoding)
    if encoding == "raw":
        return query.pixels.tobytes()
    _check_fields(query.edge_class, query.score, query.model)
    import cbor2

    fields = (query.edge_class, query.model, query.score, PAYLOAD_VERSION, query.pixels.tobytes())
    return cbor2.dumps(dict(zip(_KEYS, fields, strict=True)), canonical=True)


def decode_payload(payload: bytes, encoding: Encoding = "cbor") -> Query:
    """Read what a device sent. Raises: PayloadError naming the field that is wrong."""
    _check_encoding(encoding)
    if encoding == "raw":
        return Query(pixels=np.frombuffer(payload, np.uint8), edge_class=None, score=None, model=None)
    fields = _read_map(payload)
    if fields.get("v") != PAYLOAD_VERSION or isinstance(fields["v"], bool):
        raise PayloadError(f"payload: v is {fields.get('v')!r}, expected {PAYLOAD_VERSION}; update the endpoint")
    if set(fields) != set(_KEYS):
        raise PayloadError(f"payload: keys {sorted(map(str, fields))}, expected {list(_KEYS)}")
    _check_fields(fields["c"], fields["s"], fields["m"])
    if not isinstance(fields["x"], bytes):
        raise PayloadError(f"payload: x is {type(fields['x']).__name__}, expected bytes")
    pixels = np.frombuffer(fields["x"], np.uint8)
    return Query(pixels=pixels, edge_class=fields["c"], score=fields["s"], model=fields["m"])


def payload_bytes(input_shape: tuple[int, ...], encoding: Encoding = "cbor") -> int:
    """Count the most bytes that a query of `input_shape` takes; a small class or score saves up to three of them.

    >>> payload_bytes((32, 32, 3), "raw"), payload_bytes((32, 32, 3), "cbor")
    (3072, 3101)
    """
    _check_encoding(encoding)
    blank = np.zeros(prod(input_shape), np.uint8)
    longest = Query(pixels=blank, edge_class=MAX_CLASS, score=-128, model=bytes(MODEL_DIGEST_BYTES))
    return len(encode_payload(longest, encoding))


def _check_encoding(encoding: str) -> None:
    if encoding not in get_args(Encoding):
        raise SpecError(f"payload encoding: got {encoding!r}, allowed {', '.join(get_args(Encoding))}")


def _check_fields(edge_class: Any, score: Any, model: Any) -> None:
    for name, value, low, high in (("c", edge_class, 0, MAX_CLASS), ("s", score, -128, 127)):
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise PayloadError(f"payload: {name} is {value!r}, expected an integer in [{low}, {high}]")
    if not isinstance(model, bytes) or len(model) != MODEL_DIGEST_BYTES:
        raise PayloadError(f"payload: m is {model!r}, expected {MODEL_DIGEST_BYTES} bytes")


def _read_map(payload: bytes) -> Mapping[Any, Any]:
    import cbor2

    stream = io.BytesIO(payload)
    try:
        fields = cbor2.load(stream)
    except (cbor2.CBORDecodeError, ValueError, TypeError, RecursionError) as exc:
        raise PayloadError(f"payload: not CBOR ({exc})") from exc
    if not isinstance(fields, dict):
        raise PayloadError(f"payload: CBOR {type(fields).__name__}, expected a map")
    if stream.tell() != len(payload):
        raise PayloadError(f"payload: {len(payload) - stream.tell()} bytes after the map, expected none")
    return fields
