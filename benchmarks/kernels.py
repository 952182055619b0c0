"""How long a training step takes with TensorFlow's oneDNN kernels, as a share of the time without.

    python benchmarks/kernels.py [--quick]

TensorFlow turns them on by itself on some processors. With more than one inter-op thread they wait for each other. Each
net is trained in processes of its own, both ways in turns; a figure is the median of their ratios. The whole run writes
benchmarks/results/kernels.json.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from hybrid.pipeline.export import tool_versions
from hybrid.specs import ArchSpec, BlockSpec

RESULTS = Path(__file__).parent / "results" / "kernels.json"
BATCH, STEPS = 128, 20
WAYS = {
    "onednn": {"TF_ENABLE_ONEDNN_OPTS": "1", "TF_NUM_INTEROP_THREADS": "1"},
    "without": {"TF_ENABLE_ONEDNN_OPTS": "0"},
}


def net(name: str, side: int, channels: int, *blocks: BlockSpec) -> ArchSpec:
    """A net for ten classes of square images."""
    return ArchSpec(name=name, input_shape=(side, side, channels), num_classes=10, blocks=blocks)


NETS = {
    arch.name: arch
    for arch in (
        net(
            "separable",
            32,
            3,
            BlockSpec(kind="conv", width=24),
            BlockSpec(kind="ds", width=64, stride=2, depth=3),
            BlockSpec(kind="ds", width=96, stride=2, depth=3),
            BlockSpec(kind="ds", width=256),
        ),
        net(
            "residual",
            28,
            1,
            BlockSpec(kind="conv", width=24, stride=2),
            BlockSpec(kind="res", width=24),
            *(BlockSpec(kind="res", width=width, stride=2) for width in (48, 96)),
        ),
        net(
            "dense",
            28,
            1,
            BlockSpec(kind="conv", width=16, stride=2),
            BlockSpec(kind="conv", width=24, stride=2, depth=2),
            BlockSpec(kind="conv", width=48, stride=2),
        ),
    )
}


def step_seconds(name: str) -> float:
    """Mean time of a step of plain training, after a first one that compiles it."""
    import keras

    from hybrid.nets import build_net

    model, rng = build_net(NETS[name]), np.random.default_rng(0)
    classifier = keras.Model(model.input, model.output[0])
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)
    classifier.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    x = rng.random((BATCH * STEPS, *NETS[name].input_shape), np.float32)
    y = rng.integers(NETS[name].num_classes, size=len(x))
    classifier.fit(x[:BATCH], y[:BATCH], batch_size=BATCH, verbose=0)
    started = time.perf_counter()
    classifier.fit(x, y, batch_size=BATCH, verbose=0)
    return (time.perf_counter() - started) / STEPS


def measured(name: str, way: str) -> float:
    """The same in a process of its own."""
    code = f"import kernels; print(kernels.step_seconds({name!r}))"
    command, here = [sys.executable, "-c", code], Path(__file__).parent
    done = subprocess.run(command, cwd=here, env=os.environ | WAYS[way], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def compare(rounds: int) -> dict[str, Any]:
    """Milliseconds of a step of each net, each way, in each round, and what share of the time is left: medians."""
    steps: dict[str, dict[str, list[float]]] = {name: {way: [] for way in WAYS} for name in NETS}
    for _ in range(rounds):
        for name, ways in steps.items():
            for way, times in ways.items():
                times.append(1000 * measured(name, way))
    shares = {
        f"step_share_{name}": statistics.median(
            one / other for one, other in zip(ways["onednn"], ways["without"], strict=True)
        )
        for name, ways in steps.items()
    }
    return {"step_ms": steps, "figures": shares}


def main() -> None:
    """Print one JSON object with the figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, nothing is written")
    options = parser.parse_args()
    found = compare(1 if options.quick else 5)
    if not options.quick:
        machine = {"cores": os.cpu_count(), "processor": _processor()}
        record = {"command": "python benchmarks/kernels.py", "machine": machine, "tools": tool_versions()} | found
        RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"figures": found["figures"]}))


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    named = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return f"{named.get('model name', platform.processor())}, family {named.get('cpu family', '?')}"


if __name__ == "__main__":
    main()
