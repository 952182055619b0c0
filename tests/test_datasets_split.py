import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets import DatasetError, load
from datasets.split import divide, shares, take


def test_shares_by_largest_remainder():
    # 10 of 15, 9, 6 examples: quotas 5, 3, 2 are whole; 11 of them: 5.5, 3.3, 2.2 -> the half gets the eleventh
    counts = np.array([15, 9, 6])
    assert shares(counts, 10).tolist() == [5, 3, 2]
    assert shares(counts, 11).tolist() == [6, 3, 2]


def test_a_rare_class_gets_one_at_the_cost_of_the_others():
    # quotas 9.8 and 0.2: the rare class gets 1, the other the remaining 9
    assert shares(np.array([98, 2]), 10).tolist() == [9, 1]


@given(st.lists(st.integers(1, 500), min_size=1, max_size=30), st.data())
def test_shares_add_up_and_leave_no_class_out(counts, data):
    total = data.draw(st.integers(len(counts), sum(counts)))
    given_out = shares(np.array(counts), total)
    assert given_out.sum() == total
    assert (given_out >= 1).all()
    assert (given_out <= counts).all()


def test_take_keeps_the_order():
    y = np.array([0, 1, 0, 1, 0], np.int32)
    taken, others = take(y, np.array([2, 1]), np.array([4, 3, 2, 1, 0]))
    assert taken.tolist() == [4, 3, 2]  # the first two of class 0 are 4 and 2, the first of class 1 is 3
    assert others.tolist() == [1, 0]


@given(st.lists(st.integers(3, 40), min_size=2, max_size=8), st.floats(0.01, 0.45), st.floats(0.01, 0.45))
def test_divide_is_a_partition_with_every_class_in_every_part(counts, first, second):
    y = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    totals = [round(first * len(y)), round(second * len(y))]
    parts = divide(y, totals, class_names="abcdefgh"[: len(counts)], rng=np.random.default_rng(0))
    assert sorted(np.concatenate(parts)) == list(range(len(y)))
    assert all(set(y[part]) == set(y) for part in parts)


def test_divide_shuffles_by_the_generator_alone():
    y = np.repeat([0, 1], 50).astype(np.int32)
    one, same, other = (
        divide(y, [20], class_names="ab", rng=np.random.default_rng(seed))[0].tolist() for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other
    assert one != sorted(one)


def test_a_class_that_is_too_small_is_named_with_what_it_needs():
    y = np.array([0, 0, 0, 0, 1, 1], np.int32)
    with pytest.raises(DatasetError, match=r"class owl: has 2 examples to divide, needs 3"):
        divide(y, [1, 1], class_names=["cat", "owl"], rng=np.random.default_rng(0))


def stretches(y, length):
    """Number of classes in each stretch of so many rows."""
    return [len(set(y[start : start + length])) for start in range(0, len(y) - length + 1, length)]


def test_every_stretch_of_every_part_mixes_the_classes():
    """40 rows of ten equal classes miss more than four about once in 10^7; unshuffled rests begin with one class."""
    y = np.repeat(np.arange(10), 200).astype(np.int32)
    parts = divide(y, [200, 200], class_names="abcdefghij", rng=np.random.default_rng(0))
    assert [len(part) for part in parts] == [200, 200, 1600]
    assert min(min(stretches(y[part], 40)) for part in parts) >= 6


def test_every_stretch_of_what_is_loaded_mixes_the_classes(tmp_path):
    y = np.repeat(np.arange(10), 3000)
    np.savez(tmp_path / "data.npz", x=np.zeros((30_000, 1, 1, 1), np.uint8), y=y)
    data = load(str(tmp_path / "data.npz"), limit=4000)
    assert len(data.train) == 4000
    assert min(min(stretches(split.y, 40)) for split in data.splits.values()) >= 6
