"""Artifacts to and from a stage's folder: arrays and weights as .npz, the rest as JSON."""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hybrid.artifacts import Footprint, OperatingPoint, Predictions
from hybrid.clouds import CloudAnswers
from hybrid.configure import structure
from hybrid.quantize import Int8Edge
from hybrid.router import MaxSoftmax, Router, RouterNet
from hybrid.routing import RoutedEdge
from hybrid.train import Round, RouterRows

MODEL = "edge.tflite"

T = TypeVar("T")


def write_json(path: Path, value: Any) -> None:
    """Write plain data; same value, same bytes."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays, at once: on a full disk an open archive would complain a second time when it is dropped."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    path.write_bytes(buffer.getvalue())


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read named arrays."""
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def write_weights(path: Path, net: Any) -> None:
    """Write a net's weights in their order; Keras's own HDF5 files crash the process where the disk is full."""
    write_arrays(path, {f"weight_{index:04}": weight for index, weight in enumerate(net.get_weights())})


def read_weights(path: Path, net: Any) -> None:
    """Give `net` what `write_weights` wrote."""
    net.set_weights(list(read_arrays(path).values()))


def write_answers(folder: Path, answers: CloudAnswers) -> None:
    """Write the cloud's probabilities, and its latency where it was measured."""
    write_arrays(folder / "cloud_probabilities.npz", answers.probabilities)
    write_json(folder / "cloud.json", {"measured_ms": answers.measured_ms})


def read_answers(folder: Path) -> CloudAnswers:
    """Read what `write_answers` wrote."""
    return CloudAnswers(
        probabilities=read_arrays(folder / "cloud_probabilities.npz"), **read_json(folder / "cloud.json")
    )


def write_rows(path: Path, rows: RouterRows) -> None:
    """Write a router's labels; the examples themselves are the data set's."""
    write_arrays(path, {"query": rows.query, "cloud_probabilities": rows.cloud_probabilities})


def read_rows(path: Path, x: NDArray[np.uint8]) -> RouterRows:
    """Read what `write_rows` wrote, for the examples `x`."""
    return RouterRows(x=x, **read_arrays(path))


def write_router(path: Path, router: Router) -> None:
    """Write a router's weights; the names of the arrays tell which kind it is."""
    write_arrays(path, {f.name: np.asarray(getattr(router, f.name)) for f in fields(router)})


def read_router(path: Path) -> Router:
    """Read what `write_router` wrote."""
    stored = read_arrays(path)
    if "beta" in stored:
        return MaxSoftmax(beta=float(stored["beta"]))
    betas, out_bias = tuple(map(float, stored.pop("betas"))), float(stored.pop("out_bias"))
    return RouterNet(betas=betas, out_bias=out_bias, **stored)


def write_edge(folder: Path, edge: Int8Edge) -> None:
    """Write the int8 edge without a router."""
    (folder / MODEL).write_bytes(edge.flatbuffer)
    write_json(folder / "edge.json", {"method": edge.method, "validation_accuracy": edge.validation_accuracy})


def read_edge(folder: Path) -> Int8Edge:
    """Read what `write_edge` wrote."""
    return Int8Edge(flatbuffer=(folder / MODEL).read_bytes(), **read_json(folder / "edge.json"))


def write_routed(folder: Path, routed: RoutedEdge, footprint: Footprint) -> None:
    """Write the flatbuffer with its router, the router itself, and what it all takes."""
    (folder / MODEL).write_bytes(routed.flatbuffer)
    write_router(folder / "router.npz", routed.router)
    write_json(folder / "router.json", {"kind": routed.kind, "nauc": routed.nauc, "footprint": asdict(footprint)})


def read_routed(folder: Path) -> tuple[RoutedEdge, Footprint]:
    """Read what `write_routed` wrote."""
    stored = read_json(folder / "router.json")
    footprint = Footprint(**stored.pop("footprint"))
    router = read_router(folder / "router.npz")
    return RoutedEdge(flatbuffer=(folder / MODEL).read_bytes(), router=router, **stored), footprint


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write the predictions over one split."""
    write_arrays(path, {f.name: getattr(predictions, f.name) for f in fields(predictions)})


def read_predictions(path: Path) -> Predictions:
    """Read what `write_predictions` wrote."""
    return Predictions(**read_arrays(path))


def write_points(path: Path, points: tuple[OperatingPoint, ...]) -> None:
    """Write operating points."""
    write_json(path, [asdict(point) for point in points])


def read_points(path: Path) -> tuple[OperatingPoint, ...]:
    """Read what `write_points` wrote."""
    return structure(read_json(path), tuple[OperatingPoint, ...], where=str(path))


def write_rounds(path: Path, rounds: tuple[Round, ...]) -> None:
    """Write the record of the alternations."""
    write_json(path, [asdict(one) for one in rounds])


def read_rounds(path: Path) -> tuple[Round, ...]:
    """Read what `write_rounds` wrote."""
    return structure(read_json(path), tuple[Round, ...], where=str(path))
