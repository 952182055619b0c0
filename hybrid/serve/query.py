"""The firmware's own queries: pixels in, one CBOR map with the answer out; the frame is `firmware_export.payload`'s."""

import cbor2
import numpy as np
from numpy.typing import NDArray

from firmware_export.payload import MODEL_DIGEST_BYTES, Encoding, PayloadError, decode_payload
from hybrid.artifacts import Floats
from hybrid.endpoint import EndpointInfo
from hybrid.serve.errors import RequestError

ENCODINGS: dict[str, Encoding] = {"application/cbor": "cbor", "application/octet-stream": "raw"}
"""What a query's Content-Type says of its body: a frame, or the pixels alone."""


def decode_query(body: bytes, encoding: Encoding, info: EndpointInfo) -> NDArray[np.uint8]:
    """Pixels of one query, uint8 ``(1, height, width, channels)``.

    Raises: RequestError; with status 409 where the device runs another edge model than this cloud is paired with.
    """
    try:
        query = decode_payload(body, encoding, info.input_shape)
    except PayloadError as exc:
        raise RequestError(" ".join(str(exc).split())[:200]) from exc
    paired = bytes.fromhex(info.edge_digest)[:MODEL_DIGEST_BYTES]
    if query.model not in (None, paired):
        raise RequestError(f"m: not the edge model {paired.hex()} this cloud is paired with; flash its bundle", 409)
    return query.pixels.reshape(1, *info.input_shape)


def encode_answer(scores: Floats) -> bytes:
    """Answer to one query from its class scores ``(num_classes,)``; of equal scores the lowest class."""
    return cbor2.dumps({"class": int(scores.argmax()), "scores": scores.tolist()}, canonical=True)
