"""The nets of a second look: further small nets beside the edge, or the edge net itself, cut in two by an early exit.

Two nets of one architecture, trained from other first weights, err apart from each other: their averaged logits are
right more often, and how far they agree tells the router more than either alone. A wider second net for fewer examples
does more for the same mean MACs than a second one of the same size. An exit costs almost nothing but can
only save time: what the near part cannot answer, the far part answers as the whole net would have.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hybrid.arena import shared_needs
from hybrid.artifacts import Device
from hybrid.cascade import Reads
from hybrid.cost import Estimate, estimate, estimate_exit
from hybrid.errors import SpecError
from hybrid.latency import edge_latency_ms
from hybrid.nets import build_exit, build_net
from hybrid.specs import ArchSpec, LookSpec

ROUTER_FLASH_BYTES = 6400
"""Tables of a router of 1,000 parameters, at most."""
SEED_STEP = 1000
"""Between the seeds of one stage and the next."""


def exit_after(arch: ArchSpec, spec: LookSpec) -> int:
    """Blocks of the near part. Raises: SpecError where no block would be left on either side."""
    most = len(arch.blocks) - 1
    after = spec.exit_after or most
    if not 1 <= after <= most:
        raise SpecError(
            f"look.exit_after: got {spec.exit_after}, the edge {arch.name} has {most + 1} blocks; allowed 1 to {most}"
            if most
            else f"look.kind: exit needs two blocks, {arch.name} has one"
        )
    return after


def stage_archs(arch: ArchSpec, spec: LookSpec) -> tuple[ArchSpec, ...]:
    """The nets that take the image: the edge and, for ``net``, the further ones."""
    if spec.kind != "net":
        return (arch,)
    blocks = tuple(replace(block, width=max(1, round(block.width * spec.width))) for block in arch.blocks)
    return (arch, *(replace(arch, blocks=blocks),) * spec.nets)


def build_stages(arch: ArchSpec, spec: LookSpec, k: Any = None) -> tuple[Any, ...]:
    """The nets of all stages with Keras module `k`, untrained."""
    if spec.kind == "exit":
        return build_exit(arch, exit_after(arch, spec), k)
    return tuple(build_net(one, k) for one in stage_archs(arch, spec))


def mix_weights(spec: LookSpec, stage: int) -> Sequence[float]:
    """Weights of the logits of stages 0 to `stage` in the answer of that stage.

    >>> mix_weights(LookSpec(kind="net"), 1), mix_weights(LookSpec(kind="exit"), 1)
    ([0.5, 0.5], [0.0, 1.0])
    """
    if spec.kind == "exit":
        return [float(index == stage) for index in range(stage + 1)]
    return [1.0 / (stage + 1)] * (stage + 1)


def reads(spec: LookSpec, stage: int) -> Reads:
    """What the net of this stage takes in."""
    return "trunk" if spec.kind == "exit" and stage else "image"


def staged(arch: ArchSpec, spec: LookSpec) -> Estimate:
    """What all stages take on the device where `arch` is the edge; MACs and parameters are the edge net's, cut or not.

    The nets share one arena, in which what each keeps lies beside the activations of the one that runs. A net too short
    for its exit, which `exit_after` refuses later, is reckoned whole.
    """
    nets = [estimate(one) for one in stage_archs(arch, spec)]
    after = spec.exit_after or len(arch.blocks) - 1
    cuts = spec.kind == "exit" and 0 < after < len(arch.blocks)
    stages = estimate_exit(arch, after) if cuts else nets
    return replace(
        nets[0],
        stage_work=tuple(stage.work for stage in stages),
        flash_bytes=sum(stage.flash_bytes + ROUTER_FLASH_BYTES for stage in stages),
        arena=shared_needs([stage.arena for stage in stages]),
    )


def mean_latency_ms(costs: Estimate, device: Device, share: float) -> float:
    """Mean time on the device; each further stage runs for `share` of the examples of the one before."""
    return sum(share**stage * edge_latency_ms(work, device) for stage, work in enumerate(costs.stage_work))


def cut(edge: Any, arch: ArchSpec, spec: LookSpec) -> tuple[Any, Any]:
    """Near and far part of a trained `edge` net, with its weights; the near head alone is still untrained."""
    near, far = build_exit(arch, exit_after(arch, spec))
    weights, head = edge.get_weights(), near.get_weights()[-2:]
    taken = len(weights) - len(far.get_weights())
    near.set_weights([*weights[:taken], *head])
    far.set_weights(weights[taken:])
    for layer in near.layers:
        layer.trainable = layer.name == "logits"
    return near, far
