"""The search for the pair: the clouds to choose from, the supernet that scores edge nets, and what they chose."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Split
from firmware_export.payload import payload_sizes
from hybrid import cost, latency, profiles
from hybrid.artifacts import Floats
from hybrid.checkpoint import Checkpoint
from hybrid.clouds import CloudAnswers
from hybrid.cost import Estimate
from hybrid.errors import SpecError
from hybrid.look import exit_after, mean_latency_ms, staged
from hybrid.pipeline import probing
from hybrid.pipeline.folder import digest, file_digest
from hybrid.specs import ArchSpec, CloudSpec, SearchSpec
from hybrid.units import count, kib, percent, quantity
from nas import search as nas_search
from nas.candidate import Candidate
from nas.growth import Growth, Lessons
from nas.score import Judge, Offer, stratified_rows
from nas.search import Pricing, SearchResult
from nas.space import Space, edge_space, load_space
from nas.subspace import WIDTHS, fitted

if TYPE_CHECKING:
    from hybrid.pipeline import Run

SUPERNET_WEIGHTS, FINALS = "supernet.npz", "finals"
REFUSED_FIRST = ("table", "url", "application", "train")
"""Kinds of clouds: what may turn out to be unusable comes before what takes long."""
MAX_ROWS = 15
"""Of the Pareto set, as it is printed."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a search asks, beside its space: the rows and the clouds that pairs are scored with."""

    judge: Judge
    rows: Split


def search(run: "Run") -> SearchResult:
    """Find the edge net and the cloud that are best together, or price the edge net that is given."""
    pricing = pricing_of(run)
    if not run.folder.is_done("search", run.key("search")):
        check(run, pricing)
        run.keep_spec()

    def make(folder: Path) -> None:
        if run.space is None:
            run.narrator.say(f"Search: none; the edge net of {run.spec.search.arch}.")
            found = given(run, pricing)
        else:
            found = searched(run, run.space, pricing)
        nas_search.write(found, folder)

    done = run.folder.stage("search", run.key("search"), make, keep=journal_folder(run))
    return nas_search.read(done)


def check(run: "Run", pricing: Pricing[Estimate]) -> None:
    """Refuse what cannot be used before clouds are trained, which may take hours. Raises: HybridError."""
    if run.space is None:
        given(run, pricing)
        return
    from nas import distributed  # loads TensorFlow

    nas_search.check(run.space, run.data, pricing, seed=run.spec.seed)
    distributed.check()


def given(run: "Run", pricing: Pricing[Estimate]) -> SearchResult:
    """Price the user's own net. Raises: SpecError, BudgetError."""
    found = nas_search.given(Path(run.spec.search.arch), run.data, pricing, run.spec.cloud)
    if run.spec.look.kind == "exit":
        exit_after(found.edge, run.spec.look)
    return found


def journal_folder(run: "Run") -> Path:
    """Where the search remembers every net it met; it stays, so that a finished search can be prolonged."""
    return run.folder.scratch("search", run.key("question"))


def searched(run: "Run", space: Space, pricing: Pricing[Estimate]) -> SearchResult:
    """Train or ask every cloud, train the supernet, and search."""
    from nas.oracle import explore  # loads TensorFlow

    asked_first = sorted(range(len(run.clouds)), key=lambda place: REFUSED_FIRST.index(run.clouds[place].kind))
    by_place = {place: run.cloud(place)[1] for place in asked_first}
    answers = [by_place[place] for place in range(len(run.clouds))]
    asked = question(run, answers)
    outputs = supernet(run, space, answers, asked.rows)
    lessons = lessons_of(run, space, answers, asked, outputs)
    beside = "the cloud" if len(answers) == 1 else f"one of {len(answers)} clouds"
    run.narrator.say(f"Search: which edge net fits {run.device.title} and is best together with {beside}?")
    return nas_search.search(
        space,
        pricing=pricing,
        judge=asked.judge,
        outputs=outputs,
        lessons=lessons,
        alone=probing.finalist(run, journal_folder(run) / FINALS, rows=asked.rows, soft=taught(run, answers)),
        clouds=run.clouds,
        explore=explore,
        seed=run.spec.seed,
        folder=journal_folder(run),
        identity=identity(run, asked.judge, lessons.growth),
        narrator=run.narrator,
    )


