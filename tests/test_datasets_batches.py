import numpy as np
import pytest

from datasets import DatasetError
from datasets.batches import Augment, batches
from hybrid.nets import normalise


def collected(dataset):
    """All batches as whole arrays."""
    return [np.concatenate(column) for column in zip(*dataset.as_numpy_iterator(), strict=True)]


def stored(x):
    """Undo the normalisation."""
    return np.rint(np.asarray(x) * 128 + 128).astype(np.int64)


def numbered(count, height=6, width=6, channels=1):
    """Pixels all different within an example and never 0; labels and one extra tell which example it is."""
    place = 1 + np.arange(height * width * channels).reshape(height, width, channels) % 255
    return np.broadcast_to(place, (count, height, width, channels)).astype(np.uint8).copy(), np.arange(
        count, dtype=np.int32
    )


def test_normalisation_is_that_of_the_nets():
    x = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
    got, y = collected(batches(x, np.zeros(4, np.int32), batch_size=3, seed=0, shuffle=False))
    assert got.dtype == np.float32
    assert (got == normalise(x)).all()
    assert (got.min(), got.max()) == (-1.0, 127 / 128)
    assert y.dtype == np.int32


def test_every_example_once_with_its_extras():
    x, y = numbered(10)
    x[:, 0, 0, 0] = y
    probabilities, weights = np.eye(10, dtype=np.float32)[y], y / 2
    dataset = batches(x, y, probabilities, weights, batch_size=4, seed=0)
    assert len(dataset) == 3
    assert [len(labels) for _, labels, *_ in dataset] == [4, 4, 2]
    got, labels, chances, halves = collected(dataset)
    assert sorted(labels) == list(range(10))
    assert (stored(got)[:, 0, 0, 0] == labels).all()
    assert (chances.argmax(axis=1) == labels).all()
    assert (halves == labels / 2).all()


def test_order_follows_from_the_seed_and_changes_with_the_epoch():
    import keras

    x, y = numbered(50)
    every = Augment(mirror=True, crop_pixels=2, cutout_pixels=2)
    one = batches(x, y, batch_size=8, seed=3, augment=every)
    keras.utils.set_random_seed(99)  # a global seed changes nothing
    same = batches(x, y, batch_size=8, seed=3, augment=every)
    first, second = collected(one), collected(one)
    for epoch in (first, second):
        for got, again in zip(epoch, collected(same), strict=True):
            assert (got == again).all()
    assert (first[1] != second[1]).any()
    assert (collected(batches(x, y, batch_size=8, seed=4, augment=every))[1] != first[1]).any()


def test_an_epoch_cut_short_does_not_change_the_next():
    x, y = numbered(64)
    whole, cut = (batches(x, y, batch_size=2, seed=0) for _ in range(2))
    collected(whole)
    next(iter(cut))
    assert (collected(whole)[1] == collected(cut)[1]).all()


def test_without_shuffle_the_order_stays():
    x, y = numbered(10)
    assert collected(batches(x, y, batch_size=4, seed=0, shuffle=False))[1].tolist() == list(range(10))


def test_mirror_turns_about_half_of_the_examples():
    x, y = numbered(400, 3, 4, 2)
    got = stored(collected(batches(x, y, batch_size=50, seed=0, augment=Augment(mirror=True)))[0])
    turned = (got == x[0][:, ::-1]).all(axis=(1, 2, 3))
    kept = (got == x[0]).all(axis=(1, 2, 3))
    assert (turned | kept).all()
    assert 150 < turned.sum() < 250  # 200, standard deviation 10


def test_crop_shifts_each_example_by_itself_and_fills_with_zeros():
    x, y = numbered(300, 5, 6, 3)
    got = stored(collected(batches(x, y, batch_size=50, seed=0, augment=Augment(crop_pixels=1)))[0])
    padded = np.pad(x[0], ((1, 1), (1, 1), (0, 0)))
    windows = {(r, c): padded[r : r + 5, c : c + 6] for r in range(3) for c in range(3)}
    hits = {place: (got == window).all(axis=(1, 2, 3)).sum() for place, window in windows.items()}
    assert sum(hits.values()) == 300  # each is exactly one of the nine windows
    assert min(hits.values()) > 10  # 33 expected of each


