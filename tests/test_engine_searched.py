"""Nets as the search draws them, converted to int8 as the export does it: compiled, they are exact."""

import numpy as np
import pytest
from engine_exact import wrong

from firmware_export.host import has_c_compiler
from hybrid.cost import estimate
from hybrid.nets import build_net
from hybrid.quantize import convert
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


def int8_net(arch, rng):
    """Random weights; untrained biases would all be zero."""
    import tf_keras

    tf_keras.backend.clear_session()
    net = build_net(arch, tf_keras)
    net.set_weights([np.abs(rng.normal(1, 0.2, w.shape)) if w.ndim == 1 else w for w in net.get_weights()])
    return convert(net, rng.integers(0, 256, (3, *arch.input_shape), dtype=np.uint8))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ten_nets_of_each_input_are_exact(shape):
    rng = np.random.default_rng(shape)
    models = [int8_net(arch, rng) for arch in drawn(shape, 10, 0)]
    assert wrong(models) == []
    assert wrong(models, weights="int8") == []
