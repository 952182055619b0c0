"""What a user gets from data to bundle: accuracies, what int8 costs, what the model takes, and how long it lasts.

    python benchmarks/end_to_end.py --preset quick --datasets fashion_mnist cifar10 --seeds 0 1 2
    python benchmarks/end_to_end.py --quick

The first runs the `hybrid` command once for each data set and seed and writes medians and spreads to
benchmarks/results. The second only reads runs/demo (from `make demo`), and for CIFAR-10 runs/cifar10 where that was
made, else what is recorded. CIFAR-10 is looked for as `hybrid data cifar10` does.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PREFIXES = {"fashion_mnist": "", "cifar10": "cifar_"}
QUICK_RUNS = {"fashion_mnist": Path("runs/demo"), "cifar10": Path("runs/cifar10")}


def figures_of(summary: dict[str, Any]) -> dict[str, float | None]:
    """The figures of one run, accuracies in percent and differences in points; None: not known of this run."""
    exact = {
        "edge_int8_accuracy": 100 * summary["edge_int8_accuracy"],
        "cloud_accuracy": 100 * summary["cloud_accuracy"],
        "hybrid_minus_cloud_at_70": 100 * (summary["hybrid_at_70"]["accuracy"] - summary["cloud_accuracy"]),
        "int8_minus_float": 100 * (summary["edge_int8_accuracy"] - summary["edge_float_accuracy"]),
        "model_flash_bytes": summary["model_flash_bytes"],
        "arena_bytes": summary["arena_bytes"],
        "demo_seconds": summary["run_seconds"],
    }
    return {name: value if value is None else round(value, 4) for name, value in exact.items()}


def run_once(dataset: str, preset: str, seed: int, folder: Path) -> dict[str, Any]:
    """Run the command into a fresh folder and return its summary."""
    command = ["run", "--preset", preset, "--dataset", dataset, "--seed", str(seed), "--out", str(folder)]
    subprocess.run([sys.executable, "-m", "hybrid.cli", *command], check=True, stdout=sys.stderr)
    return read_summary(folder)


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a finished run."""
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return summary


def spread(runs: list[dict[str, float | None]]) -> dict[str, dict[str, float]]:
    """Median, least and most of each figure over seeds."""
    columns = {name: [value for run in runs if (value := run[name]) is not None] for name in runs[0]}
    return {
        name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
        for name, values in columns.items()
        if values
    }


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Run everything, keep the results, and return the medians under their public names."""
    medians: dict[str, float] = {}
    for dataset in arguments.datasets:
        folders = [arguments.work / f"{dataset}-{arguments.preset}-{seed}" for seed in arguments.seeds]
        summaries = [
            run_once(dataset, arguments.preset, seed, f) for seed, f in zip(arguments.seeds, folders, strict=True)
        ]
        result = {
            "command": "python benchmarks/end_to_end.py " + " ".join(sys.argv[1:]),
            "dataset": dataset,
            "data_digest": summaries[0]["data_digest"],
            "preset": arguments.preset,
            "seeds": arguments.seeds,
            "tools": summaries[0]["tools"],
            "spread": spread([figures_of(summary) for summary in summaries]),
            "runs": [figures_of(summary) for summary in summaries],
        }
        RESULTS.mkdir(exist_ok=True)
        path = results_path(dataset, arguments.preset)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        medians |= {PREFIXES[dataset] + name: figure["median"] for name, figure in result["spread"].items()}
    return medians


def quick() -> dict[str, float]:
    """The figures of runs that were made already; for CIFAR-10 else the recorded ones, and it says so."""
    figures: dict[str, float] = {}
    for dataset, folder in QUICK_RUNS.items():
        recorded = results_path(dataset, "quick")
        if (folder / "summary.json").is_file():
            found = figures_of(read_summary(folder))
        elif dataset == "fashion_mnist":
            sys.exit(f"error: {folder}/summary.json is not there; run make demo first")
        else:
            print(f"{dataset}: no {folder} here; these are the medians recorded in benchmarks/results/{recorded.name}")
            spreads = json.loads(recorded.read_text(encoding="utf-8"))["spread"]
            found = {name: figure["median"] for name, figure in spreads.items()}
        figures |= {PREFIXES[dataset] + name: value for name, value in found.items() if value is not None}
    return figures


def results_path(dataset: str, preset: str) -> Path:
    """Where the results of a data set and a preset are kept."""
    return RESULTS / f"end_to_end-{dataset}-{preset}.json"


def main() -> None:
    """Print one JSON object with the figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="read runs/demo and runs/cifar10")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--datasets", nargs="+", default=["fashion_mnist"], choices=sorted(PREFIXES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark"))
    arguments = parser.parse_args()
    print(json.dumps({"figures": quick() if arguments.quick else measure(arguments)}))


if __name__ == "__main__":
    main()
