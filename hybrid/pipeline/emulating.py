"""A bundle on an emulated board: its examples, what must come out, and what did; with or without the cloud."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_export.answers import Answers, differences, expected_answers
from firmware_export.bundle import Bundle
from firmware_export.contents import contract_of, golden_pixels, read_checked
from firmware_export.emulate import programs
from firmware_export.emulate.boards import BOARDS, Board, board_named
from firmware_export.emulate.errors import ToolchainError
from firmware_export.emulate.gateway import Outcome, Way, endpoint_ask
from firmware_export.emulation import Emulated, emulate_bundle, emulate_loop
from firmware_export.engine.cores import CORES, board_of, cpu_of
from hybrid import policy
from hybrid.artifacts import Ints
from hybrid.cascade import DeviceProgram
from hybrid.configure import run_spec
from hybrid.errors import BundleError, HybridError, SpecError
from hybrid.pipeline.data import load_data
from hybrid.pipeline.storage import read_predictions, read_routed
from hybrid.program_json import program_values
from hybrid.progress import SILENT, Narrator
from hybrid.runtimes import device_engine

TEST_IMAGES = 100
"""Of the test split, at most, where nothing else is asked for."""
SPEC, PREDICTIONS, ROUTER = "spec.toml", "predict/test.npz", "router"
"""In a run folder, beside the bundle."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Images for the device, and what the sweep predicts of them where its run is at hand."""

    source: str
    """What they are, in words."""
    pixels: NDArray[np.uint8]
    """``(n, h, w, c)``."""
    labels: Ints | None
    predicted: Ints | None
    """The hybrid's final class of each: the edge's where kept, else the cloud's."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Loop:
    """What became of the examples when the device could ask the cloud."""

    url: str
    outcomes: tuple[Outcome, ...]
    differences: tuple[str, ...]
    """Where the loop left what was predicted."""
    right: int | None
    """Right answers of the emulated hybrid; None without labels."""
    predicted_right: int | None
    """Of the sweep, over the same examples."""

    def count(self, way: Way) -> int:
        """Examples whose answer came this way."""
        return sum(outcome.way is way for outcome in self.outcomes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Emulation:
    """Everything that was found."""

    examples: Examples
    emulated: Emulated
    arena_bytes: int
    differences: tuple[str, ...]
    """Where the device does not answer as TFLite Micro and Python's router."""
    loop: Loop | None
    """None where the cloud was not asked."""

    @property
    def all_differences(self) -> tuple[str, ...]:
        """Of both parts; none: exact."""
        return self.differences + (self.loop.differences if self.loop else ())


def emulate(
    folder: Path, board_name: str, images: int | None, url: str = "", *, narrator: Narrator = SILENT
) -> Emulation:
    """Run the bundle in `folder` on a board, the device's own by default, over `images` of its examples.

    With `url`, an Open Inference Protocol v2 model, the device runs its whole loop as well, with the cloud there.
    The bundle's C runs with the emulator's rights: emulate bundles only of people whose programs you would run.

    Raises: BundleError; SpecError for an unknown board or more images than there are; ToolchainError naming what to
    install; CloudError where nobody answers at `url`; EmulationError.
    """
    bundle, program, _ = read_checked(folder)
    board = _board(bundle, board_name)
    if missing := programs.missing():
        raise ToolchainError(missing)
    if device_engine() != "tflite-micro":
        raise HybridError("TFLite Micro is missing, and nothing else tells what is exact; emulate on Linux")
    contract = contract_of(bundle, program)
    examples = examples_of(folder, bundle, program, images)
    encoding, shape = contract.encoding, contract.input_shape
    ask = endpoint_ask(url, input_shape=shape, num_classes=contract.num_classes, encoding=encoding) if url else None
    expected = expected_answers(contract, examples.pixels)
    narrator.say(f"{board.name}, {board.title}: {len(examples.pixels):,} {examples.source}.")
    emulated = emulate_bundle(bundle, program, board, examples.pixels)
    outcomes = None if ask is None else emulate_loop(bundle, board, examples.pixels, ask, narrator=narrator)
    return Emulation(
        examples=examples,
        emulated=emulated,
        arena_bytes=bundle.manifest["engines"]["aot"]["arena_bytes"],
        differences=tuple(differences(expected, emulated.answers)),
        loop=None if outcomes is None else judged_loop(url, examples, expected, outcomes),
    )


