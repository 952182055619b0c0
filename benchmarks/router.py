"""What the router earns: policies side by side, a second look, the guarantee, and the time that all of it saves.

    python benchmarks/router.py --work runs/router-benchmark
    python benchmarks/router.py --quick

The first trains clouds and edges (hours on two cores; what the work folder has is used), fits every policy, and writes
benchmarks/results/router.json and router.md. Everything is chosen on training, validation and calibration examples;
test examples are only counted. The second takes a minute or two: it runs the device program of one seed of each kind,
kept beside the results, over the test images again, and prints the stored figures where it gives what was recorded.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import router_check
import router_nets
import router_table
from numpy.typing import NDArray
from router_nets import Net, said
from router_policies import Scores, evidence, policies

from firmware_export.payload import payload_bytes
from hybrid import cost, guarantee, monitor, online, policy, profiles, sweep
from hybrid.artifacts import Predictions
from hybrid.cascade import DeviceProgram
from hybrid.configure import run_spec
from hybrid.pipeline.export import tool_versions
from hybrid.predict import device_outputs, real_logits
from hybrid.program_json import program_from, program_values
from hybrid.progress import SILENT
from hybrid.router import fit_kind
from hybrid.routing import route_outputs

RESULTS = Path(__file__).parent / "results"
COVERAGES = (0.9, 0.8, 0.7)
LOSS = 0.005
CONFIDENCE, CALIBRATION_ROWS, RESAMPLES = 0.9, 5000, 1000
HALF_POINT = (guarantee.Target("max_loss", LOSS),)
QUERY_COST = 0.1
LOOK_SHARE = 1 / 3
SEEDS = (0, 1, 2)
KINDS = {"fm_small": "fm-s", "fm_medium": "fm-m", "cifar": "c16"}
SHIPPED = "learned"
FIT_ROWS = 50_000


def ship(nets: list[Net], seed: int, work: Path, *, share: float = LOOK_SHARE) -> DeviceProgram:
    """The device program that the product makes of these nets; made once. A second net looks at `share`."""
    looks = f"-{share:.2f}" if len(nets) > 1 else ""
    path = work / f"{'+'.join(net.name for net in nets)}-{seed}{looks}.program.json"
    flatbuffers = [net.flatbuffer for net in nets]
    if not path.is_file():
        spec = run_spec(assignments=(f"seed={seed}", f"router.kind={SHIPPED}"))
        look = replace(spec.look, kind="net" if len(nets) > 1 else "none", share=share)
        held_out, seen = said(nets, "validation"), said(nets, "train")
        routed = route_outputs(flatbuffers, held_out, seen, replace(spec, look=look), narrator=SILENT)
        path.write_text(json.dumps(program_values(routed.program)), encoding="utf-8")
    return program_from(json.loads(path.read_text(encoding="utf-8")), flatbuffers)


def predictions(program: DeviceProgram, nets: list[Net], split: str) -> Predictions:
    """What `program` says of a split, from what its nets say."""
    by_flatbuffer = {net.flatbuffer: net.said[split] for net in nets}

    def run(flatbuffer: bytes, rows: Any) -> list[NDArray[np.int8]]:
        outputs = by_flatbuffer[flatbuffer].take(rows)
        return [outputs.logits, outputs.features]

    answers = device_outputs(program, np.arange(len(nets[0].labels[split])), run)
    return Predictions(
        labels=nets[0].labels[split],
        edge_logits=real_logits(program, answers),
        router_score=answers.score.astype(np.int32),
        cloud_scores=nets[0].cloud[split],
        stage=answers.stage,
    )


def reading(scores: Scores, edge_right: Scores, cloud_right: Scores) -> dict[str, float]:
    """nAUC, accuracy at the coverages, and the most coverage at half a point of loss."""
    found = sweep.curve(scores, edge_right, cloud_right)
    accuracy = np.interp(COVERAGES, found.coverage[::-1], found.accuracy[::-1])
    good = found.accuracy >= cloud_right.mean() - LOSS - 1e-9
    return {
        "nauc": sweep.nauc(scores, edge_right, cloud_right),
        **{f"accuracy_{100 * c:.0f}": float(a) for c, a in zip(COVERAGES, accuracy, strict=True)},
        "coverage_half_point": float(found.coverage[good].max()),
    }


def read_predictions(said: Predictions) -> dict[str, float]:
    """The same for the device's own int8 scores."""
    return reading(said.router_score, said.edge_right, said.cloud_right)


