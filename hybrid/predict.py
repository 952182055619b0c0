"""The int8 edge with its router, and the cloud, over a split: `Predictions`, as the device will compute them."""

import numpy as np

from datasets import Split
from hybrid import runtimes
from hybrid.artifacts import Floats, Predictions
from hybrid.graft import Graph, dequantise
from hybrid.progress import SILENT, Narrator


def predictions(
    flatbuffer: bytes,
    split: Split,
    cloud_scores: Floats,
    *,
    label: str = "int8 edge",
    narrator: Narrator = SILENT,
) -> Predictions:
    """Run a grafted flatbuffer over `split` as the device does, beside the cloud's class scores."""
    logits, scores = runtimes.run(flatbuffer, split.x, engine="tflm", label=label, narrator=narrator)
    affine = Graph(flatbuffer).affine_of("logits")
    return Predictions(
        labels=split.y,
        edge_logits=dequantise(logits, affine),
        router_score=scores[:, 0].astype(np.int32),
        cloud_scores=cloud_scores,
    )
