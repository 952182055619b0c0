"""Devices, links and cloud servers as TOML data, the source of every figure beside it."""

from functools import cache
from pathlib import Path
from typing import TypeVar

from hybrid.artifacts import CloudServer, Device, Link
from hybrid.configure import did_you_mean, read_toml, structure, to_toml
from hybrid.errors import SpecError
from hybrid.work import MAC_KINDS

P = TypeVar("P", Device, Link, CloudServer)
_HERE = Path(__file__).parent


def devices() -> dict[str, Device]:
    """Give all shipped devices by name."""
    return dict(_shipped("devices", Device))


def links() -> dict[str, Link]:
    """Give all shipped links by name."""
    return dict(_shipped("links", Link))


def clouds() -> dict[str, CloudServer]:
    """Give all shipped cloud servers by name."""
    return dict(_shipped("clouds", CloudServer))


def device(name_or_toml_path: str | Path) -> Device:
    """Give a shipped device by name, or one's own from a TOML file.

    Raises: SpecError for an unknown name or a bad file.
    """
    return _find(name_or_toml_path, "device", devices(), Device)


def link(name_or_toml_path: str | Path, *, key: str = "link") -> Link:
    """Give a shipped link by name, or one's own from a TOML file; `key` is where the name stands.

    Raises: SpecError for an unknown name or a bad file.
    """
    return _find(name_or_toml_path, key, links(), Link)


def cloud(name_or_toml_path: str | Path, *, key: str = "cloud.server") -> CloudServer:
    """Give a shipped cloud server by name, or one's own from a TOML file; `key` is where the name stands.

    Raises: SpecError for an unknown name or a bad file.
    """
    return _find(name_or_toml_path, key, clouds(), CloudServer)


def write_device(device: Device, path: Path) -> None:
    """Write a profile that `device` reads, its source above the figures.

    Raises: SpecError where the file cannot be written.
    """
    try:
        path.write_text(f"# {device.source}\n{to_toml(device)}", encoding="utf-8")
    except OSError as exc:
        raise SpecError(f"{path}: cannot be written ({exc}); choose another --out") from exc


@cache
def _shipped(folder: str, kind: type[P]) -> dict[str, P]:
    return {path.stem: _read(path, kind) for path in sorted((_HERE / folder).glob("*.toml"))}


def _read(path: Path, kind: type[P]) -> P:
    profile = structure(read_toml(path), kind, where=str(path))
    missing = set(MAC_KINDS) - set(profile.cycles_per_mac) if isinstance(profile, Device) else set()
    if missing:
        raise SpecError(f"{path}: cycles_per_mac lacks {', '.join(sorted(missing))}; give one for each kind of layer")
    return profile


def _find(name_or_path: str | Path, what: str, shipped: dict[str, P], kind: type[P]) -> P:
    text = str(name_or_path)
    if text.endswith(".toml"):
        return _read(Path(text), kind)
    if text not in shipped:
        raise SpecError(f"{what}: unknown {text!r}{did_you_mean(text, list(shipped))}; or give a path ending in .toml")
    return shipped[text]
