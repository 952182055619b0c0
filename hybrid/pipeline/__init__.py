"""The whole story on one screen: data, search, training, quantisation and router, sweep, bundle, report.

Each step of a `Run` keeps its result in the run folder (see `steps`) and is made again only when something that
it depends on changed, so that a killed run goes on where it was. A notebook can ask for the steps one by one.
"""

from dataclasses import replace
from functools import cached_property
from pathlib import Path

from datasets import Dataset, load
from hybrid import profiles
from hybrid.artifacts import Device, Link
from hybrid.configure import to_toml
from hybrid.pipeline import steps
from hybrid.pipeline.content import drift
from hybrid.pipeline.folder import RunFolder, digest, file_digest
from hybrid.pipeline.results import Quantized, Swept, Trained
from hybrid.progress import SILENT, Narrator
from hybrid.report import Drift
from hybrid.runtimes import device_engine
from hybrid.specs import RunSpec
from hybrid.version import project_version
from nas.search import SearchResult

SPEC_FILE = "spec.toml"


class Run:
    """One run: what was asked, where it is kept, and its steps in order."""

    def __init__(self, folder: Path, spec: RunSpec, narrator: Narrator = SILENT) -> None:
        """Raises: SpecError for an unknown device, link or cloud server, before any work."""
        self.spec, self.narrator, self.folder = spec, narrator, RunFolder(folder)
        self.device: Device = profiles.device(spec.device)
        self.link: Link = profiles.link(spec.link)
        self.links = {link.name: link for link in (self.link, *map(profiles.link, spec.sweep.links))}
        servers = map(profiles.cloud, (spec.cloud.server, *spec.sweep.clouds))
        self.servers = {server.name: server for server in servers}

    @cached_property
    def data(self) -> Dataset:
        """Four disjoint splits: train fits, validation chooses, calibration sets the threshold, test confirms."""
        wanted = self.spec.data
        data = load(
            wanted.name,
            seed=self.spec.seed,
            calibration_fraction=wanted.calibration_fraction,
            validation_fraction=wanted.validation_fraction,
            image_size=wanted.image_size,
            limit=wanted.limit,
        )
        counts = ", ".join(f"{name} {len(split):,}" for name, split in data.splits.items())
        self.narrator.say(f"Data: {data.name}, {data.num_classes} classes; {counts}.")
        self.folder.write_text(SPEC_FILE, to_toml(self.spec))
        return data

    @cached_property
    def keys(self) -> dict[str, str]:
        """What each step depends on, as a digest; a step's key holds those of the steps before it."""
        spec, base = self.spec, digest(project_version(), self.data.digest, self.spec.seed)
        cloud_files = [file_digest(spec.cloud.table), file_digest(spec.cloud.weights)]
        search_files = [file_digest(spec.search.arch), file_digest(spec.search.space)]
        cloud = digest("cloud", base, replace(spec.cloud, server=""), cloud_files, spec.train)
        search = digest(
            "search", base, spec.search, search_files, spec.look.kind, spec.look.nets, spec.look.width, self.device
        )
        edge = digest("edge", cloud, search)
        alternate = digest("alternate", edge)
        look = digest("look", alternate, spec.look.kind, spec.look.nets, spec.look.width, spec.look.exit_after)
        quantize = digest("quantize", look, spec.quantize)
        router = digest("router", quantize, spec.look, spec.router, device_engine())
        folds = digest("folds", cloud, search, spec.router.folds)
        predict = digest("predict", router)
        sweep = digest("sweep", predict, spec.sweep, self.device, *self.links.values(), *self.servers.values())
        bundle = digest("bundle", sweep, spec)
        return {
            "search": search,
            "cloud": cloud,
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

    @cached_property
    def searched(self) -> SearchResult:
        """The edge architecture: what fits the device, briefly trained, and the winner."""
        return steps.search(self)

    @cached_property
    def trained(self) -> Trained:
        """The cloud, the edge with the cloud as teacher, then both alternated with the router."""
        cloud, answers = steps.cloud(self)
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