def lessons_of(
    run: "Run", space: Space, answers: list[CloudAnswers], asked: Question, outputs: Callable[[ArchSpec], Floats]
) -> Lessons:
    """What is known of what training of its own does for a net that `outputs` knows with shared weights."""
    place = teacher(run.clouds)
    return probing.lessons(
        run,
        space,
        pricing_of(run),
        rows=asked.rows,
        cloud=asked.judge.offers[place or 0].probabilities,
        soft=taught(run, answers),
        outputs=outputs,
    )


def identity(run: "Run", judge: Judge, growth: Growth) -> str:
    """Of the question with what it is answered by: another machine's training gives other weights and other scores."""
    said = [(sha256(offer.probabilities.tobytes()).hexdigest(), offer.query_ms) for offer in judge.offers]
    return digest(run.key("question"), file_digest(str(run.folder.root / "supernet" / SUPERNET_WEIGHTS)), said, growth)


def space_of(run: "Run") -> Space:
    """The user's space, or the default one for the input, as wide as suits the device; no net too short for its exit.

    Raises: SpecError.
    """
    asked, data, look = run.spec.search, run.data, run.spec.look
    after = look.exit_after if look.kind == "exit" else 0
    if asked.space:
        return long_enough(load_space(Path(asked.space)), after)
    spaces = [edge_space(data.input_shape, data.num_classes, kinds=asked.kinds, width=width) for width in WIDTHS]
    return fitted([long_enough(space, after) for space in spaces], pricing_of(run).price, seed=run.spec.seed)


def long_enough(space: Space, after: int) -> Space:
    """The nets of a space with a block behind the exit. Raises: SpecError where there are none."""
    kept = tuple(stages for stages in space.num_stages if stages >= after)
    if not kept:
        most = max(space.num_stages)
        raise SpecError(
            f"look.exit_after: got {after}, the search space has nets of at most {most + 1} blocks; allowed 0 "
            f"(before the last) to {most}"
        )
    return replace(space, num_stages=kept)


def pricing_of(run: "Run") -> Pricing[Estimate]:
    """What a net costs on the run's device, all of its looks together.

    Its latency is the mean over inputs, of which each further look sees a share; its MACs are the edge net's alone.
    The device must hold the arena with `export.arena_margin`; the user's own ceilings are on the costs as they are.
    """
    margin = run.spec.export.arena_margin
    return Pricing(
        estimate=lambda arch: staged(arch, run.spec.look),
        fits=lambda estimate: cost.check_fits(estimate, run.device, arena_margin=margin),
        latency_ms=lambda estimate: mean_latency_ms(estimate, run.device, run.spec.look.share),
        spec=run.spec.search,
        device=run.device,
    )


def question(run: "Run", answers: list[CloudAnswers]) -> Question:
    """Validation examples, which neither clouds nor supernet have learned, and what each cloud says of them."""
    spec, held_out = run.spec.search, run.data.validation
    rows = stratified_rows(held_out.y, spec.rows, run.spec.seed)
    payload = float(payload_sizes(held_out.x[rows], run.spec.sweep.payload).mean())
    offers = tuple(
        Offer(
            probabilities=one.probabilities["validation"][rows],
            query_ms=query_ms(run, cloud, one.measured_ms, payload),
        )
        for cloud, one in zip(run.clouds, answers, strict=True)
    )
    labels = held_out.y[rows]
    judge = Judge(
        labels=labels,
        offers=offers,
        max_latency_ms=spec.max_latency_ms,
        min_coverage=spec.min_coverage,
        seed=run.spec.seed,
    )
    return Question(judge=judge, rows=Split(x=held_out.x[rows], y=labels))


