"""The edge space: whatever comes out of it is in it, and a bad space is refused by name."""

from itertools import pairwise
from math import ceil, prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.configure import structure, to_toml
from hybrid.errors import SpecError
from hybrid.specs import ArchSpec, BlockSpec
from nas.space import (
    KINDS,
    Choices,
    Space,
    crossover,
    edge_space,
    from_genes,
    genes_of,
    load_space,
    mutate,
    sample,
    smallest,
)

SHAPES = [(28, 28, 1), (32, 32, 3), (96, 96, 3), (128, 1, 9), (49, 10, 1), (8, 8, 1), (5, 5, 2), (1, 1, 12)]
OWN = Space(
    input_shape=(20, 12, 2),
    num_classes=3,
    stem=Choices(width=(4, 8), stride=(1, 2), kernel=(3, 5)),
    stages=(
        Choices(kind=KINDS, width=(8, 16), stride=(1, 2, 3), depth=(1, 2), expansion=(2, 4)),
        Choices(kind=("ib", "res"), width=(12,), stride=(1, 2), kernel=(1, 3), expansion=(3,)),
        Choices(kind=("ds",), width=(16, 20)),
    ),
    num_stages=(1, 3),
    input_pool=(1, 2),
    grey=(False, True),
)
DEFAULTS = [edge_space(shape, 10, kinds=kinds) for shape in SHAPES for kinds in (("conv",), KINDS, ("ds", "ib"))]
SPACES = st.sampled_from([*DEFAULTS, OWN])
SEEDS = st.integers(0, 2**32 - 1)


def assert_inside(arch, space):
    assert (arch.input_shape, arch.num_classes) == (space.input_shape, space.num_classes)
    assert len(arch.blocks) - 1 in space.num_stages
    assert arch.input_pool in space.input_pool
    assert arch.grey in space.grey
    assert not space.one_kind or len({block.kind for block in arch.blocks[1:]}) == 1
    for block, choices in zip(arch.blocks, (space.stem, *space.stages), strict=False):
        assert block.kind in choices.kind
        assert block.width in choices.width
        assert block.stride in choices.stride
        assert block.kernel in choices.kernel
        assert block.depth in choices.depth
        assert block.expansion in (choices.expansion if block.kind == "ib" else (1,))
    total = prod(block.stride for block in arch.blocks)
    for side in space.input_shape[:2]:
        assert ceil(ceil(side / arch.input_pool) / total) >= min(side, space.min_pixels)


@given(space=SPACES, seed=SEEDS)
@settings(max_examples=150, deadline=None)
def test_all_that_is_drawn_mutated_and_crossed_is_in_the_space(space, seed):
    rng = np.random.default_rng(seed)
    a, b = sample(space, rng), sample(space, rng)
    for arch in (a, b, crossover(a, b, space, rng), mutate(a, space, rng), mutate(b, space, rng), smallest(space)):
        assert_inside(arch, space)
        assert from_genes(genes_of(arch), space) == arch


