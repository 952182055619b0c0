"""The form of a bundle's manifest: its version, and its schema in ``templates/manifest.schema.json``."""

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from firmware_export.bundle import MANIFEST, broken
from hybrid.errors import BundleError

FORMAT_VERSION = 3
"""Rises by one when an old reader would misunderstand a bundle."""


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest of another version, or of another form. Raises: BundleError naming the place."""
    import jsonschema  # type: ignore[import-untyped]

    version = manifest.get("bundle_format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise BundleError(
            f"{MANIFEST}: bundle_format_version: expected {FORMAT_VERSION}, got {version}; "
            "a newer hybrid wrote this bundle, read it with that one"
        )
    if isinstance(version, int) and 1 <= version < FORMAT_VERSION:
        raise BundleError(
            f"{MANIFEST}: bundle_format_version: expected {FORMAT_VERSION}, got {version}; an older hybrid wrote this "
            "bundle: export its run again with this one, or read it with that one"
        )
    error = jsonschema.exceptions.best_match(_validator().iter_errors(manifest))
    if error is not None:
        where = ".".join(map(str, error.absolute_path)) or "top level"
        raise broken(MANIFEST, "a manifest of the schema", f"{where}: {error.message:.200}")


@cache
def _validator() -> Any:
    import jsonschema

    schema = resources.files("firmware_export").joinpath("templates", "manifest.schema.json").read_bytes()
    return jsonschema.Draft202012Validator(json.loads(schema))
