"""Latency measured on boards in, what work costs there out: a device's profile from its user's own measurements.

The time of an inference is linear in its work (`terms`), beside the profile's fixed overhead. A few nets cannot
separate all costs, so that the fit is one in relative error around a prior, the profile that is refitted: each board
has a scale of its own, free, and each cost may leave the prior's proportions as far as the measurements say so and
`SPREAD` allows (a MAP estimate of normal laws on logarithms; no cost can become negative). Boards measured together
share the proportions.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybrid.artifacts import Device
from hybrid.errors import SpecError
from hybrid.work import MAC_KINDS, Work, flatbuffer_work

Array = NDArray[np.float64]
TERMS = (*MAC_KINDS, "output", "element", "operator")
CORTEX_M_COSTS = np.array([2.0, 2.05, 7.7, 3.0, 22.0, 40.0, 500.0])
"""Of `TERMS` on an engine that is not known further: instructions of CMSIS-NN's kernels counted under QEMU. A dense
layer takes hardly more instructions than a convolution but reads each weight once only, from flash: 1.5 times, as in
the profile of ESP-NN's kernels. Those of an output, element and operator are rounded."""
RAGGED_PENALTY = 1.74
"""MicroNets (Banbury et al. 2021): 37.5 ms with 138 channels, 21.5 ms with 140."""
SPREAD, NOISE = 0.15, 0.05
"""Standard deviations, of a cost's logarithm around the prior's proportions, and of a measurement around the model."""
SHAPE_ROWS = 3
"""With fewer measurements only the scale is fitted."""
TOLD = 0.8
"""A cost counts as measured where its standard deviation fell to this share of the prior's."""
LEAST_BAND = 0.05


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One net on one board."""

    model: str
    work: Work
    latency_ms: float
    energy_mj: float | None = None
    board: str = ""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Costs in the prior's unit, the factor of each board, and how far each cost is known (1: no more than before)."""

    costs: Array
    scales: Mapping[str, float]
    remaining: Array
    overhead_ms: float

    def latency_ms(self, work: Work, board: str, ragged_penalty: float) -> float:
        """Time of one inference, where the prior's unit is milliseconds."""
        return self.scales[board] * float(terms(work, ragged_penalty) @ self.costs) + self.overhead_ms


def terms(work: Work, ragged_penalty: float) -> Array:
    """What is multiplied by the costs of `TERMS`, ``(7,)``; ragged MACs count `ragged_penalty` times."""
    macs = [work.macs_by_kind[k] + (ragged_penalty - 1) * work.ragged_macs_by_kind[k] for k in MAC_KINDS]
    return np.array([*macs, work.outputs, work.elements, work.operators], dtype=np.float64)


def fit(
    rows: Sequence[Measurement], prior: Array, *, ragged_penalty: float, overhead_ms: float = 0.0, shape: bool = True
) -> Fit:
    """Fit the costs ``(7,)`` and a factor for each board; without `shape` the factors alone.

    `overhead_ms` of each inference is known, and shorter than every measurement.
    """
    from scipy.optimize import least_squares

    boards = sorted({row.board for row in rows})
    x = np.array([terms(row.work, ragged_penalty) for row in rows])
    at = np.array([boards.index(row.board) for row in rows])
    measured_ms = np.array([row.latency_ms for row in rows])
    count = len(TERMS) if shape else 0

    def residuals(t: Array) -> Array:
        costs = prior * np.exp(t[:count]) if shape else prior
        modelled_ms = (x @ costs) * np.exp(t[count:][at]) + overhead_ms
        return np.concatenate([np.log(modelled_ms / measured_ms) / NOISE, t[:count] / SPREAD])

    off = np.log((measured_ms - overhead_ms) / (x @ prior))
    start = np.concatenate([np.zeros(count), [off[at == board].mean() for board in range(len(boards))]])
    found = least_squares(residuals, start)
    covariance = np.linalg.inv(found.jac.T @ found.jac)
    remaining = np.sqrt(np.diag(covariance)[:count]) / SPREAD if shape else np.ones(len(TERMS))
    return Fit(
        costs=prior * np.exp(found.x[:count]) if shape else prior,
        scales={board: float(np.exp(t)) for board, t in zip(boards, found.x[count:], strict=True)},
        remaining=remaining,
        overhead_ms=overhead_ms,
    )


def leave_one_model_out(
    rows: Sequence[Measurement], prior: Array, *, ragged_penalty: float, overhead_ms: float = 0.0
) -> list[float]:
    """Relative error of each row, predicted by a fit on the rows of all other models, in the order of `rows`.

    A row whose board has no other model is nan.
    """
    errors = [math.nan] * len(rows)
    for model in sorted({row.model for row in rows}):
        others = [row for row in rows if row.model != model]
        if not others:
            continue
        shape = len(others) >= SHAPE_ROWS
        done = fit(others, prior, ragged_penalty=ragged_penalty, overhead_ms=overhead_ms, shape=shape)
        for index, row in enumerate(rows):
            if row.model == model and row.board in done.scales:
                predicted = done.latency_ms(row.work, row.board, ragged_penalty)
                errors[index] = predicted / row.latency_ms - 1
    return errors


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A refitted profile, and how far to trust it."""

    device: Device
    residuals: Mapping[str, float]
    """Relative error of the new profile on each model: estimated over measured, less one."""
    factor: float
    """Of the measured times to those of the former profile, as far as it is the same for all."""
    measured: tuple[str, ...]
    """Costs that the measurements told more about than the former profile."""
    kept: tuple[str, ...]
    """Costs that keep the former profile's proportions."""


