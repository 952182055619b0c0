"""The whole story on one screen: data, clouds, search, training, quantisation and router, sweep, bundle, report.

Each step of a `Run` keeps its result in the run folder (see `steps`) and is made again only when something that
it depends on changed, so that a killed run goes on where it was. A notebook can ask for the steps one by one.
"""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from datasets import Dataset
from hybrid import profiles
from hybrid.artifacts import Device, Link
from hybrid.clouds import CloudAnswers
from hybrid.configure import to_toml
from hybrid.pipeline import probing, searching, steps
from hybrid.pipeline.content import drift
from hybrid.pipeline.data import load_data
from hybrid.pipeline.folder import RunFolder, digest, file_digest
from hybrid.pipeline.results import Quantized, Swept, Trained
from hybrid.progress import SILENT, Narrator
from hybrid.report import Drift
from hybrid.runtimes import device_engine
from hybrid.specs import CloudSpec, RunSpec
from hybrid.version import project_version
from nas.search import SearchResult
from nas.space import Space

SPEC_FILE = "spec.toml"
AFTER_SEARCH = ("edge", "alternate", "look", "quantize", "folds", "router", "predict", "sweep", "bundle")


class Run:
    """One run: what was asked, where it is kept, and its steps in order."""

    def __init__(self, folder: Path, spec: RunSpec, narrator: Narrator = SILENT) -> None:
        """Raises: SpecError for an unknown device, link or cloud server, before any work."""
        self.spec, self.narrator, self.folder = spec, narrator, RunFolder(folder, self.keep_spec)
        self.device: Device = profiles.device(spec.device)
        self.link: Link = profiles.link(spec.link)
        links = [profiles.link(name, key="sweep.links") for name in spec.sweep.links]
        own = {self.link.name: self.link}
        self.links = own | profiles.by_name(links, key="sweep.links") | own  # comes first, and wins
        self.clouds: tuple[CloudSpec, ...] = (spec.cloud, *spec.clouds)
        keys = ["cloud.server", *(f"clouds[{place}].server" for place in range(len(spec.clouds)))]
        self.servers = [profiles.cloud(cloud.server, key=key) for cloud, key in zip(self.clouds, keys, strict=True)]
        servers = [profiles.cloud(name, key="sweep.clouds") for name in spec.sweep.clouds]
        self.compared = profiles.by_name(servers, key="sweep.clouds")

    @property
    def stage_seconds(self) -> dict[str, float]:
        """How long each stage took, in their order; without those that were killed in between."""
        return self.folder.stage_seconds({step: self.key(step) for step in self.keys})

    @cached_property
    def data(self) -> Dataset:
        """Four disjoint splits: train fits, validation chooses, calibration sets the threshold, test confirms."""
        data = load_data(self.spec)
        counts = ", ".join(f"{name} {len(split):,}" for name, split in data.splits.items())
        self.narrator.say(f"Data: {data.name}, {data.num_classes} classes; {counts}.")
        self.folder.check()
        return data

    def keep_spec(self) -> None:
        """Write the spec down in the run folder, where later commands find it.

        That is done when the search begins, and with every step that is made by it; not where a step is refused.
        """
        self.folder.write_text(SPEC_FILE, to_toml(self.spec))

    def key(self, step: str) -> str:
        """What a step in the run folder must have been made from: its `keys` and, after the search, the pair found.

        The pair does not follow from the spec alone: a search that was longer before answers with all that it scored.
        """
        key = self.keys[step]
        return digest(key, self.searched.edge, self.searched.place) if step in AFTER_SEARCH else key

    @cached_property
    def keys(self) -> dict[str, str]:
        """What each step depends on of the spec, as a digest; a step's key holds those of the steps before it."""
        spec, base = self.spec, digest(project_version(), self.data.digest, self.spec.seed)
        clouds = {steps.cloud_stage(place): self._cloud_key(base, cloud) for place, cloud in enumerate(self.clouds)}
        supernet, probes, question, found = self._search_keys(base, tuple(clouds.values()))
        edge = digest("edge", *clouds.values(), found, spec.train)
        alternate = digest("alternate", edge)
        look = digest("look", alternate, spec.look.kind, spec.look.nets, spec.look.width, spec.look.exit_after)
        quantize = digest("quantize", look, spec.quantize)
        router = digest("router", quantize, spec.look, spec.router, device_engine())
        folds = digest("folds", *clouds.values(), found, spec.train, spec.router.folds)
        predict = digest("predict", router)
        places = (*self.links.values(), *self.servers, *(cloud.latency_ms for cloud in self.clouds))
        sweep = digest("sweep", predict, spec.sweep, self.device, *places, *self.compared.values())
        bundle = digest("bundle", sweep, spec)
        return {
            **clouds,
            "supernet": supernet,
            "probes": probes,
            "question": question,
            "search": digest(found, *self.clouds),  # which it writes down as they are
            "edge": edge,
            "alternate": alternate,
            "look": look,
            "quantize": quantize,
            "folds": folds,
            "router": router,
            "predict": predict,
            "sweep": sweep,
            "bundle": bundle,
        }

    def _cloud_key(self, base: str, cloud: CloudSpec) -> str:
        """Not of where it runs, which changes no answer, nor of what is the edge's in the training."""
        files, train = [file_digest(cloud.table), file_digest(cloud.weights)], self.spec.train
        own = replace(train, edge_epochs=1, edge_learning_rate=1.0, distillation=0.0, temperature=1.0, round_epochs=1)
        own = replace(own, rounds=min(own.rounds, 1))  # whether any follow sets the last learning rate
        return digest("cloud", base, replace(cloud, server="", latency_ms=0.0), files, own)

    def _search_keys(self, base: str, clouds: tuple[str, ...]) -> tuple[str, str, str, str]:
        """Of supernet and probes, of the question that a search answers, and of its answer; a search can be prolonged.

        A net that is given depends on its file and the device alone.
        """
        asked, look = self.spec.search, self.spec.look
        ceilings = (asked.max_macs, asked.max_flash_bytes, asked.max_peak_sram_bytes, asked.max_latency_ms)
        looks = {"none": (), "net": (look.nets, look.width, look.share), "exit": (look.exit_after, look.share)}
        device = (*ceilings, self.device, self.spec.export.arena_margin, look.kind, *looks[look.kind])
        if self.space is None:
            given = digest("given", base, file_digest(asked.arch), *device)
            return "", "", given, given
        place = searching.teacher(self.clouds)
        taught_by = "" if place is None else clouds[place]
        train = self.spec.train
        recipe = (train.batch_size, train.weight_decay, train.distillation, train.temperature)
        trained = (asked.supernet_epochs, asked.supernet_rows, *recipe, train.flip, train.crop_pixels)
        supernet = digest("supernet", base, self.space, taught_by, *trained, *device)
        times = [(server.latency_ms, cloud.latency_ms) for server, cloud in zip(self.servers, self.clouds, strict=True)]
        alone = probing.recipe(self.spec)
        probed = (asked.probes, alone, clouds[place or 0], asked.rows) if asked.probes else ()
        probes = digest("probes", supernet, *probed)
        scored = (asked.rows, asked.min_coverage, asked.macs_exponent, self.link, self.spec.sweep.payload, times)
        question = digest("question", probes, *clouds, *device, *scored)
        finals = (asked.finalists, alone) if asked.finalists else ()
        return supernet, probes, question, digest("search", question, asked.trials, asked.noise_tolerance, *finals)

    @cached_property
    def space(self) -> Space | None:
        """What is searched; None where the edge net is given."""
        return None if self.spec.search.arch else searching.space_of(self)

    @cached_property
    def searched(self) -> SearchResult:
        """The edge architecture and the cloud that goes with it: what fits, scored as a pair, and the best."""
        return searching.search(self)

    @cached_property
    def pair(self) -> RunSpec:
        """The spec with the chosen cloud as the only one; what is done after the search goes by it."""
        return replace(self.spec, cloud=self.searched.cloud, clouds=())

    def cloud(self, place: int) -> tuple[Any, CloudAnswers]:
        """One of the clouds to choose from: its net, None for a black box, and what it says."""
        return steps.cloud(self, place)

    @cached_property
    def trained(self) -> Trained:
        """The chosen cloud, the edge with the cloud as teacher, then both alternated with the router."""
        cloud, answers = self.cloud(self.searched.place)
        edge = steps.edge(self, answers)
        return steps.alternate(self, edge, cloud, answers)

    @cached_property
    def quantized(self) -> Quantized:
        """The device program: its nets in int8, and the routers that were fitted on their outputs."""
        return steps.router(self, steps.quantize(self))

    @cached_property
    def swept(self) -> Swept:
        """What the device will answer on calibration and test, every operating point, and the chosen one."""
        return steps.sweep_thresholds(self, *steps.predict(self))

    @cached_property
    def drift(self) -> Drift:
        """What int8 changed on test."""
        return drift(self)

    @cached_property
    def bundle(self) -> Path:
        """The folder for firmware and cloud."""
        return steps.export(self)

    @cached_property
    def report(self) -> Path:
        """The page a person looks at."""
        return steps.report(self)
