"""Commands that take a finished bundle."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybrid.cli.quiet import load_tensorflow
from hybrid.errors import MismatchError
from hybrid.narrator import Terminal
from hybrid.progress import SILENT

if TYPE_CHECKING:
    from hybrid.pipeline.emulating import Emulation

LAYER_HEADINGS = ("net", "layer", "output", "examples", "MACs", "instructions", "per MAC")
LAYER_WORDS = 3
"""Columns of the table of layers that hold words."""


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
def verify(bundle: Path) -> None:
    """Check a bundle.

    BUNDLE is its folder: digests, manifest, the golden vectors through TFLite Micro (or its stand-in), bit for bit, and
    the engine compiled ahead of time against it.
    """
    from firmware_export.verify import verify as verify_bundle
    from hybrid.runtimes import ENGINE_TITLES

    done = verify_bundle(bundle, Terminal())
    by = ENGINE_TITLES[done.engine]
    Terminal().say(f"{bundle}: {done.files} files, {done.golden_examples} golden examples, all exact by {by}.")


@click.command()
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


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--board", default="", help="mps2-an385, -an386, -an500, -an505 or mps3-an547; default: by the bundle's core."
)
@click.option("--images", type=click.IntRange(min=1), help="Default: 100 of the test split, or all golden examples.")
@click.option(
    "--gateway", "url", default="", metavar="URL", help="Cloud that the device asks: hybrid serve prints its URL."
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def emulate(bundle: Path, board: str, images: int | None, url: str, as_json: bool) -> None:
    """Run a bundle's C on an emulated board.

    BUNDLE is its folder. In its run folder it gets the first images of the test split, elsewhere its golden examples.
    Every output is compared with TFLite Micro, bit for bit, and instructions, stack and sizes are told. With --gateway
    the device keeps or asks the cloud as in the field, and must reach what the sweep predicts of these images. Exit
    code 1 says that something differed.
    """
    from hybrid.pipeline.emulating import emulate as emulate_bundle
    from hybrid.pipeline.emulating import emulation_values

    terminal = Terminal()
    found = emulate_bundle(bundle, board, images, url, narrator=SILENT if as_json else terminal)
    if as_json:
        click.echo(json.dumps(emulation_values(found), indent=1))
    else:
        show(terminal, found)
    if different := found.all_differences:
        raise MismatchError(f"{bundle}: {len(different):,} values differ; {different[0]}")


def show(terminal: Terminal, found: "Emulation") -> None:
    """What the layers took, one example, and the loop."""
    from hybrid.pipeline.emulating import loop_values

    loop, count = found.loop, len(found.examples.pixels)
    terminal.table("Layers, each time that they run", layer_rows(found), LAYER_HEADINGS, texts=LAYER_WORDS)
    terminal.table("One example, on average", total_rows(found))
    if not found.differences:
        terminal.say(f"Exact: logits, score, class, decision and payload of {count:,} examples are TFLite Micro's.")
    if loop is not None:
        terminal.table(f"The loop, asking {loop.url}", loop_rows(loop_values(loop)))


def layer_rows(found: "Emulation") -> list[tuple[str, ...]]:
    """A row for each layer that computes."""
    return [
        (
            layer.net,
            f"{layer.number:>3} {layer.kind}",
            "x".join(map(str, layer.shape)),
            f"{layer.runs:,}",
            f"{layer.macs:,}" if layer.macs else "-",
            f"{layer.instructions:,}",
            f"{layer.instructions / layer.macs:.2f}" if layer.macs else "-",
        )
        for layer in found.emulated.layers
        if layer.instructions
    ]


def total_rows(found: "Emulation") -> list[tuple[str, str]]:
    """What the device takes."""
    emulated = found.emulated
    near = " (by a timer, within a few per cent)" if emulated.counter == "timer" else ""
    sections = emulated.sections
    return [
        ("instructions", f"{emulated.instructions:,}{near}"),
        ("  of these beside the layers", f"{emulated.beside_layers:,}"),
        ("arena", f"{found.arena_bytes:,} bytes"),
        ("stack, high-water mark", f"{emulated.stack_bytes:,} bytes"),
        (".text / .rodata", f"{sections.text:,} / {sections.rodata:,} bytes"),
        (".data / .bss", f"{sections.data:,} / {sections.bss:,} bytes"),
    ]


def loop_rows(values: dict[str, Any]) -> list[tuple[str, str]]:
    """How the examples were answered, and what the sweep predicts of them."""
    rows = [(name, f"{values[name]:,}") for name in ("kept", "answered", "unanswered")]
    if values["accuracy"] is not None:
        rows.append(("hybrid, emulated: right", f"{values['right']:,}, {values['accuracy']:.2%}"))
        rows.append(("as the sweep predicts", f"{values['predicted_right']:,}, {values['predicted_accuracy']:.2%}"))
    return rows
