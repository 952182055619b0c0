"""The search: how long it takes, how well shared weights rank nets, what it finds beside others, and its costs.

    python benchmarks/search.py --work runs/search-benchmark [--parts costs fm rank ...]
    python benchmarks/search.py --quick

The first makes what the work folder lacks (hours on two cores), and writes benchmarks/results/search.json. Searches see
training and validation examples, test examples are only counted. The second re-checks the costs on a few nets and the
latency model (minutes), and prints the stored figures.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import search_nets
from mlperf_latency import latency_figures
from search_costs import cost_figures
from search_engine import engine_figures
from search_figures import OF_FINALISTS, OTHER_METHODS, figures, nets_of, tau_figures
from search_nets import BASELINES, CIFAR, FM, alone, baseline, kept, opened, searched_figures

from datasets import Split
from hybrid import Router, clouds, fitting
from hybrid.artifacts import Floats
from hybrid.configure import structure
from hybrid.pipeline import Run, probing, searching
from hybrid.pipeline.export import tool_versions
from hybrid.progress import SILENT
from hybrid.specs import ArchSpec
from hybrid.supervision import softmax
from nas import search as nas_search
from nas.oracle import explore
from nas.score import Judge, Offer
from nas.space import sample

RESULTS = Path(__file__).parent / "results"
RANKED, RANKED_SEED = 16, 456
"""Random nets that are trained alone."""
SEEDS = (0, 1, 2)
BUDGETS_MS = (30.0, 60.0, 120.0)
PAIRED = (
    "device=stm32l432",
    "link=ble",
    "search.trials=250",
    f"search.max_latency_ms={max(BUDGETS_MS)}",
    "search.max_macs=0",
    "search.max_flash_bytes=0",
)
"""A slow core and a link that is kept: what the edge net takes of the mean latency is not there for queries. Nothing
but device and latency limits the edge; the preset's other ceilings are there to make its trainings short."""
JOINT = {
    "fm": ("data.name=fashion_mnist", *PAIRED),
    "cifar": ("data.name=cifar10", *PAIRED, "cloud.epochs=8", "train.edge_epochs=10", "train.rounds=0"),
}
"""A task whose small nets are almost as good as its cloud, and one whose cloud knows much more."""
FINALISTS = 3
"""Of the searches for a pair that have some; as many as the standard preset has."""
WITHIN = {
    "ds_cnn": ("search.supernet_epochs=12", "search.probes=3"),
    "resnet8": ("search.supernet_epochs=12", "search.probes=3"),
    "mobilenetv2_035": (
        "device=stm32f746",
        'search.kinds=["ib"]',
        "search.supernet_epochs=12",
        "search.probes=0",
        "search.finalists=2",
    ),
}
"""Hand-made nets within whose MACs, flash and SRAM the search has its turn, and what it is asked otherwise. Where there
is SRAM for them, inverted bottlenecks are the best kind: after 8 epochs, as int8 on validation and calibration, one of
9.5 M MACs, 239 KB and 83 KB of SRAM had 84.5 %, separable layers of 9.3 M, 265 KB and 60 KB 82.4 %. They train slowly:
that search makes do with less, and all make do with fewer epochs of the supernet."""
SHORTER = ("train.edge_epochs=40",)
"""Where nets are trained for each other's sake."""
EDGE_ALONE = (
    "search.min_coverage=1.0",
    "search.noise_tolerance=0.0",
    "train.edge_epochs=20",
    "train.rounds=0",
    'quantize.methods=["ptq"]',
)
"""The edge net's own accuracy is what counts."""


def costs(data: Path) -> dict[str, Any]:
    """Estimates against what the export measures, on fifty nets; latency on models left out."""
    return cost_figures(50, 0) | {"latency": latency_figures(data)}


def engine(work: Path) -> dict[str, Any]:
    """What the engine finds within the DS-CNN's costs where accuracy is a known law."""
    run = opened(work, "cifar", *CIFAR)
    run = opened(work, "engine", *CIFAR, *search_nets.within(run, "ds_cnn"))
    return engine_figures(searching.space_of(run), searching.pricing_of(run))


def fm(work: Path) -> dict[str, Any]:
    """The quick search on Fashion-MNIST."""
    return searched_figures(opened(work, "fm", *FM))


