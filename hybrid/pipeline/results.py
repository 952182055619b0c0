"""What the steps of a run give to each other and to a notebook."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from firmware_export.payload import payload_sizes
from hybrid import cost, sweep
from hybrid.artifacts import Footprint, OperatingPoint, Predictions
from hybrid.clouds import CloudAnswers
from hybrid.guarantee import Certificate
from hybrid.pipeline.searching import packing_ms, server_of
from hybrid.quantize import Int8Edge
from hybrid.routing import Routed
from hybrid.specs import ArchSpec
from hybrid.train import Round

if TYPE_CHECKING:
    from hybrid.pipeline import Run

CHOSEN = "chosen"
"""Name of the operating point that holds from the start."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Edge and cloud after training; `cloud_net` is None where the cloud is a black box."""

    arch: ArchSpec
    edge_net: Any
    stage_nets: tuple[Any, ...]
    """The device's nets; without a second look the edge net alone."""
    cloud_net: Any
    answers: CloudAnswers
    """The cloud's, on training, calibration and validation examples."""
    rounds: tuple[Round, ...]


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """The int8 nets of all stages, the device program with the routers that won, and what it takes."""

    edges: tuple[Int8Edge, ...]
    routed: Routed
    footprint: Footprint


@dataclass(frozen=True, kw_only=True)
class Swept:
    """Predictions on calibration and test, the operating points of calibration, the chosen one, and it on test."""

    calibration: Predictions
    test: Predictions
    points: tuple[OperatingPoint, ...]
    """Every threshold behind every link and cloud server, on calibration; the run's own come first."""
    named: tuple[OperatingPoint, ...]
    """The firmware's table, on calibration; among them the chosen one."""
    certificate: Certificate | None
    """What is guaranteed of the chosen threshold; None where no confidence was asked for."""
    confirmed: OperatingPoint
    """The chosen threshold, on test."""
    payload_bytes: float
    """Of a query, the mean over test."""

    @property
    def chosen(self) -> OperatingPoint:
        """The operating point that holds from the start, on calibration."""
        return next(point for point in self.named if point.name == CHOSEN)


def payloads(run: "Run", split: str) -> NDArray[np.int64]:
    """Bytes of the query of each example of a split, ``(n,)``."""
    return payload_sizes(run.data.splits[split].x, run.spec.sweep.payload)


def scenarios(run: "Run") -> list[sweep.Scenario]:
    """The run's device behind each link and cloud server that the spec compares; the run's own pair comes first."""
    own, own_ms = server_of(run.searched.cloud, run.trained.answers.measured_ms)
    servers = {own: own_ms}
    servers |= {server.name: server.latency_ms for server in run.compared.values() if server.name != own}
    stage_work = tuple(cost.stage_work(stage) for stage in run.quantized.routed.program.stages)
    return [
        sweep.Scenario(
            device=run.device,
            link=link,
            cloud_name=name,
            cloud_ms=latency_ms,
            stage_work=stage_work,
            packing_ms=packing_ms(run),
        )
        for name, latency_ms in servers.items()
        for link in run.links.values()
    ]
