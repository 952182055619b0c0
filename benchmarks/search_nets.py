"""The nets behind the search benchmark: searches of the product, and nets trained alone, all alike.

Everything is made once and kept in a work folder. A net "trained alone" is trained from its first weights by the
product's own recipe for the task, quantised as the product does it, and read on validation and test in int8.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hybrid import runtimes
from hybrid.arrays import write_arrays
from hybrid.artifacts import Floats
from hybrid.configure import run_spec
from hybrid.cost import estimate
from hybrid.files import whole
from hybrid.pipeline import Run, searching
from hybrid.progress import SILENT
from hybrid.quantize import accuracy, quantize_edge
from hybrid.specs import ArchSpec, BlockSpec
from hybrid.train import Trainer
from nas.space import Space, from_genes, sample
from nas.tuner import metrics_of

FM = ("data.name=fashion_mnist", "device=stm32f746", "search.min_coverage=0.7")
CIFAR = (
    "data.name=cifar10",
    "device=stm32l432",
    "cloud.width=32",
    "cloud.epochs=20",
    "train.crop_pixels=4",
    "train.edge_epochs=100",
    "train.rounds=0",
    'search.kinds=["ds"]',
    "search.max_macs=6250000",
    "search.max_flash_bytes=131000",
    "search.max_peak_sram_bytes=48000",
    "search.supernet_epochs=20",
    "search.probes=5",
    "search.finalists=3",
    "search.rows=4000",
    "search.min_coverage=1.0",
    "search.noise_tolerance=0.0",
)
"""Half of ResNet8's MACs, no more flash and SRAM than the hand-made DS-CNN has, on a board with 64 KiB of SRAM and
256 KiB of flash; the edge alone is what counts. Depthwise layers are the better ones at this size: the same search of
the quick preset's dense ones ended 0.1 points lower with 62 % more flash."""
SHORT_EPOCHS = 4
"""Of a candidate in random search."""
HYPERBAND_EPOCHS, HYPERBAND_FACTOR = 12, 3


def opened(work: Path, name: str, *assignments: str) -> Run:
    """A run of the quick preset in the work folder."""
    return Run(work / name, run_spec(assignments=assignments), SILENT)


def block(kind: Any, width: int, **more: int) -> BlockSpec:
    """One block."""
    return BlockSpec(kind=kind, width=width, **more)


BASELINES = {
    # MLPerf Tiny's image classification net: 12,501,632 MACs.
    "resnet8": (block("conv", 16), block("res", 16), block("res", 32, stride=2), block("res", 64, stride=2)),
    # After MLPerf Tiny's keyword net: a strided convolution and separable layers, here in two stages.
    "ds_cnn": (block("conv", 48, stride=2), block("ds", 64, depth=2), block("ds", 144, depth=4, stride=2)),
    # MobileNetV2's table of blocks at width 0.35 (Sandler et al. 2018), strides moved back for 32 pixels.
    "mobilenetv2_035": (
        block("conv", 16),
        block("ib", 8),
        block("ib", 8, expansion=6, depth=2, stride=2),
        block("ib", 12, expansion=6, depth=3),
        block("ib", 24, expansion=6, depth=4, stride=2),
        block("ib", 32, expansion=6, depth=3),
        block("ib", 56, expansion=6, depth=3, stride=2),
    ),
}


def baseline(name: str, run: Run) -> ArchSpec:
    """A hand-made net for the run's data."""
    return ArchSpec(
        name=name, input_shape=run.data.input_shape, num_classes=run.data.num_classes, blocks=BASELINES[name]
    )


def ceilings(run: Run, name: str) -> dict[str, int]:
    """MACs, flash and SRAM of a hand-made net."""
    costs = estimate(baseline(name, run))
    return {cost: getattr(costs, cost) for cost in ("macs", "flash_bytes", "peak_sram_bytes")}


