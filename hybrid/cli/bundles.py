"""Commands that take a finished bundle."""

from pathlib import Path

import click

from hybrid.cli.quiet import load_tensorflow
from hybrid.narrator import Terminal


@click.command()
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
