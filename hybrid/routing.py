"""Fit routers on the int8 edge's outputs, graft each, and ship the one that routes best on the validation split.

Compared are whole int8 flatbuffers, not float ideals: what wins is what the device will compute.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from datasets import Dataset
from hybrid import runtimes
from hybrid.artifacts import NetOutputs
from hybrid.clouds import CloudAnswers
from hybrid.graft import graft
from hybrid.progress import Narrator
from hybrid.quantize import Int8Edge
from hybrid.router import MaxSoftmax, Router, fit_router
from hybrid.specs import RunSpec
from hybrid.sweep import nauc
from hybrid.train import RouterRows

MAX_SOFTMAX_BETAS = (1.0, 0.5, 0.25)
"""Softer softmaxes saturate later in 8 bits: sure answers stay apart."""

TIE_NAUC = 0.005
"""Differences below half a point are ties; the free rule wins them."""


@dataclass(frozen=True, kw_only=True)
class RoutedEdge:
    """The grafted flatbuffer, its router, and what each candidate reached on the validation split (nAUC)."""

    flatbuffer: bytes
    router: Router
    kind: str
    nauc: Mapping[str, float]


def choose_router(
    edge: Int8Edge,
    outputs: NetOutputs,
    held_out: RouterRows,
    cross_fitted: RouterRows | None,
    answers: CloudAnswers,
    data: Dataset,
    spec: RunSpec,
    *,
    narrator: Narrator,
) -> RoutedEdge:
    """Fit, graft and compare the candidates that `spec.router.kind` admits; `outputs` are the edge's on `held_out`."""
    candidates: dict[str, Router] = {}
    if spec.router.kind != "learned":
        candidates |= {f"max_softmax beta {beta:g}": MaxSoftmax(beta=beta) for beta in MAX_SOFTMAX_BETAS}
    if spec.router.kind != "max_softmax":
        candidates |= _learned(edge, outputs, held_out, cross_fitted, spec, narrator)
    made = {name: graft(edge.flatbuffer, router, outputs) for name, router in candidates.items()}
    reached = {name: _nauc(flatbuffer, answers, data, name, narrator) for name, flatbuffer in made.items()}
    best = max(reached, key=lambda name: reached[name] + TIE_NAUC * isinstance(candidates[name], MaxSoftmax))
    kind = "max_softmax" if isinstance(candidates[best], MaxSoftmax) else "learned"
    return RoutedEdge(flatbuffer=made[best], router=candidates[best], kind=kind, nauc=reached)


def _learned(
    edge: Int8Edge,
    outputs: NetOutputs,
    held_out: RouterRows,
    cross_fitted: RouterRows | None,
    spec: RunSpec,
    narrator: Narrator,
) -> dict[str, Router]:
    targets = held_out.targets(outputs.logits)
    fitted: dict[str, Router] = {
        "learned, held out": fit_router(outputs, targets, spec.router, seed=spec.seed, narrator=narrator)
    }
    if cross_fitted is not None:
        seen = edge.outputs(cross_fitted.x, label="int8 edge on train", narrator=narrator)
        both = NetOutputs(
            logits=np.concatenate([outputs.logits, seen.logits]),
            features=np.concatenate([outputs.features, seen.features]),
        )
        both_targets = np.concatenate([targets, cross_fitted.targets(seen.logits)])
        fitted["learned, cross fitted"] = fit_router(both, both_targets, spec.router, seed=spec.seed, narrator=narrator)
    return fitted


def _nauc(flatbuffer: bytes, answers: CloudAnswers, data: Dataset, name: str, narrator: Narrator) -> float:
    split = data.validation
    logits, scores = runtimes.run(flatbuffer, split.x, engine="host", label=f"router: {name}", narrator=narrator)
    edge_right = logits.argmax(axis=1) == split.y
    cloud_right = answers.probabilities["validation"].argmax(axis=1) == split.y
    return float(nauc(scores[:, 0], edge_right, cloud_right))