def edge_result(name: str, seed: int, *, distilled: bool, work: Path) -> dict[str, Any]:
    """Every policy on one edge, on test."""
    net = router_nets.edge_net(name, seed, distilled=distilled, work=work)
    spec = run_spec().router
    right, cloud_right = net.right("test"), net.cloud_right("test")
    made = policies(net, spec, seed, variants=distilled and seed == SEEDS[0])
    scores = {label: score("test") for label, score in made.items()}
    program = ship([net], seed, work)
    router = program.stages[0].router
    shipped = predictions(program, [net], "test")
    scores["shipped (int8)"] = shipped.router_score
    readings = {label: reading(score, right, cloud_right) for label, score in scores.items()}
    low, room = readings["entropy"]["nauc"], readings["agree bound"]["nauc"] - readings["entropy"]["nauc"]
    for one in readings.values():
        one["gap_closed"] = (one["nauc"] - low) / room
    macs = sum(cost.flatbuffer_macs(net.flatbuffer).values())
    return {
        "edge_accuracy": float(right.mean()),
        "cloud_accuracy": float(cloud_right.mean()),
        "macs": macs,
        "router_parameters": router.parameters,
        "router_macs_share": router.macs / macs,
        "policies": readings,
        "paired": {
            other: paired(shipped.router_score, scores[other], right, cloud_right)
            for other in ("entropy", "max_softmax", "paper")
        },
    }


def speed_result(net: Net, seed: int, work: Path) -> dict[str, float]:
    """Seconds that the fit takes on 50,000 rows, and rows that the int8 router scores in a second."""
    rows = np.random.default_rng(seed).permutation(len(net.labels["train"]))
    seen, held = evidence(net, "train"), evidence(net, "validation")
    started = time.perf_counter()
    fit_kind(SHIPPED, held, seen.take(rows[: FIT_ROWS - len(held)]), run_spec().router, seed=seed)
    fitted = time.perf_counter()
    ship([net], seed, work).stages[0].router.score(net.said["train"])
    per_second = len(rows) / (time.perf_counter() - fitted)
    return {"fit_seconds": round(fitted - started, 1), "scored_per_second": round(per_second)}


