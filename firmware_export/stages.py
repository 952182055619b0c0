"""The stages of a device program as the firmware has them: checked against each other, and as values for templates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_export.flatbuffer import Graph, StageSignature, read_graph, stage_signature
from firmware_export.tflm_ops import ADD_METHODS
from hybrid.cascade import DeviceProgram, Mix, Stage
from hybrid.device_router import CONFIDENCE_BITS, CUTS, HIDDEN_MAX, LUT_BITS, SUM_MAX, IntegerRouter, exponentials
from hybrid.errors import BundleError, SpecError, UnsupportedOpError

THRESHOLDS = (-128, 128)


@dataclass(frozen=True, kw_only=True)
class StageModel:
    """One stage beside what its flatbuffer holds."""

    name: str
    """As in `DeviceProgram.names`."""
    stage: Stage
    graph: Graph
    signature: StageSignature
    features_before: int
    """Width of the features of all stages before."""

    @property
    def num_features(self) -> int:
        """Width of the net's own features."""
        return self.signature.features.num_values

    @property
    def exponentials(self) -> list[list[int]]:
        """The router's tables of exponentials, one for each beta."""
        return [exponentials(beta).tolist() for beta in self.stage.router.inputs.betas]


def stage_models(program: DeviceProgram, input_shape: tuple[int, int, int], num_classes: int) -> list[StageModel]:
    """Read all stages and check that they go together, and with these examples and classes.

    Raises: UnsupportedOpError where TFLite Micro cannot run one, BundleError for its tensors, SpecError for routers.
    """
    models: list[StageModel] = []
    for name, stage in zip(program.names, program.stages, strict=True):
        graph = read_graph(stage.flatbuffer)
        resolver_ops([graph])
        before = models[-1].features_before + models[-1].num_features if models else 0
        signature = stage_signature(graph)
        models.append(StageModel(name=name, stage=stage, graph=graph, signature=signature, features_before=before))
        _check_input(models, input_shape)
        _check_router(models[-1], len(models), num_classes)
    return models


def resolver_ops(graphs: Sequence[Graph]) -> list[dict[str, str]]:
    """`name` and resolver `method` of each operator that any of the graphs uses, sorted by name.

    Raises: UnsupportedOpError naming the operator and the tensor it makes, where TFLite Micro has no such operator.
    """
    for op in (op for graph in graphs for op in graph.operators):
        if op.is_custom or op.name not in ADD_METHODS:
            kind = "custom operator" if op.is_custom else "operator"
            raise UnsupportedOpError(
                f"{kind} {op.name} (makes tensor {op.outputs[0].name}): TFLite Micro cannot register it; "
                "build the net from other layers"
            )
    names = sorted({name for graph in graphs for name in graph.op_names})
    return [{"name": name, "method": ADD_METHODS[name]} for name in names]


def router_values(models: Sequence[StageModel]) -> dict[str, Any]:
    """Values for the router's template: constants, and which of its parts any stage uses."""
    routers = [model.stage.router for model in models]
    inputs = [router.inputs for router in routers]
    return {
        "cuts": CUTS,
        "lut_one": 1 << LUT_BITS,
        "confidence_one": 1 << (LUT_BITS + CONFIDENCE_BITS),
        "hidden_max": HIDDEN_MAX,
        "router_bytes": sum(router.table_bytes for router in routers),
        "num_features": sum(model.num_features for model in models),
        "most_inputs": max(len(router.weights) for router in routers),
        "hidden": any(router.out is not None for router in routers),
        "reads": {
            "features": any(part.features for part in inputs),
            "logits": any(part.gaps or part.top or part.betas or part.classes for part in inputs),
            "gaps": any(part.gaps for part in inputs),
            "top": max(part.top for part in inputs),
            "betas": any(part.betas for part in inputs),
            "classes": any(part.classes for part in inputs),
        },
    }


def _check_input(models: Sequence[StageModel], input_shape: tuple[int, int, int]) -> None:
    model = models[-1]
    read = model.signature.input
    if model.stage.reads == "image":
        if read.shape[1:] != input_shape:
            raise BundleError(f"{model.name}: input {read.shape[1:]}, expected input_shape {input_shape}")
        return
    trunk = models[-2].signature.trunk if len(models) > 1 else None
    if trunk is None:
        raise BundleError(f"{model.name}: reads the trunk, which the stage before it does not give")
    wanted, got = ((tensor.shape, tensor.scales, tensor.zero_points) for tensor in (trunk, read))
    if wanted != got:
        raise BundleError(
            f"{model.name}: reads a trunk of shape, scale and zero point {got}, the stage before gives {wanted}; "
            "prepare it with hybrid.flatbuffers.continuing"
        )


def _check_router(model: StageModel, stages: int, num_classes: int) -> None:
    router, logits = model.stage.router, model.signature.logits
    if logits.num_values != num_classes:
        raise BundleError(
            f"{model.name}: {logits.num_values} logits, expected one for each of {num_classes} class names"
        )
    if router.inputs.top >= num_classes:
        raise SpecError(f"{model.name}: router reads top {router.inputs.top}, allowed below {num_classes} classes")
    highest = router.inputs.highest(model.features_before + model.num_features, num_classes)
    if len(router.weights) != len(highest) or len(router.cuts) != CUTS or (np.diff(router.cuts) < 0).any():
        raise SpecError(
            f"{model.name}: router has {len(router.weights)} weights a unit and {len(router.cuts)} cuts, "
            f"expected {len(highest)} and {CUTS} ascending"
        )
    if _largest_sum(router, highest) > SUM_MAX or min(router.inputs.betas, default=0.0) < 0.0:
        raise SpecError(f"{model.name}: a sum of the router could leave 32 bits; make it with program_routers()")
    low, high = THRESHOLDS
    if not low <= model.stage.look_below <= high:
        raise SpecError(f"{model.name}: look_below {model.stage.look_below}, allowed {low} to {high}")
    _check_mix(model.name, model.stage.mix, stages)


def _largest_sum(router: IntegerRouter, highest: NDArray[np.int64]) -> int:
    """Bound every sum of the router, whatever its inputs up to `highest`."""
    first = highest @ np.abs(router.weights.astype(np.int64)) + np.abs(router.bias.astype(np.int64))
    out = 0 if router.out is None else int(np.abs(router.out.astype(np.int64)).sum())
    return max(int(first.max()), out * HIDDEN_MAX + abs(router.out_bias), int(np.abs(router.cuts).max()))


def _check_mix(name: str, mix: Mix, stages: int) -> None:
    most = abs(mix.bias) + sum(128 * abs(multiplier) for multiplier in mix.multipliers) + (128 << mix.shift)
    if len(mix.multipliers) != stages:
        raise SpecError(f"{name}: mix of {len(mix.multipliers)} stages, expected {stages}")
    if stages == 1 and (mix.multipliers, mix.bias, mix.shift) != ((1,), 0, 0):
        raise SpecError(f"{name}: mix {mix} changes the logits of the first stage; make it with mix_of()")
    if most > SUM_MAX or not 0 <= mix.shift <= 15 or max(map(abs, mix.multipliers)) >= 1 << 15:
        raise SpecError(f"{name}: mix {mix} leaves 32 bits; make it with mix_of()")