def calibrate(rows: Sequence[Measurement], device: Device, name: str) -> Calibration:
    """Refit `device` from measurements of one board, at least one; the result is called `name`.

    The fixed overhead of an inference stays what it is, but for a board that is too quick for that: it has at most half
    of the shortest measurement.
    """
    khz = device.clock_mhz * 1e3
    prior = costs_of(device) / khz
    overhead_ms = min(device.overhead_ms, min(row.latency_ms for row in rows) / 2)
    shape = len(rows) >= SHAPE_ROWS
    done = fit(rows, prior, ragged_penalty=device.ragged_penalty, overhead_ms=overhead_ms, shape=shape)
    ((board, scale),) = done.scales.items()
    cycles = {term: float(f"{cost * scale * khz:.4g}") for term, cost in zip(TERMS, done.costs, strict=True)}
    told = tuple(term for term, left in zip(TERMS, done.remaining, strict=True) if left < TOLD)
    refitted = replace(
        device,
        name=name,
        title=f"{device.title}, calibrated",
        cycles_per_mac={kind: cycles[kind] for kind in MAC_KINDS},
        cycles_per_output=cycles["output"],
        cycles_per_element=cycles["element"],
        cycles_per_operator=cycles["operator"],
        overhead_ms=overhead_ms,
        power_mw=_power_mw(rows, device),
        latency_band=_band(rows, prior, device, overhead_ms),
        source=f"calibrated from {len(rows)} measurement{'s' if len(rows) > 1 else ''}, starting from {device.name}",
    )
    return Calibration(
        device=refitted,
        residuals={
            row.model: done.latency_ms(row.work, board, device.ragged_penalty) / row.latency_ms - 1 for row in rows
        },
        factor=scale,
        measured=told,
        kept=tuple(term for term in TERMS if term not in told),
    )


def told(done: Calibration, former: Device, count: int) -> str:
    """What the measurements could tell and what they could not, in a sentence or two."""
    scale = f"All costs are {done.factor:.2f} times those of {former.name}"
    if not done.measured:
        few = f"{count} measurement{'s' if count > 1 else ''} of {SHAPE_ROWS} that more would take"
        why = few if count < SHAPE_ROWS else "the nets are too much alike"
        return f"{scale}; their proportions are kept ({why})."
    return f"{scale}; measured beside that: {', '.join(done.measured)}; kept in proportion: {', '.join(done.kept)}."


def costs_of(device: Device) -> Array:
    """Cycles of each of `TERMS`, ``(7,)``."""
    macs = [device.cycles_per_mac[kind] for kind in MAC_KINDS]
    return np.array([*macs, device.cycles_per_output, device.cycles_per_element, device.cycles_per_operator])


def _band(rows: Sequence[Measurement], prior: Array, device: Device, overhead_ms: float) -> float:
    """The largest error when each model is predicted from the others; of one model, what the profile had."""
    known = {"ragged_penalty": device.ragged_penalty, "overhead_ms": overhead_ms}
    errors = np.abs(leave_one_model_out(rows, prior, **known))
    if np.isnan(errors).all():
        return device.latency_band
    return round(max(LEAST_BAND, float(np.nanmax(errors))), 2)


def _power_mw(rows: Sequence[Measurement], device: Device) -> float:
    """Energy over time of the rows that have both; it hardly depends on the model."""
    powers = [1000 * row.energy_mj / row.latency_ms for row in rows if row.energy_mj is not None]
    return float(f"{np.median(powers):.4g}") if powers else device.power_mw


def read_measurements(path: Path) -> list[Measurement]:
    """Read a CSV with the columns model (path of a .tflite, from the CSV's folder), latency_ms and, if any, energy_mj.

    Raises: SpecError naming the line, for what is missing, cannot be read or is no positive number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            lines, columns = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise SpecError(f"{path}: cannot be read ({exc}); give a CSV with columns model, latency_ms") from exc
    missing = [name for name in ("model", "latency_ms") if name not in columns]
    if missing:
        raise SpecError(f"{path}: lacks column {missing[0]}; allowed: model, latency_ms and, if measured, energy_mj")
    if not lines:
        raise SpecError(f"{path}: has no measurement; give at least one line with model and latency_ms")
    return [_measurement(path, number, line) for number, line in enumerate(lines, 2)]


def _measurement(path: Path, number: int, line: Mapping[str, str | None]) -> Measurement:
    where = f"{path}, line {number}"
    model = line["model"] or ""
    try:
        work = flatbuffer_work((path.parent / model).read_bytes())
    except OSError as exc:
        raise SpecError(
            f"{where}: model {model!r} cannot be read ({exc}); give its path from the CSV's folder"
        ) from exc
    except Exception as exc:  # what the flatbuffer reader raises on other bytes is not documented
        raise SpecError(f"{where}: model {model!r} is no .tflite model; give an int8 flatbuffer") from exc
    if not work.macs:
        raise SpecError(f"{where}: model {model!r} has no convolution or dense layer to reckon with; leave it out")
    energy = line.get("energy_mj")
    return Measurement(
        model=model,
        work=work,
        latency_ms=_positive(where, "latency_ms", line["latency_ms"]),
        energy_mj=_positive(where, "energy_mj", energy) if energy else None,
    )


def _positive(where: str, column: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise SpecError(f"{where}: {column} is {text!r}, allowed numbers above 0")
    return value
