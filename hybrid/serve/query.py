"""The device's own payload: one CBOR map with the pixels in, one CBOR map with the answer out (RFC 8949).

A query is ``{"v": 1, "m": digest, "c": edge class, "s": router score, "x": pixels}``, where the digest is the first 8
bytes of the edge flatbuffer's SHA-256; an answer is ``{"class": index, "scores": [float, ...]}``.
"""

import io
from typing import Any

import cbor2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hybrid.artifacts import Floats
from hybrid.endpoint import EndpointInfo
from hybrid.serve.errors import RequestError

QUERY_VERSION = 1
DIGEST_BYTES = 8


def decode_query(body: bytes, info: EndpointInfo) -> NDArray[np.uint8]:
    """Pixels of one query, uint8 ``(1, height, width, channels)``.

    Raises: RequestError; with status 409 where the device runs another edge model than this cloud is paired with.
    """
    query = _load(body)
    if query.get("v") != QUERY_VERSION:
        raise RequestError(f"v: got {query.get('v')!r:.40}, allowed {QUERY_VERSION}; update the firmware")
    paired = bytes.fromhex(info.edge_digest)[:DIGEST_BYTES]
    if query.get("m") != paired:
        raise RequestError(f"m: not the edge model {paired.hex()} this cloud is paired with; flash its bundle", 409)
    data = query.get("x")
    if not isinstance(data, bytes):
        raise RequestError(f"x: got {type(data).__name__}, expected a byte string of {info.payload} pixels")
    return _PIXELS[info.payload](data, info.input_shape)[None]


def encode_answer(scores: Floats) -> bytes:
    """Answer to one query from its class scores ``(num_classes,)``; of equal scores the lowest class."""
    return cbor2.dumps({"class": int(scores.argmax()), "scores": scores.tolist()}, canonical=True)


def _load(body: bytes) -> dict[str, Any]:
    try:
        query = cbor2.loads(body)
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError, EOFError, MemoryError) as exc:
        raise RequestError(f"body: not valid CBOR ({' '.join(str(exc).split()):.120})") from exc
    if not isinstance(query, dict):
        raise RequestError(f"body: got {type(query).__name__}, expected a CBOR map with the keys v, m, c, s, x")
    return query


def _raw(data: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    if len(data) != np.prod(shape):
        raise RequestError(f"x: got {len(data):,} bytes, expected {np.prod(shape):,} for pixels of shape {list(shape)}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _png(data: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    height, width, channels = shape
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            got = (image.height, image.width, len(image.getbands()))  # known before a pixel is unpacked
            if got != shape or image.mode not in ("L", "LA", "RGB", "RGBA"):
                raise RequestError(f"x: got a {image.mode} PNG of shape {list(got)}, expected {list(shape)}, 8 bit")
            return np.asarray(image, np.uint8).reshape(height, width, channels)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise RequestError(f"x: not a readable PNG ({' '.join(str(exc).split()):.120})") from exc


_PIXELS = {"raw": _raw, "png": _png}