def query_ms(run: "Run", cloud: CloudSpec, measured_ms: float | None, payload_bytes: float) -> float:
    """Mean time of a query over the run's link to this cloud and back."""
    return packing_ms(run) + latency.mean_query_ms(payload_bytes, run.link, server_of(cloud, measured_ms)[1])


def packing_ms(run: "Run") -> float:
    """Time of the device to pack a query's pixels; none where they are sent as they are."""
    return latency.packing_ms(prod(run.data.input_shape), run.device) if run.spec.sweep.payload == "packed" else 0.0


def server_of(cloud: CloudSpec, measured_ms: float | None) -> tuple[str, float]:
    """Name of what answers for this cloud, and its time in ms: the spec's own figure, as measured, or the profile's."""
    if cloud.latency_ms:
        return "own", cloud.latency_ms
    if measured_ms is not None:
        return "url", measured_ms
    server = profiles.cloud(cloud.server)
    return server.name, server.latency_ms


def teacher(clouds: tuple[CloudSpec, ...]) -> int | None:
    """Place of the first cloud that answers about training examples, which the supernet learns from; None: none does.

    >>> teacher((CloudSpec(kind="url"), CloudSpec(kind="train"))), teacher((CloudSpec(kind="table"),))
    (1, None)
    """
    return next((place for place, cloud in enumerate(clouds) if cloud.kind in ("train", "application")), None)


def taught(run: "Run", answers: list[CloudAnswers]) -> Floats | None:
    """What nets learn from beside the labels: the teacher's probabilities on the training split, if there are any."""
    place = teacher(run.clouds)
    return None if place is None else answers[place].probabilities["train"]


def supernet(run: "Run", space: Space, answers: list[CloudAnswers], rows: Split) -> Callable[[ArchSpec], Floats]:
    """The net that all candidates share their weights with, trained once; gives a candidate's logits on `rows`."""
    from nas.supernet import Supernet  # loads TensorFlow

    net = Supernet(space, seed=run.spec.seed)

    def make(folder: Path) -> None:
        run.narrator.say("Supernet: one net that holds all of the space, trained once; candidates inherit from it.")
        soft = taught(run, answers)
        asked, train, pricing = run.spec.search, run.data.train, pricing_of(run)
        kept = stratified_rows(train.y, asked.supernet_rows, run.spec.seed)
        net.fit(
            Split(x=train.x[kept], y=train.y[kept]),
            None if soft is None else soft[kept],
            allowed=pricing.allows,
            epochs=asked.supernet_epochs,
            train=run.spec.train,
            mirror=run.data.mirror,
            narrator=run.narrator,
            checkpoint=Checkpoint(path=run.folder.scratch("supernet", run.key("supernet")) / SUPERNET_WEIGHTS),
        )
        net.write(folder / SUPERNET_WEIGHTS)

    net.read(run.folder.stage("supernet", run.key("supernet"), make) / SUPERNET_WEIGHTS)
    return lambda arch: net.outputs(arch, rows.x).logits


def chosen_rows(run: "Run") -> list[tuple[str, str]]:
    """The chosen pair: what it costs, against what there is, and how good it is."""
    found, device, spec = run.searched, run.device, run.spec.search
    chosen, score, alone = found.chosen, found.chosen.score, found.chosen.alone
    flash = min(device.flash_bytes - device.reserved_flash_bytes, spec.max_flash_bytes or device.flash_bytes)
    sram = min(device.sram_bytes - device.reserved_sram_bytes, spec.max_peak_sram_bytes or device.sram_bytes)
    rows = [
        ("edge net", chosen.arch.name),
        ("cloud", cloud_title(found.cloud)),
        ("MACs", count(chosen.macs) + (f" of {count(spec.max_macs)}" if spec.max_macs else "")),
        ("flash, estimated", f"{kib(chosen.flash_bytes)} of {kib(flash)}"),
        ("peak SRAM, estimated", f"{kib(chosen.peak_sram_bytes)} of {kib(sram)}"),
        ("edge latency, estimated", quantity(chosen.latency_ms, "ms")),
    ]
    if score is None:
        return rows
    budget = f" of {quantity(spec.max_latency_ms, 'ms')}" if spec.max_latency_ms else ""
    trained = f"hybrid accuracy, trained on its own for {spec.probe_epochs} epochs"
    return [
        *rows,
        *([(trained, percent(alone.hybrid_accuracy))] if alone else []),
        ("hybrid accuracy, expected of training on its own", percent(score.expected_accuracy)),
        ("with shared weights", percent(score.hybrid_accuracy)),
        ("with shared weights and the best router", percent(score.bound)),
        ("with shared weights, edge alone", percent(score.edge_accuracy)),
        ("coverage (answered on the edge)", percent((alone or score).coverage)),
        ("mean latency, queries included", quantity((alone or score).mean_latency_ms, "ms") + budget),
    ]


