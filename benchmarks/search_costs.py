"""How near the costs that the search reckons with come to what is then measured; figures for ``benchmarks/search.py``.

Fifty random nets of a space wider than the one searched, from a few kilobytes up, are built with random weights,
converted to int8 and loaded by TFLite Micro; their flash and arena are held against `hybrid.cost`. A few minutes:

    PYTHONPATH=. python benchmarks/search_costs.py [DATA] [--seed 0] [--nets 50]

DATA is the folder with ``devices/mlperf_tiny.csv`` and ``tflite-models/mlperf-tiny`` (default: HYBRID_DATA_DIR); the
last line is one JSON object.
"""

from typing import Any

import numpy as np

from hybrid.flatbuffers import named_outputs
from hybrid.nets import build_net
from hybrid.quantize import convert
from hybrid.specs import ArchSpec, BlockKind, BlockSpec

SHAPES = ((28, 28, 1), (32, 32, 3), (48, 48, 3), (96, 96, 1), (49, 10, 1), (128, 1, 6))
KINDS: tuple[BlockKind, ...] = ("conv", "ds", "ib", "res")
MOST_MACS = 40_000_000
"""Beyond what the devices of this project answer with in a second; larger draws are drawn anew."""
REPRESENTATIVE_ROWS = 3


def random_arch(rng: np.random.Generator) -> ArchSpec:
    """Draw a net: every input shape, kind, kernel, expansion, depth and width, a stride in any stage."""
    blocks = tuple(
        BlockSpec(
            kind=rng.choice(KINDS),
            width=4 * int(rng.integers(1, 41)),
            stride=int(rng.integers(1, 3)),
            kernel=int(rng.choice((3, 5, 7))),
            depth=int(rng.integers(1, 5)),
            expansion=int(rng.integers(1, 7)),
        )
        for _ in range(int(rng.integers(1, 6)))
    )
    return ArchSpec(
        name=f"edge-{rng.integers(1 << 32):08x}",
        input_shape=SHAPES[int(rng.integers(len(SHAPES)))],
        num_classes=int(rng.integers(2, 21)),
        blocks=blocks,
        input_pool=int(rng.integers(1, 3)),
        grey=bool(rng.integers(2)),
    )


def int8_net(arch: ArchSpec, rng: np.random.Generator) -> bytes:
    """Convert a net with random weights, as the export does it."""
    import tf_keras

    tf_keras.backend.clear_session()  # as `hybrid.qat.twins` does: the layers' names are in the flatbuffer
    net: Any = build_net(arch, tf_keras)
    # Untrained biases are all zero and the converter would store them once; a trained net's are not.
    net.set_weights([np.abs(rng.normal(1, 0.2, w.shape)) if w.ndim == 1 else w for w in net.get_weights()])
    rows = rng.integers(0, 256, (REPRESENTATIVE_ROWS, *arch.input_shape), dtype=np.uint8)
    return named_outputs(convert(net, rows))