def rank(work: Path) -> dict[str, Any]:
    """Random nets of the Fashion-MNIST space: what the search expects of them, against training alone, on validation.

    They are others than those on which the exponent of the expected accuracy was chosen.
    """
    run = opened(work, "fm", *FM, 'quantize.methods=["ptq"]')
    run.searched  # noqa: B018  # the supernet is made with it
    space, pricing, rng = searching.space_of(run), searching.pricing_of(run), np.random.default_rng(RANKED_SEED)
    held_out, answers, growth = run.data.validation, run.cloud(0)[1], probing.prior(space, pricing)
    outputs = searching.supernet(run, space, [answers], Split(x=held_out.x, y=held_out.y))
    cloud = Offer(probabilities=answers.probabilities["validation"], query_ms=0.0)
    judge = Judge(labels=held_out.y, offers=(cloud,), min_coverage=1.0)
    pairs: list[tuple[float, float, float, int]] = []
    while len(pairs) < RANKED:
        arch = sample(space, rng)
        if pricing.allows(arch):
            cost, truth = pricing.estimate(arch), alone(run, arch).figures["validation_accuracy"]
            score = judge.judge(outputs(arch), 0.0, left=growth.errors_left(cost)).score
            pairs.append((score.expected_accuracy, truth, score.edge_accuracy, cost.macs))
            print(len(pairs), pairs[-1], file=sys.stderr, flush=True)
    return {"pairs": pairs, **tau_figures(pairs)}


def cifar(work: Path) -> dict[str, Any]:
    """The search on CIFAR-10 for a small board."""
    return searched_figures(opened(work, "cifar", *CIFAR))


def chosen(work: Path) -> dict[str, Any]:
    """Its net, trained."""
    return trained(opened(work, "cifar", *CIFAR), 0)


def trained(run: Run, seed: int) -> dict[str, Any]:
    """The net that a run's search chose, trained from `seed`."""
    return {"alone": alone(run, run.searched.edge, seed=seed).figures, "edge": asdict(run.searched.edge)}


def cifar_again(work: Path, folder: str, *assignments: str) -> Run:
    """Another run of the task, with the first one's cloud and a shorter training."""
    first = opened(work, "cifar", *CIFAR)
    first.cloud(0)
    if not (work / folder / "cloud").is_dir():
        shutil.copytree(work / "cifar" / "cloud", work / folder / ".cloud.copy", dirs_exist_ok=True)
        (work / folder / ".cloud.copy").rename(work / folder / "cloud")
    return opened(work, folder, *CIFAR, *SHORTER, *assignments)


def within(work: Path, name: str, seed: int) -> dict[str, Any]:
    """What is found within a hand-made net's MACs, flash and SRAM, trained from `seed`."""
    costs_at_most = search_nets.within(opened(work, "cifar", *CIFAR), name)
    run = cifar_again(work, f"cifar-within-{name}", *WITHIN[name], *costs_at_most)
    return searched_figures(run) | trained(run, seed)


def hand_made(work: Path, name: str, seed: int) -> dict[str, Any]:
    """The hand-made net itself, trained alike."""
    run = cifar_again(work, "cifar-hand-made")
    return alone(run, baseline(name, run), seed=seed).figures


def beside(work: Path, name: str) -> dict[str, Any]:
    """Another net for the same task, trained like the chosen one."""
    run = opened(work, "cifar", *CIFAR)
    if name in BASELINES:
        return alone(run, baseline(name, run)).figures
    minutes = kept(work / "cifar.json", lambda: cifar(work))["minutes"]
    return searched_otherwise(run, name, 60 * minutes)


def methods(work: Path, seed: int) -> dict[str, Any]:
    """Fashion-MNIST nets that our search and others find in one space within the same ceilings, trained alike."""
    run = opened(work, f"methods-{seed}", *FM, *EDGE_ALONE, f"seed={seed}")
    ours = searched_figures(run)
    edge = alone(run, run.searched.edge, seed=seed).figures | {"search": ours, "edge": asdict(run.searched.edge)}
    others = {name: searched_otherwise(run, name, 60 * ours["minutes"]) for name in OTHER_METHODS}
    return {"ours": edge} | others


