"""A bundle's SavedModel as a plain function from pixels to scores."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.artifacts import Floats
from hybrid.endpoint import EndpointInfo, read_endpoint, saved_model_path
from hybrid.errors import BundleError, CloudError

Model = Callable[[NDArray[np.uint8]], Floats]
"""From pixels uint8 ``(n, height, width, channels)`` to class scores float32 ``(n, num_classes)``."""


def load_model(cloud_folder: Path) -> tuple[Model, EndpointInfo]:
    """Load the ``cloud`` folder of a bundle, and answer one black image so that the first query finds it warm.

    The model does not check what it gets; `hybrid.serve.oip` does.
    Raises: CloudError where the bundle's cloud is a black box; BundleError where the SavedModel is not what
    ``endpoint.toml`` says; SpecError for the TOML itself.
    """
    info = read_endpoint(cloud_folder)
    folder = cloud_folder / saved_model_path(info.model_name)
    if not folder.is_dir():
        raise CloudError(f"{folder}: no SavedModel, this bundle's cloud is a black box; devices ask {info.url} itself")
    signature = _signature(folder, info)

    def model(pixels: NDArray[np.uint8]) -> Floats:
        return signature(**{info.input.name: pixels})[info.output.name].numpy()

    shape = model(np.zeros((1, *info.input_shape), np.uint8)).shape
    if shape != (1, info.num_classes):
        raise BundleError(f"{folder}: answers scores of shape {shape}, endpoint.toml has {info.num_classes} classes")
    return model, info


def _signature(folder: Path, info: EndpointInfo) -> Any:
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(folder))
        signature = loaded.signatures["serving_default"]
    except (OSError, ValueError, KeyError, AttributeError, tf.errors.OpError) as exc:
        line = " ".join(str(exc).split())
        raise BundleError(f"{folder}: not a SavedModel with a serving_default signature ({line:.200})") from exc
    want = {info.input.name: tf.TensorSpec((None, *info.input_shape), tf.uint8)}
    got = signature.structured_input_signature[1]
    if set(got) != set(want) or not all(_agree(got[name], want[name]) for name in want):
        raise BundleError(f"{folder}: takes {_told(got)}, endpoint.toml has {_told(want)}")
    if info.output.name not in signature.structured_outputs:
        raise BundleError(f"{folder}: answers {sorted(signature.structured_outputs)}, expected {info.output.name}")
    signature.keep = loaded  # a signature does not keep the variables of its model alive
    return signature


def _agree(got: Any, want: Any) -> bool:
    return bool(got.dtype == want.dtype and got.shape.as_list() == want.shape.as_list())


def _told(specs: dict[str, Any]) -> str:
    return ", ".join(f"{name} {spec.dtype.name} {spec.shape}" for name, spec in specs.items())
