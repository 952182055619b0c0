"""What a person wants to know of a data set before using it."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from datasets.dataset import Dataset

_MAX_CLASS_ROWS = 20


@dataclass(frozen=True, kw_only=True)
class Card:
    """The facts of a data set, without its examples."""

    name: str
    shape: tuple[int, int, int]
    """Height, width, channels."""
    class_names: tuple[str, ...]
    counts: dict[str, int]
    """Examples per split."""
    class_counts: dict[str, tuple[int, ...]]
    """Examples per split and class."""
    balance: float
    """Smallest class over largest in train: 1 is balanced."""
    value_range: tuple[float, float]
    """The values that are stored as 0 and 255."""
    mirror: bool
    licence: str
    source: str
    digest: str


def card(dataset: Dataset) -> Card:
    """Count what is in each split and collect what is known."""
    class_counts = {
        name: tuple(np.bincount(split.y, minlength=dataset.num_classes).tolist())
        for name, split in dataset.splits.items()
    }
    return Card(
        name=dataset.name,
        shape=dataset.input_shape,
        class_names=dataset.class_names,
        counts={name: len(split) for name, split in dataset.splits.items()},
        class_counts=class_counts,
        balance=min(class_counts["train"]) / max(class_counts["train"]),
        value_range=dataset.value_range,
        mirror=dataset.mirror,
        licence=dataset.licence,
        source=dataset.source,
        digest=dataset.digest,
    )


def card_dict(card: Card) -> dict[str, Any]:
    """Turn the card into plain data for JSON."""
    return asdict(card)


def card_text(card: Card) -> str:
    """Print the card to text: a table of counts, then the facts; of many classes only the smallest and the largest."""
    height, width, channels = card.shape
    low, high = card.value_range
    facts = (
        ("balance", f"{card.balance:.2f} (smallest class over largest, train)"),
        ("values", f"{low:g} to {high:g}, stored as 0 to 255"),
        ("mirror", "a mirrored example keeps its class" if card.mirror else "not known to keep its class"),
        ("licence", card.licence),
        ("source", card.source),
        ("digest", card.digest),
    )
    title = f"{card.name}: {height} x {width} x {channels}, {len(card.class_names):,} classes"
    return "\n".join([title, "", *_table(card), "", *(f"{label:<9}{text}" for label, text in facts)])


def _table(card: Card) -> list[str]:
    train = np.array(card.class_counts["train"])
    labels = range(len(train)) if len(train) <= _MAX_CLASS_ROWS else (int(train.argmin()), int(train.argmax()))
    rows = [(card.class_names[c], [counts[c] for counts in card.class_counts.values()]) for c in labels]
    rows.append((f"all {len(train):,}", list(card.counts.values())))
    first = max(len("class"), *(len(name) for name, _ in rows))
    header = f"{'class':<{first}}" + "".join(f"{split:>13}" for split in card.counts)
    return [header, *(f"{name:<{first}}" + "".join(f"{count:>13,}" for count in counts) for name, counts in rows)]