def test_signals_are_shifted_along_time_only():
    x, y = numbered(40, 8, 1, 2)
    got = stored(collected(batches(x, y, batch_size=40, seed=0, augment=Augment(crop_pixels=2)))[0])
    assert (got[:, 2:6] > 0).all()
    padded = np.pad(x[0], ((2, 2), (0, 0), (0, 0)))
    assert all(any((example == padded[s : s + 8]).all() for s in range(5)) for example in got)


def test_cutout_clears_one_square():
    x, y = numbered(200, 9, 9)
    got = stored(collected(batches(x, y, batch_size=64, seed=0, augment=Augment(cutout_pixels=3)))[0])[..., 0]
    for example in got:
        rows, columns = np.nonzero(example == 0)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == height * width  # all of the rectangle
        assert 2 <= height <= 3  # centred inside, so that a corner leaves 2 by 2
        assert 2 <= width <= 3
        assert (example[example > 0] == x[0, :, :, 0][example > 0]).all()
    assert ((got == 0).sum(axis=(1, 2)) == 9).any()


def test_mixup_blends_pictures_labels_and_extras_alike():
    x = np.array([0, 128] * 50, np.uint8).reshape(100, 1, 1, 1)  # class 0 is black, class 1 grey
    y = np.array([0, 1] * 50, np.int32)
    extra = y.astype(np.float64)
    dataset = batches(x, y, extra, batch_size=25, seed=0, augment=Augment(mixup=1.0), num_classes=3)
    got, labels, mixed = collected(dataset)
    assert labels.shape == (100, 3)
    assert labels.sum(axis=1) == pytest.approx(1, abs=1e-6)
    assert (labels[:, 2] == 0).all()
    # normalised, class 0 is -1 and class 1 is 0: the share of class 1 is value + 1
    assert got.ravel() + 1 == pytest.approx(labels[:, 1], abs=1e-6)
    assert mixed == pytest.approx(labels[:, 1], abs=1e-6)
    assert ((labels[:, 1] > 0.1) & (labels[:, 1] < 0.9)).sum() > 20  # about half of the pairs differ


def test_weak_mixup_stays_finite():
    x, y = numbered(500, 1, 1)
    got, labels = collected(batches(x, y, batch_size=500, seed=0, augment=Augment(mixup=0.001), num_classes=500))
    assert np.isfinite(got).all()
    assert labels.sum(axis=1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.zeros((4, 6, 6, 1), np.float32)}, "got float32 examples"),
        ({"x": np.zeros((4, 6, 6), np.uint8)}, r"expected uint8 \(n, height, width, channels\)"),
        ({"y": np.zeros(3, np.int32)}, r"arrays of length \[4, 3\]"),
        ({"augment": Augment(crop_pixels=6)}, "crop_pixels: got 6, allowed below 6"),
        ({"augment": Augment(cutout_pixels=-1)}, "allowed 0 or more"),
        ({"augment": Augment(mixup=0.2)}, "give num_classes"),
        ({"batch_size": 0}, "batch_size: got 0, allowed 1 or more"),
    ],
)
def test_bad_arguments(changes, message):
    x, y = numbered(4)
    arguments = {"x": x, "y": y, "augment": None, "batch_size": 2} | changes
    with pytest.raises(DatasetError, match=message):
        batches(
            arguments["x"], arguments["y"], batch_size=arguments["batch_size"], seed=0, augment=arguments["augment"]
        )


def test_mixup_cannot_blend_integers():
    x, y = numbered(4)
    with pytest.raises(DatasetError, match=r"floating extras only, got \['int32'\]"):
        batches(x, y, y, batch_size=2, seed=0, augment=Augment(mixup=0.2), num_classes=4)
