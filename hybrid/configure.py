"""TOML and ``--set`` in, frozen dataclasses out; and back.

A dataclass is its own schema, for every spec and profile of the project: an unknown key, a wrong type or a value that
is not allowed is refused by its dotted name.
"""

import difflib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_origin

import cattrs
import tomli_w
from cattrs.errors import ForbiddenExtraKeysError

from hybrid.errors import SpecError
from hybrid.specs import RouterSpec, RunSpec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")
Hook = Callable[[Any, Any], Any]
PRESETS = ("quick", "standard")


def _scalar(value: Any, kind: type) -> Any:
    """Keep apart what TOML keeps apart: a string is no number, true is no 1; an integer may stand for a float."""
    allowed = (int, float) if kind is float else (kind,)
    if isinstance(value, bool) is not (kind is bool) or not isinstance(value, allowed):
        raise TypeError(f"got {value!r}, expected {kind.__name__}")
    return kind(value)


def _only(allowed: type | tuple[type, ...], what: str, hook: Hook) -> Hook:
    """Refuse other values before `hook` makes something of them: the letters of a string are no list of names."""

    def guarded(value: Any, kind: Any) -> Any:
        if not isinstance(value, allowed):
            raise TypeError(f"got {value!r}, expected {what}")
        return hook(value, kind)

    return guarded


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    as_tuple = _only((list, tuple), "a list", converter.get_structure_hook(tuple))
    converter.register_structure_hook_func(lambda kind: get_origin(kind) is tuple, as_tuple)
    converter.register_structure_hook_factory(
        is_dataclass, lambda kind: _only(Mapping, "a section", converter.gen_structure_attrs_fromdict(kind))
    )
    for kind in (bool, int, float, str):
        converter.register_structure_hook(kind, _scalar)
    return converter


_CONVERTER = _converter()


_LITERAL = re.compile(r"(.*) not in literal (?:typing\.)?Literal\[(.*)\]")


def _complaint(exc: BaseException, _kind: type | None) -> str:
    if isinstance(exc, ForbiddenExtraKeysError):
        names = [f.name for f in fields(exc.cl)]
        return "; ".join(f"unknown key {key!r}{did_you_mean(key, names)}" for key in sorted(exc.extra_fields))
    if isinstance(exc, KeyError):
        return f"missing key {exc.args[0]!r}"
    if choice := _LITERAL.fullmatch(str(exc)):
        got, allowed = choice.groups()
        return f"unknown {got!r}{did_you_mean(got, re.findall('[a-z0-9_]+', allowed))}"
    return str(exc).replace("typing.", "")


def did_you_mean(word: str, allowed: Sequence[str]) -> str:
    """A hint that ends an error line: the nearest allowed word, or all of them.

    >>> did_you_mean("fasion_mnist", ["fashion_mnist", "cifar10"])
    '; did you mean fashion_mnist? Allowed: cifar10, fashion_mnist'
    """
    near = difflib.get_close_matches(word, allowed, n=1)
    return (f"; did you mean {near[0]}? " if near else "; ") + "Allowed: " + ", ".join(sorted(allowed))


def structure(data: Any, kind: type[T], *, where: str) -> T:
    """Turn plain data into the dataclass `kind`; `where` names the source in errors.

    Raises: SpecError with every complaint and the dotted name it is about.
    """
    try:
        return _CONVERTER.structure(data, kind)
    except Exception as exc:
        lines = cattrs.transform_error(exc, path=where, format_exception=_complaint)
        raise SpecError("; ".join(_path_first(line) for line in lines)) from exc


def _path_first(line: str) -> str:
    what, _, path = line.rpartition(" @ ")
    return f"{path}: {what}" if path else line


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raises: SpecError naming the file and the line of a syntax error."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SpecError(f"{path}: cannot be read ({exc.strerror}); check the path") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SpecError(f"{path}: not valid TOML ({exc})") from exc


