"""Ahead-of-time C engine: an int8 flatbuffer becomes plain C99 that computes bit for bit what TFLite Micro computes.

`make` does everything that the command `hybrid compile` does but write, which is `store`; `compile_model`, `verify` and
`measure` are its parts.
"""

from firmware_export.engine.compile import Compiled, LayerCost, compile_model
from firmware_export.engine.cores import CORES, CPUS, Cpu
from firmware_export.engine.figures import as_json, figures, product_files
from firmware_export.engine.measure import Measured, measure
from firmware_export.engine.product import Product, Verified, make
from firmware_export.engine.store import check_target, store
from firmware_export.engine.verify import Mismatch, verify

__all__ = [
    "CORES",
    "CPUS",
    "Compiled",
    "Cpu",
    "LayerCost",
    "Measured",
    "Mismatch",
    "Product",
    "Verified",
    "as_json",
    "check_target",
    "compile_model",
    "figures",
    "make",
    "measure",
    "product_files",
    "store",
    "verify",
]
