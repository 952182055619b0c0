"""How near the costs that the search reckons with come to what is then measured; figures for ``benchmarks/search.py``.

Fifty random nets of a space wider than the one searched, from a few kilobytes up, are built with random weights,
converted to int8 and loaded by TFLite Micro; their flash and arena are held against `hybrid.cost`. A few minutes:

    PYTHONPATH=. python benchmarks/search_costs.py [DATA] [--seed 0] [--nets 50]

DATA is the folder with ``devices/mlperf_tiny.csv`` and ``tflite-models/mlperf-tiny`` (default: HYBRID_DATA_DIR); the
last line is one JSON object.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from mlperf_latency import latency_figures

from hybrid import profiles
from hybrid.arena import arena_needs
from hybrid.cost import estimate
from hybrid.flatbuffers import named_outputs
from hybrid.latency import edge_latency_ms
from hybrid.nets import build_net
from hybrid.quantize import convert
from hybrid.specs import ArchSpec, BlockSpec
from hybrid.work import flatbuffer_work
from nas.space import KINDS

SHAPES = ((28, 28, 1), (32, 32, 3), (48, 48, 3), (96, 96, 1), (49, 10, 1), (128, 1, 6))
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


def random_archs(count: int, seed: int) -> list[ArchSpec]:
    """Draw nets of at most `MOST_MACS`."""
    rng = np.random.default_rng(seed)
    found: list[ArchSpec] = []
    while len(found) < count:
        arch = random_arch(rng)
        if estimate(arch).macs <= MOST_MACS:
            found.append(arch)
    return found


def size_errors(archs: list[ArchSpec], seed: int) -> tuple[list[float], list[float]]:
    """Relative errors of flash and of SRAM against flatbuffer and least arena, in percent; below 0: too little."""
    rng = np.random.default_rng(seed)
    flash: list[float] = []
    sram: list[float] = []
    for number, arch in enumerate(archs, 1):
        flatbuffer, costs = int8_net(arch, rng), estimate(arch)
        needs = arena_needs(flatbuffer)
        if costs.work != flatbuffer_work(flatbuffer):
            raise SystemExit(f"the work of {arch} is not that of its flatbuffer")
        arena = max(needs.least_bytes, needs.head_bytes + needs.tail_bytes)
        flash.append(100 * (costs.flash_bytes / len(flatbuffer) - 1))
        sram.append(100 * (costs.peak_sram_bytes / arena - 1))
        print(
            f"{number}: flash {len(flatbuffer):,} B {flash[-1]:+.2f} %, SRAM {arena:,} B {sram[-1]:+.2f} %", flush=True
        )
    return flash, sram


def specs_per_second(archs: list[ArchSpec]) -> float:
    """How many nets of 5 to 25 operators are priced in a second of one core: MACs, flash, SRAM, latency."""
    device = profiles.device("stm32f746")
    typical = [arch for arch in archs if 5 <= estimate(arch).work.operators <= 25]
    start = time.process_time()
    for _ in range(20):
        for arch in typical:
            edge_latency_ms(estimate(arch).work, device)
    return 20 * len(typical) / (time.process_time() - start)


def cost_figures(count: int, seed: int) -> dict[str, float]:
    """Measure flash, SRAM and speed; errors are the largest in size, and the smallest says whether one was below."""
    archs = random_archs(count, seed)
    flash, sram = size_errors(archs, seed)
    return {
        "sram_error_max_pct": round(_largest(sram), 3),
        "sram_error_min_pct": round(min(sram), 3),
        "flash_error_max_pct": round(_largest(flash), 3),
        "flash_error_min_pct": round(min(flash), 3),
        "specs_per_second": round(specs_per_second(archs)),
    }


def _largest(errors: list[float]) -> float:
    return max(errors, key=abs)


def main() -> None:
    """Print the table and the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="?", type=Path, default=os.environ.get("HYBRID_DATA_DIR"))
    parser.add_argument("--nets", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.data is None:
        parser.error("DATA is missing; give the folder or set HYBRID_DATA_DIR")
    latency = latency_figures(Path(options.data))
    print(json.dumps(latency, indent=1))
    figures = cost_figures(options.nets, options.seed) | {"latency_mape_pct": latency["latency_mape_pct"]}
    print(json.dumps({"figures": figures}))


if __name__ == "__main__":
    main()