def searched_otherwise(run: Run, method: str, seconds: float) -> dict[str, Any]:
    """What another method finds in the run's space, trained like the chosen net; random search has `seconds`."""
    space, seed = searching.space_of(run), run.spec.seed
    if method == "random":
        found = search_nets.random_search(run, space, seconds=seconds, seed=seed)
    else:
        found = search_nets.hyperband(run, space, run.folder.root / method, seed=seed)
    arch: ArchSpec = found.pop("arch")
    return alone(run, arch, seed=seed).figures | {"search": found, "edge": asdict(arch)}


def joint(work: Path, task: str, seed: int) -> dict[str, Any]:
    """Hybrid accuracy on test within each mean latency: searched as a pair, and searched for the edge alone.

    All have the same supernet, space, number of candidates and limit on the edge's own latency. An edge searched alone
    is the most accurate that is fast enough ("separate"), or the fastest within the noise of that ("thrifty"), by which
    rule pairs are chosen, too. Each of these ways has its turn without finalists and with some.
    """
    name = f"joint-{task}-{seed}"
    run = opened(work, name, *JOINT[task], f"seed={seed}")
    answers, space, folder = [run.cloud(0)[1]], searching.space_of(run), work / f"{name}-searches"
    asked, soft = searching.question(run, answers), searching.taught(run, answers)
    outputs = cache(searching.supernet(run, space, answers, asked.rows))
    searched = partial(
        nas_search.search,
        space,
        outputs=outputs,
        lessons=searching.lessons_of(run, space, answers, asked, outputs),
        alone=probing.finalist(run, folder / "finals", rows=asked.rows, soft=soft),
        clouds=run.clouds,
        explore=explore,
        seed=seed,
    )
    edge_alone = replace(asked.judge, max_latency_ms=0.0, min_coverage=1.0)
    pricing, spec = searching.pricing_of(run), run.spec.search
    thrift = spec.noise_tolerance
    found: dict[str, Any] = {f"{budget:g} ms": {} for budget in BUDGETS_MS}
    for budget, (finalists, ending) in product(BUDGETS_MS, ((0, ""), (FINALISTS, OF_FINALISTS))):
        pair = replace(asked.judge, max_latency_ms=budget)
        ways = (("joint", pair, thrift), ("separate", edge_alone, 0.0), ("thrifty", edge_alone, thrift))
        for way, judge, tolerance in ways:
            chosen_by = replace(spec, max_latency_ms=budget, finalists=finalists, noise_tolerance=tolerance)
            journal = f"{'joint' if judge is pair else 'separate'}-{budget:g}"
            edge = searched(
                pricing=replace(pricing, spec=chosen_by),
                judge=judge,
                folder=folder / journal,
                identity=f"{run.key('question')} {journal}",
            ).edge
            reached = found[f"{budget:g} ms"][way + ending] = paired_accuracy(run, edge, pair, seed)
            print(name, budget, way + ending, reached, file=sys.stderr, flush=True)
    return found


def paired_accuracy(run: Run, arch: ArchSpec, judge: Judge, seed: int) -> dict[str, float]:
    """Train the edge, fit the product's router on validation, ask as often on test as the mean latency allows."""
    net, data, cloud = alone(run, arch, seed=seed), run.data, cloud_answers(run)
    router = Router(random_state=seed).fit(net.logits["validation"], data.validation.y, cloud["validation"])
    latency_ms, query_ms = searching.pricing_of(run).price(arch).latency_ms, judge.offers[0].query_ms
    queries = replace(judge, labels=data.test.y).queries(latency_ms, query_ms)
    score = router.score(net.logits["test"])
    order = np.sort(score)
    threshold = int(order[queries]) if queries < len(order) else 128
    kept_here = score >= threshold
    edge_right = net.logits["test"].argmax(axis=1) == data.test.y
    right = np.where(kept_here, edge_right, cloud["test"].argmax(axis=1) == data.test.y)
    coverage = float(kept_here.mean())
    return {
        "hybrid_accuracy": float(right.mean()),
        "edge_accuracy": float(edge_right.mean()),
        "coverage": coverage,
        "mean_latency_ms": latency_ms + (1 - coverage) * query_ms,
        "edge_latency_ms": latency_ms,
        "macs": net.figures["macs"],
    }


