"""The edge search space as plain data; pure functions draw nets from it and vary them, with the rng passed in.

A net is a stem and a few stages, each one `BlockSpec` drawn from its own `Choices`. A user's space is a TOML file of
the same shape (see `load_space`). Whatever `sample`, `mutate`, `crossover` and `smallest` return is in the space.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import prod
from pathlib import Path
from typing import Any, get_args

import numpy as np

from hybrid.configure import read_toml, structure
from hybrid.errors import SpecError
from hybrid.specs import ArchSpec, BlockKind, BlockSpec, SearchSpec

KINDS: tuple[BlockKind, ...] = get_args(BlockKind)
CHEAPEST_FIRST: tuple[BlockKind, ...] = ("ds", "conv", "ib", "res")
Gene = int | str


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What one block may be; the fields are those of `BlockSpec`, and `expansion` concerns the kind ``ib`` alone."""

    kind: tuple[BlockKind, ...] = ("conv",)
    width: tuple[int, ...]
    stride: tuple[int, ...] = (1,)
    kernel: tuple[int, ...] = (3,)
    depth: tuple[int, ...] = (1,)
    expansion: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        for name in GENES:
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise SpecError(f"{name}: got {list(values)}, allowed one or more distinct choices")
            if name != "kind" and min(values) < 1:
                raise SpecError(f"{name}: got {min(values)}, allowed 1 or more")
        if wrong := [width for width in self.width if width % 4]:
            raise SpecError(f"width: got {wrong[0]}, allowed multiples of 4, which int8 kernels process at once")


GENES = tuple(f.name for f in fields(Choices))


@dataclass(frozen=True, kw_only=True)
class Space:
    """A stem, then as many of `stages` as `num_stages` says; no side of an image shrinks below `min_pixels`.

    A side of one pixel (the width of a window over time) stays one pixel and does not count.
    """

    input_shape: tuple[int, int, int]
    num_classes: int
    stem: Choices
    stages: tuple[Choices, ...]
    num_stages: tuple[int, ...]
    min_pixels: int = 4

    def __post_init__(self) -> None:
        if min(self.input_shape) < 1 or self.num_classes < 2:
            shape, classes = list(self.input_shape), self.num_classes
            raise SpecError(f"input_shape, num_classes: got {shape}, {classes}, allowed sides of 1 or more, 2 classes")
        if self.min_pixels < 2:
            raise SpecError(f"min_pixels: got {self.min_pixels}, allowed 2 or more")
        if not self.num_stages or not all(0 < count <= len(self.stages) for count in self.num_stages):
            allowed = f"one or more counts from 1 to the {len(self.stages)} stages given"
            raise SpecError(f"num_stages: got {list(self.num_stages)}, allowed {allowed}")
        least = prod(min(choices.stride) for choices in self.positions[: max(self.num_stages) + 1])
        if least > self.max_total_stride:
            raise SpecError(
                f"stride: the smallest choices multiply to {least}, but {list(self.input_shape)} inputs allow"
                f" {self.max_total_stride}; offer stride 1 in more stages, or lower min_pixels"
            )

    @property
    def positions(self) -> tuple[Choices, ...]:
        """The stem's choices and each stage's."""
        return (self.stem, *self.stages)

    @property
    def max_total_stride(self) -> int:
        """Largest total stride T that leaves ``ceil(side / T) >= min_pixels`` on every side above one pixel."""
        return _max_total_stride(self.input_shape, self.min_pixels)


