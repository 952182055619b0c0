"""What can go wrong, each with one clear line: what, got, allowed, next step."""

from datasets.errors import DatasetError


class HybridError(Exception):
    """Root of the errors that a user can act on."""


class SpecError(HybridError, ValueError):
    """A spec, profile or option is unknown, malformed or contradictory."""


class BudgetError(HybridError):
    """A net needs more than its device has.

    `resource` names what ran out (``flash_bytes``, ``peak_sram_bytes``, ``latency_ms``); `needed` and `available` are
    in its unit; `device` says whose limit it is, empty where a person gave the limit itself.
    """

    def __init__(self, resource: str, needed: float, available: float, device: str, remedy: str) -> None:
        self.resource, self.needed, self.available, self.device = resource, needed, available, device
        whose = f"device {device} has" if device else "allowed are"
        super().__init__(f"{resource}: needs {needed:,.10g}, {whose} {available:,.10g}; {remedy}")


class WorkerDoneError(HybridError):
    """No failure: this process was a worker of a search that another one leads, and there is nothing left to do."""


class UnsupportedOpError(HybridError):
    """A model holds an operator that the target cannot run."""


class MismatchError(HybridError):
    """Generated code gives another output than what it must equal bit for bit."""


class BundleError(HybridError):
    """A bundle is damaged, tampered with, or of a version this reader does not know."""


class CloudError(HybridError):
    """The cloud classifier cannot be reached, or answers something unusable."""


class ClusterError(HybridError):
    """The chief and the workers of a search on many machines cannot work together."""


USER_ERRORS = (HybridError, DatasetError)

__all__ = [
    "USER_ERRORS",
    "BudgetError",
    "BundleError",
    "CloudError",
    "ClusterError",
    "DatasetError",
    "HybridError",
    "MismatchError",
    "SpecError",
    "UnsupportedOpError",
    "WorkerDoneError",
]