@cache
def cloud_answers(run: Run) -> dict[str, Floats]:
    """The cloud's probabilities on every split, those on test as well."""
    net, answers = run.cloud(0)
    said = fitting.predict(clouds.answering_net(net, run.data), run.data.test.x, label="", narrator=SILENT)
    return {**answers.probabilities, "test": softmax(said.logits)}


def parts(work: Path, data: Path) -> dict[str, Callable[[], Any]]:
    """What the benchmark is made of, by name."""
    beside_names = (*BASELINES, *OTHER_METHODS)
    return {
        "costs": partial(costs, data),
        "engine": partial(engine, work),
        "fm": partial(fm, work),
        "rank": partial(rank, work),
        "cifar": partial(cifar, work),
        "chosen": partial(chosen, work),
        **{f"within {name} {seed}": partial(within, work, name, seed) for name in WITHIN for seed in SEEDS},
        **{f"hand_made {name} {seed}": partial(hand_made, work, name, seed) for name in WITHIN for seed in SEEDS},
        **{f"beside {name}": partial(beside, work, name) for name in beside_names},
        **{f"methods {seed}": partial(methods, work, seed) for seed in SEEDS},
        **{f"joint {task} {seed}": partial(joint, work, task, seed) for task in JOINT for seed in SEEDS},
    }


def full(work: Path, data: Path, wanted: list[str]) -> dict[str, Any]:
    """Make what is wanted and missing, and keep it with what was made before."""
    found = {}
    for name, make in parts(work, data).items():
        path = work / f"{name}.json"
        if path.is_file() or not wanted or name in wanted or name.split()[0] in wanted:
            print(name, file=sys.stderr, flush=True)
            found[name] = kept(path, make)
    result = {
        "command": "python benchmarks/search.py " + " ".join(sys.argv[1:]),
        "tools": tool_versions(),
        "parts": found,
        "figures": figures(found),
    }
    (RESULTS / "search.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def quick(data: Path | None) -> dict[str, Any]:
    """Check the cheap figures on a few nets; the stored results. Exits 1 where the costs are not what was kept."""
    stored: dict[str, Any] = json.loads((RESULTS / "search.json").read_text(encoding="utf-8"))
    now = cost_figures(8, 0)
    for name in ("sram_error_max_pct", "flash_error_max_pct"):
        if not 0 <= now[name] <= max(5.0, stored["figures"].get(name, 5.0)):
            raise SystemExit(f"{name}: {now[name]} on 8 nets, kept {stored['figures'].get(name)}")
    if data is not None:
        mape, before = latency_figures(data)["latency_mape_pct"], stored["figures"]["latency_mape_pct"]
        if abs(mape - before) > 0.1:
            raise SystemExit(f"latency_mape_pct: {mape}, kept {before}")
    for part, value in nets_of(stored["parts"]).items():
        if "edge" in value:  # the arch in the record costs what the record says
            arch = structure(value["edge"], ArchSpec, where=part)
            figures_then = value.get("alone", value)
            if search_nets.estimate(arch).macs != figures_then["macs"]:
                raise SystemExit(f"{part}: the net's MACs are not those kept")
    return stored


def main() -> None:
    """Print one JSON object with the figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="re-check the cheap figures, print the stored ones")
    parser.add_argument("--work", type=Path, default=Path("runs/search-benchmark"), help="what is made is kept here")
    names = "costs, engine, fm, rank, cifar, chosen, within, hand_made, beside, methods, joint"
    parser.add_argument("--parts", nargs="*", default=[], help=f"{names}, or one such as 'joint cifar 0'; default: all")
    parser.add_argument("--data", type=Path, default=os.environ.get("HYBRID_DATA_DIR"), help="folder of MLPerf Tiny's")
    options = parser.parse_args()
    if options.quick:
        result = quick(None if options.data is None else Path(options.data))
    else:
        if options.data is None:
            parser.error("--data is missing; give the folder with devices/mlperf_tiny.csv, or set HYBRID_DATA_DIR")
        options.work.mkdir(parents=True, exist_ok=True)
        result = full(options.work, Path(options.data), options.parts)
    print(json.dumps({"figures": result["figures"]}))


if __name__ == "__main__":
    main()
