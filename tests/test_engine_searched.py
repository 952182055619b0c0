"""Nets as the search draws them, converted to int8 as the export does it: compiled, they are exact."""

import numpy as np
import pytest
from engine_exact import wrong
from learner_helpers import int8_net

from firmware_export.host import has_c_compiler
from hybrid.cost import estimate
from hybrid.runtimes import device_engine
from nas.space import edge_space, sample

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        device_engine() != "tflite-micro" or not has_c_compiler(), reason="needs tflite-micro and a C compiler"
    ),
]
SHAPES = ((28, 28, 1), (32, 32, 3), (48, 48, 3), (49, 10, 1), (128, 1, 6))
MOST_MACS = 4_000_000


def drawn(shape, count, seed):
    rng, found = np.random.default_rng(seed), []
    while len(found) < count:
        arch = sample(edge_space(shape, 10), rng)
        if estimate(arch).macs <= MOST_MACS:
            found.append(arch)
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ten_nets_of_each_input_are_exact(shape):
    rng = np.random.default_rng(shape)
    models = [int8_net(arch, rng, 3) for arch in drawn(shape, 10, 0)]
    assert wrong(models) == []
    assert wrong(models, weights="int8") == []
