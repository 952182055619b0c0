"""Mixing the stages' logits in integers, and a program as plain data."""

import json

import numpy as np
import pytest
from tiny_edge import cascade, pixels, program

from hybrid.artifacts import Affine
from hybrid.cascade import DeviceProgram, Mix, combined, mix_of
from hybrid.device_router import StoredOutputs
from hybrid.errors import SpecError
from hybrid.flatbuffers import dequantise
from hybrid.predict import run_program
from hybrid.program_json import program_from, program_values

AFFINES = (Affine(scale=0.11, zero_point=37), Affine(scale=0.045, zero_point=-90), Affine(scale=0.3, zero_point=0))


def random_logits(stages, rows=3000, classes=10):
    rng = np.random.default_rng(stages)
    return [np.clip(rng.normal(-30, 40, (rows, classes)), -128, 127).astype(np.int8) for _ in range(stages)]


def real(logits, weights):
    parts = zip(logits, weights, AFFINES, strict=False)
    return sum(weight * dequantise(stored, affine).astype(float) for stored, weight, affine in parts)


def test_mixing_by_pencil():
    mix = Mix(multipliers=(3, -1), bias=5, shift=2)
    first, second = np.array([[10, -128, 127]], np.int8), np.array([[1, 127, -128]], np.int8)
    # (30 - 1 + 5) / 4 = 8.5; (-384 - 127 + 5) / 4 = -126.5, rounded down; (381 + 128 + 5) / 4 = 128.5, held at 127
    assert mix.logits([first, second]).tolist() == [[8, -127, 127]]


@pytest.mark.parametrize("weights", [(0.5, 0.5), (1 / 3, 1 / 3, 1 / 3), (0.8, 0.2), (1.0, 1.0)])
def test_the_mix_is_the_float_average_to_a_step(weights):
    logits = random_logits(len(weights))
    mix = mix_of(AFFINES[: len(weights)], weights, logits)
    mixed, wanted = mix.logits(logits), real(logits, weights)
    inside = (mixed > -128) & (mixed < 127)
    error = np.abs(dequantise(mixed, mix.affine) - wanted)[inside] / mix.affine.scale
    assert error.max() <= 1.0
    assert all(abs(multiplier) < 1 << 15 for multiplier in mix.multipliers)
    assert 8 <= mix.shift <= 15


def test_the_mix_fills_int8_and_never_cuts_the_answer():
    logits = random_logits(2)
    mix = mix_of(AFFINES[:2], (0.5, 0.5), logits)
    mixed, wanted = mix.logits(logits), real(logits, (0.5, 0.5))
    assert mixed.max() >= 126
    assert 0 < (mixed == -128).mean() < 0.002
    gap = np.sort(wanted, axis=1)[:, -1] - np.sort(wanted, axis=1)[:, -2]
    clear = gap > 1.01 * mix.affine.scale
    np.testing.assert_array_equal(mixed.argmax(axis=1)[clear], wanted.argmax(axis=1)[clear])


def test_one_stage_keeps_its_logits():
    (logits,) = random_logits(1)
    mix = mix_of(AFFINES[:1], (1.0,))
    np.testing.assert_array_equal(mix.logits([logits]), logits)
    assert mix.affine == AFFINES[0]
    with pytest.raises(SpecError, match="got no logits of 2 stages"):
        mix_of(AFFINES[:2], (0.5, 0.5))


def test_what_the_router_of_a_stage_reads():
    stored = [
        StoredOutputs(logits=np.full((2, 3), value, np.int8), features=np.full((2, width), value, np.int8))
        for value, width in ((4, 2), (8, 1))
    ]
    read = combined(Mix(multipliers=(1, 1), bias=1, shift=1), stored)
    assert read.logits.tolist() == [[6, 6, 6]] * 2
    assert read.features.tolist() == [[4, 4, 8]] * 2


def test_names_and_digest():
    assert cascade().names == ("edge", "look_1", "look_2")
    assert program().names == ("edge",)
    shorter = DeviceProgram(stages=cascade().stages[:2])
    assert len({shorter.digest, cascade().digest, program().digest}) == 3


def test_a_program_survives_json():
    values = json.loads(json.dumps(program_values(cascade())))
    again = program_from(values, [stage.flatbuffer for stage in cascade().stages])
    assert program_values(again) == program_values(cascade())
    one, other = (run_program(given, pixels(30), engine="host") for given in (cascade(), again))
    np.testing.assert_array_equal(one.score, other.score)
    np.testing.assert_array_equal(one.logits, other.logits)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda stage: stage.pop("mix"), "KeyError"),
        (lambda stage: stage.update(reads="camera"), "reads 'camera', allowed image, trunk"),
        (lambda stage: stage["router"].update(cuts=[1, 0]), "expected 255 ascending integers"),
        (lambda stage: stage["router"].update(weights=[[2**40]]), "does not fit int32"),
        (lambda stage: stage["router"]["inputs"].update(colour=1), "TypeError"),
    ],
)
def test_damaged_values_are_refused(change, complaint):
    values = program_values(program())
    change(values["stages"][0])
    with pytest.raises(SpecError, match=complaint):
        program_from(values, [program().stages[0].flatbuffer])
    with pytest.raises(SpecError, match="ValueError"):
        program_from(program_values(program()), [])
