"""One net of the search: what it costs, known before any training, and how well it learned."""

from dataclasses import dataclass
from typing import Literal

from hybrid.specs import ArchSpec


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A net that the search looked at; ``skipped`` ones do not fit, and `reason` says why."""

    arch: ArchSpec
    macs: int
    flash_bytes: int
    peak_sram_bytes: int
    latency_ms: float
    """Estimated time of one inference on the device."""
    score: float | None = None
    """Accuracy after the short training, on training examples held out from it."""
    status: Literal["fits", "skipped", "trained"] = "fits"
    seconds: float = 0.0
    """What the short training took."""
    reason: str = ""
