import json

import numpy as np
import pytest

from datasets import load
from datasets.card import card, card_dict, card_text


@pytest.fixture
def data(tmp_path):
    y = np.repeat([0, 1], [60, 20])
    x = np.linspace(-2.0, 2.0, 80 * 6).reshape(80, 6)
    np.savez(tmp_path / "hum.npz", x=x, y=y, class_names=["quiet", "loud"])
    return load(str(tmp_path / "hum.npz"))


def test_counts(data):
    facts = card(data)
    # 80: test 12 (9 + 3); of 68: 7 calibration (5 + 2), 7 validation (5 + 2); train 54 (41 + 13)
    assert facts.counts == {"train": 54, "calibration": 7, "validation": 7, "test": 12}
    assert facts.class_counts["test"] == (9, 3)
    assert facts.class_counts["train"] == (41, 13)
    assert facts.balance == 13 / 41
    assert facts.shape == (6, 1, 1)


def test_text_shows_every_fact(data):
    text = card_text(card(data))
    lines = text.splitlines()
    assert lines[0] == "hum: 6 x 1 x 1, 2 classes"
    assert lines[2].split() == ["class", "train", "calibration", "validation", "test"]
    assert lines[3].split() == ["quiet", "41", "5", "5", "9"]
    assert lines[5].split() == ["all", "2", "54", "7", "7", "12"]
    assert len({len(line) for line in lines[2:6]}) == 1  # aligned
    assert data.digest in text
    assert "0.32 (smallest class over largest, train)" in text
    assert "not known to keep its class" in text


def test_many_classes_are_cut_to_the_smallest_and_the_largest(tmp_path):
    y = np.concatenate([np.repeat(np.arange(30), 10), [7] * 30])
    np.savez(tmp_path / "many.npz", x=np.zeros((len(y), 2, 2), np.uint8), y=y)
    lines = card_text(card(load(str(tmp_path / "many.npz")))).splitlines()
    assert [line.split()[0] for line in lines[3:6]] == ["0", "7", "all"]


def test_json_keeps_everything(data):
    plain = json.loads(json.dumps(card_dict(card(data))))
    assert plain["digest"] == data.digest
    assert plain["counts"]["test"] == 12
    assert plain["class_names"] == ["quiet", "loud"]
