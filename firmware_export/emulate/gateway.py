"""The host's side of an emulated device that asks the cloud: examples in, queries passed on, what became of each out.

The device's side is ``target/gateway.c``, to be built with a bundle's plain C and a main() that classifies.
"""

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum

import cbor2

from firmware_export.emulate import programs
from firmware_export.emulate.errors import EmulationError
from firmware_export.emulate.uart import Uart
from firmware_export.payload import Encoding, decode_payload
from hybrid.blackbox import RemoteModel
from hybrid.errors import CloudError

EXAMPLE, ANSWER, NO_ANSWER, END = b"I", b"A", b"N", b"E"
"""Frames to the device: uint8 pixels; CBOR ``{"class": index, "scores": []}``; two that are empty."""
QUERY, RESULT, TROUBLE = b"Q", b"R", b"T"
"""Frames from the device: a payload as `firmware_export.payload` reads it; `Outcome`; a hybrid_status_t."""
_RESULT = struct.Struct(">HHbB")

Ask = Callable[[bytes], int]
"""The cloud: a query's payload -> a class. Raises: CloudError where there is no answer."""


class Way(IntEnum):
    """How a device came to its answer."""

    KEPT = 0
    ANSWERED = 1
    """By the cloud."""
    UNANSWERED = 2
    """The cloud was asked in vain, and the edge's own answer stands."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one example."""

    answer: int
    """The device's final class."""
    edge_class: int
    score: int
    way: Way


def gateway_sources() -> dict[str, str]:
    """Sources of the device's side; they need the bundle's ``hybrid_decide`` and ``hybrid_payload``."""
    return {name: (programs.TARGET / name).read_text() for name in ("gateway.c", "gateway.h")}


def endpoint_ask(
    url: str,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    encoding: Encoding = "cbor",
    timeout_s: float = 10.0,
) -> Ask:
    """Ask the model at `url` (such as ``http://host:8080/v2/models/cloud``), an Open Inference Protocol v2 endpoint.

    Raises: SpecError for the URL; CloudError where nobody answers there or the model takes other examples.
    """
    model = RemoteModel(url, timeout_s)
    model.check_input(input_shape)

    def ask(payload: bytes) -> int:
        pixels = decode_payload(payload, encoding, input_shape).pixels
        return int(model.ask(pixels.reshape(1, *input_shape), num_classes)[0].argmax())

    return ask


def serve_device(uart: Uart, ask: Ask, examples: Iterable[bytes]) -> list[Outcome]:
    """Give a device `examples`, the pixels of one each, answer its queries by `ask`, and end its loop.

    Raises: EmulationError where the device reports trouble or breaks the protocol; EmulationTimeoutError.
    """
    outcomes = [_serve_one(uart, ask, example) for example in examples]
    uart.send_frame(END)
    return outcomes


def _serve_one(uart: Uart, ask: Ask, example: bytes) -> Outcome:
    uart.send_frame(EXAMPLE, example)
    kind, body = uart.receive_frame()
    if kind == QUERY:
        uart.send_frame(*_answer(ask, body))
        kind, body = uart.receive_frame()
    if kind == TROUBLE:
        raise EmulationError(f"gateway: the device stopped with status {body[0]} (hybrid_status_t)")
    if kind != RESULT or len(body) != _RESULT.size:
        raise EmulationError(f"gateway: the device sent a frame {kind!r} of {len(body):,} bytes, expected a result")
    answer, edge_class, score, way = _RESULT.unpack(body)
    return Outcome(answer=answer, edge_class=edge_class, score=score, way=Way(way))


def _answer(ask: Ask, payload: bytes) -> tuple[bytes, bytes]:
    try:
        return ANSWER, cbor2.dumps({"class": ask(payload), "scores": []}, canonical=True)
    except CloudError:
        return NO_ANSWER, b""
