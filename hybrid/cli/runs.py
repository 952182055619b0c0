"""Commands that take a run from data to bundle and report; each does the steps that it needs."""

import os
import time
from typing import Any

import click

from hybrid.cli.options import open_run, run_options
from hybrid.narrator import Terminal

STARTED = time.monotonic()


@click.command()
@run_options
def run(**options: Any) -> None:
    """Do everything, from the data to the bundle and the report."""
    from hybrid.pipeline.summary import summary_rows, write_summary

    the_run = open_run(**options, searches=True)
    bundle, report = the_run.bundle, the_run.report
    terminal = Terminal()
    summary = write_summary(the_run, started=STARTED)
    terminal.table("On the test split", summary_rows(summary))
    _tell_guarantee(terminal, summary["guarantee"])
    terminal.say(f"Report: {report}")
    terminal.say(f"Bundle: {bundle}{os.sep}")


@click.command()
@click.argument("name")
@click.option("--image-size", type=int, default=0, help="Resize an image folder's images to this many pixels.")
def data(name: str, image_size: int) -> None:
    """Describe a data set.

    NAME is fashion_mnist, cifar10, cifar100, a folder of images or an .npz file.
    """
    from datasets import load
    from datasets.card import card, card_text

    click.echo(card_text(card(load(name, image_size=image_size))))


@click.command()
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


@click.command()
@run_options
def train(**options: Any) -> None:
    """Train the cloud, the edge, and both around the router."""
    trained = open_run(**options, searches=True).trained
    terminal = Terminal()
    for index, one in enumerate(trained.rounds, 1):
        verdict = "kept" if one.kept else "undone"
        terminal.say(f"Alternation {index}: validation area {one.area_before:.4f} to {one.area_after:.4f}, {verdict}.")
    terminal.say(f"Weights: {options['out'] / 'alternate'}{os.sep}")


@click.command()
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


@click.command()
@run_options
def sweep(**options: Any) -> None:
    """Sweep every threshold and choose the operating point."""
    swept, terminal = open_run(**options).swept, Terminal()
    rows = [
        (p.name, f"{p.threshold}", f"{p.coverage:.1%}", f"{p.accuracy:.2%}", f"{p.mean_latency_ms:.1f} ms")
        for p in (*swept.named, swept.confirmed)
    ]
    headings = ("operating point", "threshold", "coverage", "accuracy", "mean latency")
    terminal.table("Operating points on calibration; the last is the chosen one on test", rows, headings)
    _tell_guarantee(terminal, swept.certificate.statement if swept.certificate else None)


@click.command()
@run_options
def export(**options: Any) -> None:
    """Write the bundle for firmware and cloud."""
    Terminal().say(f"Bundle: {open_run(**options).bundle}{os.sep}")


@click.command()
@run_options
def report(**options: Any) -> None:
    """Write the report page."""
    Terminal().say(f"Report: {open_run(**options).report}")


def _tell_guarantee(terminal: Terminal, statement: str | None) -> None:
    if statement:
        terminal.say(f"Guaranteed: {statement}.")
