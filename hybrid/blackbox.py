"""A cloud that only answers: its scores from a table on disk, or from an Open Inference Protocol v2 server."""

import json
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import urllib3
from numpy.typing import NDArray
from urllib3.util import Retry, Timeout, parse_url

from hybrid.artifacts import Floats
from hybrid.configure import did_you_mean
from hybrid.errors import CloudError, SpecError
from hybrid.progress import SILENT, Narrator

SPLITS = ("train", "calibration", "validation", "test")
ATTEMPTS = 4
BACKOFF_S = 0.2
"""Pause before the second repetition; it doubles with each."""
LATENCY_REQUESTS = 9
_BUSY = (429, 502, 503, 504)


def table_scores(path: Path, splits: Mapping[str, int], *, num_classes: int) -> dict[str, Floats]:
    """Class scores ``(n, num_classes)`` of each split out of an ``.npz`` with one array per split.

    An array holds scores ``(n, num_classes)``, logits or probabilities, or integer labels ``(n,)``, which become
    one-hot rows. `splits` maps the splits that are needed to their number of examples.
    Raises: SpecError where the file or a split is missing; CloudError for unusable contents.
    """
    with _table(path) as table:
        for name in table:
            if name not in {*SPLITS, *splits}:
                raise SpecError(f"{path}: unknown array {name!r}{did_you_mean(name, sorted({*SPLITS, *splits}))}")
        if missing := [name for name in splits if name not in table]:
            raise SpecError(f"{path}: has no array {', '.join(missing)}; needed: {', '.join(splits)}")
        return {name: _scores(table, name, rows, num_classes, path) for name, rows in splits.items()}


@contextmanager
def _table(path: Path) -> Iterator[Any]:
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as exc:
        raise SpecError(f"{path}: not a readable .npz ({exc})") from exc
    if not isinstance(table, np.lib.npyio.NpzFile):
        raise SpecError(f"{path}: holds a single array; save one array per split with numpy.savez")
    with table:
        yield table


def _scores(table: Any, name: str, rows: int, num_classes: int, path: Path) -> Floats:
    where = f"{path}: {name}"
    try:
        values = np.asarray(table[name])
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as exc:
        raise CloudError(f"{where}: cannot be read ({exc}); save plain numbers with numpy.savez") from exc
    if len(values.shape) not in (1, 2) or len(values) != rows:
        raise CloudError(
            f"{where}: got shape {values.shape}, expected ({rows}, {num_classes}) scores or ({rows},) labels"
        )
    if values.ndim == 1:
        return _one_hot(values, num_classes, where)
    return _finite_scores(values, num_classes, where)


def _one_hot(labels: NDArray[Any], num_classes: int, where: str) -> Floats:
    if labels.dtype.kind not in "iu":
        raise CloudError(f"{where}: labels of type {labels.dtype}, expected integers")
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        raise CloudError(f"{where}: labels {labels.min()} to {labels.max()}, allowed 0 to {num_classes - 1}")
    return np.eye(num_classes, dtype=np.float32)[labels]


def _finite_scores(values: NDArray[Any], num_classes: int, where: str) -> Floats:
    if values.dtype.kind not in "iuf" or values.shape[1] != num_classes:
        raise CloudError(f"{where}: got {values.dtype} of shape {values.shape}, expected {num_classes} scores a row")
    with np.errstate(over="ignore"):
        scores = values.astype(np.float32)
    if not (fine := np.isfinite(scores).all(axis=1)).all():
        raise CloudError(f"{where}: row {int(fine.argmin())} holds NaN, infinity or more than float32 can")
    return scores


def url_scores(
    url: str,
    x: NDArray[np.uint8],
    *,
    num_classes: int,
    batch_size: int = 32,
    timeout_s: float = 10.0,
    narrator: Narrator = SILENT,
) -> tuple[Floats, float]:
    """Ask the model at `url` (such as ``http://host:8080/v2/models/cloud``) about pixels `x`, uint8 ``(n, h, w, c)``.

    Pixels are sent as they are stored, 0 to 255, as UINT8 or FP32, whichever the model's metadata asks for. A refused
    connection or a busy server is tried `ATTEMPTS` times, with growing pauses.
    Returns: class scores ``(n, num_classes)`` and the median latency of single-example requests in ms.
    Raises: CloudError where the server cannot be reached or answers something unusable; SpecError for the URL.
    """
    model = RemoteModel(url, timeout_s)
    model.check_input(x.shape[1:])
    latency_ms = _latency_ms(model, x, num_classes)
    parts = []
    with narrator.track("asking the cloud", len(x)) as advance:
        for start in range(0, len(x), batch_size):
            parts.append(model.ask(x[start : start + batch_size], num_classes))
            advance(len(parts[-1]), "")
    return np.concatenate(parts), latency_ms


