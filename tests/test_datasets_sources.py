import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from datasets import DatasetError, load
from datasets.cifar import CIFAR10_LAYOUTS, CIFAR100_LAYOUTS, find_cifar, read_cifar
from datasets.class_names import CIFAR100_CLASSES
from datasets.idx import read_idx
from datasets.sources import (
    DEBIAN_FASHION_MNIST,
    FASHION_MNIST_SHA256,
    check_sha256,
    data_folders,
    download,
    read_fashion_mnist,
)
from datasets.unpickle import unpickle

needs_fashion_mnist = pytest.mark.skipif(
    not DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed"
)


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def planes(count):
    """Images as CIFAR stores them: red plane = number of the image, green plane 100, blue plane counts the pixels."""
    images = np.empty((count, 3, 1024), np.uint8)
    images[:, 0] = np.arange(count)[:, None] % 256
    images[:, 1] = 100
    images[:, 2] = np.arange(1024) % 256
    return images.reshape(count, 3072)


def python2_pickle(data, labels):
    """What NumPy wrote under Python 2, as in the official archives: text is bytes, the module is numpy.core."""
    short = b"".join(b"K" + bytes([label]) for label in labels)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + struct.pack("<cIcI", b"J", data.shape[0], b"J", data.shape[1])
        + b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<I", data.size)
        + data.tobytes()
        + b"tb"
    )
    return b"\x80\x02}(U\x06labels](" + short + b"eU\x04data" + array + b"u."


def cifar10_files(kind):
    files = {}
    for number, name in enumerate(("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")):
        files[name] = (planes(10), [(label + number) % 10 for label in range(10)])
    files["test_batch"] = (planes(10), list(range(10)))
    if kind == "binary":
        return {
            f"{name}.bin": b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, data, strict=True))
            for name, (data, labels) in files.items()
        }
    return {name: python2_pickle(data, labels) for name, (data, labels) in files.items()}


def cifar100_files(kind):
    labels = {"train": list(range(100)) * 4, "test": list(range(100))}
    if kind == "binary":
        return {
            f"{name}.bin": b"".join(
                bytes([label // 5, label]) + row.tobytes() for label, row in zip(fine, planes(len(fine)), strict=True)
            )
            for name, fine in labels.items()
        }
    return {
        name: pickle.dumps(
            {b"data": planes(len(fine)), b"fine_labels": fine, b"coarse_labels": [label // 5 for label in fine]},
            protocol=2,
        )
        for name, fine in labels.items()
    }


def write(root, layout, files, packing):
    if packing == "tar":
        with tarfile.open(root / layout.archive, "w:gz", compresslevel=1) as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(f"{layout.folder}/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return
    (root / layout.folder).mkdir()
    for name, content in files.items():
        if packing == "xz":
            (root / layout.folder / f"{name}.xz").write_bytes(lzma.compress(content, preset=0))
        else:
            (root / layout.folder / name).write_bytes(content)


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("packing", ["plain", "tar", "xz"])
@pytest.mark.parametrize("kind", ["binary", "python"])
def test_cifar10_in_every_official_layout(data_dir, kind, packing):
    layout = CIFAR10_LAYOUTS[kind == "python"]
    write(data_dir, layout, cifar10_files(kind), packing)
    (x_train, y_train), (x_test, y_test) = read_cifar(*find_cifar([data_dir], CIFAR10_LAYOUTS))
    assert x_train.shape == (50, 32, 32, 3)
    assert y_train.tolist() == [(label + number) % 10 for number in range(5) for label in range(10)]
    assert y_test.tolist() == list(range(10))
    # the third image, second row, fifth pixel: red 2, green 100, blue 1 * 32 + 4
    assert x_test[2, 1, 4].tolist() == [2, 100, 36]
    data = load("cifar10")
    assert data.input_shape == (32, 32, 3)
    assert [len(split) for split in data.splits.values()] == [30, 10, 10, 10]
    assert data.mirror


@pytest.mark.parametrize("packing", ["plain", "tar"])
@pytest.mark.parametrize("kind", ["binary", "python"])
def test_cifar100_has_fine_labels(data_dir, kind, packing):
    (data_dir / "cifar100").mkdir()
    write(data_dir / "cifar100", CIFAR100_LAYOUTS[kind == "python"], cifar100_files(kind), packing)
    data = load("cifar100")
    assert data.test.y.tolist() == list(range(100))
    assert data.class_names[:2] == ("apple", "aquarium_fish")
    assert [len(split) for split in data.splits.values()] == [200, 100, 100, 100]


def test_cifar100_class_names_are_a_hundred_in_alphabetical_order():
    assert len(set(CIFAR100_CLASSES)) == 100
    assert list(CIFAR100_CLASSES) == sorted(CIFAR100_CLASSES)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("data_batch_2.bin", lambda b: b[:-1], "data_batch_2.bin: 30,729 bytes, expected a multiple of 3,073"),
        ("test_batch.bin", lambda b: b"", "cifar10 test: empty"),
        ("data_batch_1.bin", lambda b: b"\x0b" + b[1:], "1 labels out of range, the first is 11 at index 0"),
    ],
)
def test_damaged_cifar_files(data_dir, name, change, message):
    files = cifar10_files("binary")
    files[name] = change(files[name])
    write(data_dir, CIFAR10_LAYOUTS[0], files, "plain")
    with pytest.raises(DatasetError, match=message):
        load("cifar10")


def test_missing_cifar_files(data_dir):
    files = cifar10_files("binary")
    del files["data_batch_5.bin"]
    write(data_dir, CIFAR10_LAYOUTS[0], files, "tar")
    with pytest.raises(DatasetError, match=r"cifar-10-binary.tar.gz: has no data_batch_5.bin"):
        load("cifar10")
    write(data_dir, CIFAR10_LAYOUTS[0], files, "plain")
    with pytest.raises(DatasetError, match=r"no file data_batch_5.bin \(nor data_batch_5.bin.gz"):
        load("cifar10")


@pytest.mark.parametrize("packing", ["tar", "xz"])
def test_truncated_archives(data_dir, packing):
    write(data_dir, CIFAR10_LAYOUTS[0], cifar10_files("binary"), packing)
    path = next(path for path in sorted(data_dir.rglob("*")) if path.is_file())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetError, match=f"{path.name}: cannot be read, truncated or corrupt"):
        load("cifar10")


def test_a_pickle_that_would_run_something_is_refused(data_dir):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(data_dir / "harm"),)

    with pytest.raises(DatasetError, match=r"refused to load (posix|nt).mkdir"):
        unpickle(pickle.dumps(Harmful(), protocol=2), where="data_batch_1")
    assert not (data_dir / "harm").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "holds a list, expected a dict"),
        ({"labels": [1]}, "has labels; expected data and labels"),
        (
            {"labels": [1], "data": np.zeros((2, 3072), np.uint8)},
            r"data is uint8 \(2, 3072\), expected uint8 \(1, 3072\)",
        ),
    ],
)
def test_pickles_with_other_content(value, message):
    with pytest.raises(DatasetError, match=message):
        CIFAR10_LAYOUTS[1].decode(pickle.dumps(value, protocol=2), "data_batch_1")
    with pytest.raises(DatasetError, match="not a pickle of plain arrays"):
        CIFAR10_LAYOUTS[1].decode(pickle.dumps(value, protocol=2)[:-3], "data_batch_1")