def to_toml(spec: Any) -> str:
    """Write any spec as TOML; `structure` reads it back to an equal value."""
    return tomli_w.dumps(_CONVERTER.unstructure(spec))


def set_key(data: dict[str, Any], assignment: str) -> None:
    """Apply one ``a.b=value`` to nested plain data; the value is read as TOML, else as a string.

    Raises: SpecError where the assignment has no ``=`` or runs through a value that is no section.
    """
    dotted, equals, text = assignment.partition("=")
    if not equals or not dotted:
        raise SpecError(f"--set {assignment}: expected section.key=value")
    *sections, key = dotted.strip().split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise SpecError(f"--set {assignment}: {section} is a value, not a section")
    try:
        data[key] = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        data[key] = text


def toml_value(value: Any) -> str:
    """A Python value as it stands right of an equals sign in TOML.

    >>> toml_value("lte"), toml_value(True), toml_value(0.5)
    ('"lte"', 'true', '0.5')
    """
    return tomli_w.dumps({"v": value}).removeprefix("v = ").rstrip()


def run_spec(*, preset_name: str = "quick", paths: Sequence[Path] = (), assignments: Sequence[str] = ()) -> RunSpec:
    """Build a run's spec: the preset, then the keys of each TOML file, then each ``--set``; later ones win."""
    if preset_name not in PRESETS:
        raise SpecError(f"preset: unknown {preset_name!r}{did_you_mean(preset_name, PRESETS)}")
    text = resources.files("hybrid").joinpath("presets", f"{preset_name}.toml").read_text(encoding="utf-8")
    data: dict[str, Any] = tomllib.loads(text)
    for path in paths:
        _merge(data, read_toml(path))
    for assignment in assignments:
        set_key(data, assignment)
    spec = structure(data, RunSpec, where=", ".join(map(str, paths)) or "spec")
    check(spec)
    return spec


