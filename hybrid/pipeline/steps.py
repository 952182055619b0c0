"""The steps of a run: each makes its artifact in a stage of the run folder, or reads it from there."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firmware_export import bundle as bundles
from hybrid import clouds, guarantee, sweep
from hybrid.arena import footprint
from hybrid.arrays import write_arrays
from hybrid.artifacts import Floats, Predictions
from hybrid.cascade import stage_names
from hybrid.clouds import CloudAnswers
from hybrid.guarantee import Certificate
from hybrid.look import build_stages, staged
from hybrid.pipeline import storage
from hybrid.pipeline.content import report_content
from hybrid.pipeline.export import bundle_of, engines_told
from hybrid.pipeline.results import CHOSEN, Quantized, Swept, Trained, payloads, scenarios
from hybrid.predict import predictions
from hybrid.quantize import Int8Edge, quantize_stages
from hybrid.report import render
from hybrid.routing import Rows, route
from hybrid.runtimes import ENGINE_TITLES, STAND_IN, device_engine
from hybrid.specs import RunSpec, SweepSpec
from hybrid.train import HELD_OUT_SPLITS, Trainer

if TYPE_CHECKING:
    from hybrid.pipeline import Run

EDGE_WEIGHTS, CLOUD_WEIGHTS = "edge_weights.npz", "cloud_weights.npz"
LOOKS = {
    "net": "further nets, trained like the edge.",
    "exit": "a head on the near part of the edge net, for what is easy.",
}


def cloud_stage(place: int) -> str:
    """The stage of one of the clouds to choose from.

    >>> cloud_stage(0), cloud_stage(1)
    ('cloud', 'cloud_1')
    """
    return f"cloud_{place}" if place else "cloud"


def cloud(run: "Run", place: int) -> tuple[Any, CloudAnswers]:
    """Train one of the clouds to choose from, or ask the black box."""
    spec, data, stage = run.clouds[place], run.data, cloud_stage(place)
    maker = _maker(run, stage, replace(run.spec, cloud=spec))
    net = maker.new_cloud()

    def make(folder: Path) -> None:
        if net is None:
            run.narrator.say(f"Cloud: asking the black box ({spec.kind}) about the held-out examples.")
            answers = clouds.black_box_answers(data, spec, narrator=run.narrator)
        else:
            run.narrator.say(f"Cloud: training a net of {net.count_params():,} parameters.")
            maker.fit_cloud(net, data.train)
            storage.write_weights(folder / CLOUD_WEIGHTS, net)
            splits = ("train", *HELD_OUT_SPLITS)
            answers = clouds.net_answers(net, data, splits=splits, narrator=run.narrator)
        storage.write_answers(folder, answers)

    folder = run.folder.stage(stage, run.key(stage), make)
    _load(net, folder / CLOUD_WEIGHTS)
    return net, storage.read_answers(folder)


def edge(run: "Run", answers: CloudAnswers) -> Any:
    """Train the edge net with the cloud as its teacher."""
    maker = trainer(run, "edge")
    net = maker.new_edge(run.searched.edge)

    def make(folder: Path) -> None:
        run.narrator.say(f"Edge: training a net of {net.count_params():,} parameters, the cloud as its teacher.")
        maker.fit_edge(net, run.data.train, answers.probabilities.get("train"))
        storage.write_weights(folder / EDGE_WEIGHTS, net)

    _load(net, run.folder.stage("edge", run.key("edge"), make) / EDGE_WEIGHTS)
    return net


def alternate(run: "Run", edge_net: Any, cloud_net: Any, answers: CloudAnswers) -> Trained:
    """Alternate router, edge and cloud; then train what looks again."""

    def make(folder: Path) -> None:
        run.narrator.say("Alternation: the router flags what to ask; edge and cloud each turn to their share.")
        new_answers, rounds = trainer(run, "alternate").alternate(edge_net, cloud_net, answers)
        storage.write_weights(folder / EDGE_WEIGHTS, edge_net)
        if cloud_net is not None:
            storage.write_weights(folder / CLOUD_WEIGHTS, cloud_net)
        storage.write_answers(folder, new_answers)
        storage.write_rounds(folder / "rounds.json", rounds)

    folder = run.folder.stage("alternate", run.key("alternate"), make)
    _load(edge_net, folder / EDGE_WEIGHTS)
    _load(cloud_net, folder / CLOUD_WEIGHTS)
    alternated = storage.read_answers(folder)
    return Trained(
        arch=run.searched.edge,
        edge_net=edge_net,
        stage_nets=looks(run, edge_net, alternated),
        cloud_net=cloud_net,
        answers=alternated,
        rounds=storage.read_rounds(folder / "rounds.json"),
    )


def looks(run: "Run", edge_net: Any, answers: CloudAnswers) -> tuple[Any, ...]:
    """The nets of all stages of the device: the edge net, and what looks again where the spec asks for it."""
    kind, arch = run.spec.look.kind, run.searched.edge
    if kind == "none":
        return (edge_net,)

    def make(folder: Path) -> None:
        run.narrator.say(f"Second look: {LOOKS[kind]}")
        made = trainer(run, "look").fit_looks(edge_net, arch, answers.probabilities.get("train"))
        for name, net in zip(stage_names(len(made)), made, strict=True):
            storage.write_weights(folder / f"{name}.npz", net)

    folder = run.folder.stage("look", run.key("look"), make)
    nets = build_stages(arch, run.spec.look)
    for name, net in zip(stage_names(len(nets)), nets, strict=True):
        _load(net, folder / f"{name}.npz")
    return nets


def quantize(run: "Run") -> tuple[Int8Edge, ...]:
    """Quantise the nets of all stages."""
    trained = run.trained

    def make(folder: Path) -> None:
        run.narrator.say(f"Quantisation: full int8 by {' and by '.join(run.spec.quantize.methods)}.")
        soft = trained.answers.probabilities.get("train")
        made = quantize_stages(trained.arch, trained.stage_nets, run.data, soft, run.spec, narrator=run.narrator)
        storage.write_edges(folder, made)

    return storage.read_edges(run.folder.stage("quantize", run.key("quantize"), make))


def router(run: "Run", edges: tuple[Int8Edge, ...]) -> Quantized:
    """Fit and choose the routers on the outputs of the int8 nets; put the device program together."""
    trained, narrator, spec = run.trained, run.narrator, run.spec

    def make(folder: Path) -> None:
        narrator.say("Router: fitted on what the int8 nets say, compared with the free rules by cross-validation.")
        held_out = trainer(run, "router").held_out_rows(trained.answers)
        routed = route(edges, held_out, seen_rows(run), spec, narrator=narrator)
        takes = footprint(routed.program, estimated_arena_bytes=staged(trained.arch, spec.look).peak_sram_bytes)
        storage.write_routed(folder, routed, takes)

    if device_engine() != "tflite-micro":
        narrator.say(STAND_IN)
    routed, taken = storage.read_routed(run.folder.stage("router", run.key("router"), make))
    return Quantized(edges=edges, routed=routed, footprint=taken)


def seen_rows(run: "Run") -> Rows | None:
    """The training examples that the router learns from as well; None where the spec or a black box has none."""
    known = run.trained.answers.probabilities.get("train")
    if run.spec.router.supervision == "held_out" or known is None:
        return None
    crossed = run.spec.router.supervision == "cross_fit" and run.trained.cloud_net is not None
    return trainer(run, "router").seen_rows(cross_fitted(run) if crossed else known)


def cross_fitted(run: "Run") -> Floats:
    """What clouds of other folds say of the training split."""

    def make(folder: Path) -> None:
        run.narrator.say(f"Cross-fitting: {run.spec.router.folds} clouds label what they were not trained on.")
        write_arrays(folder / "rows.npz", {"cloud_probabilities": trainer(run, "folds").cross_fitted()})

    folder = run.folder.stage("folds", run.key("folds"), make)
    probabilities: Floats = storage.read_arrays(folder / "rows.npz")["cloud_probabilities"]
    return probabilities


def predict(run: "Run") -> tuple[Predictions, Predictions]:
    """What the device computes on calibration and test, beside the cloud's answers."""
    trained, program = run.trained, run.quantized.routed.program

    def make(folder: Path) -> None:
        run.narrator.say(
            f"Predictions: calibration and test, as the device answers, by {ENGINE_TITLES[device_engine()]}."
        )
        probabilities = dict(trained.answers.probabilities)
        if trained.cloud_net is not None:
            tested = clouds.net_answers(trained.cloud_net, run.data, splits=("test",), narrator=run.narrator)
            probabilities |= tested.probabilities
        for name in ("calibration", "test"):
            label, split = f"device on {name}", run.data.splits[name]
            made = predictions(program, split, probabilities[name], label=label, narrator=run.narrator)
            storage.write_predictions(folder / f"{name}.npz", made)

    folder = run.folder.stage("predict", run.key("predict"), make)
    return storage.read_predictions(folder / "calibration.npz"), storage.read_predictions(folder / "test.npz")


