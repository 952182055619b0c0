"""The endpoint as an ASGI application; the protocols themselves are in `oip` and `query`."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from firmware_export.payload import Encoding, payload_bytes
from hybrid.endpoint import EndpointInfo
from hybrid.serve import oip
from hybrid.serve.errors import RequestError
from hybrid.serve.model import Model
from hybrid.serve.query import ENCODINGS, decode_query, encode_answer
from hybrid.version import project_version

_JSON_BYTES_PER_VALUE = 26
"""The longest double that JSON writers print, with its comma and space."""
_HEAD_BYTES = 65_536
_SPARE_HEAD_BYTES = 11 * 8
"""The frame's map, keys and values have 11 heads; an encoder may write each 8 bytes longer than need be."""


def create_app(model: Model, info: EndpointInfo) -> Starlette:
    """Serve `model` under the Open Inference Protocol v2 and the device's query.

    Model calls run in threads, so that health and metadata answer while the model works.
    """
    endpoint = _Endpoint(model=model, info=info)
    named = "/v2/models/{name}"
    return Starlette(
        routes=[
            Route("/v2", endpoint.server),
            Route("/v2/health/live", endpoint.live),
            Route("/v2/health/ready", endpoint.ready),
            Route(named, endpoint.model_metadata),
            Route(f"{named}/ready", endpoint.model_ready),
            Route(f"{named}/infer", endpoint.infer, methods=["POST"]),
            Route(f"{named}/query", endpoint.query, methods=["POST"]),
        ],
        exception_handlers={
            RequestError: lambda _, exc: _error(exc.message, exc.status),
            HTTPException: lambda request, exc: _error(f"{request.url.path}: {exc.detail}", exc.status_code),
            ClientDisconnect: lambda *_: _error("client went away", 400),
            Exception: lambda *_: _error("the model failed on this request; see the server's log", 500),
        },
    )


def body_limit(info: EndpointInfo) -> int:
    """Most bytes of a request body: a full batch as JSON numbers."""
    return _HEAD_BYTES + _JSON_BYTES_PER_VALUE * info.max_batch * int(np.prod(info.input_shape))


def query_limit(info: EndpointInfo) -> int:
    """Most bytes of a query: the longest frame, however an encoder writes its heads."""
    return _SPARE_HEAD_BYTES + payload_bytes(info.input_shape)


@dataclass(frozen=True, kw_only=True)
class _Endpoint:
    model: Model
    info: EndpointInfo

    async def server(self, request: Request) -> Response:
        return _json({"name": "hybrid", "version": project_version(), "extensions": ["binary_tensor_data"]})

    async def live(self, request: Request) -> Response:
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        return _json({"ready": True})

    async def model_metadata(self, request: Request) -> Response:
        self._check_name(request)
        return _json(oip.metadata(self.info))

    async def model_ready(self, request: Request) -> Response:
        self._check_name(request)
        return _json({"name": self.info.model_name, "ready": True})

    async def infer(self, request: Request) -> Response:
        self._check_name(request)
        body = await _body(request, body_limit(self.info), "which a full batch needs; send smaller batches")
        return await run_in_threadpool(self._infer, body, request.headers.get(oip.JSON_LENGTH_HEADER))

    async def query(self, request: Request) -> Response:
        self._check_name(request)
        kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind not in ENCODINGS:
            raise RequestError(f"Content-Type: got {kind!r:.60}, allowed {', '.join(ENCODINGS)}", 415)
        body = await _body(request, query_limit(self.info), "the most that a query takes; send one at a time")
        return await run_in_threadpool(self._query, body, ENCODINGS[kind])

    def _infer(self, body: bytes, json_length: str | None) -> Response:
        asked = oip.read_infer(body, json_length, self.info)
        content, headers = oip.write_infer(self.model(asked.pixels), asked, self.info)
        return Response(content, headers=headers)

    def _query(self, body: bytes, encoding: Encoding) -> Response:
        scores = self.model(decode_query(body, encoding, self.info))
        return Response(encode_answer(scores[0]), media_type="application/cbor")

    def _check_name(self, request: Request) -> None:
        if (name := request.path_params["name"]) != self.info.model_name:
            raise RequestError(f"model: unknown {name!r:.60}; allowed {self.info.model_name}", 404)


async def _body(request: Request, limit: int, advice: str) -> bytes:
    """Read the body, never more than `limit` bytes of it; `advice` goes to a client that sends more."""
    if (coding := request.headers.get("Content-Encoding", "identity")) != "identity":
        raise RequestError(f"Content-Encoding: got {coding!r:.40}, allowed identity", 415)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise RequestError(f"body: more than {limit:,} bytes, {advice}", 413)
    return bytes(body)


def _json(data: Any, status: int = 200) -> Response:
    return Response(json.dumps(data), status, media_type="application/json")


def _error(message: str, status: int) -> Response:
    return _json({"error": message}, status)