def _merge(base: dict[str, Any], over: dict[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


ANY, ABOVE_0 = float("inf"), 1e-9
"""Limits of figures: no upper one, and a lower one that leaves 0 out."""
LEAST_ROUTER_PARAMETERS = 43
"""Of a learned router of the confidences alone: 5 inputs, 6 hidden units, (5 + 2) * 6 + 1."""
_ALLOWED = {
    "seed": (0, 2**31 - 1),
    "data.image_size": (0, ANY),
    "data.limit": (0, ANY),
    "search.trials": (1, ANY),
    "search.supernet_epochs": (1, ANY),
    "search.supernet_rows": (0, ANY),
    "search.rows": (100, ANY),
    "search.macs_exponent": (0, 1),
    "search.probes": (0, 32),
    "search.probe_epochs": (1, ANY),
    "search.finalists": (0, 32),
    "search.noise_tolerance": (0, ANY),
    "search.max_macs": (0, ANY),
    "search.max_flash_bytes": (0, ANY),
    "search.max_peak_sram_bytes": (0, ANY),
    "train.batch_size": (1, ANY),
    "train.edge_epochs": (1, ANY),
    "train.edge_learning_rate": (ABOVE_0, ANY),
    "train.cloud_learning_rate": (ABOVE_0, ANY),
    "train.weight_decay": (0, ANY),
    "train.label_smoothing": (0, 1),
    "train.rounds": (0, ANY),
    "train.round_epochs": (1, ANY),
    "train.distillation": (0, 1),
    "train.temperature": (1e-3, ANY),
    "train.crop_pixels": (0, ANY),
    "train.cutout_pixels": (0, ANY),
    "train.mixup": (0, ANY),
    "look.nets": (1, 4),
    "look.width": (0.1, 8),
    "look.share": (0.01, 0.99),
    "look.exit_after": (0, ANY),
    "router.hidden": (1, ANY),
    "router.epochs": (1, ANY),
    "router.max_parameters": (LEAST_ROUTER_PARAMETERS, ANY),
    "router.softness": (0, 1),
    "router.teachers": (0, ANY),
    "router.teacher_epochs": (1, ANY),
    "router.students": (1, ANY),
    "router.choice_folds": (2, ANY),
    "router.rows": (0, ANY),
    "router.folds": (2, ANY),
    "quantize.qat_epochs": (1, ANY),
    "quantize.qat_learning_rate": (ABOVE_0, ANY),
    "quantize.representative_rows": (1, ANY),
    "sweep.max_loss": (0, 1),
    "sweep.max_queries": (0, 1),
    "sweep.confidence": (0, 0.999),
    "sweep.max_latency_ms": (0, ANY),
    "sweep.min_accuracy": (0, 1),
    "sweep.min_coverage": (0, 1),
    "search.max_latency_ms": (0, ANY),
    "search.min_coverage": (0, 1),
    "export.arena_margin": (0, 10),
    "export.golden_examples": (1, ANY),
    "export.deadline_ms": (1, 86_400_000),
    "export.drift_window": (64, 4096),
    "export.query_cost": (0.001, 0.5),
}
"""Least and greatest value of every figure of a `RunSpec`; its shares of the data are checked together."""
_ALLOWED_OF_A_CLOUD = {
    "width": (1, ANY),
    "depth": (1, ANY),
    "epochs": (1, ANY),
    "application_pixels": (32, ANY),
    "latency_ms": (0, ANY),
}


def check(spec: RunSpec) -> None:
    """Refuse values that no run can use. Raises: SpecError naming the first."""
    for key, (least, most) in _ALLOWED.items():
        section, _, name = key.rpartition(".")
        within(key, getattr(getattr(spec, section) if section else spec, name), least, most)
    for where, cloud in (("cloud", spec.cloud), *((f"clouds[{i}]", one) for i, one in enumerate(spec.clouds))):
        check_figures(cloud, _ALLOWED_OF_A_CLOUD, where=f"{where}.")
    data = spec.data
    if not (data.calibration_fraction > 0 and data.validation_fraction > 0):
        raise SpecError("data: calibration_fraction and validation_fraction must be above 0")
    if not data.calibration_fraction + data.validation_fraction < 1:
        raise SpecError("data: calibration_fraction + validation_fraction leave no training examples; lower them")
    kinds = spec.search.kinds
    if not kinds or len(set(kinds)) < len(kinds):
        raise SpecError(f"search.kinds: got {list(kinds)}, allowed one or more distinct kinds")
    if spec.search.arch and spec.clouds:
        raise SpecError(
            "clouds: a search chooses one of several, and search.arch leaves none to make; give one of both"
        )
    if not spec.quantize.methods:
        raise SpecError("quantize.methods: empty; allowed ptq, qat or both")


def router_spec(values: Mapping[str, Any], *, where: str) -> RouterSpec:
    """A router's spec from plain values, all checked as in a run's. Raises: SpecError that begins with `where`."""
    spec = structure(dict(values), RouterSpec, where=where)
    limits = {key.removeprefix("router."): allowed for key, allowed in _ALLOWED.items() if key.startswith("router.")}
    check_figures(spec, limits, where=f"{where}: ")
    return spec


def check_figures(of: Any, limits: Mapping[str, tuple[float, float]], *, where: str) -> None:
    """Refuse what has a figure outside its `limits`, by name the least and the greatest. Raises: SpecError."""
    for name, (least, most) in limits.items():
        within(f"{where}{name}", getattr(of, name), least, most)


def within(key: str, value: float, least: float, most: float) -> None:
    """Refuse a figure outside its limits, and one that is no number. Raises: SpecError naming `key`."""
    if not (least <= value <= most and value < ANY):  # false for NaN too
        above = "above 0" if least == ABOVE_0 else f"{least:,} or more"
        allowed = above if most == ANY else f"{least:,} to {most:,}"
        raise SpecError(f"{key}: got {value}, allowed {allowed}")
