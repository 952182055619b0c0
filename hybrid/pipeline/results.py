"""What the steps of a run give to each other and to a notebook."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hybrid import cost, sweep
from hybrid.artifacts import Footprint, OperatingPoint, Predictions
from hybrid.clouds import CloudAnswers
from hybrid.quantize import Int8Edge
from hybrid.routing import RoutedEdge
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
    cloud_net: Any
    answers: CloudAnswers
    """The cloud's, on training, calibration and validation examples."""
    rounds: tuple[Round, ...]


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """The int8 edge net, the router that won, and what the flatbuffer with both takes."""

    edge: Int8Edge
    routed: RoutedEdge
    footprint: Footprint


@dataclass(frozen=True, kw_only=True)
class Swept:
    """Predictions on validation and test, the operating points of validation, the chosen one, and it on test."""

    validation: Predictions
    test: Predictions
    points: tuple[OperatingPoint, ...]
    """Every threshold behind every link and cloud server, on validation; the run's own come first."""
    named: tuple[OperatingPoint, ...]
    """The firmware's table, on validation; among them the chosen one."""
    confirmed: OperatingPoint
    """The chosen threshold, on test."""

    @property
    def chosen(self) -> OperatingPoint:
        """The operating point that holds from the start, on validation."""
        return next(point for point in self.named if point.name == CHOSEN)


def scenarios(run: "Run") -> list[sweep.Scenario]:
    """The run's device behind each link and cloud server that the spec compares; the run's own pair comes first."""
    measured_ms = run.trained.answers.measured_ms
    servers = {} if measured_ms is None else {"url": measured_ms}
    servers |= {server.name: server.latency_ms for server in run.servers.values()}
    macs_by_kind = cost.flatbuffer_macs(run.quantized.routed.flatbuffer)
    return [
        sweep.Scenario(device=run.device, link=link, cloud_name=name, cloud_ms=latency_ms, macs_by_kind=macs_by_kind)
        for name, latency_ms in servers.items()
        for link in run.links.values()
    ]
