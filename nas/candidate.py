"""One net of the search: what it costs, known before any training, and how good it is beside a cloud."""

from dataclasses import dataclass
from typing import Literal

from hybrid.specs import ArchSpec

Status = Literal["fits", "skipped", "scored", "failed"]


@dataclass(frozen=True, kw_only=True)
class PairScore:
    """An edge net and the cloud that suits it best, on held-out examples, at the mean latency or coverage asked for."""

    cloud: int
    """Place of the cloud among those to choose from."""
    edge_accuracy: float
    """Of the edge net alone."""
    hybrid_accuracy: float
    """With a quickly fitted router."""
    mendable: float
    """Share of examples on which the pair is wrong then and the cloud is right."""
    expected_accuracy: float
    """`hybrid_accuracy` once the edge net is trained on its own, for comparing pairs (see `nas.growth`)."""
    bound: float
    """`hybrid_accuracy` with the proxy labels in the router's place: what no router exceeds with these weights."""
    coverage: float
    mean_latency_ms: float
    """At that coverage, queries included."""

    def expected(self, left: float) -> float:
        """What `expected_accuracy` is where training leaves so much of what can be mended."""
        return self.hybrid_accuracy + (1.0 - left) * self.mendable


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A net that the search looked at; ``skipped`` ones do not fit, and `reason` says why."""

    arch: ArchSpec
    macs: int
    flash_bytes: int
    peak_sram_bytes: int
    latency_ms: float
    """Estimated time of one inference on the device."""
    score: PairScore | None = None
    """With shared weights."""
    alone: PairScore | None = None
    """Of a finalist: the same once it was trained on its own for a while."""
    status: Status = "fits"
    seconds: float = 0.0
    """What the scoring took."""
    reason: str = ""

    @property
    def best_known(self) -> PairScore | None:
        """What is known best of it as a pair."""
        return self.alone or self.score
