"""The steps of a run: each makes its artifact in a stage of the run folder, or reads it from there."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firmware_export import bundle as bundles
from firmware_export.payload import payload_bytes
from hybrid import clouds, cost, latency, sweep
from hybrid.arena import footprint
from hybrid.artifacts import Predictions
from hybrid.clouds import CloudAnswers
from hybrid.pipeline import storage
from hybrid.pipeline.content import report_content
from hybrid.pipeline.export import bundle_of
from hybrid.pipeline.results import CHOSEN, Quantized, Swept, Trained, scenarios
from hybrid.predict import predictions
from hybrid.quantize import Int8Edge, quantize_edge
from hybrid.report import render
from hybrid.router import router_macs
from hybrid.routing import choose_router
from hybrid.runtimes import ENGINE_TITLES, STAND_IN, device_engine
from hybrid.train import CHOOSING_SPLITS, Trainer
from nas import search as nas_search
from nas.space import space_for

if TYPE_CHECKING:
    from hybrid.pipeline import Run

EDGE_WEIGHTS, CLOUD_WEIGHTS = "edge_weights.npz", "cloud_weights.npz"


def search(run: "Run") -> nas_search.SearchResult:
    """Find the edge architecture."""
    spec, data = run.spec, run.data

    def make(folder: Path) -> None:
        run.narrator.say(f"Search: which edge net fits {run.device.title} and learns best?")
        result = nas_search.search(
            space_for(spec.search, data.input_shape, data.num_classes),
            data=data,
            device=run.device,
            spec=spec.search,
            seed=spec.seed,
            estimate=lambda arch: cost.estimate(arch, head_macs=router_macs(arch, spec.router)),
            fits=lambda estimate: cost.check_fits(estimate, run.device),
            latency_ms=lambda estimate: latency.edge_latency_ms(estimate.macs_by_kind, run.device),
            folder=run.folder.scratch("search", run.keys["search"]),
            narrator=run.narrator,
        )
        nas_search.write(result, folder)

    return nas_search.read(run.folder.stage("search", run.keys["search"], make))


def cloud(run: "Run") -> tuple[Any, CloudAnswers]:
    """Train the cloud net, or ask the black box."""
    spec, data = run.spec.cloud, run.data
    net = trainer(run).new_cloud()

    def make(folder: Path) -> None:
        if net is None:
            run.narrator.say(f"Cloud: asking the black box ({spec.kind}) about the held-out examples.")
            answers = clouds.black_box_answers(data, spec, narrator=run.narrator)
        else:
            run.narrator.say(f"Cloud: training a net of {net.count_params():,} parameters.")
            trainer(run).fit_cloud(net, data.train)
            storage.write_weights(folder / CLOUD_WEIGHTS, net)
            splits = ("train", *CHOOSING_SPLITS)
            answers = clouds.net_answers(net, data, splits=splits, narrator=run.narrator)
        storage.write_answers(folder, answers)

    folder = run.folder.stage("cloud", run.keys["cloud"], make)
    _load(net, folder / CLOUD_WEIGHTS)
    return net, storage.read_answers(folder)


def edge(run: "Run", answers: CloudAnswers) -> Any:
    """Train the edge net with the cloud as its teacher."""
    net = trainer(run).new_edge(run.searched.winner)

    def make(folder: Path) -> None:
        run.narrator.say(f"Edge: training a net of {net.count_params():,} parameters, the cloud as its teacher.")
        trainer(run).fit_edge(net, run.data.train, answers.probabilities.get("train"))
        storage.write_weights(folder / EDGE_WEIGHTS, net)

    _load(net, run.folder.stage("edge", run.keys["edge"], make) / EDGE_WEIGHTS)
    return net


def alternate(run: "Run", edge_net: Any, cloud_net: Any, answers: CloudAnswers) -> Trained:
    """Alternate router, edge and cloud."""

    def make(folder: Path) -> None:
        run.narrator.say("Alternation: the router flags what to ask; edge and cloud each turn to their share.")
        new_answers, rounds = trainer(run).alternate(edge_net, cloud_net, answers)
        storage.write_weights(folder / EDGE_WEIGHTS, edge_net)
        if cloud_net is not None:
            storage.write_weights(folder / CLOUD_WEIGHTS, cloud_net)
        storage.write_answers(folder, new_answers)
        storage.write_rounds(folder / "rounds.json", rounds)

    folder = run.folder.stage("alternate", run.keys["alternate"], make)
    _load(edge_net, folder / EDGE_WEIGHTS)
    _load(cloud_net, folder / CLOUD_WEIGHTS)
    return Trained(
        arch=run.searched.winner,
        edge_net=edge_net,
        cloud_net=cloud_net,
        answers=storage.read_answers(folder),
        rounds=storage.read_rounds(folder / "rounds.json"),
    )


def quantize(run: "Run") -> Int8Edge:
    """Quantise the edge net."""
    trained = run.trained

    def make(folder: Path) -> None:
        run.narrator.say(f"Quantisation: full int8 by {' and by '.join(run.spec.quantize.methods)}.")
        soft = trained.answers.probabilities.get("train")
        made = quantize_edge(trained.arch, trained.edge_net, run.data, soft, run.spec, narrator=run.narrator)
        storage.write_edge(folder, made)

    return storage.read_edge(run.folder.stage("quantize", run.keys["quantize"], make))


def router(run: "Run", int8: Int8Edge) -> Quantized:
    """Fit, graft and choose the router on the int8 edge's outputs."""
    trained, narrator = run.trained, run.narrator

    def make(folder: Path) -> None:
        narrator.say("Router: fitted on what the int8 edge says of held-out examples, compared with the free rules.")
        outputs = int8.outputs(run.data.calibration.x, label="int8 edge on calibration", narrator=narrator)
        held_out = trainer(run).held_out_rows(outputs, trained.answers)
        routed = choose_router(
            int8, outputs, held_out, cross_fitted(run), trained.answers, run.data, run.spec, narrator=narrator
        )
        estimate = cost.estimate(trained.arch, head_macs=router_macs(trained.arch, run.spec.router))
        takes = footprint(
            routed.flatbuffer, router_macs=routed.router.macs, estimated_arena_bytes=estimate.peak_sram_bytes
        )
        storage.write_routed(folder, routed, takes)

    if device_engine() != "tflite-micro":
        narrator.say(STAND_IN)
    routed, taken = storage.read_routed(run.folder.stage("router", run.keys["router"], make))
    return Quantized(edge=int8, routed=routed, footprint=taken)


