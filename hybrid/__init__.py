"""A hybrid edge/cloud learner for microcontrollers: `hybrid.pipeline.run` is the whole story.

`hybrid.Router` alone is for arrays of your own nets.
"""

from typing import Any

__all__ = ["Router"]


def __getattr__(name: str) -> Any:
    if name == "Router":
        from hybrid.estimator import Router

        return Router
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