def test_idx_files(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(array)))
    (tmp_path / "a").write_bytes(idx(array))
    assert (read_idx(tmp_path / "a.gz", dims=3) == array).all()
    assert (read_idx(tmp_path / "a", dims=3) == array).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(np.zeros((2, 3), np.uint8)), "magic number 00000802, expected 00000803"),
        (b"", "magic number missing"),
        (idx(np.zeros((2, 3, 4), np.uint8))[:10], "10 bytes, expected a header of 16"),
        (idx(np.zeros((2, 3, 4), np.uint8))[:-1], r"39 bytes, expected 40 for shape \(2, 3, 4\)"),
    ],
)
def test_damaged_idx_files(tmp_path, content, message):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=f"train-images-idx3-ubyte: {message}"):
        read_idx(path, dims=3)


@pytest.mark.parametrize("folder", ["fashion-mnist", "fashion_mnist"])
def test_fashion_mnist_from_the_data_folder(data_dir, folder):
    (data_dir / folder).mkdir()
    for prefix, count in (("train", 40), ("t10k", 10)):
        images = np.zeros((count, 28, 28), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (data_dir / folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (data_dir / folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))
    data = load("fashion_mnist")
    assert [len(split) for split in data.splits.values()] == [20, 10, 10, 10]
    assert data.input_shape == (28, 28, 1)


def test_data_folder_that_is_not_there(monkeypatch):
    monkeypatch.setenv("HYBRID_DATA_DIR", "no/such/folder")
    with pytest.raises(DatasetError, match="HYBRID_DATA_DIR: no/such/folder is no folder"):
        data_folders("cifar10")
    monkeypatch.delenv("HYBRID_DATA_DIR")
    assert data_folders("cifar10") == []


@needs_fashion_mnist
def test_the_real_fashion_mnist(monkeypatch):
    monkeypatch.delenv("HYBRID_DATA_DIR", raising=False)
    data = load("fashion_mnist")
    assert [len(split) for split in data.splits.values()] == [48_000, 6_000, 6_000, 10_000]
    for split, each in zip(data.splits.values(), (4_800, 600, 600, 1_000), strict=True):
        assert np.bincount(split.y).tolist() == [each] * 10
    assert data.test.y[:3].tolist() == [9, 2, 1]  # ankle boot, pullover, trouser
    assert data.licence.startswith("MIT")


@needs_fashion_mnist
def test_checksum_of_the_download():
    pair = read_fashion_mnist(DEBIAN_FASHION_MNIST)
    check_sha256(pair, FASHION_MNIST_SHA256, name="fashion_mnist")
    (x, y), test = pair
    x = x.copy()
    x[0, 0, 0, 0] ^= 1
    with pytest.raises(DatasetError, match="expected ca3ab2a3"):
        check_sha256(((x, y), test), FASHION_MNIST_SHA256, name="fashion_mnist")


def test_a_failed_download_says_what_to_do():
    def offline():
        raise Exception("URL fetch failure")

    with pytest.raises(DatasetError, match=r"cifar10: no local copy.*URL fetch failure.*put it there"):
        download("cifar10", offline, remedy="put it there")


@pytest.mark.slow
@pytest.mark.skipif(
    find_cifar(
        [Path(os.environ.get("HYBRID_DATA_DIR") or "no-data") / sub for sub in ("cifar10", ".")], CIFAR10_LAYOUTS
    )
    is None,
    reason="HYBRID_DATA_DIR holds no CIFAR-10",
)
def test_the_real_cifar10():
    data = load("cifar10")
    assert [len(split) for split in data.splits.values()] == [40_000, 5_000, 5_000, 10_000]
    pixels = [data.splits[name].x for name in ("train", "calibration", "validation")]
    mean = sum(x.sum(axis=(0, 1, 2), dtype=np.int64) for x in pixels) / (50_000 * 1024 * 255)
    assert mean.round(4).tolist() == [0.4914, 0.4822, 0.4465]  # the well-known means of the training part
    assert data.test.y[:4].tolist() == [3, 8, 8, 0]  # cat, ship, ship, airplane