def paired(ours: Scores, other: Scores, edge: Scores, cloud: Scores, draws: int = 200) -> list[float]:
    """95 % interval of the difference of nAUC over `draws` bootstrap draws of the examples."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, len(edge), len(edge)) for _ in range(draws)]
    differences = [sweep.nauc(ours[r], edge[r], cloud[r]) - sweep.nauc(other[r], edge[r], cloud[r]) for r in rows]
    return [float(q) for q in np.quantile(differences, [0.025, 0.975])]


def second_look(seed: int, work: Path) -> list[Net]:
    """A net, and one of 1.5 times its MACs for a third of the examples: 1.5 times the MACs in the mean."""
    asked = (("c16", seed), ("c24", (seed + 1) % len(SEEDS)))
    return [router_nets.edge_net(name, one, distilled=True, work=work) for name, one in asked]


def end_to_end_result(seed: int, work: Path) -> dict[str, Any]:
    """CIFAR: training and router against cross-entropy with entropy; second looks; larger nets."""

    def net(name: str, one: int) -> Net:
        return router_nets.edge_net(name, one % len(SEEDS), distilled=True, work=work)

    plain = router_nets.edge_net("c16", seed, distilled=False, work=work)
    logits = plain.said["test"].logits * plain.logit_scale
    found = {"baseline": reading(policy.negative_entropy(logits), plain.right("test"), plain.cloud_right("test"))}
    programs = {
        "ours": ([net("c16", seed)], LOOK_SHARE),
        "second look": (second_look(seed, work), LOOK_SHARE),
        "second look, same size": ([net("c16", seed), net("c16", seed + 1)], 0.5),
        "larger net": ([net("c24", seed)], LOOK_SHARE),
    }
    if seed == SEEDS[0]:
        programs["net of equal flash"] = ([net("c60", seed)], LOOK_SHARE)
    for label, (nets, share) in programs.items():
        program = ship(nets, seed, work, share=share)
        answers = predictions(program, nets, "test")
        stage_macs = np.cumsum([cost.stage_work(stage).macs for stage in program.stages])
        found[label] = read_predictions(answers) | {
            "mean_macs": float(stage_macs[answers.stage].mean()),
            "flash_bytes": cost.program_flash_bytes(program),
            "device_accuracy": float(answers.edge_right.mean()),
        }
    return found


def latency_result(nets: list[Net], input_shape: tuple[int, int, int], seed: int, work: Path) -> dict[str, float]:
    """stm32f746 over LTE: the time saved at half a point of loss, certified on calibration, counted on test."""
    program = ship(nets, seed, work)
    server = profiles.cloud("cpu")
    here = sweep.Scenario(
        device=profiles.device("stm32f746"),
        link=profiles.link("lte"),
        cloud_name=server.name,
        cloud_ms=server.latency_ms,
        stage_work=tuple(cost.stage_work(stage) for stage in program.stages),
    )
    payload = payload_bytes(input_shape, "cbor")
    calibration, test = (predictions(program, nets, split) for split in ("calibration", "test"))
    points = sweep.operating_points(calibration, here, payload_bytes=payload, seed=seed)
    right = (calibration.edge_right, calibration.cloud_right)
    certificate = guarantee.certify(calibration.router_score, *right, HALF_POINT, CONFIDENCE)
    chosen = sweep.choose(points, float(calibration.cloud_right.mean()), run_spec().sweep, certificate)
    at = {p.threshold: p for p in sweep.operating_points(test, here, payload_bytes=payload, seed=seed)}
    confirmed = sweep.confirm(chosen, test, here, payload_bytes=payload, seed=seed)
    cloud_ms = at[sweep.KEEP_NONE].mean_latency_ms - float(here.stage_ms[test.stage].mean())
    return {
        "saving": 1 - confirmed.mean_latency_ms / cloud_ms,
        "loss": float(test.cloud_right.mean()) - confirmed.accuracy,
        "coverage": confirmed.coverage,
        "mean_ms": confirmed.mean_latency_ms,
        "cloud_only_ms": cloud_ms,
    }


def guarantee_result(net: Net, seed: int, work: Path) -> dict[str, float]:
    """How often the certified threshold holds half a point, over resampled calibration splits."""
    program = ship([net], seed, work)
    halves = [predictions(program, [net], split) for split in ("calibration", "test")]
    scores, edge, cloud = (
        np.concatenate([getattr(half, name) for half in halves])
        for name in ("router_score", "edge_right", "cloud_right")
    )
    made = guarantee.resample(
        scores, edge, cloud, HALF_POINT, CONFIDENCE, n=CALIBRATION_ROWS, repeats=RESAMPLES, seed=seed
    )
    return {
        "held_share": made.held_share,
        "coverage": made.coverage,
        "unguarded_held_share": made.unguarded_held_share,
        "unguarded_coverage": made.unguarded_coverage,
    }


def monitor_result(net: Net, seed: int, work: Path) -> dict[str, Any]:
    """Drift alarms on test examples as they are and with more hard ones; what online control costs, and a threshold."""
    program = ship([net], seed, work)
    calibration, test = (predictions(program, [net], split) for split in ("calibration", "test"))
    threshold = guarantee.certify(
        calibration.router_score, calibration.edge_right, calibration.cloud_right, HALF_POINT, CONFIDENCE
    ).threshold
    reference = monitor.drift_reference(calibration.router_score, threshold)
    alarms = {"test as it is": test.router_score}
    for times in (2, 3):
        alarms[f"wrong examples {times} times"] = np.repeat(test.router_score, np.where(test.edge_right, 1, times))
    agreed = test.edge_class == test.cloud_class
    chance = np.interp(np.arange(256), *_agreement(test.router_score + 128, agreed))
    rule = online.warm(
        online.online_rule(QUERY_COST), calibration.router_score, calibration.edge_class == calibration.cloud_class
    )
    trials = online.simulate(rule, QUERY_COST, [chance, chance * 0.85], length=20_000, seed=seed)
    return {
        "window": reference.window,
        "alarm_share": {
            name: monitor.alarm_shares(reference, scores, threshold)["any"] for name, scores in alarms.items()
        },
        "online": [asdict(trial) for trial in trials],
    }


def _agreement(levels: Scores, agreed: Scores) -> tuple[Scores, Scores]:
    """Middle level and share of agreement of 32 groups of neighbouring levels."""
    groups = np.array_split(np.argsort(levels, kind="stable"), 32)
    return np.array([levels[rows].mean() for rows in groups]), np.array([agreed[rows].mean() for rows in groups])


def human_result(counts: NDArray[np.int64], net: Net, seed: int, work: Path) -> dict[str, float]:
    """Does the router ask about what people find hard? Area under the ROC of "fewer than 90 % of people agree"."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    hard = shares[np.arange(len(shares)), net.labels["test"]] < 0.9
    logits = net.said["test"].logits * net.logit_scale
    scores = {
        "router": predictions(ship([net], seed, work), [net], "test").router_score,
        "max_softmax": policy.max_softmax(logits),
        "entropy": policy.negative_entropy(logits),
        "cloud's own max_softmax": net.cloud["test"].max(axis=1),
    }
    return {"hard_share": float(hard.mean())} | {name: auroc(-score, hard) for name, score in scores.items()}


