"""Options that say what a run is and where it is kept, and the run that they describe."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybrid.cli.quiet import load_tensorflow
from hybrid.narrator import Terminal

if TYPE_CHECKING:
    from hybrid.pipeline import Run

SPEC_FILE = "spec.toml"
SHORTCUTS = {
    "dataset": "data.name",
    "device": "device",
    "link": "link",
    "seed": "seed",
    "trials": "search.trials",
    "router": "router.kind",
    "look": "look.kind",
    "max_loss": "sweep.max_loss",
    "max_queries": "sweep.max_queries",
    "confidence": "sweep.confidence",
    "max_latency_ms": "sweep.max_latency_ms",
    "min_accuracy": "sweep.min_accuracy",
    "min_coverage": "sweep.min_coverage",
    "no_excess_loss": "sweep.no_excess_loss",
}
"""Options with a name of their own, and the key of the spec that each sets."""


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what a run is and where it is kept."""
    options = (
        click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Run folder."),
        click.option("--preset", help="quick or standard; default: the run folder's own spec, else quick."),
        click.option("--spec", "spec_path", type=click.Path(path_type=Path), help="TOML file with keys of the spec."),
        click.option("--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE", help="Change one key."),
        click.option("--dataset", help="Name, image folder or .npz file."),
        click.option("--device", help="Device name (see hybrid devices) or a TOML profile."),
        click.option("--link", help="Link name (see hybrid devices) or a TOML profile."),
        click.option("--seed", type=int, help="Seed of everything random."),
        click.option("--trials", type=int, help="Candidates of the search."),
        click.option("--router", help="auto, learned, gain, max_softmax, logit_margin, logistic or class_offsets."),
        click.option("--look", help="Second look on the device: none, net or exit."),
        click.option(
            "--max-loss",
            type=float,
            help="Choose: accuracy at most this below the cloud's, in [0, 1]; 0.005 where no limit is asked.",
        ),
        click.option("--max-queries", type=float, help="Choose: cloud asked for at most this share, in [0, 1]."),
        click.option("--confidence", type=float, help="With which the choice holds on new data; 0: only measured."),
        click.option("--max-latency-ms", type=float, help="Choose: mean latency at most this; what a search keeps to."),
        click.option("--min-accuracy", type=float, help="Choose: hybrid accuracy at least this, in [0, 1]."),
        click.option(
            "--min-coverage",
            type=float,
            help="Choose: share answered on the edge at least this; what a search keeps to.",
        ),
        click.option("--no-excess-loss", is_flag=True, default=None, help="Choose: no less accurate than the cloud."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def open_run(
    out: Path,
    preset: str | None,
    spec_path: Path | None,
    assignments: tuple[str, ...],
    *,
    searches: bool = False,
    **named: Any,
) -> "Run":
    """Build the run that the options describe.

    A run folder's own spec is the base unless a preset is named; then come the TOML file, ``--set``, named options.
    Of a command that `searches`, a budget counts for the search as well as for the operating point.
    """
    from hybrid.configure import run_spec

    kept = out / SPEC_FILE
    bases = [kept] if preset is None and kept.is_file() else []
    given = {name: value for name, value in named.items() if value is not None}
    spec = run_spec(
        preset_name=preset or "quick",
        paths=bases + ([spec_path] if spec_path else []),
        assignments=(*assignments, *set_by_name(given), *(search_budget(given) if searches else ())),
    )
    from hybrid.pipeline import Run

    the_run = Run(out, spec, Terminal())
    the_run.data  # noqa: B018  # what is wrong with the data shows before TensorFlow loads, which takes seconds
    load_tensorflow()
    return the_run


def set_by_name(given: dict[str, Any]) -> list[str]:
    """The assignments that named options stand for."""
    from hybrid.configure import toml_value

    return [f"{SHORTCUTS[name]}={toml_value(value)}" for name, value in given.items()]


def search_budget(given: dict[str, Any]) -> list[str]:
    """What the search is scored at, by the options for the operating point; the latency counts where both are given.

    >>> search_budget({"min_coverage": 0.8}), search_budget({"max_latency_ms": 50.0, "min_coverage": 0.8})
    (['search.max_latency_ms=0', 'search.min_coverage=0.8'], ['search.min_coverage=0.8', 'search.max_latency_ms=50.0'])
    """
    latency, coverage = given.get("max_latency_ms"), given.get("min_coverage")
    asked = [] if coverage is None else [f"search.min_coverage={coverage}"]
    if latency is not None:
        return [*asked, f"search.max_latency_ms={latency}"]
    return ["search.max_latency_ms=0", *asked] if asked else []