def examples_of(folder: Path, bundle: Bundle, program: DeviceProgram, images: int | None) -> Examples:
    """Choose the first examples of the test split where the bundle lies in its run folder, else its golden ones.

    Raises: SpecError where there are fewer; BundleError where the run is not the one that the bundle was made from.
    """
    run = folder.resolve().parent
    if (run / SPEC).is_file() and (run / PREDICTIONS).is_file():
        return _test_examples(run, bundle, program, images)
    golden = golden_pixels(bundle)
    if images is not None and images > len(golden):
        raise SpecError(
            f"images: got {images:,}, the bundle has {len(golden):,} golden examples; in its run folder, where it was "
            "made, there are those of the test split"
        )
    return Examples(source="golden examples", pixels=golden[:images], labels=None, predicted=None)


def _test_examples(run: Path, bundle: Bundle, program: DeviceProgram, images: int | None) -> Examples:
    manifest = bundle.manifest
    data = load_data(run_spec(paths=[run / SPEC]))
    routed, _ = read_routed(run / ROUTER)
    if data.digest != manifest["data"]["digest"] or not _same(routed.program, program):
        raise BundleError(
            f"{run}: this run went on since the bundle was made, with other data, nets or routers; hybrid export makes "
            "its bundle anew, and a bundle elsewhere is emulated on its golden examples"
        )
    wanted = min(TEST_IMAGES, len(data.test)) if images is None else images
    if wanted > len(data.test):
        raise SpecError(f"images: got {wanted:,}, the test split has {len(data.test):,}")
    said = read_predictions(run / PREDICTIONS)
    kept = policy.kept(said.router_score, manifest["chosen"]["threshold"])
    predicted = np.where(kept, said.edge_class, said.cloud_class).astype(np.int32)
    return Examples(
        source="images of the test split",
        pixels=data.test.x[:wanted],
        labels=data.test.y[:wanted],
        predicted=predicted[:wanted],
    )


def _same(one: DeviceProgram, other: DeviceProgram) -> bool:
    return one.digest == other.digest and program_values(one) == program_values(other)


def _board(bundle: Bundle, name: str) -> Board:
    if name:
        return board_named(name)
    core = bundle.manifest["device"]["core"]
    board = board_of(CORES[cpu_of(core)])
    if board is None:
        raise SpecError(f"board: none is emulated with the device's {core}; choose one of {', '.join(BOARDS)}")
    return board


def judged_loop(url: str, examples: Examples, expected: Answers, outcomes: list[Outcome]) -> Loop:
    """Hold what became of the examples against what the device must say of them, and what is predicted of them."""
    answers, labels = np.array([outcome.answer for outcome in outcomes]), examples.labels
    return Loop(
        url=url,
        outcomes=tuple(outcomes),
        differences=tuple(_loop_differences(examples, expected, outcomes)),
        right=_right(answers, labels),
        predicted_right=_right(examples.predicted, labels),
    )


def _right(answers: NDArray[Any] | None, labels: Ints | None) -> int | None:
    return None if answers is None or labels is None else int(np.sum(answers == labels))


def _loop_differences(examples: Examples, expected: Answers, outcomes: list[Outcome]) -> Iterator[str]:
    """Name each example that came another way, or to another answer, than it must."""
    for row, outcome in enumerate(outcomes):
        must = {
            "edge class": (int(expected.edge_class[row]), outcome.edge_class),
            "score": (int(expected.score[row]), outcome.score),
            "way": (("asked", "kept")[expected.kept[row]], "kept" if outcome.way is Way.KEPT else "asked"),
        }
        if examples.predicted is not None:
            must["answer"] = (int(examples.predicted[row]), outcome.answer)
        for name, (want, got) in must.items():
            if want != got:
                why = ", which the cloud did not answer" if outcome.way is Way.UNANSWERED else ""
                yield f"loop, example {row}{why}: {name} must be {want}, is {got}"


def emulation_values(found: Emulation) -> dict[str, Any]:
    """Everything as plain data."""
    emulated, loop = found.emulated, found.loop
    return {
        "board": emulated.board.name,
        "core": emulated.board.title,
        "examples": len(found.examples.pixels),
        "source": found.examples.source,
        "exact": not found.all_differences,
        "differences": list(found.all_differences),
        "instructions": emulated.instructions,
        "instructions_beside_layers": emulated.beside_layers,
        "counter": emulated.counter,
        "layers": [asdict(layer) for layer in emulated.layers],
        "arena_bytes": found.arena_bytes,
        "stack_bytes": emulated.stack_bytes,
        "sections": asdict(emulated.sections),
        "gateway": None if loop is None else loop_values(loop),
    }


def loop_values(loop: Loop) -> dict[str, Any]:
    """What became of the loop, as plain data."""
    ways = {way.name.lower(): loop.count(way) for way in Way}
    count = len(loop.outcomes)
    right = {"accuracy": loop.right, "predicted_accuracy": loop.predicted_right}
    shares = {name: None if number is None else number / count for name, number in right.items()}
    return {"url": loop.url, **ways, "right": loop.right, "predicted_right": loop.predicted_right, **shares}
