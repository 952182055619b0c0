import numpy as np
import pytest

from datasets import DatasetError, load
from datasets.load import digest


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        path = tmp_path / "made.npz"
        np.savez(path, **arrays)
        return str(path)

    return write


def images(count, *shape, classes=2):
    x = np.arange(count * int(np.prod(shape)), dtype=np.int64).reshape(count, *shape)
    return (x % 251).astype(np.uint8), np.arange(count) % classes


def test_sizes_of_the_splits(save):
    x, y = images(100, 4, 5)
    data = load(save(x=x, y=y))
    # test: 15 % of 100 = 15; of the other 85: 8.5 -> 8 (to even) for calibration and validation each, 69 remain
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 69, "calibration": 8, "validation": 8, "test": 15,
    }  # fmt: skip
    assert data.input_shape == (4, 5, 1)
    assert data.class_names == ("0", "1")
    assert data.value_range == (0.0, 255.0)
    assert not data.mirror
    assert data.name == "made"


def test_splits_are_disjoint_and_whole(save):
    y = np.arange(120) % 3
    x = np.arange(120, dtype=np.uint8).reshape(120, 1, 1)  # every example is its own number
    data = load(save(x=x, y=y), calibration_fraction=0.2)
    numbers = [split.x.ravel() for split in data.splits.values()]
    assert sorted(np.concatenate(numbers)) == list(range(120))
    for split in data.splits.values():
        assert (split.x.ravel() % 3 == split.y).all()
        assert split.x.dtype == np.uint8
        assert split.y.dtype == np.int32


def test_same_seed_same_bytes(save):
    x, y = images(90, 3, 3)
    path = save(x=x, y=y)
    first, again, other = load(path, seed=4), load(path, seed=4), load(path, seed=5)
    assert first.digest == again.digest
    assert len(first.digest) == 64
    assert (first.train.x == again.train.x).all()
    assert first.digest != other.digest


def test_digest_sees_examples_labels_and_names(save):
    x, y = images(40, 2, 2)
    data = load(save(x=x, y=y))
    splits = list(data.splits.values())
    assert digest(splits, data.class_names) == data.digest
    assert digest(splits, ("0", "one")) != data.digest
    splits[3].x[0, 0, 0, 0] ^= 1
    assert digest(splits, data.class_names) != data.digest


def test_limit_thins_out_train_alone_and_stratified(save):
    x, _ = images(400, 2, 2)
    y = (np.arange(400) % 4 == 0).astype(int)  # 3 to 1
    path = save(x=x, y=y)
    whole, limited = load(path), load(path, limit=40)
    assert np.bincount(limited.train.y).tolist() == [30, 10]
    for name in ("calibration", "validation", "test"):
        assert (whole.splits[name].x == limited.splits[name].x).all()
    assert len(load(path, limit=10_000).train) == len(whole.train)


def test_official_test_part_stays_as_it_is(save):
    x, y = images(60, 2, 2)
    x_test, y_test = x[::-1][:7], y[::-1][:7]
    data = load(save(x_train=x, y_train=y, x_test=x_test, y_test=y_test, class_names=["cat", "dog"]))
    assert (data.test.x[..., 0] == x_test).all()
    assert (data.test.y == y_test).all()
    assert data.class_names == ("cat", "dog")
    assert len(data.train) + len(data.calibration) + len(data.validation) == 60


def test_signals_become_columns_and_floats_eight_bits(save):
    x_train = np.zeros((20, 4), np.float32)
    x_train[0] = [-1.0, 0.0, 0.5, 1.0]
    y = np.arange(20) % 2
    x_test = np.array([[-3.0, -1.0, 0.2, 7.0]] * 2, np.float32)
    data = load(save(x_train=x_train, y_train=y, x_test=x_test, y_test=y[:2]))
    assert data.input_shape == (4, 1, 1)
    assert data.value_range == (-1.0, 1.0)  # of the training part
    # 0.2 -> 1.2 / 2 * 255 = 153; beyond the range: clipped
    assert data.test.x[0].ravel().tolist() == [0, 0, 153, 255]


def test_signals_with_channels(save):
    x = np.random.default_rng(0).normal(size=(30, 6, 3))
    data = load(save(x=x, y=np.arange(30) % 3))
    assert data.input_shape == (6, 1, 3)