def cross_fitted(run: "Run") -> Any:
    """Router labels for the training split by nets of other folds; None unless the spec asks and the cloud is ours."""
    if run.spec.router.supervision != "cross_fit" or run.trained.cloud_net is None:
        return None

    def make(folder: Path) -> None:
        run.narrator.say(f"Cross-fitting: {run.spec.router.folds} pairs of nets label what they were not trained on.")
        storage.write_rows(folder / "rows.npz", trainer(run).cross_fitted_rows(run.trained.arch))

    return storage.read_rows(run.folder.stage("folds", run.keys["folds"], make) / "rows.npz", run.data.train.x)


def predict(run: "Run") -> tuple[Predictions, Predictions]:
    """What the device computes on validation and test, beside the cloud's answers."""
    trained, flatbuffer = run.trained, run.quantized.routed.flatbuffer

    def make(folder: Path) -> None:
        run.narrator.say(
            f"Predictions: validation and test, as the device answers, by {ENGINE_TITLES[device_engine()]}."
        )
        probabilities = dict(trained.answers.probabilities)
        if trained.cloud_net is not None:
            tested = clouds.net_answers(trained.cloud_net, run.data, splits=("test",), narrator=run.narrator)
            probabilities |= tested.probabilities
        for name in ("validation", "test"):
            label, split = f"int8 edge on {name}", run.data.splits[name]
            made = predictions(flatbuffer, split, probabilities[name], label=label, narrator=run.narrator)
            storage.write_predictions(folder / f"{name}.npz", made)

    folder = run.folder.stage("predict", run.keys["predict"], make)
    return storage.read_predictions(folder / "validation.npz"), storage.read_predictions(folder / "test.npz")


def sweep_thresholds(run: "Run", validation: Predictions, test: Predictions) -> Swept:
    """Every threshold on validation, behind every link and cloud; the chosen one, confirmed on test."""
    everywhere, seed = scenarios(run), run.spec.seed
    here = everywhere[0]
    payload = payload_bytes(run.data.input_shape, run.spec.sweep.payload)

    def make(folder: Path) -> None:
        points = [sweep.operating_points(validation, s, payload_bytes=payload, seed=seed) for s in everywhere]
        cloud_accuracy = float(validation.cloud_right.mean())
        chosen = sweep.choose(points[0], cloud_accuracy, run.spec.sweep)
        storage.write_points(folder / "points.json", tuple(itertools.chain(*points)))
        storage.write_points(folder / "named.json", sweep.named_points(points[0], chosen, cloud_accuracy))
        confirmed = sweep.confirm(replace(chosen, name=CHOSEN), test, here, payload_bytes=payload, seed=seed)
        storage.write_points(folder / "confirmed.json", (confirmed,))

    folder = run.folder.stage("sweep", run.keys["sweep"], make)
    return Swept(
        validation=validation,
        test=test,
        points=storage.read_points(folder / "points.json"),
        named=storage.read_points(folder / "named.json"),
        confirmed=storage.read_points(folder / "confirmed.json")[0],
    )


def export(run: "Run") -> Path:
    """The folder for firmware and cloud; an older one stays until the new one is whole."""
    folder = run.folder.root / "bundle"
    stamp = run.folder.root / ".bundle.key"
    if not (folder.is_dir() and stamp.is_file() and stamp.read_text(encoding="utf-8") == run.keys["bundle"]):
        swept = run.swept
        run.narrator.say("Export: model, firmware sources, golden vectors, cloud endpoint.")
        bundles.write(bundle_of(run, swept), folder)
        run.folder.write_text(stamp.name, run.keys["bundle"])
    return folder


def report(run: "Run") -> Path:
    """The page a person looks at."""
    bundle = run.bundle
    run.narrator.say("Report: one page with the curves, the costs and what gets queried.")
    return run.folder.write_text("report.html", render(report_content(run, bundle)))


def trainer(run: "Run") -> Trainer:
    """The trainer of this run."""
    return Trainer(data=run.data, spec=run.spec, narrator=run.narrator)


def _load(net: Any, weights: Path) -> None:
    if net is not None:
        storage.read_weights(weights, net)