def sweep_thresholds(run: "Run", calibration: Predictions, test: Predictions) -> Swept:
    """Every threshold on calibration, behind every link and cloud; the chosen one, confirmed on test."""
    everywhere, seed, asked = scenarios(run), run.spec.seed, run.spec.sweep
    here = everywhere[0]

    def make(folder: Path) -> None:
        sizes = payloads(run, "calibration")
        points = [sweep.operating_points(calibration, s, payload_bytes=sizes, seed=seed) for s in everywhere]
        cloud_accuracy = float(calibration.cloud_right.mean())
        certificate = certified(calibration, asked)
        chosen = sweep.choose(points[0], cloud_accuracy, asked, certificate)
        storage.write_points(folder / "points.json", tuple(itertools.chain(*points)))
        storage.write_points(folder / "named.json", sweep.named_points(points[0], chosen, cloud_accuracy))
        storage.write_certificate(folder / "certificate.json", certificate)
        sizes = payloads(run, "test")
        confirmed = sweep.confirm(replace(chosen, name=CHOSEN), test, here, payload_bytes=sizes, seed=seed)
        storage.write_points(folder / "confirmed.json", (confirmed,))
        storage.write_json(folder / "payload.json", {"mean_bytes": float(sizes.mean())})

    folder = run.folder.stage("sweep", run.key("sweep"), make)
    return Swept(
        calibration=calibration,
        test=test,
        points=storage.read_points(folder / "points.json"),
        named=storage.read_points(folder / "named.json"),
        certificate=storage.read_certificate(folder / "certificate.json"),
        confirmed=storage.read_points(folder / "confirmed.json")[0],
        payload_bytes=storage.read_json(folder / "payload.json")["mean_bytes"],
    )


