"""The `hybrid` command: the only place that prints.

Each command builds a spec (preset, TOML file, ``--set``), asks a `Run` for one of its steps, and shows the outcome in a
few lines. Errors that a user can act on are one line and exit code 2.
"""

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from hybrid.errors import USER_ERRORS, WorkerDoneError
from hybrid.narrator import Terminal
from hybrid.version import project_version

if TYPE_CHECKING:
    from hybrid.pipeline import Run

SPEC_FILE = "spec.toml"
STARTED = time.monotonic()
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
        click.option("--max-loss", type=float, help="Choose: accuracy at most this below the cloud's, in [0, 1]."),
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


def load_tensorflow() -> None:
    """Load it without its chatter, which is for its own developers."""
    with native_stderr_muted():
        import tensorflow as tf
    tf.get_logger().setLevel("ERROR")


@contextmanager
def native_stderr_muted() -> Iterator[None]:
    """Keep what native libraries print while they load off the terminal; at that time they heed no log level."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class InOrder(click.Group):
    """Lists its commands in the order of the story, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of their definition."""
        return list(self.commands)


@click.group(cls=InOrder, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(project_version())
@click.pass_context
def cli(ctx: click.Context) -> None:
    """A tiny int8 net for your microcontroller, a router that knows when to ask, and the cloud that it asks.

    A first run, in minutes: hybrid run --out runs/first. Each command does what it needs and keeps it in the run
    folder; the same command goes on where an interrupted one was.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@cli.command()
@run_options
def run(**options: Any) -> None:
    """Do everything, from the data to the bundle and the report."""
    from hybrid.pipeline.summary import summary_rows, write_summary

    the_run = open_run(**options, searches=True)
    bundle, report = the_run.bundle, the_run.report
    terminal = Terminal()
    terminal.table("On the test split", summary_rows(write_summary(the_run, started=STARTED)))
    terminal.say(f"Report: {report}")
    terminal.say(f"Bundle: {bundle}{os.sep}")


@cli.command()
@click.argument("name")
@click.option("--image-size", type=int, default=0, help="Resize an image folder's images to this many pixels.")
def data(name: str, image_size: int) -> None:
    """Describe a data set.

    NAME is fashion_mnist, cifar10, cifar100, a folder of images or an .npz file.
    """
    from datasets import load
    from datasets.card import card, card_text

    click.echo(card_text(card(load(name, image_size=image_size))))


@cli.command()
@run_options
def search(**options: Any) -> None:
    """Search the edge net for this data and board, and its cloud.

    The pair is searched together: the net that is best beside the cloud that it will ask.

    Of --max-latency-ms and --min-coverage, one says at what pairs are scored. Further clouds to choose from go into the
    TOML file as [[clouds]], or --set 'clouds=[{width=16}]'; each has the defaults, not the keys of [cloud]. Several
    machines search together where KERASTUNER_TUNER_ID, KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT are set, each
    with a run folder of its own.
    """
    from hybrid.pipeline.searching import FRONT_HEADINGS, budget_words, chosen_rows, cloud_places, front_rows

    the_run, terminal = open_run(**options, searches=True), Terminal()
    found, folder = the_run.searched, options["out"] / "search"
    if found.front:
        title = f"Pareto set of {found.counts['scored']} pairs {budget_words(the_run.spec.search)}; * is chosen"
        terminal.table(title, front_rows(found), FRONT_HEADINGS)
        terminal.say(f"Clouds: {cloud_places(the_run.clouds)}.")
    terminal.table("The pair, on validation", chosen_rows(the_run))
    terminal.say(f"Pair: {folder / 'edge.toml'}, {folder / 'cloud.toml'}")
    terminal.say(f"All candidates: {folder / 'candidates.json'}; the Pareto set: {folder / 'pareto.json'}")


@cli.command()
@run_options
def train(**options: Any) -> None:
    """Train the cloud, the edge, and both around the router."""
    trained = open_run(**options, searches=True).trained
    terminal = Terminal()
    for index, one in enumerate(trained.rounds, 1):
        verdict = "kept" if one.kept else "undone"
        terminal.say(f"Alternation {index}: validation area {one.area_before:.4f} to {one.area_after:.4f}, {verdict}.")
    terminal.say(f"Weights: {options['out'] / 'alternate'}{os.sep}")


@cli.command()
@run_options
def quantize(**options: Any) -> None:
    """Quantise the device's nets to int8 and choose their routers."""
    quantized = open_run(**options).quantized
    terminal, footprint, routed = Terminal(), quantized.footprint, quantized.routed
    for name, edge, kind, reached in zip(routed.program.names, quantized.edges, routed.kinds, routed.nauc, strict=True):
        accuracies = [(method, f"{accuracy:.2%}") for method, accuracy in edge.validation_accuracy.items()]
        terminal.table(f"Int8 net {name} on validation", accuracies)
        terminal.table(
            f"Its routers, cross-validated nAUC: {kind} is taken", [(k, f"{n:.3f}") for k, n in reached.items()]
        )
    arena = f"{footprint.measured_arena_bytes:,} bytes, {footprint.arena_source}"
    terminal.say(f"Model: {footprint.flash_bytes:,} bytes, arena {arena}.")


