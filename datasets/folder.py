"""A folder of images: one sub-folder per class, below optional train, val (or validation) and test."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.errors import DatasetError
from datasets.raw import Part, Raw, part

LEVELS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_GREY_MODES = ("1", "L", "LA", "La")
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")

Pixels = NDArray[np.uint8]
"""Grey ``(height, width)`` or RGB ``(height, width, 3)``."""


def read_folder(root: Path, *, image_size: int) -> Raw:
    """Read every image of every class, in the order of the class names, then of the file names.

    Images that are all grey stay one channel, else all become RGB. `image_size` makes them squares of that many pixels
    (bilinear with antialiasing; other proportions are squeezed); 0 takes them as they are. EXIF orientation is applied.

    Raises: DatasetError for unreadable images, images of mixed sizes, and folders that are not laid out as above.
    """
    levels = _levels(root)
    class_names = _class_names(levels["train"])
    files = {level: _files(folder, class_names) for level, folder in levels.items()}
    images = dict(_decoded([path for pairs in files.values() for path, _ in pairs], image_size, root))
    channels = 1 if all(image.ndim == 2 for image in images.values()) else 3
    parts: dict[str, Part] = {}
    for level, pairs in files.items():
        x = np.stack([_with_channels(images[path], channels) for path, _ in pairs])
        y = np.array([label for _, label in pairs], np.int32)
        parts[level] = part(x, y, where=str(levels[level]), class_names=class_names)
    return Raw(
        name=root.resolve().name,
        train=parts["train"],
        validation=parts.get("validation"),
        test=parts.get("test"),
        class_names=class_names,
        licence="not stated",
        source="image folder",
        mirror=False,
    )


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _levels(root: Path) -> dict[str, Path]:
    """Find the folders of train, validation and test; a folder of classes is all train."""
    folders = _folders(root)
    if not folders or not all(folder.name in LEVELS for folder in folders):
        return {"train": root}
    levels = {LEVELS[folder.name]: folder for folder in folders}
    if "train" not in levels or len(levels) < len(folders):
        names = ", ".join(folder.name for folder in folders)
        raise DatasetError(f"{root}: has {names}; expected train, and at most one of val and validation, and test")
    return levels


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(path.name for path in _folders(folder))
    if len(names) < 2:
        raise DatasetError(f"{folder}: {len(names)} class folders, expected two or more with images in them")
    return names


def _files(folder: Path, class_names: Sequence[str]) -> list[tuple[Path, int]]:
    """Each image below `folder` with its class number."""
    unknown = sorted({path.name for path in _folders(folder)} - set(class_names))
    if unknown:
        raise DatasetError(f"{folder}: class folders {', '.join(unknown)} are not among the training classes")
    pairs = [(path, label) for label, name in enumerate(class_names) for path in _image_paths(folder / name)]
    if not pairs:
        raise DatasetError(f"{folder}: no images in its class folders; expected .png, .jpg or another image format")
    return pairs


def _image_paths(folder: Path) -> list[Path]:
    from PIL import Image

    readable = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in readable and path.is_file())


def _decoded(paths: Sequence[Path], image_size: int, root: Path) -> Iterator[tuple[Path, Pixels]]:
    """Every image as an array. Raises: DatasetError naming those that cannot be read, or the sizes if they differ."""
    from PIL.Image import DecompressionBombError

    broken: list[str] = []
    sizes: Counter[str] = Counter()
    for path in paths:
        try:
            image = _decode(path, image_size)
        except (OSError, SyntaxError, ValueError, DecompressionBombError) as exc:  # Pillow raises them all
            broken.append(f"{path.relative_to(root)} ({exc})")
        else:
            sizes[f"{image.shape[1]}x{image.shape[0]}"] += 1
            yield path, image
    if broken:
        raise DatasetError(f"{root}: {len(broken):,} images cannot be read: {_some(broken)}; replace or delete them")
    if len(sizes) > 1:
        counted = _some([f"{size} ({count:,})" for size, count in sizes.most_common()])
        raise DatasetError(f"{root}: images of mixed sizes, {counted}; set data.image_size")


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:5]) + (f" and {len(items) - 5:,} more" if len(items) > 5 else "")


def _decode(path: Path, image_size: int) -> Pixels:
    from PIL import Image, ImageOps

    with Image.open(path) as opened:
        if opened.mode in _DEEP_MODES:
            raise ValueError(f"mode {opened.mode} has more than 8 bits; convert it")
        upright = ImageOps.exif_transpose(opened)
        image = upright.convert("L" if upright.mode in _GREY_MODES else "RGB")
    if image_size:
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _with_channels(image: Pixels, channels: int) -> Pixels:
    """``(height, width, channels)``; a grey image among coloured ones has three equal channels."""
    return np.repeat(image[..., None], channels, axis=2) if image.ndim == 2 else image
