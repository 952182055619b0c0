"""Artifacts to and from a stage's folder: arrays and weights as .npz, the rest as JSON."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hybrid.arrays import DAMAGE, write_arrays
from hybrid.artifacts import Footprint, OperatingPoint, Predictions
from hybrid.cascade import stage_names
from hybrid.clouds import CloudAnswers
from hybrid.configure import structure
from hybrid.errors import HybridError
from hybrid.guarantee import Certificate
from hybrid.program_json import program_from, program_values
from hybrid.quantize import Int8Edge
from hybrid.routing import Routed
from hybrid.train import Round

T = TypeVar("T")


def write_json(path: Path, value: Any) -> None:
    """Write plain data; same value, same bytes."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote. Raises: HybridError where it is damaged."""
    with _damage_told(path):
        return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as exc:
        remedy = f"delete {path.parent}, then give the same command again: other steps are kept"
        raise HybridError(f"{path}: damaged ({exc}); {remedy}") from exc


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read named arrays. Raises: HybridError where they are damaged."""
    with _damage_told(path), np.load(path) as stored:
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


def write_edges(folder: Path, edges: Sequence[Int8Edge]) -> None:
    """Write the int8 nets of all stages, without their routers."""
    for name, edge in zip(stage_names(len(edges)), edges, strict=True):
        (folder / f"{name}.tflite").write_bytes(edge.flatbuffer)
    described = [{"method": edge.method, "validation_accuracy": edge.validation_accuracy} for edge in edges]
    write_json(folder / "edges.json", described)


def read_edges(folder: Path) -> tuple[Int8Edge, ...]:
    """Read what `write_edges` wrote."""
    described = read_json(folder / "edges.json")
    return tuple(
        Int8Edge(flatbuffer=(folder / f"{name}.tflite").read_bytes(), **one)
        for name, one in zip(stage_names(len(described)), described, strict=True)
    )


def write_routed(folder: Path, routed: Routed, footprint: Footprint) -> None:
    """Write the device program, how its routers were chosen, and what it all takes."""
    for name, stage in zip(routed.program.names, routed.program.stages, strict=True):
        (folder / f"{name}.tflite").write_bytes(stage.flatbuffer)
    write_json(folder / "program.json", program_values(routed.program))
    chosen = {"kinds": list(routed.kinds), "nauc": list(routed.nauc), "footprint": asdict(footprint)}
    write_json(folder / "router.json", chosen)


def read_routed(folder: Path) -> tuple[Routed, Footprint]:
    """Read what `write_routed` wrote."""
    stored, values = read_json(folder / "router.json"), read_json(folder / "program.json")
    names = stage_names(len(values["stages"]))
    program = program_from(values, [(folder / f"{name}.tflite").read_bytes() for name in names])
    routed = Routed(program=program, kinds=tuple(stored["kinds"]), nauc=tuple(stored["nauc"]))
    return routed, Footprint(**stored["footprint"])


def write_certificate(path: Path, certificate: Certificate | None) -> None:
    """Write what is guaranteed of the chosen threshold; null where nothing is."""
    write_json(path, None if certificate is None else asdict(certificate))


def read_certificate(path: Path) -> Certificate | None:
    """Read what `write_certificate` wrote."""
    stored = read_json(path)
    return None if stored is None else structure(stored, Certificate, where=str(path))


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
