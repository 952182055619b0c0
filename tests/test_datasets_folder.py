import numpy as np
import pytest
from PIL import Image

from datasets import DatasetError, load


def draw(root, name, pixels, **options):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)


def grey(value, width=4, height=3):
    return np.full((height, width), value, np.uint8)


def rgb(value, width=4, height=3):
    return np.full((height, width, 3), value, np.uint8)


@pytest.fixture
def photos(tmp_path):
    """Two classes of ten: ants are 10 to 19, bees 20 to 29."""
    root = tmp_path / "photos"
    for i in range(10):
        draw(root, f"ant/{i}.png", grey(10 + i))
        draw(root, f"bee/{i}.png", grey(20 + i))
    return root


def test_grey_images_of_one_size(photos):
    data = load(str(photos))
    assert data.name == "photos"
    assert data.class_names == ("ant", "bee")
    assert data.input_shape == (3, 4, 1)
    for split in data.splits.values():
        assert (split.x[:, 0, 0, 0] // 10 == 1 + split.y).all()
    seen = np.concatenate([split.x[:, 0, 0, 0] for split in data.splits.values()])
    assert sorted(seen) == list(range(10, 30))
    assert load(str(photos)).digest == data.digest


def test_one_coloured_image_makes_all_rgb(photos):
    draw(photos, "bee/red.png", np.tile(np.array([255, 0, 0], np.uint8), (3, 4, 1)))
    data = load(str(photos))
    assert data.input_shape == (3, 4, 3)
    every = np.concatenate([split.x[:, 0, 0] for split in data.splits.values()])
    assert [255, 0, 0] in every.tolist()
    assert [10, 10, 10] in every.tolist()


def test_levels_are_kept(tmp_path):
    for level, count in (("train", 6), ("val", 2), ("test", 3)):
        for i in range(count):
            draw(tmp_path, f"{level}/ant/{i}.png", rgb(i))
            draw(tmp_path, f"{level}/bee/{i}.bmp", rgb(100 + i))
    data = load(str(tmp_path))
    # train 12: round(1.2) = 1, but each class must be there: 2 to calibration, 10 stay
    assert [len(split) for split in data.splits.values()] == [10, 2, 4, 6]
    assert data.validation.x[:, 0, 0, 0].tolist() == [0, 1, 100, 101]
    assert data.test.x[:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102]


def test_a_class_may_be_called_train(photos):
    (photos / "ant").rename(photos / "train")
    assert load(str(photos)).class_names == ("bee", "train")


def test_mixed_sizes_ask_for_image_size(photos):
    draw(photos, "ant/wide.png", grey(1, width=9))
    with pytest.raises(DatasetError, match=r"mixed sizes, 4x3 \(20\), 9x3 \(1\); set data.image_size"):
        load(str(photos))
    assert load(str(photos), image_size=6).input_shape == (6, 6, 1)


def test_resizing_averages(tmp_path):
    checks = np.indices((8, 8)).sum(axis=0) % 2 * 200  # a nearest pixel would be 0 or 200
    for i in range(5):
        draw(tmp_path, f"a/{i}.png", checks)
        draw(tmp_path, f"b/{i}.png", checks)
    shrunk = load(str(tmp_path), image_size=2).train.x
    assert shrunk.shape[1:] == (2, 2, 1)
    assert (abs(shrunk.astype(int) - 100) <= 10).all()


def test_orientation_of_cameras_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    for i in range(5):
        draw(tmp_path, f"a/{i}.png", grey(0, width=4, height=3), exif=exif)
        draw(tmp_path, f"b/{i}.png", grey(0, width=3, height=4))
    assert load(str(tmp_path)).input_shape == (4, 3, 1)


def test_corrupt_images_are_named_all_at_once(photos):
    whole = (photos / "bee" / "3.png").read_bytes()
    (photos / "bee" / "3.png").write_bytes(whole[:40])
    (photos / "ant" / "text.jpg").write_text("no image")
    with pytest.raises(DatasetError, match=r"2 images cannot be read: ant/text.jpg .*bee/3.png") as caught:
        load(str(photos))
    assert "\n" not in str(caught.value)


def test_deep_images_are_refused(photos):
    Image.fromarray(np.full((3, 4), 1000, np.uint16)).save(photos / "ant" / "deep.png")
    with pytest.raises(DatasetError, match=r"ant/deep.png \(mode I.* has more than 8 bits"):
        load(str(photos))


def test_other_files_are_passed_over(photos):
    (photos / "ant" / "notes.txt").write_text("six legs")
    (photos / ".cache").mkdir()
    assert load(str(photos)).class_names == ("ant", "bee")


def test_layouts_that_make_no_sense(tmp_path, photos):
    with pytest.raises(DatasetError, match="0 class folders, expected two or more"):
        load(str(photos / "ant"))
    draw(tmp_path, "half/test/ant/1.png", grey(0))
    with pytest.raises(DatasetError, match="has test; expected train"):
        load(str(tmp_path / "half"))
    for name in ("train/ant/1.png", "train/bee/1.png", "test/cow/1.png"):
        draw(tmp_path / "odd", name, grey(0))
    with pytest.raises(DatasetError, match="class folders cow are not among the training classes"):
        load(str(tmp_path / "odd"))
    (tmp_path / "bare" / "a").mkdir(parents=True)
    (tmp_path / "bare" / "b").mkdir()
    with pytest.raises(DatasetError, match="no images in its class folders"):
        load(str(tmp_path / "bare"))


def test_a_class_with_one_image(photos):
    draw(photos, "cow/1.png", grey(0))
    with pytest.raises(DatasetError, match="class cow: has 1 examples to divide, needs 4"):
        load(str(photos))