def within(run: Run, name: str) -> tuple[str, ...]:
    """Ask for no more than a hand-made net takes."""
    return tuple(f"search.max_{cost}={most}" for cost, most in ceilings(run, name).items())


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` gave, the first time."""
    if not path.is_file():
        made = make()
        with whole(path) as work:
            work.write_text(json.dumps(made, indent=1), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True, kw_only=True)
class Alone:
    """A net trained alone; int8 accuracies, and logits ``(n, num_classes)`` on validation and test."""

    figures: dict[str, float]
    logits: dict[str, Floats]


def alone(run: Run, arch: ArchSpec, *, seed: int = 0) -> Alone:
    """Train, quantise and read a net; made once for each net, task and seed, and gone on with where it was stopped.

    What is kept does not know the recipe: after a change of that, take another work folder.
    """
    stem = run.folder.root / "alone" / f"{arch.name}-{seed}-{run.spec.train.edge_epochs}"
    if not stem.with_suffix(".npz").is_file():
        begun = stem.with_suffix(".begun")
        figures, logits = _trained(run, arch, seed, begun)
        stem.with_suffix(".json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
        with whole(stem.with_suffix(".npz")) as work:
            write_arrays(work, logits)
        shutil.rmtree(begun)
    with np.load(stem.with_suffix(".npz")) as stored:
        logits = {name: stored[name] for name in stored.files}
    return Alone(figures=json.loads(stem.with_suffix(".json").read_text(encoding="utf-8")), logits=logits)


def _trained(run: Run, arch: ArchSpec, seed: int, begun: Path) -> tuple[dict[str, float], dict[str, Floats]]:
    spec, data, soft = replace(run.spec, seed=seed), run.data, run.cloud(0)[1].probabilities["train"]
    trainer, started = Trainer(data=data, spec=spec, narrator=SILENT, checkpoints=begun), time.monotonic()
    net = trainer.new_edge(arch)
    trainer.fit_edge(net, data.train, soft)
    seconds = time.monotonic() - started
    edge, costs = quantize_edge(arch, net, data, soft, spec, narrator=SILENT), estimate(arch)
    logits = {
        name: runtimes.run(edge.flatbuffer, data.splits[name].x, engine="host", narrator=SILENT)[0].astype(np.float32)
        for name in ("validation", "calibration", "test")
    }
    accuracies = {f"{name}_accuracy": accuracy(said, data.splits[name].y) for name, said in logits.items()}
    sizes = {"macs": costs.macs, "flash_bytes": len(edge.flatbuffer), "peak_sram_bytes": costs.peak_sram_bytes}
    return {**accuracies, **sizes, "seconds": round(seconds, 1)}, logits


def random_search(run: Run, space: Space, *, seconds: float, seed: int) -> dict[str, Any]:
    """Random nets that fit, each trained for a few epochs until the time is up; the best on validation."""
    rng, price = np.random.default_rng([seed, 77]), searching.pricing_of(run).price
    short = replace(run.spec, train=replace(run.spec.train, edge_epochs=SHORT_EPOCHS))
    trainer, soft = Trainer(data=run.data, spec=short, narrator=SILENT), run.cloud(0)[1].probabilities["train"]
    started, best, tried = time.monotonic(), 0.0, 0
    best_arch = sample(space, rng)
    while time.monotonic() - started < seconds:
        arch = sample(space, rng)
        if price(arch).status != "fits":
            continue
        net = trainer.new_edge(arch)
        trainer.fit_edge(net, run.data.train, soft)
        reached = _float_accuracy(net, run)
        tried += 1
        if reached > best:
            best, best_arch = reached, arch
    return {"arch": best_arch, "tried": tried, "validation_accuracy": best}


def _float_accuracy(net: Any, run: Run) -> float:
    from hybrid.fitting import predict

    held_out = run.data.validation
    return accuracy(predict(net, held_out.x, label="", narrator=SILENT).logits, held_out.y)


def hyperband(run: Run, space: Space, folder: Path, *, seed: int) -> dict[str, Any]:
    """keras-tuner's Hyperband on the same space; what does not fit fails its trial, as its users have to write it."""
    import keras
    import keras_tuner

    from hybrid.nets import build_net, normalise
    from nas.oracle import hyperparameters

    price = searching.pricing_of(run).price

    def build(values: Any) -> Any:
        arch = from_genes(values.values, space)
        if price(arch).status != "fits":
            raise keras_tuner.errors.FailedTrialError("does not fit")
        net = build_net(arch)
        model = keras.Model(net.input, net.output[0])
        model.compile(
            keras.optimizers.SGD(run.spec.train.edge_learning_rate / 4, momentum=0.9, nesterov=True),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=False,
        )
        return model

    tuner = keras_tuner.Hyperband(
        build,
        objective="val_accuracy",
        max_epochs=HYPERBAND_EPOCHS,
        factor=HYPERBAND_FACTOR,
        hyperparameters=hyperparameters(space),
        seed=seed,
        directory=str(folder),
        project_name="hyperband",
        max_consecutive_failed_trials=10_000,
    )
    train, held_out = run.data.train, run.data.validation
    started = time.monotonic()
    tuner.search(
        normalise(train.x),
        train.y,
        batch_size=run.spec.train.batch_size,
        validation_data=(normalise(held_out.x), held_out.y),
        verbose=0,
    )
    best = tuner.oracle.get_best_trials(1)[0]
    return {
        "arch": from_genes(best.hyperparameters.values, space),
        "seconds": time.monotonic() - started,
        "validation_accuracy": float(best.score),
    }


def searched_figures(run: Run) -> dict[str, Any]:
    """What a search of the product took and found; each step is made before the next, so that its time is its own.

    Without times where the search was killed in between.
    """
    answers, space = [run.cloud(0)[1]], searching.space_of(run)
    asked = searching.question(run, answers)
    lessons = searching.lessons_of(run, space, answers, asked, searching.supernet(run, space, answers, asked.rows))
    found, seconds = run.searched, run.stage_seconds
    times: dict[str, float] = {}
    stages = ("supernet", *(("probes",) if run.spec.search.probes else ()), "search")
    if seconds.keys() >= {*stages}:
        times = {f"{stage}_seconds": seconds[stage] for stage in stages}
        times["minutes"] = sum(times.values()) / 60
        if not run.spec.search.finalists:
            times["candidates_per_minute"] = 60 * found.counts["scored"] / seconds["search"]
    counts = {"candidates": found.counts["scored"], "skipped": found.counts["skipped"]}
    finalists, growth = [asdict(candidate) for candidate in found.finalists], asdict(lessons.growth)
    return {**counts, **times, "growth": growth, "finalists": finalists, "chosen": metrics_of(found.chosen)}