FRONT_HEADINGS = (
    "edge net",
    "cloud",
    "expected",
    "hybrid",
    "at most",
    "edge",
    "mean latency",
    "edge latency",
    "MACs",
    "flash",
    "SRAM",
)


def front_rows(found: SearchResult) -> list[tuple[str, ...]]:
    """A table of the Pareto set, most accurate first: at most `MAX_ROWS`, the chosen pair among them.

    A cloud is told by its place, from 1, in what `cloud_places` says.
    """
    return [
        (
            c.arch.name + (" *" if c.arch == found.edge else ""),
            str(c.score.cloud + 1),
            percent(c.score.expected_accuracy),
            percent(c.score.hybrid_accuracy),
            percent(c.score.bound),
            percent(c.score.edge_accuracy),
            quantity(c.score.mean_latency_ms, "ms"),
            quantity(c.latency_ms, "ms"),
            count(c.macs),
            kib(c.flash_bytes),
            kib(c.peak_sram_bytes),
        )
        for c in shown(found, MAX_ROWS)
        if c.score is not None
    ]


def cloud_places(clouds: Sequence[CloudSpec]) -> str:
    """The clouds to choose from.

    >>> cloud_places([CloudSpec(width=24), CloudSpec(kind="table", table="a.npz")])
    '1 trained here, width 24, depth 1; 2 table a.npz'
    """
    return "; ".join(f"{place} {cloud_title(cloud)}" for place, cloud in enumerate(clouds, 1))


def shown(found: SearchResult, most: int) -> list[Candidate]:
    """At most so many of the Pareto set, evenly spread from the most accurate to the least, and the chosen pair."""
    ordered = sorted(found.front, key=lambda c: -c.score.expected_accuracy if c.score else 0.0)
    step = max(1.0, (len(ordered) - 1) / max(1, most - 1))
    places = {round(index * step) for index in range(min(most, len(ordered)))}
    picked = [c for place, c in enumerate(ordered) if place in places]
    if found.edge not in [c.arch for c in picked]:
        picked = [*picked[: most - 1], found.chosen]
    return sorted(picked, key=lambda c: -c.score.expected_accuracy if c.score else 0.0)


def budget_words(spec: SearchSpec) -> str:
    """What pairs are scored at.

    >>> budget_words(SearchSpec(min_coverage=0.7)).replace("\u00a0", " ")
    'at a coverage of 70.0 % or more'
    """
    if spec.max_latency_ms:
        return f"at a mean latency of {quantity(spec.max_latency_ms, 'ms')} or less"
    return f"at a coverage of {percent(spec.min_coverage)} or more"


def cloud_title(cloud: CloudSpec) -> str:
    """A cloud in a few words.

    >>> cloud_title(CloudSpec(width=24)), cloud_title(CloudSpec(kind="url", url="http://a/v2/models/b"))
    ('trained here, width 24, depth 1', 'url http://a/v2/models/b')
    """
    return {
        "train": f"trained here, width {cloud.width}, depth {cloud.depth}",
        "application": f"{cloud.application} at {cloud.application_pixels} pixels",
        "table": f"table {cloud.table}",
        "url": f"url {cloud.url}",
    }[cloud.kind]