def auroc(score: Scores, positive: NDArray[np.bool_]) -> float:
    """Chance that a positive example scores above a negative one, ties half."""
    _, where, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[where]
    count = positive.sum()
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(score) - count)))


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """A part of the results; made once, so that a run that was stopped goes on where it was."""
    if not path.is_file():
        path.write_text(json.dumps(make()), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def parts(work: Path, human_labels: Path | None) -> dict[str, Callable[[], Any]]:
    """Every part of the results by name; a name with a slash is one of a list by seed."""

    def of_edge(result: Callable[[Net, int, Path], Any], name: str, seed: int) -> Any:
        return result(router_nets.edge_net(name, seed, distilled=True, work=work), seed, work)

    def fm_latency(net: Net, seed: int, work: Path) -> Any:
        return latency_result([net], (28, 28, 1), seed, work)

    def cifar_latency(seed: int) -> Any:
        return latency_result(second_look(seed, work), (32, 32, 3), seed, work)

    made: dict[str, Callable[[], Any]] = {}
    for seed in SEEDS:
        for kind, name in KINDS.items():
            for distilled, training in ((True, "distilled"), (False, "cross_entropy")):
                made[f"edges {kind} {training}/{seed}"] = partial(
                    edge_result, name, seed, distilled=distilled, work=work
                )
        made[f"end_to_end/{seed}"] = partial(end_to_end_result, seed, work)
        made[f"latency fm_medium/{seed}"] = partial(of_edge, fm_latency, "fm-m", seed)
        made[f"latency cifar second look/{seed}"] = partial(cifar_latency, seed)
        if human_labels is not None:
            made[f"human/{seed}"] = partial(of_edge, partial(human_result, np.load(human_labels)), "c16", seed)
    for kind, name in KINDS.items():
        made[f"guarantee {kind}"] = partial(of_edge, guarantee_result, name, SEEDS[0])
        made[f"monitor {kind}"] = partial(of_edge, monitor_result, name, SEEDS[0])
        made[f"speed {kind}"] = partial(of_edge, speed_result, name, SEEDS[0])
    return made


def full(work: Path, human_labels: Path | None) -> dict[str, Any]:
    """Train what is missing, measure everything, keep it."""
    work.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for name, make in parts(work, human_labels).items():
        print(name, file=sys.stderr, flush=True)
        value = kept(work / f"{name.replace('/', ' ')}.json", make)
        group, by_seed, _ = name.partition("/")
        if by_seed:
            found.setdefault(group, []).append(value)
        else:
            found[group] = value
    result: dict[str, Any] = {
        "command": "python benchmarks/router.py " + " ".join(sys.argv[1:]),
        "tools": tool_versions(),
        "seeds": list(SEEDS),
        "parts": found,
        "figures": router_table.figures(found),
        "by_seed": router_table.by_seed(found),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "router.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "router.md").write_text(router_table.markdown(result), encoding="utf-8")
    keep_one_seed(work)
    return result


def keep_one_seed(work: Path) -> None:
    """Keep the device programs of the first seed for `quick`."""
    kept = {}
    chosen = {kind: [router_nets.edge_net(name, SEEDS[0], distilled=True, work=work)] for kind, name in KINDS.items()}
    chosen["cifar, second look"] = second_look(SEEDS[0], work)
    for kind, nets in chosen.items():
        program = ship(nets, SEEDS[0], work)
        answers = predictions(program, nets, "test")
        dataset = router_nets.TASKS["fm" if kind.startswith("fm") else "cifar"].dataset
        kept[kind] = (dataset, program, answers.cloud_class, read_predictions(answers)["nauc"])
    router_check.keep(RESULTS / "router-seed0.npz", kept)


def quick() -> dict[str, Any]:
    """Check one seed of each kind; the stored results."""
    for line in router_check.check(RESULTS / "router-seed0.npz"):
        print(line)
    stored: dict[str, Any] = json.loads((RESULTS / "router.json").read_text(encoding="utf-8"))
    return stored


def main() -> None:
    """Print one JSON object with the figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="re-check one seed of each kind, print the stored figures")
    parser.add_argument("--work", type=Path, default=Path("runs/router-benchmark"), help="trained nets are kept here")
    parser.add_argument("--human-labels", type=Path, help="CIFAR-10H counts, an .npy of (10000, 10)")
    arguments = parser.parse_args()
    result = quick() if arguments.quick else full(arguments.work, arguments.human_labels)
    print(json.dumps({"figures": result["figures"]}))


if __name__ == "__main__":
    main()