def _latency_ms(model: "RemoteModel", x: NDArray[np.uint8], num_classes: int) -> float:
    """Median over a few requests; the first one, which may find the server cold, does not count."""
    times_ms = []
    for index in range(LATENCY_REQUESTS + 1):
        example = x[index % len(x)][None]
        start = time.perf_counter()
        model.ask(example, num_classes)
        times_ms.append((time.perf_counter() - start) * 1e3)
    return median(times_ms[1:])


class RemoteModel:
    """One model of a server, and the tensor that its metadata asks for."""

    def __init__(self, url: str, timeout_s: float) -> None:
        if not _is_model_url(url):
            raise SpecError(f"cloud.url: got {url!r}, expected the form http://host:8080/v2/models/NAME")
        self._url = url.rstrip("/")
        retries = Retry(ATTEMPTS - 1, backoff_factor=BACKOFF_S, status_forcelist=_BUSY, allowed_methods=None)
        self._http = urllib3.PoolManager(retries=retries, timeout=Timeout(timeout_s))
        inputs = _get(self._call("GET", self._url), "inputs", self._url)
        if not isinstance(inputs, list) or len(inputs) != 1:
            raise CloudError(
                f"{self._url}: the model's metadata has no single input; only one-input models can be asked"
            )
        self._name, self._datatype, self._shape = (
            _get(inputs[0], key, self._url) for key in ("name", "datatype", "shape")
        )

    def check_input(self, shape: tuple[int, ...]) -> None:
        """Refuse a model for other examples than ours."""
        if self._datatype not in ("UINT8", "FP32"):
            raise CloudError(f"{self._url}: takes {self._datatype}, only UINT8 and FP32 can be sent")
        if not _fits(self._shape, shape):
            raise CloudError(f"{self._url}: takes shape {self._shape}, the data has [-1, {', '.join(map(str, shape))}]")

    def ask(self, x: NDArray[np.uint8], num_classes: int) -> Floats:
        """Scores ``(n, num_classes)`` of one batch."""
        tensor = {"name": self._name, "shape": list(x.shape), "datatype": self._datatype, "data": x.ravel().tolist()}
        url = f"{self._url}/infer"
        outputs = _get(self._call("POST", url, {"inputs": [tensor]}), "outputs", url)
        if not isinstance(outputs, list) or len(outputs) != 1:
            raise CloudError(f"{url}: answers no single output tensor; only one-output models can be asked")
        try:
            values = np.asarray(_get(outputs[0], "data", url)).reshape(_get(outputs[0], "shape", url))
        except (ValueError, TypeError, OverflowError) as exc:
            raise CloudError(f"{url}: answers an output whose data does not fit its shape") from exc
        if values.ndim != 2 or len(values) != len(x):
            raise CloudError(f"{url}: answers shape {values.shape}, expected ({len(x)}, {num_classes})")
        return _finite_scores(values, num_classes, url)

    def _call(self, method: str, url: str, body: Any = None) -> Any:
        sent = None if body is None else json.dumps(body).encode()
        try:
            answer = self._http.request(method, url, body=sent, headers={"Content-Type": "application/json"})
        except urllib3.exceptions.HTTPError as exc:
            reason = " ".join(str(getattr(exc, "reason", None) or exc).split())
            raise CloudError(f"{url}: no answer after {ATTEMPTS} attempts ({reason:.160}); is the server up?") from exc
        if answer.status != 200:
            raise CloudError(f"{url}: answers status {answer.status}: {answer.data[:200].decode(errors='replace')}")
        try:
            return json.loads(answer.data)
        except ValueError as exc:
            raise CloudError(f"{url}: answers no JSON; is it an Open Inference Protocol v2 server?") from exc


def _is_model_url(url: str) -> bool:
    try:
        parts = parse_url(url)
    except urllib3.exceptions.LocationParseError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.host) and "/v2/models/" in (parts.path or "")


def _get(mapping: Any, key: str, url: str) -> Any:
    if not isinstance(mapping, dict) or key not in mapping:
        raise CloudError(f"{url}: the answer has no {key}; is it an Open Inference Protocol v2 server?")
    return mapping[key]


def _fits(pattern: Any, shape: tuple[int, ...]) -> bool:
    """Whether examples of `shape` fit a tensor shape with a batch in front, where -1 stands for any size."""
    if not isinstance(pattern, list) or len(pattern) != len(shape) + 1:
        return False
    return all(want in (-1, got) for want, got in zip(pattern[1:], shape, strict=True))
