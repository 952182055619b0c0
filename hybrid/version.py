"""Which version of this project runs."""

from importlib import metadata

PROJECT = "hybrid-edge-cloud"


def project_version() -> str:
    """Version of the installed project; ``unknown`` in a source tree that is not installed."""
    try:
        return metadata.version(PROJECT)
    except metadata.PackageNotFoundError:
        return "unknown"
