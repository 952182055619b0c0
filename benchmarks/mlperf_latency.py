"""How well the latency model predicts a net that it was not fitted on: the MLPerf Tiny table, leave one model out.

In: every int8 row of the closed division of a Cortex-M board whose processor computes, by whatever engine. Out, and
why: accelerators (Syntiant, Silicon Labs xG24, ST U3C5, FPGAs), other processors (RISC-V, RX, RH850, phones), float
nets, rows without a time, and variants that a submitter tuned for one model (``max_performance``, ``min_ram``). No row
is left out for its error. cTuning's rows repeat OctoML's engine on one board for two models; they are out as well.

Costs are shared by the boards of one engine in one round, each board has a factor of its own; three models are fitted
and the fourth predicted. Two thirds of the channels in the last half of the VWW reference net are dead (all weights
zero); its published times show that several engines since round 1.1 skip them (`SKIPPING`). ``as_is`` in the figures
counts all channels for them, too.

What is fitted never sees the model that it predicts. The prior's proportions, how far a fit may leave them, and which
engines skip channels were chosen with all four models in view, so the error on a fifth may be larger.
"""

import csv
import math
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from hybrid.calibrate import CORTEX_M_COSTS, RAGGED_PENALTY, Measurement, leave_one_model_out
from hybrid.schema import schema
from hybrid.work import Work, flatbuffer_work

MODELS = {
    "ic": "ic_pretrainedResnet_quant.tflite",
    "kws": "kws_ref_model.tflite",
    "vww": "vww_96_int8.tflite",
    "ad": "ad01_int8.tflite",
}
BOARDS = re.compile(r"L4R5|H7A3|U575|U585|U385|F746|G0B1|NRF5340|4343W|M467|RA6M4|RA8D1", re.IGNORECASE)
VARIANTS = re.compile(r"float|max_performance|min_ram")
SKIPPING = {
    *(f"{org} {round_}" for org in ("STMicroelectronics", "plumerai") for round_ in ("1.1", "1.2", "1.3")),
    "Skymizer 1.1",
    "Nuvoton 1.1",
}


def read_table(data: Path) -> dict[str, list[Measurement]]:
    """Read the rows that are in, by engine; the work counts all channels."""
    work = {
        name: flatbuffer_work((data / "tflite-models/mlperf-tiny" / file).read_bytes()) for name, file in MODELS.items()
    }
    rows: dict[str, list[Measurement]] = defaultdict(list)
    with (data / "devices/mlperf_tiny.csv").open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if is_in(line):
                ms, model = float(line["latency_ms"]), line["bench"]
                board = f"{line['org']} {line['round']} {line['system']}"
                rows[engine(line)].append(Measurement(model=model, work=work[model], latency_ms=ms, board=board))
    return dict(rows)


def is_in(line: dict[str, str]) -> bool:
    """Whether a row is of an int8 net on a Cortex-M's processor; see the module."""
    system = line["system"]
    return bool(
        line["division"] == "closed"
        and line["latency_ms"]
        and line["org"] != "cTuning"
        and BOARDS.search(system)
        and not VARIANTS.search(system)
    )


def engine(line: dict[str, str]) -> str:
    """What computed: the submitter's engine of that round; Krai and OctoML ran those of others."""
    if line["org"] not in ("Krai", "OctoML"):
        return f"{line['org']} {line['round']}"
    system = line["system"].lower()
    names = {"cmsis": "microTVM CMSIS-NN", "native": "microTVM native", "7.3": "X-CUBE-AI 7.3", "8.0": "X-CUBE-AI 8.0"}
    return next(name for part, name in names.items() if part in system)


def without_dead_channels(flatbuffer: bytes, work: Work) -> Work:
    """Take away the channels of a plain chain of convolutions whose weights are all zero, and what only they feed."""
    s = schema()
    model = s.ModelT.InitFromObj(s.Model.GetRootAs(flatbuffer, 0))
    graph, op = model.subgraphs[0], s.BuiltinOperator
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    macs, outputs, alive_in, alive = dict(work.macs_by_kind), work.outputs, 1.0, np.ones(1, bool)
    for node in graph.operators:
        code = codes[node.opcodeIndex]
        if code not in (op.CONV_2D, op.DEPTHWISE_CONV_2D):
            continue
        weights, pixels = graph.tensors[node.inputs[1]], math.prod(graph.tensors[node.outputs[0]].shape[1:3])
        values = np.frombuffer(model.buffers[weights.buffer].data.tobytes(), np.int8).reshape(weights.shape)
        full = pixels * values.size
        if code == op.CONV_2D:
            kind = "pointwise" if values.shape[1:3] == (1, 1) else "conv"
            alive = values.any(axis=(1, 2, 3))
            kept = full * alive_in * alive.mean()
        else:
            kind, kept = "depthwise", full * alive_in
        alive_in = float(alive.mean())
        macs[kind] -= round(full - kept)
        outputs -= round(pixels * len(alive) * (1 - alive_in))
    return replace(work, macs_by_kind=macs, outputs=outputs)


def latency_figures(data: Path) -> dict[str, object]:
    """Mean absolute relative errors in percent: of all rows, by model and by engine, and with `SKIPPING` ignored."""
    table = read_table(data)
    vww = (data / "tflite-models/mlperf-tiny" / MODELS["vww"]).read_bytes()
    skipped = without_dead_channels(vww, flatbuffer_work(vww))
    errors, as_is = [], []
    for name, rows in table.items():
        as_is += _errors(name, rows)
        lean = [replace(row, work=skipped) if name in SKIPPING and row.model == "vww" else row for row in rows]
        errors += _errors(name, lean)
    return {
        "latency_mape_pct": _mape([error for *_, error in errors]),
        "rows": len(errors),
        "by_model": {model: _mape([error for _, one, error in errors if one == model]) for model in MODELS},
        "by_engine": {name: _mape([error for one, _, error in errors if one == name]) for name in table},
        "worst_pct": round(100 * max(abs(error) for *_, error in errors), 1),
        "as_is": _mape([error for *_, error in as_is]),
        "not_skipping": _mape([error for name, _, error in errors if name not in SKIPPING]),
    }


def _errors(name: str, rows: list[Measurement]) -> list[tuple[str, str, float]]:
    found = leave_one_model_out(rows, CORTEX_M_COSTS, ragged_penalty=RAGGED_PENALTY)
    return [(name, row.model, error) for row, error in zip(rows, found, strict=True) if not math.isnan(error)]


def _mape(errors: list[float]) -> float:
    return round(100 * float(np.mean(np.abs(errors))), 2)