def test_mirror_is_for_images_that_say_so(save):
    x, y = images(40, 3, 3, 3)
    assert load(save(x=x, y=y, mirror=True)).mirror
    assert not load(save(x=x, y=y, mirror=False)).mirror
    with pytest.raises(DatasetError, match="mirror is true, which is for uint8 images"):
        load(save(x=x.astype(np.float32), y=y, mirror=True))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (lambda x, y: {"x": x}, "holds x; expected x and y"),
        (lambda x, y: {"x": x, "y": y[:-1]}, "40 examples but 39 labels"),
        (lambda x, y: {"x": x[:0], "y": y[:0]}, r"y is int64 of shape \(0,\)"),
        (lambda x, y: {"x": x[:, :0], "y": y}, "empty"),
        (lambda x, y: {"x": x, "y": y - 1}, r"20 labels out of range, the first is -1 at index 0; allowed 0 to 0"),
        (lambda x, y: {"x": x, "y": y, "class_names": ["a"]}, "20 labels out of range, the first is 1 at index 1"),
        (lambda x, y: {"x": x, "y": y + 0.5}, "expected integers"),
        (lambda x, y: {"x": x, "y": np.eye(2, dtype=int)[y]}, r"labels of shape \(40, 2\), expected \(n,\)"),
        (lambda x, y: {"x": x.astype(str), "y": y}, "expected uint8 or real numbers"),
        (lambda x, y: {"x": x.ravel(), "y": y}, "expected 2 to 4 axes"),
        (lambda x, y: {"x": np.ones((40, 5)), "y": y}, "every training value is 1"),
        (lambda x, y: {"x": x, "y": y * 2}, "class 1: has 0 examples to divide, needs 4"),
        (lambda x, y: {"x": x.astype(object), "y": y}, "not a readable .npz of plain arrays"),
        (
            lambda x, y: {"x_train": x, "y_train": y, "x_test": x[:, :1], "y_test": y},
            r"x_test is uint8 \(1, 2, 1\) per example, expected as x_train uint8 \(2, 2, 1\)",
        ),
    ],
)
def test_bad_arrays(save, arrays, message):
    x, y = images(40, 2, 2)
    with pytest.raises(DatasetError, match=message) as caught:
        load(save(**arrays(x, y)))
    assert "\n" not in str(caught.value)


def test_nan_and_infinity_are_counted_and_located(save):
    x = np.random.default_rng(0).normal(size=(40, 5))
    x[7, 2], x[9, 0] = np.nan, -np.inf
    with pytest.raises(DatasetError, match=r"x: 2 values are NaN or infinite, the first at index \(7, 2, 0, 0\)"):
        load(save(x=x, y=np.arange(40) % 2))


def test_one_example_of_a_class_is_too_few(save):
    x, y = images(40, 2, 2)
    y[5] = 2
    with pytest.raises(DatasetError, match=r"class 2: has 1 examples to divide, needs 4 to be in every split"):
        load(save(x=x, y=y))


def test_four_examples_of_a_class_reach_every_split(save):
    x, y = images(100, 2, 2)
    y[:4] = 2
    assert all(2 in split.y for split in load(save(x=x, y=y)).splits.values())


def test_damaged_file(tmp_path):
    path = tmp_path / "damaged.npz"
    x, y = images(40, 20, 20)
    np.savez_compressed(path, x=x, y=y)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DatasetError, match=r"damaged.npz: not a readable .npz"):
        load(str(path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fasion_mnist", "did you mean fashion_mnist. Allowed: cifar10, cifar100, fashion_mnist, a folder of images"),
        ("no/such.npz", "no such path: 'no/such.npz'; Allowed"),
        (__file__, "test_datasets_npz.py is no .npz file"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(DatasetError, match=message):
        load(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibration_fraction": 0.0}, "data.calibration_fraction: got 0.0, allowed above 0"),
        ({"validation_fraction": 1.5}, "data.validation_fraction: got 1.5"),
        ({"calibration_fraction": 0.5, "validation_fraction": 0.5}, "leave no training examples"),
        ({"limit": -1}, "limit -1, allowed 0 or more"),
        ({"limit": 1}, "data.limit: got 1, needs 2"),
        ({"image_size": 8}, "only image folders are resized"),
    ],
)
def test_bad_options(save, options, message):
    x, y = images(40, 2, 2)
    with pytest.raises(DatasetError, match=message):
        load(save(x=x, y=y), **options)
