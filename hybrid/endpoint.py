"""What device, server and backend engineer agree on: ``cloud/endpoint.toml`` of a bundle, as a value."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hybrid.configure import read_toml, structure

ENDPOINT_FILE = "endpoint.toml"


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """A tensor in the words of the Open Inference Protocol; -1 in `shape` is the batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class EndpointInfo:
    """The cloud endpoint that a firmware asks.

    The device posts its query to ``url + "/query"``; other clients post tensors to ``url + "/infer"``.
    """

    url: str
    protocol: Literal["open-inference-protocol-v2"] = "open-inference-protocol-v2"
    model_name: str
    edge_digest: str
    """SHA-256 of the edge flatbuffer that this cloud is paired with, 64 hex digits."""
    payload: Literal["packed", "cbor", "raw"]
    """What the firmware sends unless told otherwise: a CBOR frame with packed or plain pixels, or the pixels alone as
    application/octet-stream."""
    deadline_ms: float
    """The device waits this long for an answer, retries included, and then keeps the edge's own."""
    max_batch: int
    """Most examples in one request."""
    value_range: tuple[float, float]
    """What pixel 0 and pixel 255 stand for in the sensor's unit; the wire always carries the pixels."""
    class_names: tuple[str, ...]
    input: TensorInfo
    output: TensorInfo

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width, channels of one example."""
        height, width, channels = self.input.shape[1:]
        return height, width, channels

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def saved_model_path(model_name: str) -> str:
    """Where the SavedModel lies under ``cloud/``: the folder that a Triton model repository expects.

    >>> saved_model_path("cloud")
    'models/cloud/1/model.savedmodel'
    """
    return f"models/{model_name}/1/model.savedmodel"


def read_endpoint(cloud_folder: Path) -> EndpointInfo:
    """Read the ``endpoint.toml`` of a bundle's ``cloud`` folder.

    Raises: SpecError where the file is missing, malformed or has keys this version does not know.
    """
    path = cloud_folder / ENDPOINT_FILE
    return structure(read_toml(path), EndpointInfo, where=str(path))
