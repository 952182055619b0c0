"""What the ahead-of-time engine takes, and that it is exact, beside what TFLite Micro takes (`engine_peers`).

    PYTHONPATH=. python benchmarks/engine.py [DATA] [--quick]

The five nets are compiled with weights of int16 and int8 and compared with TFLite Micro, bit by bit, on random inputs:
on the host (1,000 for each width) and on emulated boards (4). Instructions, stack and sizes are those of the boards.
Then so many random nets of the search space are compared, with random weights. Everything but seconds is repeatable.
Five to twenty minutes, by the machine; ``--quick`` (fewer inputs and nets) less than three, and writes no results.

DATA is the folder with ``tflite-models`` (default: HYBRID_DATA_DIR). The last line is one JSON object.
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from engine_peers import MLPERF_TINY, PEERS, Peer
from search_costs import int8_net

from firmware_export.emulate.boards import board_named
from firmware_export.engine.compile import compile_model
from firmware_export.engine.cores import Cpu, core_named
from firmware_export.engine.host import Values, built
from firmware_export.engine.layer import WeightWidth
from firmware_export.engine.measure import Measured, measure
from firmware_export.engine.oracle import Oracle
from firmware_export.engine.reader import read
from firmware_export.engine.verify import random_examples
from hybrid.cost import estimate
from hybrid.pipeline.export import tool_versions
from hybrid.specs import ArchSpec
from hybrid.work import flatbuffer_work
from nas.space import edge_space, sample

RESULTS = Path(__file__).parent / "results" / "engine.json"
CPUS: dict[str, Cpu] = {
    "m7": "cortex-m7",
    "m4": "cortex-m4",
    "m33": "cortex-m33",
    "m3": "cortex-m3",
    "m0plus": "cortex-m0plus",
}
WITHOUT_DSP = ("m3", "m0plus")
"""Compared with TFLite Micro's reference kernels; a Cortex-M0+ has no long multiplications either."""
WIDTHS: tuple[WeightWidth, ...] = ("int16", "int8")
ON_BOARD = 4
SHAPES = ((28, 28, 1), (32, 32, 3), (48, 48, 3), (49, 10, 1), (128, 1, 6))
MOST_MACS = 4_000_000
AT_ONCE = 10


def oracle_of(flatbuffer: bytes) -> Oracle:
    """TFLite Micro with this model."""
    return Oracle(flatbuffer, len(read(flatbuffer).outputs))


def differing(expected: Sequence[Values], got: Sequence[Values]) -> int:
    """How many examples have an output that differs."""
    return sum(
        not all(np.array_equal(a.ravel(), b.ravel()) for a, b in zip(one, other, strict=True))
        for one, other in zip(expected, got, strict=True)
    )


def on_host(flatbuffers: Sequence[bytes], count: int) -> tuple[int, int]:
    """Compare models in both widths over `count` inputs each; gives how many differ, of how many."""
    models = [
        compile_model(flatbuffer, prefix=f"m{number}_{width}", weights=width, kernels="kernels")
        for number, flatbuffer in enumerate(flatbuffers)
        for width in WIDTHS
    ]
    wrong = 0
    with built(models) as program:
        for number, flatbuffer in enumerate(flatbuffers):
            examples = random_examples(models[2 * number], count, np.random.default_rng(0))
            with oracle_of(flatbuffer) as oracle:
                expected = oracle.answers(examples)
            wrong += sum(differing(expected, program.run(examples, 2 * number + place)) for place in (0, 1))
    return wrong, 2 * count * len(flatbuffers)


def on_board(oracle: Oracle, core: str, flatbuffer: bytes, **options: Any) -> dict[str, Any]:
    """Compare and measure a model, which `oracle` has as well, on the emulated board of a core."""
    compiled = compile_model(flatbuffer, cpu=CPUS[core], **options)
    examples = random_examples(compiled, ON_BOARD, np.random.default_rng(1))
    board = core_named(CPUS[core]).board
    assert board is not None
    found: Measured = measure(compiled, board_named(board), examples)
    return {
        "instructions": found.instructions,
        "static_bytes": compiled.ram_bytes,
        "stack_bytes": found.stack_bytes,
        "text_bytes": found.sections.text,
        "rodata_bytes": found.sections.rodata,
        "compared": ON_BOARD,
        "mismatches": differing(oracle.answers(examples), found.outputs),
    }


def net_rows(flatbuffer: bytes, peer: Peer) -> dict[str, dict[str, Any]]:
    """All cores and budgets of one net, by ``core width``."""
    with oracle_of(flatbuffer) as oracle:
        row = partial(on_board, oracle)
        rows = {f"{core} {width}": row(core, flatbuffer, weights=width) for core in ("m7", "m4") for width in WIDTHS}
        rows |= {f"{core} auto": row(core, flatbuffer) for core in ("m33", *WITHOUT_DSP)}
        rows["m7 auto, ram_bytes of the arena"] = row("m7", flatbuffer, ram_bytes=peer.cmsis_arena)
    return rows