def _max_total_stride(shape: Sequence[int], min_pixels: int) -> int:
    sides = [side for side in shape[:2] if side > 1]
    return max(1, (min(sides, default=1) - 1) // (min_pixels - 1))


# Strides of the stem and of stages 1 to 4, by how often an input can be halved.
_STRIDES: tuple[tuple[tuple[int, ...], ...], ...] = (
    ((1,), (1,), (1,), (1,), (1,)),
    ((2,), (1,), (1,), (1,), (1,)),
    ((2,), (1,), (2,), (1,), (1,)),
    ((2,), (1, 2), (2,), (1, 2), (1,)),
    ((2,), (2,), (2,), (1, 2), (1, 2)),
)
_LEAN_WIDTHS = ((16, 24), (24, 32), (32, 48), (48, 64))
_WIDE_WIDTHS = ((16, 24, 32), (24, 32, 48), (32, 48, 64), (48, 64, 96))


def edge_space(
    input_shape: tuple[int, int, int], num_classes: int, *, kinds: tuple[BlockKind, ...] = KINDS, min_pixels: int = 4
) -> Space:
    """Return the default space for an input: images, or windows over time of shape (length, 1, channels).

    With ``kinds=("conv",)`` it is lean, for the quick preset: plain convolutions of small width, because TensorFlow on
    a CPU trains them about five times faster than depthwise layers of similar size (measured: 5 s against 27 s for an
    epoch of Fashion-MNIST at 14 x 14). The device likes depthwise layers better (fewer MACs and weights for the same
    accuracy), so that the full space has every kind.
    """
    lean = set(kinds) == {"conv"}
    halvings = _max_total_stride(input_shape, min_pixels).bit_length() - 1
    stem_stride, *strides = _STRIDES[min(halvings, len(_STRIDES) - 1)]
    stages = tuple(
        Choices(
            kind=kinds,
            width=width,
            stride=stride,
            kernel=(3,) if lean else (3, 5),
            depth=(1,) if lean else (1, 2),
            expansion=(2, 3, 4) if "ib" in kinds else (1,),
        )
        for width, stride in zip(_LEAN_WIDTHS if lean else _WIDE_WIDTHS, strides, strict=True)
    )
    return Space(
        input_shape=input_shape,
        num_classes=num_classes,
        stem=Choices(width=(8, 16) if lean else (8, 16, 24), stride=stem_stride),
        stages=stages,
        num_stages=(3, 4),
        min_pixels=min_pixels,
    )


def load_space(path: Path) -> Space:
    """Read a space from TOML, whose keys are the fields of `Space`. Raises: SpecError naming the key."""
    return structure(read_toml(path), Space, where=str(path))


def space_for(spec: SearchSpec, input_shape: tuple[int, int, int], num_classes: int) -> Space:
    """Return the space that `spec` asks for: its file's, or the default for the input. Raises: SpecError."""
    if spec.space:
        return load_space(Path(spec.space))
    return edge_space(input_shape, num_classes, kinds=spec.kinds)


def sample(space: Space, rng: np.random.Generator) -> ArchSpec:
    """Draw a net, each choice with equal probability."""
    count = _pick(space.num_stages, rng)
    return _arch(space, [_draw(choices, rng) for choices in space.positions[: count + 1]])


def mutate(arch: ArchSpec, space: Space, rng: np.random.Generator) -> ArchSpec:
    """Change one gene of `arch`: a choice of one block, or the number of stages.

    The net comes back as it was where the space leaves it no other choice there.
    """
    blocks = list(arch.blocks)
    genes = [
        (index, name)
        for index, block in enumerate(blocks)
        for name in GENES
        if len(getattr(space.positions[index], name)) > 1 and (name != "expansion" or block.kind == "ib")
    ]
    others = [count for count in space.num_stages if count != len(blocks) - 1]
    pick = int(rng.integers(len(genes) + len(others))) if genes or others else None
    if pick is None:
        return arch
    if pick < len(genes):
        index, name = genes[pick]
        options = [value for value in getattr(space.positions[index], name) if value != getattr(blocks[index], name)]
        blocks[index] = replace(blocks[index], **{name: _pick(options, rng)})
    else:
        count = others[pick - len(genes)]
        added = [_draw(choices, rng) for choices in space.positions[len(blocks) : count + 1]]
        blocks = (blocks + added)[: count + 1]
    return _arch(space, blocks)


def crossover(a: ArchSpec, b: ArchSpec, space: Space, rng: np.random.Generator) -> ArchSpec:
    """Make a child with the length of `a` or of `b`, each block from either parent that has one at its place."""
    count = len(_pick((a, b), rng).blocks)
    parents = [[arch.blocks[index] for arch in (a, b) if index < len(arch.blocks)] for index in range(count)]
    return _arch(space, [_pick(blocks, rng) for blocks in parents])


def smallest(space: Space) -> ArchSpec:
    """Return about the net of `space` that needs least: fewest stages, narrowest, shallowest, early strides."""
    blocks = [
        BlockSpec(
            kind=min(choices.kind, key=CHEAPEST_FIRST.index),
            width=min(choices.width),
            stride=max(choices.stride),
            kernel=min(choices.kernel),
            depth=min(choices.depth),
            expansion=min(choices.expansion),
        )
        for choices in space.positions[: min(space.num_stages) + 1]
    ]
    return _arch(space, blocks)


def genes_of(arch: ArchSpec) -> dict[str, Gene]:
    """Flatten a net into hyperparameters: ``stages``, ``stem_width``, ``stage1_kind``; `from_genes` reads them."""
    genes: dict[str, Gene] = {"stages": len(arch.blocks) - 1}
    for index, block in enumerate(arch.blocks):
        names = GENES if block.kind == "ib" else GENES[:-1]
        genes |= {gene_name(index, name): getattr(block, name) for name in names}
    return genes


def from_genes(genes: Mapping[str, Any], space: Space) -> ArchSpec:
    """Build the net that `genes_of` described."""
    rows = [
        {name: genes[gene_name(index, name)] for name in GENES if gene_name(index, name) in genes}
        for index in range(int(genes["stages"]) + 1)
    ]
    return _arch(space, [BlockSpec(**row) for row in rows])


def gene_name(index: int, name: str) -> str:
    """Name of one gene of the block at `index`; 0 is the stem.

    >>> gene_name(0, "width"), gene_name(2, "kind")
    ('stem_width', 'stage2_kind')
    """
    return f"stage{index}_{name}" if index else f"stem_{name}"


def _pick(options: Sequence[Any], rng: np.random.Generator) -> Any:
    return options[int(rng.integers(len(options)))]


def _draw(choices: Choices, rng: np.random.Generator) -> BlockSpec:
    return BlockSpec(**{name: _pick(getattr(choices, name), rng) for name in GENES})


def _arch(space: Space, blocks: Sequence[BlockSpec]) -> ArchSpec:
    """One spec per net: strides brought within the limit, no idle genes, and a name that follows from the blocks."""
    blocks = _limit_strides(space, [_tidy(block, space.positions[i]) for i, block in enumerate(blocks)])
    digest = hashlib.sha256(repr((space.input_shape, space.num_classes, blocks)).encode()).hexdigest()
    return ArchSpec(
        name=f"edge-{digest[:8]}", input_shape=space.input_shape, num_classes=space.num_classes, blocks=blocks
    )


def _tidy(block: BlockSpec, choices: Choices) -> BlockSpec:
    if block.kind != "ib":
        return replace(block, expansion=1)
    return block if block.expansion in choices.expansion else replace(block, expansion=min(choices.expansion))


def _limit_strides(space: Space, blocks: Sequence[BlockSpec]) -> tuple[BlockSpec, ...]:
    """Lower a stride to the largest choice that leaves room for the least strides of the blocks behind it."""
    least = [min(choices.stride) for choices in space.positions[: len(blocks)]]
    done: list[BlockSpec] = []
    for index, block in enumerate(blocks):
        room = space.max_total_stride // (prod(b.stride for b in done) * prod(least[index + 1 :]))
        allowed = [stride for stride in space.positions[index].stride if stride <= min(room, block.stride)]
        done.append(replace(block, stride=max(allowed)))
    return tuple(done)
