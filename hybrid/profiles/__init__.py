"""Devices, links and cloud servers as TOML data, the source of every figure beside it."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

from hybrid.artifacts import CloudServer, Device, Link
from hybrid.configure import ABOVE_0, ANY, check_figures, did_you_mean, read_toml, structure, to_toml, within
from hybrid.errors import SpecError
from hybrid.work import MAC_KINDS

P = TypeVar("P", Device, Link, CloudServer)
_HERE = Path(__file__).parent
_ALLOWED: dict[type, dict[str, tuple[float, float]]] = {
    Device: {
        "clock_mhz": (ABOVE_0, ANY),
        "flash_bytes": (1, ANY),
        "sram_bytes": (1, ANY),
        "reserved_flash_bytes": (0, ANY),
        "reserved_sram_bytes": (0, ANY),
        "power_mw": (0, ANY),
        "sleep_power_mw": (0, ANY),
        "overhead_ms": (0, ANY),
        "latency_band": (0, 10),
        "cycles_per_output": (0, ANY),
        "cycles_per_element": (0, ANY),
        "cycles_per_operator": (0, ANY),
        "ragged_penalty": (1, ANY),
    },
    Link: {
        "wake_ms": (0, ANY),
        "wake_mj": (0, ANY),
        "tail_mj": (0, ANY),
        "rtt_mean_ms": (0, ANY),
        "rtt_sd_ms": (0, ANY),
        "rtt_min_ms": (0, ANY),
        "uplink_kbps": (ABOVE_0, ANY),
        "mj_per_kilobyte": (0, ANY),
        "overhead_bytes": (0, ANY),
        "loss": (0, 0.99),
    },
    CloudServer: {"latency_ms": (0, ANY)},
}
"""Least and greatest value of every figure of a profile."""


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


def by_name(profiles: Sequence[P], *, key: str) -> dict[str, P]:
    """Give profiles by their names; `key` is where they stand. Raises: SpecError where two of one name differ."""
    found: dict[str, P] = {}
    for profile in profiles:
        if found.setdefault(profile.name, profile) != profile:
            raise SpecError(f"{key}: two profiles are named {profile.name!r}; give one of them another name")
    return found


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
    check_figures(profile, _ALLOWED[kind], where=f"{path}: ")
    for layer, cycles in profile.cycles_per_mac.items() if isinstance(profile, Device) else ():
        within(f"{path}: cycles_per_mac.{layer}", cycles, ABOVE_0, ANY)
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
