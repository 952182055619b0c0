"""Open Inference Protocol v2 over REST, with its binary tensor data extension: bytes to pixels, scores to bytes.

Everything a client sends is checked here, because TensorFlow aborts the whole process on a tensor of the wrong rank.
Protocol: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
"""

import json
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hybrid.artifacts import Floats
from hybrid.endpoint import EndpointInfo, TensorInfo
from hybrid.serve.errors import RequestError

JSON_LENGTH_HEADER = "Inference-Header-Content-Length"
_MOST_LENGTH_DIGITS = 12
_NO_PIXELS = "data: expected whole pixel values 0 to 255; do not scale, the model does"
_DATATYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4")}

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """A checked request: `pixels` uint8 ``(n, height, width, channels)``, and how its answer is to look."""

    pixels: NDArray[np.uint8]
    request_id: str
    binary: bool


def metadata(info: EndpointInfo) -> dict[str, Any]:
    """Answer a model metadata request."""

    def tensor(t: TensorInfo) -> dict[str, Any]:
        return {"name": t.name, "datatype": t.datatype, "shape": list(t.shape)}

    return {
        "name": info.model_name,
        "versions": ["1"],
        "platform": "tensorflow_savedmodel",
        "inputs": [tensor(info.input)],
        "outputs": [tensor(info.output)],
    }


def read_infer(body: bytes, json_length: str | None, info: EndpointInfo) -> InferRequest:
    """Check and decode an inference request; `json_length` is the header of the binary extension, if it came.

    Raises: RequestError.
    """
    head, tail = _split(body, json_length)
    request = _json_object(head)
    tensor = _only(request, "inputs", info.input.name)
    shape = _shape(_field(tensor, "shape", list), info)
    dtype = _dtype(_field(tensor, "datatype", str))
    size = _field(_field(tensor, "parameters", dict, {}), "binary_data_size", int, -1)
    values = _binary(tail, size, shape, dtype) if size >= 0 else _listed(_field(tensor, "data", list), shape)
    return InferRequest(
        pixels=_as_pixels(values),
        request_id=_field(request, "id", str, ""),
        binary=_wants_binary(request, info),
    )


def write_infer(scores: Floats, request: InferRequest, info: EndpointInfo) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the answer with `scores` float32 ``(n, num_classes)``."""
    output: dict[str, Any] = {"name": info.output.name, "datatype": "FP32", "shape": list(scores.shape)}
    tail = scores.astype("<f4").tobytes() if request.binary else b""
    if request.binary:
        output["parameters"] = {"binary_data_size": len(tail)}
    else:
        output["data"] = scores.ravel().tolist()
    answer: dict[str, Any] = {"model_name": info.model_name, "model_version": "1", "outputs": [output]}
    if request.request_id:
        answer["id"] = request.request_id
    head = json.dumps(answer, allow_nan=False).encode()
    if not request.binary:
        return head, {"Content-Type": "application/json"}
    return head + tail, {"Content-Type": "application/octet-stream", JSON_LENGTH_HEADER: str(len(head))}


def _split(body: bytes, json_length: str | None) -> tuple[bytes, bytes]:
    if json_length is None:
        return body, b""
    digits = len(json_length) <= _MOST_LENGTH_DIGITS and json_length.isascii() and json_length.isdigit()
    if not (digits and int(json_length) <= len(body)):
        raise RequestError(f"{JSON_LENGTH_HEADER}: got {json_length!r:.40}, allowed 0 to {len(body):,}")
    return body[: int(json_length)], body[int(json_length) :]


def _json_object(head: bytes) -> dict[str, Any]:
    try:
        data = json.loads(head)
    except (ValueError, RecursionError) as exc:
        raise RequestError(f"body: not valid JSON ({exc})") from exc
    if not isinstance(data, dict):
        raise RequestError(f"body: got {type(data).__name__}, expected a JSON object with inputs")
    return data


def _field(mapping: dict[str, Any], key: str, kind: type[T], default: T | None = None) -> T:
    value = mapping.get(key, default)
    if value is None:
        raise RequestError(f"{key}: missing; expected {kind.__name__}")
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise RequestError(f"{key}: got {type(value).__name__}, expected {kind.__name__}")
    return value


def _only(request: dict[str, Any], key: str, name: str) -> dict[str, Any]:
    tensors = _field(request, key, list)
    if len(tensors) != 1 or not isinstance(tensors[0], dict):
        raise RequestError(f"{key}: expected a list of one tensor named {name}")
    if tensors[0].get("name") != name:
        raise RequestError(f"{key}: unknown tensor {tensors[0].get('name')!r:.60}; allowed {name}")
    return tensors[0]


def _shape(shape: list[Any], info: EndpointInfo) -> tuple[int, ...]:
    """Refuse a wrong rank, a wrong size and a batch that is empty or too large."""
    expected = f"[1..{info.max_batch}, {', '.join(map(str, info.input_shape))}]"
    whole = all(isinstance(size, int) and not isinstance(size, bool) for size in shape)
    if not whole or tuple(shape[1:]) != info.input_shape or not 1 <= shape[0] <= info.max_batch:
        raise RequestError(f"shape: got {shape!s:.60}, expected {expected}")
    return tuple(shape)


def _dtype(datatype: str) -> np.dtype[Any]:
    if datatype not in _DATATYPES:
        raise RequestError(f"datatype: got {datatype!r:.40}, allowed {', '.join(_DATATYPES)}")
    return _DATATYPES[datatype]


def _binary(tail: bytes, size: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    expected = prod(shape) * dtype.itemsize
    if not len(tail) == size == expected:
        raise RequestError(f"binary_data_size: got {size:,} for {len(tail):,} bytes sent, expected {expected:,}")
    return np.frombuffer(tail, dtype).reshape(shape)


def _listed(data: list[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Flat or nested lists of numbers.

    Everything is looked at before it becomes an array: one long string among many short ones would take memory by the
    product of both.
    """
    values: list[Any] = [data]
    for size in shape if any(isinstance(one, list) for one in data) else (prod(shape),):
        values = list(chain.from_iterable(_list_of(size, one, shape) for one in values))
    if kinds := {type(one).__name__ for one in values} - {"int", "float"}:
        raise RequestError(f"data: {min(kinds)}, expected a number")
    try:
        return np.array(values, np.float64).reshape(shape)
    except OverflowError as exc:
        raise RequestError(_NO_PIXELS) from exc


def _list_of(size: int, value: Any, shape: tuple[int, ...]) -> list[Any]:
    if isinstance(value, list) and len(value) == size:
        return value
    listed = isinstance(value, list)
    told = f"a list of {len(value):,}, expected {size:,}" if listed else f"{type(value).__name__}, expected a list"
    raise RequestError(f"data: {told}; give a flat list, or lists nested as in {list(shape)}")


def _as_pixels(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Pixels as they are stored; a float that is no pixel tells of a client that scales, which would go unseen."""
    if values.dtype == np.uint8:
        return values
    with np.errstate(invalid="ignore"):
        pixels = values.astype(np.uint8)
    if not (pixels == values).all():
        raise RequestError(_NO_PIXELS)
    return pixels


def _wants_binary(request: dict[str, Any], info: EndpointInfo) -> bool:
    if request.get("outputs"):
        output = _only(request, "outputs", info.output.name)
        if "binary_data" in (parameters := _field(output, "parameters", dict, {})):
            return _field(parameters, "binary_data", bool)
    return _field(_field(request, "parameters", dict, {}), "binary_data_output", bool, False)