@cli.command()
@run_options
def sweep(**options: Any) -> None:
    """Sweep every threshold and choose the operating point."""
    swept = open_run(**options).swept
    rows = [
        (p.name, f"{p.threshold}", f"{p.coverage:.1%}", f"{p.accuracy:.2%}", f"{p.mean_latency_ms:.1f} ms")
        for p in (*swept.named, swept.confirmed)
    ]
    headings = ("operating point", "threshold", "coverage", "accuracy", "mean latency")
    Terminal().table("Operating points on calibration; the last is the chosen one on test", rows, headings)


@cli.command()
@run_options
def export(**options: Any) -> None:
    """Write the bundle for firmware and cloud."""
    Terminal().say(f"Bundle: {open_run(**options).bundle}{os.sep}")


@cli.command()
@run_options
def report(**options: Any) -> None:
    """Write the report page."""
    Terminal().say(f"Report: {open_run(**options).report}")


@cli.command()
@click.argument("bundle", type=click.Path(path_type=Path))
def verify(bundle: Path) -> None:
    """Check a bundle.

    BUNDLE is its folder: digests, manifest, and the golden vectors through TFLite Micro (or its stand-in), bit for bit.
    """
    from firmware_export.verify import verify as verify_bundle
    from hybrid.runtimes import ENGINE_TITLES

    done = verify_bundle(bundle, Terminal())
    by = ENGINE_TITLES[done.engine]
    Terminal().say(f"{bundle}: {done.files} files, {done.golden_examples} golden examples, all exact by {by}.")


@cli.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True)
def serve(bundle: Path, host: str, port: int) -> None:
    """Serve a bundle's cloud net.

    BUNDLE is its folder; answers the Open Inference Protocol v2 and the firmware's queries.
    """
    from hybrid.serve import serve as serve_bundle

    load_tensorflow()
    serve_bundle(bundle, host, port, narrator=Terminal())


@cli.group(invoke_without_command=True)
@click.pass_context
def devices(ctx: click.Context) -> None:
    """List devices, links and cloud servers; calibrate a device."""
    if ctx.invoked_subcommand is None:
        list_profiles()


@devices.command()
@click.argument("measured", type=click.Path(path_type=Path))
@click.option("--device", required=True, help="Profile to start from: a name (see hybrid devices) or a TOML profile.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="TOML profile to write.")
def calibrate(measured: Path, device: str, out: Path) -> None:
    """Refit a device's profile from your own measurements on the board.

    MEASURED is a CSV with the columns model (path of a .tflite, from the CSV's folder), latency_ms and, if you have it,
    energy_mj. The profile goes where --device is asked for.
    """
    from hybrid import calibrate as fitting
    from hybrid import profiles

    start = profiles.device(device)
    if out.suffix != ".toml":
        raise click.UsageError(f"--out: got {str(out)!r}, allowed a path ending in .toml")
    rows = fitting.read_measurements(measured)
    done = fitting.calibrate(rows, start, out.stem)
    profiles.write_device(done.device, out)
    terminal = Terminal()
    shown = [(model, f"{100 * error:+.1f} %") for model, error in done.residuals.items()]
    terminal.table("Estimated against measured time", shown)
    terminal.say(fitting.told(done, start, len(rows)))
    terminal.say(f"Profile: {out}, good to ±{100 * done.device.latency_band:.0f} %")


def list_profiles() -> None:
    """Print the shipped profiles."""
    from hybrid import profiles

    terminal = Terminal()
    terminal.table(
        "Devices",
        [
            (d.name, d.title, f"{d.clock_mhz:g} MHz", f"{d.sram_bytes // 1024} KiB", f"{d.flash_bytes // 1024} KiB")
            for d in profiles.devices().values()
        ],
        ("name", "board", "clock", "SRAM", "flash"),
        texts=2,
    )
    terminal.table(
        "Links",
        [
            (k.name, k.title, f"{k.rtt_mean_ms:g} ms", f"{k.uplink_kbps:,g} kbit/s", f"{k.wake_mj + k.tail_mj:,.0f} mJ")
            for k in profiles.links().values()
        ],
        ("name", "link", "round trip", "uplink", "fixed energy"),
        texts=2,
    )
    terminal.table(
        "Cloud servers",
        [(s.name, s.title, f"{s.latency_ms:g} ms") for s in profiles.clouds().values()],
        ("name", "server", "one answer"),
        texts=2,
    )


def main() -> None:
    """Run the command; exit 2 with one line for an error that a user can act on."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore")
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        sys.exit(cli.main(prog_name="hybrid", standalone_mode=False))
    except click.UsageError as exc:
        where = exc.ctx.command_path if exc.ctx else "hybrid"
        _refuse(f"{exc.format_message().rstrip('.')}; see {where} --help")
    except WorkerDoneError as exc:
        click.echo(str(exc))
        sys.exit(0)
    except USER_ERRORS as exc:
        _refuse(str(exc))
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; run the same command again to go on", err=True)
        sys.exit(130)


def _refuse(message: str) -> NoReturn:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
