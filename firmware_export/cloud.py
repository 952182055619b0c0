"""The cloud half of a bundle: the SavedModel once, and what each way of serving it needs to find it.

One folder serves everybody: ``models/`` is a Triton model repository as it stands; the Compose file mounts its inner
``model.savedmodel`` where TensorFlow Serving looks for version 1; ``hybrid serve`` and KServe read it in place.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from jinja2 import PackageLoader

from firmware_export.ctext import templates_of
from firmware_export.payload import Encoding
from hybrid.configure import to_toml
from hybrid.endpoint import ENDPOINT_FILE, EndpointInfo, TensorInfo, saved_model_path
from hybrid.errors import BundleError, SpecError

TF_SERVING_IMAGE = "tensorflow/serving:2.20.0"
TRITON_VERSION = "25.02-py3"
"""The last release with the TensorFlow backend (github.com/triton-inference-server/server/pull/8068)."""

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TEMPLATES = templates_of(PackageLoader("firmware_export", "templates/cloud"))


@dataclass(frozen=True, kw_only=True)
class CloudInputs:
    """What the cloud half is made from.

    `saved_model` maps the files of a SavedModel folder to their bytes, or is None where the cloud is a black box. Its
    signature ``serving_default`` takes ``input``, uint8 ``(n, *input_shape)``, and answers ``scores``, float32
    ``(n, num_classes)``: probabilities.
    """

    saved_model: Mapping[str, bytes] | None
    model_name: str = "cloud"
    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    url: str
    deadline_ms: float
    payload: Encoding = "packed"
    value_range: tuple[float, float]
    edge_digest: str
    """`DeviceProgram.digest`, 64 hex digits."""
    max_batch: int = 32


def cloud_files(inputs: CloudInputs) -> dict[str, bytes]:
    """Every file under ``cloud/`` by its path in the bundle; same inputs, same bytes.

    A black-box cloud gets ``endpoint.toml`` and the README alone.
    Raises: SpecError for a name, digest, deadline or batch that no server takes; BundleError for a folder that is no
    SavedModel.
    """
    _check(inputs)
    info = endpoint_info(inputs)
    files = {ENDPOINT_FILE: (_ENDPOINT_HEADER + to_toml(info)).encode()}
    for path, template in (_SERVING if inputs.saved_model is not None else _BLACK_BOX).items():
        text = _TEMPLATES.get_template(template).render(_holes(info))
        files[path.format(name=info.model_name)] = text.encode()
    for path, content in (inputs.saved_model or {}).items():
        files[f"{saved_model_path(info.model_name)}/{path}"] = content
    return {f"cloud/{path}": files[path] for path in sorted(files)}


def endpoint_info(inputs: CloudInputs) -> EndpointInfo:
    """Say what ``endpoint.toml`` says."""
    return EndpointInfo(
        url=inputs.url.rstrip("/"),
        model_name=inputs.model_name,
        edge_digest=inputs.edge_digest,
        payload=inputs.payload,
        deadline_ms=inputs.deadline_ms,
        max_batch=inputs.max_batch,
        value_range=inputs.value_range,
        class_names=inputs.class_names,
        input=TensorInfo(name="input", datatype="UINT8", shape=(-1, *inputs.input_shape)),
        output=TensorInfo(name="scores", datatype="FP32", shape=(-1, len(inputs.class_names))),
    )


_BLACK_BOX = {"README.md": "README_black_box.md.j2"}
_SERVING = {
    "README.md": "README.md.j2",
    "compose.yaml": "compose.yaml.j2",
    "kserve/inferenceservice.yaml": "inferenceservice.yaml.j2",
    "models/{name}/config.pbtxt": "config.pbtxt.j2",
    "tfserving/batching_parameters.txt": "batching_parameters.txt.j2",
    "tfserving/models.config": "models.config.j2",
    "tfserving/monitoring.config": "monitoring.config.j2",
}
_ENDPOINT_HEADER = """\
# The cloud endpoint of this bundle's firmware.
# Devices post their query to url + "/query", other clients post tensors to url + "/infer".
# Send pixels 0 to 255 as they are stored; the model scales inside. In the sensor's unit a pixel is
# value_range[0] + pixel / 255 * (value_range[1] - value_range[0]).
"""


def _holes(info: EndpointInfo) -> dict[str, Any]:
    return {
        "info": info,
        "saved_model": saved_model_path(info.model_name),
        "batch_sizes": _batch_sizes(info.max_batch),
        "timeout_s": ceil(info.deadline_ms / 1000),
        "values": info.input_shape[0] * info.input_shape[1] * info.input_shape[2],
        "tf_serving_image": TF_SERVING_IMAGE,
        "triton_version": TRITON_VERSION,
    }


def _batch_sizes(max_batch: int) -> list[int]:
    """Powers of two, then `max_batch` itself, which TensorFlow Serving wants last.

    >>> _batch_sizes(20)
    [1, 2, 4, 8, 16, 20]
    """
    return [2**k for k in range((max_batch - 1).bit_length())] + [max_batch]


def _check(inputs: CloudInputs) -> None:
    if not _NAME.fullmatch(inputs.model_name):
        raise SpecError(f"model_name: got {inputs.model_name!r}, allowed a-z, 0-9 and -, as Kubernetes names")
    if not _DIGEST.fullmatch(inputs.edge_digest):
        raise SpecError(f"edge_digest: got {inputs.edge_digest!r}, expected a SHA-256 as 64 lower-case hex digits")
    if not 0 < inputs.deadline_ms <= 86_400_000:
        raise SpecError(f"export.deadline_ms: got {inputs.deadline_ms}, allowed above 0 to a day")
    if inputs.max_batch < 1:
        raise SpecError(f"max_batch: got {inputs.max_batch}, allowed 1 or more")
    if inputs.saved_model is not None and "saved_model.pb" not in inputs.saved_model:
        raise BundleError("the cloud's SavedModel has no saved_model.pb; export it with keras.Model.export")