def ratios(name: str, rows: dict[str, dict[str, Any]], peer: Peer) -> dict[str, float]:
    """A net's public figures."""
    default, small = rows["m7 int16"], rows["m7 auto, ram_bytes of the arena"]
    used = [row["static_bytes"] + row["stack_bytes"] for row in (default, small)]
    found = {f"m7_{width}_ratio": rows[f"m7 {width}"]["instructions"] / peer.best_m7 for width in WIDTHS}
    found["m4_int16_ratio"] = rows["m4 int16"]["instructions"] / peer.cmsis_m4
    found["m3_ratio"] = rows["m3 auto"]["instructions"] / peer.reference_m3
    found["m0plus_ratio"] = rows["m0plus auto"]["instructions"] / peer.reference_m0plus
    found |= {"ram_ratio": used[0] / peer.cmsis_arena, "ram_at_arena_ratio": used[1] / peer.cmsis_arena}
    return {f"{figure}_{name}": round(value, 4) for figure, value in found.items()}


def drawn(count: int, seed: int) -> list[ArchSpec]:
    """Random nets of the default search spaces of a few inputs."""
    rng = np.random.default_rng(seed)
    found: list[ArchSpec] = []
    while len(found) < count:
        arch = sample(edge_space(SHAPES[len(found) % len(SHAPES)], 10), rng)
        if estimate(arch).macs <= MOST_MACS:
            found.append(arch)
    return found


def searched(count: int, seed: int, inputs: int) -> tuple[int, int]:
    """Compare random nets of the search; gives how many inputs differ, of how many."""
    rng, wrong, compared = np.random.default_rng(seed), 0, 0
    archs = drawn(count, seed)
    for start in range(0, count, AT_ONCE):
        results = on_host([int8_net(arch, rng) for arch in archs[start : start + AT_ONCE]], inputs)
        wrong, compared = wrong + results[0], compared + results[1]
        print(f"searched nets up to {min(start + AT_ONCE, count)}: {wrong} of {compared} differ", flush=True)
    return wrong, compared


def mlperf_seconds(files: Path) -> float:
    """The comparison of all MLPerf Tiny models on the emulated Cortex-M4 and M7, from flatbuffer to verdict."""
    start = time.monotonic()
    for name in MLPERF_TINY:
        flatbuffer = (files / PEERS[name].file).read_bytes()
        with oracle_of(flatbuffer) as oracle:
            for board in ("m4", "m7"):
                on_board(oracle, board, flatbuffer)
    return time.monotonic() - start


def compile_seconds(flatbuffer: bytes) -> float:
    """From a flatbuffer to all sources."""
    start = time.monotonic()
    _ = compile_model(flatbuffer).files
    return time.monotonic() - start


def versions() -> dict[str, str]:
    """Of Python's packages, compilers and emulator."""
    programs = {name: [name, "--version"] for name in ("cc", "arm-none-eabi-gcc", "qemu-system-arm")}
    said = {name: subprocess.run(line, capture_output=True, text=True, check=False) for name, line in programs.items()}
    return tool_versions() | {name: done.stdout.split("\n")[0] for name, done in said.items()}


def measured(files: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Everything, with the public figures under ``figures``."""
    inputs, nets, net_inputs = (20, 4, 8) if options.quick else (1000, 50, 32)
    result: dict[str, Any] = {"nets": {}, "exactness": {}}
    figures: dict[str, float] = {}
    for name, peer in PEERS.items():
        flatbuffer = (files / peer.file).read_bytes()
        wrong, compared = on_host([flatbuffer], inputs)
        rows = net_rows(flatbuffer, peer)
        result["exactness"][name] = {"host_differ": wrong, "host_compared": compared}
        result["nets"][name] = {"macs": flatbuffer_work(flatbuffer).macs, "tflite_micro": vars(peer), "engine": rows}
        figures |= ratios(name, rows, peer)
        print(f"{name}: {wrong} of {compared} differ on the host; {json.dumps(rows)}", flush=True)
    wrong, compared = searched(nets, options.seed, net_inputs)
    result["exactness"]["searched"] = {"nets": nets, "host_differ": wrong, "host_compared": compared}
    emulated = [row for net in result["nets"].values() for row in net["engine"].values()]
    figures["mismatches"] = sum(case["host_differ"] for case in result["exactness"].values())
    figures["mismatches"] += sum(row["mismatches"] for row in emulated)
    m4 = [net["engine"][f"m4 {width}"] for net in result["nets"].values() for width in WIDTHS]
    figures["code_bytes_m4"] = max(row["text_bytes"] for row in m4)
    figures["vww_compile_seconds"] = round(compile_seconds((files / PEERS["vww"].file).read_bytes()), 2)
    figures["mlperf_emulated_seconds"] = round(mlperf_seconds(files), 1)
    return result | {"figures": figures}


def main() -> None:
    """Print what is measured and the figures; keep the results of a whole run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="?", type=Path, default=os.environ.get("HYBRID_DATA_DIR"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.data is None:
        parser.error("DATA is missing; give the folder or set HYBRID_DATA_DIR")
    result = measured(Path(options.data) / "tflite-models", options)
    if not options.quick:
        kept = {"command": f"python benchmarks/engine.py --seed {options.seed}", "tools": versions(), **result}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"figures": result["figures"]}))


if __name__ == "__main__":
    main()
