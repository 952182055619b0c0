"""The edge search space as plain data; pure functions draw nets from it and vary them, with the rng passed in.

A net is a stem and a few stages, each one `BlockSpec` drawn from its own `Choices`. A user's space is a TOML file of
the same shape (see `load_space`). Whatever `sample`, `mutate`, `crossover` and `smallest` return is in the space.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import prod
from pathlib import Path
from typing import Any, get_args

import numpy as np

from hybrid.configure import read_toml, structure
from hybrid.errors import SpecError
from hybrid.specs import ArchSpec, BlockKind, BlockSpec

KINDS: tuple[BlockKind, ...] = get_args(BlockKind)
CHEAPEST_FIRST: tuple[BlockKind, ...] = ("ds", "rds", "conv", "ib", "res")
DENSE_KINDS: tuple[BlockKind, ...] = ("conv", "res")
Gene = int | str | bool


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
            if name != "kind" and list(values) != sorted(values):
                raise SpecError(f"{name}: got {list(values)}, allowed choices in ascending order")
        if wrong := [width for width in self.width if width % 4]:
            raise SpecError(f"width: got {wrong[0]}, allowed multiples of 4, which int8 kernels process at once")


GENES = tuple(f.name for f in fields(Choices))
SHRINKING = ("width", "depth", "kernel", "expansion", "stride")


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
    input_pool: tuple[int, ...] = (1,)
    """Input resolution: what the image is pooled by inside the net, before the stem."""
    grey: tuple[bool, ...] = (False,)
    """Input channels: all of them, or their mean."""
    one_kind: bool = False
    """All stages of a net are of the first one's kind. Where nets of mixed kinds share weights, a stage must read what
    differing kinds say in differing terms: the accuracy with shared weights fell from 83 to 75 % on Fashion-MNIST."""
    min_pixels: int = 4

    def __post_init__(self) -> None:
        if min(self.input_shape) < 1 or self.num_classes < 2:
            shape, classes = list(self.input_shape), self.num_classes
            raise SpecError(f"input_shape, num_classes: got {shape}, {classes}, allowed sides of 1 or more, 2 classes")
        if self.min_pixels < 2:
            raise SpecError(f"min_pixels: got {self.min_pixels}, allowed 2 or more")
        if not self.input_pool or min(self.input_pool) < 1:
            raise SpecError(f"input_pool: got {list(self.input_pool)}, allowed one or more choices of 1 or more")
        if self.one_kind and len({frozenset(choices.kind) for choices in self.stages}) > 1:
            raise SpecError(
                "one_kind: the stages offer different kinds; offer the same in each, or set one_kind = false"
            )
        if not self.grey:
            raise SpecError("grey: got no choice, allowed false, true or both")
        if not self.num_stages or not all(0 < count <= len(self.stages) for count in self.num_stages):
            allowed = f"one or more counts from 1 to the {len(self.stages)} stages given"
            raise SpecError(f"num_stages: got {list(self.num_stages)}, allowed {allowed}")
        least = prod(min(choices.stride) for choices in self.positions[: max(self.num_stages) + 1])
        if least > (most := self.max_total_stride(max(self.input_pool))):
            raise SpecError(
                f"stride: the smallest choices multiply to {least}, but {list(self.input_shape)} inputs allow {most}"
                " after input_pool; offer stride 1 in more stages, pool less, or lower min_pixels"
            )

    @property
    def positions(self) -> tuple[Choices, ...]:
        """The stem's choices and each stage's."""
        return (self.stem, *self.stages)

    def max_total_stride(self, input_pool: int = 1) -> int:
        """Largest total stride T that leaves ``ceil(side / T) >= min_pixels`` on every side above one pixel."""
        return _max_total_stride([-(-side // input_pool) for side in self.input_shape[:2]], self.min_pixels)


def _max_total_stride(shape: Sequence[int], min_pixels: int) -> int:
    sides = [side for side in shape[:2] if side > 1]
    return max(1, (min(sides, default=1) - 1) // (min_pixels - 1))


# Strides of the stem and of stages 1 to 4, by how often an input can be halved.
_STRIDES: tuple[tuple[tuple[int, ...], ...], ...] = (
    ((1,), (1,), (1,), (1,), (1,)),
    ((1, 2), (1, 2), (1,), (1,), (1,)),
    ((1, 2), (1, 2), (1, 2), (1,), (1,)),
    ((1, 2), (1, 2), (2,), (1, 2), (1,)),
    ((2,), (1, 2), (2,), (1, 2), (1, 2)),
)
_LEAN_WIDTHS = ((8, 12, 16), (8, 12, 16, 20, 24), (12, 16, 20, 24, 32), (16, 24, 32, 40, 48), (24, 32, 40, 48, 64))
_WIDE_ENDS = ((8, 24), (12, 32), (16, 64), (24, 96), (32, 128))
_STEPS = (8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128)
"""Four widths to an octave, as far as multiples of 4 allow: so a net comes near to what the device has room for."""
_WIDE_WIDTHS = tuple(tuple(step for step in _STEPS if least <= step <= most) for least, most in _WIDE_ENDS)
LARGE_PIXELS = 48
"""From this side on, half the resolution and grey images are worth a try."""


def edge_space(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    kinds: tuple[BlockKind, ...] = KINDS,
    width: float = 1.0,
    min_pixels: int = 4,
) -> Space:
    """Return the default space for an input: images, spectrograms, or windows over time of shape (length, 1, channels).

    `width` multiplies all widths. With dense kinds alone it is lean, for the quick preset: convolutions of small
    width, because TensorFlow on a CPU trains them faster than depthwise layers of as many MACs. The device likes
    depthwise layers better (fewer weights for the same accuracy), so that the full space has every kind.
    """
    lean = set(kinds) <= {*DENSE_KINDS}
    stem_width, *widths = (_scaled(options, width) for options in (_LEAN_WIDTHS if lean else _WIDE_WIDTHS))
    halvings = _max_total_stride(input_shape, min_pixels).bit_length() - 1
    stem_stride, *strides = _STRIDES[min(halvings, len(_STRIDES) - 1)]
    large = min(input_shape[:2]) >= LARGE_PIXELS
    stages = tuple(
        Choices(
            kind=kinds,
            width=options,
            stride=stride,
            kernel=(3,) if lean else (3, 5, 7),
            depth=(1,) if lean else (1, 2, 3),
            expansion=(2, 3, 4, 6) if "ib" in kinds else (1,),
        )
        for options, stride in zip(widths, strides, strict=True)
    )
    return Space(
        input_shape=input_shape,
        num_classes=num_classes,
        stem=Choices(width=stem_width, stride=stem_stride),
        stages=stages,
        num_stages=(2, 3, 4) if lean else (3, 4),
        input_pool=(1, 2) if large else (1,),
        grey=(False, True) if large and input_shape[2] == 3 else (False,),
        one_kind=True,
        min_pixels=min_pixels,
    )


def _scaled(widths: Sequence[int], by: float) -> tuple[int, ...]:
    """Multiples of 4 near the scaled widths, each once.

    >>> _scaled((8, 12, 16), 0.5), _scaled((8, 12, 16), 1.5)
    ((4, 8), (12, 20, 24))
    """
    return tuple(sorted({max(4, 4 * round(width * by / 4 + 1e-9)) for width in widths}))


def load_space(path: Path) -> Space:
    """Read a space from TOML, whose keys are the fields of `Space`. Raises: SpecError naming the key."""
    return structure(read_toml(path), Space, where=str(path))


def sample(space: Space, rng: np.random.Generator) -> ArchSpec:
    """Draw a net, each choice with equal probability."""
    count = _pick(space.num_stages, rng)
    blocks = [_draw(choices, rng) for choices in space.positions[: count + 1]]
    return _arch(space, blocks, _pick(space.input_pool, rng), _pick(space.grey, rng))


def mutate(arch: ArchSpec, space: Space, rng: np.random.Generator) -> ArchSpec:
    """Change one gene of `arch`: a choice of one block, the number of stages, or the input.

    The net comes back as it was where the space leaves it no other choice there.
    """
    values = genes_of(arch)
    options = {name: [v for v in choices if v != values[name]] for name, choices in _choices(arch, space).items()}
    changeable = [name for name, others in options.items() if others]
    if not changeable:
        return arch
    name = _pick(changeable, rng)
    values[name] = _pick(options[name], rng)
    for index in range(len(arch.blocks), int(values["stages"]) + 1):
        values |= _block_genes(index, _draw(space.positions[index], rng))
    return from_genes(values, space)


def _choices(arch: ArchSpec, space: Space) -> dict[str, Sequence[Gene]]:
    """What each gene of `arch` may be."""
    choices: dict[str, Sequence[Gene]] = {
        "stages": space.num_stages,
        "input_pool": space.input_pool,
        "grey": space.grey,
    }
    for index, block in enumerate(arch.blocks):
        names = _active(block.kind)
        for name in names[1:] if space.one_kind and index > 1 else names:
            choices[gene_name(index, name)] = getattr(space.positions[index], name)
    return choices


def _active(kind: BlockKind) -> tuple[str, ...]:
    """The genes that a block of this kind has."""
    return GENES if kind == "ib" else tuple(g for g in GENES[:-1] if kind not in DENSE_KINDS or g != "kernel")


def crossover(a: ArchSpec, b: ArchSpec, space: Space, rng: np.random.Generator) -> ArchSpec:
    """Make a child with the length of `a` or of `b`, each block from either parent that has one at its place."""
    count = len(_pick((a, b), rng).blocks)
    parents = [[arch.blocks[index] for arch in (a, b) if index < len(arch.blocks)] for index in range(count)]
    blocks = [_pick(choice, rng) for choice in parents]
    return _arch(space, blocks, _pick((a, b), rng).input_pool, _pick((a, b), rng).grey)


def smallest(space: Space) -> ArchSpec:
    """Return about the net of `space` that needs least: fewest stages, narrowest, shallowest, early strides."""
    return _corner(space, min, [min(c.kind, key=CHEAPEST_FIRST.index) for c in space.positions])


def largest_of_kinds(space: Space, rng: np.random.Generator) -> ArchSpec:
    """Return the net that is largest in every choice, of randomly drawn kinds."""
    return _corner(space, max, [_pick(c.kind, rng) for c in space.positions])


def smallest_of_kinds(space: Space, rng: np.random.Generator) -> ArchSpec:
    """Return the net that is smallest in every choice, of randomly drawn kinds."""
    return _corner(space, min, [_pick(c.kind, rng) for c in space.positions])


def _corner(space: Space, pick: Callable[[Sequence[int]], int], kinds: Sequence[BlockKind]) -> ArchSpec:
    """The net with `pick` of everything; strides and pooling, which make a net smaller, the other way round."""
    opposite = max if pick is min else min
    blocks = [
        BlockSpec(
            kind=kind,
            width=pick(choices.width),
            stride=opposite(choices.stride),
            kernel=pick(choices.kernel),
            depth=pick(choices.depth),
            expansion=pick(choices.expansion),
        )
        for choices, kind in zip(space.positions[: pick(space.num_stages) + 1], kinds, strict=False)
    ]
    return _arch(space, blocks, opposite(space.input_pool), opposite(space.grey))


def shrunk(arch: ArchSpec, space: Space, rng: np.random.Generator, allowed: Callable[[ArchSpec], bool]) -> ArchSpec:
    """Take one random choice after the other down a step until the net is allowed, or cannot shrink further."""
    while not allowed(arch):
        smaller = list(_stepped(arch, space, SHRINKING, larger=False))
        if not smaller:
            return arch
        arch = _pick(smaller, rng)
    return arch


def widened(arch: ArchSpec, space: Space, rng: np.random.Generator, allowed: Callable[[ArchSpec], bool]) -> ArchSpec:
    """Take the width of one random block after the other up a step for as long as any such net is allowed."""
    while True:
        wider = list(_stepped(arch, space, ("width",), larger=True))
        found = next((wider[place] for place in rng.permutation(len(wider)) if allowed(wider[place])), None)
        if found is None:
            return arch
        arch = found


def _stepped(arch: ArchSpec, space: Space, genes: Sequence[str], *, larger: bool) -> Iterator[ArchSpec]:
    """Every net that is one step larger, or smaller, in one choice of a block; a larger stride makes a smaller net."""
    for index, block in enumerate(arch.blocks):
        for name in genes:
            value, choices = getattr(block, name), getattr(space.positions[index], name)
            up = larger != (name == "stride")
            for step in [v for v in choices if v > value][:1] if up else [v for v in choices if v < value][-1:]:
                blocks = [*arch.blocks[:index], replace(block, **{name: step}), *arch.blocks[index + 1 :]]
                made = _arch(space, blocks, arch.input_pool, arch.grey)
                if made != arch:
                    yield made


def genes_of(arch: ArchSpec) -> dict[str, Gene]:
    """Flatten a net into hyperparameters: ``stages``, ``stem_width``, ``stage1_kind``; `from_genes` reads them."""
    genes: dict[str, Gene] = {"stages": len(arch.blocks) - 1, "input_pool": arch.input_pool, "grey": arch.grey}
    for index, block in enumerate(arch.blocks):
        genes |= _block_genes(index, block)
    return genes


def _block_genes(index: int, block: BlockSpec) -> dict[str, Gene]:
    names = GENES if block.kind == "ib" else GENES[:-1]
    return {gene_name(index, name): getattr(block, name) for name in names}


def from_genes(genes: Mapping[str, Any], space: Space) -> ArchSpec:
    """Build the net that `genes_of` described."""
    rows = [
        {name: genes[gene_name(index, name)] for name in GENES if gene_name(index, name) in genes}
        for index in range(int(genes["stages"]) + 1)
    ]
    return _arch(space, [BlockSpec(**row) for row in rows], int(genes["input_pool"]), bool(genes["grey"]))


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


def _arch(space: Space, blocks: Sequence[BlockSpec], input_pool: int, grey: bool) -> ArchSpec:
    """One spec per net: strides brought within the limit, no idle genes, and a name that follows from the rest."""
    if space.one_kind:
        blocks = [block if i < 2 else replace(block, kind=blocks[1].kind) for i, block in enumerate(blocks)]
    blocks = [_tidy(block, space.positions[i]) for i, block in enumerate(blocks)]
    blocks = _limit_strides(space, blocks, space.max_total_stride(input_pool))
    digest = hashlib.sha256(repr((space.input_shape, space.num_classes, blocks, input_pool, grey)).encode()).hexdigest()
    return ArchSpec(
        name=f"edge-{digest[:8]}",
        input_shape=space.input_shape,
        num_classes=space.num_classes,
        blocks=blocks,
        input_pool=input_pool,
        grey=grey,
    )


def _tidy(block: BlockSpec, choices: Choices) -> BlockSpec:
    """Expansion is for ``ib`` alone, and a dense kernel is the smallest: 5x5 would cost 2.8 times its MACs."""
    if block.kind in DENSE_KINDS:
        block = replace(block, kernel=min(choices.kernel))
    if block.kind != "ib":
        return replace(block, expansion=1)
    return block if block.expansion in choices.expansion else replace(block, expansion=min(choices.expansion))


def _limit_strides(space: Space, blocks: Sequence[BlockSpec], most: int) -> tuple[BlockSpec, ...]:
    """Lower a stride to the largest choice that leaves room for the least strides of the blocks behind it."""
    least = [min(choices.stride) for choices in space.positions[: len(blocks)]]
    done: list[BlockSpec] = []
    for index, block in enumerate(blocks):
        room = most // (prod(b.stride for b in done) * prod(least[index + 1 :]))
        allowed = [stride for stride in space.positions[index].stride if stride <= min(room, block.stride)]
        done.append(replace(block, stride=max(allowed)))
    return tuple(done)
