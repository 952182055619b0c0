"""What is known of a compiled model as plain data and as text for a firmware engineer; the same product, the same."""

import json
from typing import Any

from firmware_export.bundle import file_entries
from firmware_export.engine.compile import LayerCost
from firmware_export.engine.emit import named_ends, readme_file
from firmware_export.engine.measure import Measured
from firmware_export.engine.product import MEASURE_FLAGS, Product
from hybrid.version import project_version

FIGURES, README = "compiled.json", "README.md"
MADE_BY = "hybrid compile"


def product_files(product: Product) -> dict[str, bytes]:
    """All files of a product by name: C sources, README, and the figures with the digests of all others."""
    known = figures(product)
    readme = readme_file(known=known, prefix=product.compiled.prefix, ends=_ends(product))
    texts = {**product.compiled.files, README: readme}
    files = {name: text.encode() for name, text in sorted(texts.items())}
    return {**files, FIGURES: as_json({**known, "files": file_entries(files)}).encode()}


def as_json(values: dict[str, Any]) -> str:
    """Plain data as text."""
    return json.dumps(values, indent=1) + "\n"


def figures(product: Product) -> dict[str, Any]:
    """All figures as plain data; what was not measured is None."""
    compiled, measured, verified = product.compiled, product.measured, product.verified
    layers = [_layer(layer, measured) for layer in compiled.layers]
    return {
        "made_by": MADE_BY,
        "version": project_version(),
        "model": {"sha256": product.model_sha256, "bytes": product.model_bytes},
        "prefix": compiled.prefix,
        "cpu": product.cpu,
        "layers": layers,
        "totals": _totals(product),
        "measured": {
            "board": product.board.name,
            "core": product.board.title,
            "flags": [*product.board.flags, *MEASURE_FLAGS],
            "counter": measured.counter,
        }
        if measured and product.board
        else None,
        "not_measured": product.unmeasured or None,
        "verified": {"examples": verified.examples, "on_board": verified.on_board, "seed": verified.seed}
        if verified
        else None,
    }


def _layer(layer: LayerCost, measured: Measured | None) -> dict[str, Any]:
    return {
        "number": layer.number,
        "op": layer.kind,
        "output_shape": list(layer.shape),
        "macs": layer.macs,
        "instructions": measured.layers.get(layer.number, 0) if measured else None,
        "scratch_bytes": layer.scratch_bytes,
        "live_bytes": layer.live_bytes,
        "flash_bytes": layer.flash_bytes,
        "kernel": layer.kernel or None,
        "weights": layer.weights,
    }


def _totals(product: Product) -> dict[str, Any]:
    compiled, measured = product.compiled, product.measured
    macs = sum(layer.macs for layer in compiled.layers)
    return {
        "macs": macs,
        "macs_left_out": compiled.model_macs - macs,
        "instructions": measured.instructions if measured else None,
        "instructions_per_mac": round(measured.instructions / macs, 3) if measured and macs else None,
        "arena_bytes": compiled.ram_bytes,
        "arena_bound_bytes": compiled.bound_bytes,
        "stack_bytes": measured.stack_bytes if measured else None,
        "weights_and_tables_bytes": compiled.flash_bytes,
        "code_bytes": measured.sections.text if measured else None,
        "constants_bytes": measured.sections.rodata if measured else None,
    }


def _ends(product: Product) -> list[dict[str, Any]]:
    return [{"name": name, "tensor": tensor} for name, tensor in named_ends(product.compiled.graph)]