@given(space=SPACES, seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_same_rng_same_nets(space, seed):
    def life():
        rng = np.random.default_rng(seed)
        a, b = sample(space, rng), sample(space, rng)
        return a, b, mutate(a, space, rng), crossover(a, b, space, rng)

    assert life() == life()


@given(space=SPACES, seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_a_mutation_changes_one_choice_and_what_follows_from_it(space, seed):
    rng = np.random.default_rng(seed)
    before = sample(space, rng)
    after = mutate(before, space, rng)
    a, b = genes_of(before), genes_of(after)
    changed = {name for name in a.keys() & b.keys() if a[name] != b[name] and not name.endswith("stride")}
    if kinds := {name for name in changed if name.endswith("kind")}:  # a dense kind has no choice of kernel
        assert len(kinds) == 1 or space.one_kind
        assert {name.rpartition("_")[2] for name in changed - kinds} <= {"kernel"}
    else:
        assert len(changed) <= 1
    if "stages" not in changed:
        assert len(before.blocks) == len(after.blocks)


def test_a_cross_of_twins_is_the_twin():
    rng = np.random.default_rng(1)
    twin = sample(OWN, rng)
    assert crossover(twin, twin, OWN, rng) == twin


def test_a_space_of_one_net_mutates_into_itself():
    only = Space(
        input_shape=(8, 8, 1), num_classes=2, stem=Choices(width=(4,)), stages=(Choices(width=(4,)),), num_stages=(1,)
    )
    rng = np.random.default_rng(0)
    assert mutate(sample(only, rng), only, rng) == smallest(only)


def test_mutations_reach_every_length_and_kind():
    rng = np.random.default_rng(0)
    arch, lengths, kinds = sample(OWN, rng), set(), set()
    for _ in range(300):
        arch = mutate(arch, OWN, rng)
        lengths.add(len(arch.blocks) - 1)
        kinds.add(arch.blocks[1].kind)
    assert lengths == {1, 3}
    assert kinds == set(KINDS)


def test_strides_are_lowered_to_keep_min_pixels():
    # 20 x 12 and 4 pixels at least: ceil(12 / 3) = 4, ceil(12 / 4) = 3, so a total stride of 3 is the limit. Pooled by
    # two, 10 x 6: ceil(6 / 2) = 3, so there is room for no stride.
    assert (OWN.max_total_stride(), OWN.max_total_stride(2)) == (3, 1)
    greedy = [BlockSpec(kind="conv", width=4, stride=2), BlockSpec(kind="conv", width=8, stride=3)]
    arch = from_genes(genes_of(ArchSpec(name="a", input_shape=(20, 12, 2), num_classes=3, blocks=tuple(greedy))), OWN)
    assert [block.stride for block in arch.blocks] == [2, 1]


def test_equal_nets_have_equal_names_and_others_do_not():
    rng = np.random.default_rng(0)
    drawn = {sample(OWN, rng) for _ in range(200)}
    assert len({arch.name for arch in drawn}) == len(drawn)
    assert len({(arch.blocks, arch.input_pool, arch.grey) for arch in drawn}) == len(drawn)


@pytest.mark.parametrize("shape", [(28, 28, 1), (16, 1, 3), (1, 1, 5)])
def test_samples_of_every_kind_build(shape):
    from hybrid.nets import build_net

    arch = sample(edge_space(shape, 4), np.random.default_rng(3))
    logits, features = build_net(arch).outputs
    assert logits.shape == (None, 4)
    assert features.shape == (None, arch.blocks[-1].width)


def test_the_lean_space_has_the_size_that_the_quick_preset_counts_on():
    rng = np.random.default_rng(0)
    space = edge_space((28, 28, 1), 10, kinds=("conv",))
    weights = []
    for arch in (sample(space, rng) for _ in range(100)):
        widths = [1, *(block.width for block in arch.blocks)]
        weights.append(sum(9 * a * b for a, b in pairwise(widths)) + 10 * widths[-1])
    assert min(weights) > 1_500
    assert max(weights) < 60_000


def test_toml_round_trip(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text(to_toml(OWN))
    assert load_space(path) == OWN


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"stem": {"width": []}}, "stem: width: got []"),
        ({"stem": {"width": [6]}}, "width: got 6, allowed multiples of 4"),
        ({"stem": {"width": [8, 8]}}, "width: got [8, 8], allowed one or more distinct"),
        ({"stem": {"width": [8], "stride": [0]}}, "stride: got 0, allowed 1 or more"),
        ({"stem": {"width": [8], "kind": ["dense"]}}, "dense"),
        ({"stem": {"widths": [8]}}, "unknown key 'widths'; did you mean width?"),
        ({"num_stages": [2]}, "num_stages: got [2], allowed one or more counts from 1 to the 1 stages"),
        ({"num_stages": []}, "num_stages: got []"),
        ({"min_pixels": 1}, "min_pixels: got 1, allowed 2 or more"),
        ({"num_classes": 1}, "num_classes"),
        ({"stages": [{"width": [8], "stride": [4]}]}, "multiply to 4, but [8, 8, 1] inputs allow 2"),
    ],
)
def test_bad_spaces_are_refused_by_name(change, complaint):
    good = {
        "input_shape": [8, 8, 1],
        "num_classes": 2,
        "stem": {"width": [8]},
        "stages": [{"width": [8]}],
        "num_stages": [1],
    }
    structure(good, Space, where="space")
    with pytest.raises(SpecError) as refusal:
        structure(good | change, Space, where="space")
    assert complaint in str(refusal.value)


def test_there_is_a_default_space_for_inputs_of_every_size():
    rng = np.random.default_rng(0)
    for height in range(1, 130):
        for width in (1, 2, 7, height):
            space = edge_space((height, width, 1), 2)
            assert_inside(sample(space, rng), space)
