"""Commands that take a model on its own."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybrid.errors import HybridError
from hybrid.narrator import Terminal
from hybrid.progress import SILENT

if TYPE_CHECKING:
    from firmware_export.engine import Product

CPUS = ("cortex-m4", "cortex-m7", "cortex-m33", "cortex-m3", "cortex-m0plus", "host")
HEADINGS = ("layer", "output", "weights", "kernel", "MACs", "instructions", "scratch", "live", "flash")
WORDS = 4
"""Columns of the table of layers that hold words."""


@click.command("compile")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the C sources.")
@click.option(
    "--weights",
    type=click.Choice(("auto", "int8", "int16")),
    default="auto",
    show_default=True,
    help="In flash: small, unpacked for fewer instructions, or as the core gains and --flash-bytes allows.",
)
@click.option("--ram-bytes", type=click.IntRange(min=1), help="Static RAM that it may take; the stack comes on top.")
@click.option("--flash-bytes", type=click.IntRange(min=1), help="Flash that weights and tables may take, without code.")
@click.option(
    "--cpu",
    type=click.Choice(CPUS),
    default="cortex-m4",
    show_default=True,
    help="Core that kernels are chosen for and whose instructions are counted by emulation; host: any other.",
)
@click.option("--prefix", default="model", show_default=True, help="Begins the names of files and functions.")
@click.option(
    "--verify",
    "examples",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Compare N random inputs with TFLite Micro.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def compile_model(model: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Compile an int8 .tflite to plain C99.

    The C computes bit for bit what TensorFlow Lite Micro computes, without its interpreter. With --verify N that is
    shown on N random inputs, and files are written only if all outputs are the same; exit code 1 says that one was not.
    """
    from firmware_export import engine

    engine.check_target(out)
    terminal = Terminal()
    product = engine.make(read_model(model), narrator=SILENT if as_json else terminal, **options)
    engine.store(product, out)
    if as_json:
        click.echo(engine.as_json(engine.figures(product)), nl=False)
    else:
        show(terminal, product, out)


def read_model(path: Path) -> bytes:
    """Raise HybridError where the file cannot be read."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise HybridError(f"{path}: cannot be read ({exc.strerror}); give the path of a .tflite file") from exc


def show(terminal: Terminal, product: "Product", out: Path) -> None:
    """The table of layers, the totals, and where the files are."""
    from firmware_export.engine import figures

    known = figures(product)
    title = f"{product.compiled.prefix}: {len(known['layers'])} layers; scratch, live (RAM) and flash in bytes"
    terminal.table(title, layer_rows(known), HEADINGS, texts=WORDS)
    terminal.table("One inference", total_rows(known), texts=2)
    if known["measured"] is None:
        terminal.say(f"Instructions, stack and code were not measured: {known['not_measured']}.")
    terminal.say(f"Files: {out / 'README.md'} first")


def layer_rows(known: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each layer; - where there is nothing to tell."""
    return [
        (
            f"{layer['number']:>3} {layer['op']}",
            "x".join(map(str, layer["output_shape"])),
            layer["weights"] or "-",
            layer["kernel"] or "-",
            count(layer["macs"] or None),
            count(layer["instructions"]),
            *(count(layer[f"{what}_bytes"]) for what in ("scratch", "live", "flash")),
        )
        for layer in known["layers"]
    ]


def total_rows(known: dict[str, Any]) -> list[tuple[str, str]]:
    """What one inference takes, and what was verified."""
    totals, measured = known["totals"], known["measured"]
    spared = totals["macs_left_out"]
    rows = [("MACs", count(totals["macs"]) + (f"; {count(spared)} left out, which no input changes" if spared else ""))]
    if measured:
        per_mac = totals["instructions_per_mac"]
        ratio = "" if per_mac is None else f", {per_mac:.2f} per MAC"
        near = " (by a timer, within a few per cent)" if measured["counter"] == "timer" else ""
        rows += [
            ("instructions", f"{count(totals['instructions'])}{ratio}{near}"),
            ("counted on", f"emulated {measured['board']}, {measured['core']}, {' '.join(measured['flags'])}"),
        ]
    rows.append(
        ("arena", f"{count(totals['arena_bytes'])} bytes, no plan needs less than {count(totals['arena_bound_bytes'])}")
    )
    if measured:
        rows.append(("stack, high-water mark", f"{count(totals['stack_bytes'])} bytes"))
    rows.append(("weights and tables", f"{count(totals['weights_and_tables_bytes'])} bytes"))
    if measured:
        rows.append(("code; all constants", f"{count(totals['code_bytes'])}; {count(totals['constants_bytes'])} bytes"))
    return [*rows, ("verified", verified_words(known["verified"]))]


def verified_words(verified: dict[str, int] | None) -> str:
    """What of the outputs is known."""
    if verified is None:
        return "nothing; --verify N compares outputs"
    board = f", {verified['on_board']} of them on the emulated core as well" if verified["on_board"] else ""
    return f"{count(verified['examples'])} random inputs, every bit as TFLite Micro{board}"


def count(value: int | None) -> str:
    """A number as people read it.

    >>> count(12345), count(None)
    ('12,345', '-')
    """
    return "-" if value is None else f"{value:,}"