def certified(calibration: Predictions, asked: SweepSpec) -> Certificate | None:
    """What can be guaranteed of what is asked; None where nothing is to be."""
    wanted = guarantee.targets(asked)
    if not wanted:
        return None
    right = (calibration.edge_right, calibration.cloud_right)
    return guarantee.certify(calibration.router_score, *right, wanted, asked.confidence)


def export(run: "Run") -> Path:
    """The folder for firmware and cloud; an older one stays until the new one is whole."""
    folder = run.folder.root / "bundle"
    stamp = run.folder.root / ".bundle.key"
    if not (folder.is_dir() and stamp.is_file() and stamp.read_text(encoding="utf-8") == run.key("bundle")):
        swept = run.swept
        run.narrator.say("Export: model, firmware sources, golden vectors, cloud endpoint.")
        made = bundle_of(run, swept)
        run.narrator.say(engines_told(run, made))
        bundles.write(made, folder)
        run.folder.write_text(stamp.name, run.key("bundle"))
        run.keep_spec()
    return folder


def report(run: "Run") -> Path:
    """The page a person looks at."""
    bundle = run.bundle
    run.narrator.say("Report: one page with the curves, the costs and what gets queried.")
    return run.folder.write_text("report.html", render(report_content(run, bundle)))


def trainer(run: "Run", stage: str) -> Trainer:
    """The trainer of this run's pair, which goes on with what was begun of a stage."""
    return _maker(run, stage, run.pair)


def _maker(run: "Run", stage: str, spec: RunSpec) -> Trainer:
    checkpoints = run.folder.scratch(stage, run.key(stage))
    return Trainer(data=run.data, spec=spec, narrator=run.narrator, checkpoints=checkpoints)


def _load(net: Any, weights: Path) -> None:
    if net is not None:
        storage.read_weights(weights, net)
