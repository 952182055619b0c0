"""A device's profile refitted from measurements: synthetic boards whose true costs are known, and the command."""

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_edge import tiny_edge

from hybrid import calibrate as fitting
from hybrid import profiles
from hybrid.cli import cli
from hybrid.errors import SpecError
from hybrid.latency import edge_latency_ms
from hybrid.work import MAC_KINDS, Work, flatbuffer_work

START = profiles.device("stm32l4r5")


def work(conv=0, pointwise=0, depthwise=0, dense=0, *, outputs=1000, elements=0, operators=5, ragged=0):
    macs = dict(zip(MAC_KINDS, (conv, pointwise, depthwise, dense), strict=True))
    rest = dict.fromkeys(MAC_KINDS, 0) | {"conv": ragged}
    return Work(macs_by_kind=macs, ragged_macs_by_kind=rest, outputs=outputs, elements=elements, operators=operators)


NETS = {
    "conv": work(conv=10_000_000, outputs=80_000, ragged=300_000),
    "ds": work(conv=300_000, pointwise=5_000_000, depthwise=600_000, outputs=200_000),
    "dw": work(pointwise=200_000, depthwise=2_000_000, outputs=100_000),
    "fc": work(dense=300_000),
    "narrow": work(conv=20_000, pointwise=150_000, depthwise=60_000, outputs=60_000, operators=40),
}


def measured(device, names=NETS, board=""):
    """What a board of these costs would take."""
    return [
        fitting.Measurement(model=n, work=NETS[n], latency_ms=edge_latency_ms(NETS[n], device), board=board)
        for n in names
    ]


def test_terms_by_hand():
    # 1000 conv MACs, of which 100 ragged at a penalty of 1.5 count 1050.
    one = work(conv=1000, outputs=7, elements=3, operators=2, ragged=100)
    assert fitting.terms(one, 1.5).tolist() == [1050, 0, 0, 0, 7, 3, 2]


def test_terms_and_costs_are_what_latency_reckons():
    for net in NETS.values():
        cycles = fitting.terms(net, START.ragged_penalty) @ fitting.costs_of(START)
        assert cycles / (START.clock_mhz * 1e3) + START.overhead_ms == pytest.approx(edge_latency_ms(net, START))


def test_one_measurement_moves_the_scale_alone():
    done = fitting.calibrate(measured(replace(START, clock_mhz=START.clock_mhz / 2), ["ds"]), START, "mine")
    assert done.factor == pytest.approx(2)
    assert done.residuals["ds"] == pytest.approx(0, abs=1e-3)
    assert done.measured == ()
    for kind in MAC_KINDS:
        assert done.device.cycles_per_mac[kind] == pytest.approx(2 * START.cycles_per_mac[kind], rel=1e-3)
    assert done.device.latency_band == START.latency_band  # one net says nothing about the next
    assert "of 3 that more would take" in fitting.told(done, START, 1)


def test_a_board_as_the_profile_says_changes_nothing():
    done = fitting.calibrate(measured(START), START, "mine")
    assert done.factor == pytest.approx(1, rel=1e-3)
    assert fitting.costs_of(done.device) == pytest.approx(fitting.costs_of(START), rel=2e-3)
    assert done.device.latency_band == fitting.LEAST_BAND
    assert done.device.name == "mine"
    assert "calibrated from 5 measurements" in done.device.source


def test_the_fixed_time_stays_and_is_no_cost_of_the_net():
    """One small net, half of whose time is fixed: it says nothing of a net a hundred times as large."""
    slow = replace(START, overhead_ms=edge_latency_ms(NETS["narrow"], replace(START, overhead_ms=0)))
    done = fitting.calibrate(measured(slow, ["narrow"]), slow, "mine")
    assert done.factor == pytest.approx(1, rel=1e-3)
    assert done.device.overhead_ms == slow.overhead_ms
    assert done.residuals["narrow"] == pytest.approx(0, abs=1e-3)
    assert edge_latency_ms(NETS["conv"], done.device) == pytest.approx(edge_latency_ms(NETS["conv"], slow), rel=1e-3)


def test_a_board_quicker_than_the_fixed_time_has_less_of_it():
    (row,) = measured(replace(START, overhead_ms=0), ["narrow"])
    done = fitting.calibrate([row], replace(START, overhead_ms=3 * row.latency_ms), "mine")
    assert done.device.overhead_ms == pytest.approx(row.latency_ms / 2)
    assert edge_latency_ms(NETS["narrow"], done.device) == pytest.approx(row.latency_ms, rel=1e-3)


def test_another_proportion_is_found_as_far_as_the_nets_tell():
    slow = replace(START, cycles_per_mac={**START.cycles_per_mac, "depthwise": 1.4 * START.cycles_per_mac["depthwise"]})
    done = fitting.calibrate(measured(slow), START, "mine")
    found = done.device.cycles_per_mac
    before, after = (each["depthwise"] / each["conv"] for each in (START.cycles_per_mac, found))
    assert 1.2 < after / before < 1.5
    assert {"conv", "depthwise"} <= set(done.measured)
    assert max(abs(error) for error in done.residuals.values()) < 0.05
    assert "element" in done.kept  # no net here adds or pools


def test_no_cost_becomes_negative():
    rng = np.random.default_rng(0)
    wild = [replace(row, latency_ms=row.latency_ms * float(rng.lognormal(0, 1))) for row in measured(START)]
    assert (fitting.costs_of(fitting.calibrate(wild, START, "mine").device) > 0).all()


def test_boards_share_the_proportions():
    fast = replace(START, clock_mhz=2 * START.clock_mhz)
    rows = measured(START, board="a") + measured(fast, board="b")
    costs = fitting.costs_of(START) / (START.clock_mhz * 1e3)
    known = {"ragged_penalty": START.ragged_penalty, "overhead_ms": START.overhead_ms}
    done = fitting.fit(rows, costs, **known)
    assert done.scales["a"] / done.scales["b"] == pytest.approx(2, rel=1e-3)
    errors = fitting.leave_one_model_out(rows, costs, **known)
    assert np.abs(errors).max() < 1e-3


def test_left_out_means_not_seen():
    """The error of a model does not depend on its own measurement but in the denominator."""
    rows = measured(START)
    costs = fitting.costs_of(START) / (START.clock_mhz * 1e3)
    other = [replace(row, latency_ms=3 * row.latency_ms) if row.model == "fc" else row for row in rows]
    place = [row.model for row in rows].index("fc")
    first, second = (
        fitting.leave_one_model_out(each, costs, ragged_penalty=START.ragged_penalty)[place] for each in (rows, other)
    )
    assert (first + 1) / (second + 1) == pytest.approx(3)


def test_power_is_energy_over_time():
    rows = [replace(row, energy_mj=row.latency_ms * 0.08) for row in measured(START)]
    assert fitting.calibrate(rows, START, "mine").device.power_mw == pytest.approx(80)
    assert fitting.calibrate(measured(START), START, "mine").device.power_mw == START.power_mw


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "net.tflite").write_bytes(tiny_edge())
    (tmp_path / "text.tflite").write_text("no model")
    return tmp_path


def write(folder, text):
    path = folder / "measured.csv"
    path.write_text(text)
    return path


def run(path, *more):
    return CliRunner().invoke(cli, ["devices", "calibrate", str(path), "--device", "stm32l4r5", *more])


def test_the_command_writes_a_profile_that_devices_are_read_from(folder):
    path = write(folder, "model,latency_ms,energy_mj\nnet.tflite,1.5,0.09\n")
    done = run(path, "--out", str(folder / "mine.toml"))
    assert done.exit_code == 0, done.output
    assert "net.tflite" in done.output
    mine = profiles.device(folder / "mine.toml")
    assert (mine.name, mine.power_mw) == ("mine", 60)
    assert mine.source == "calibrated from 1 measurement, starting from stm32l4r5"
    assert edge_latency_ms(flatbuffer_work(tiny_edge()), mine) == pytest.approx(1.5, rel=1e-3)
    assert (folder / "mine.toml").read_text().startswith("# calibrated from 1 measurement")
    again = fitting.calibrate(fitting.read_measurements(path), mine, "again")  # a profile may be refitted in turn
    assert again.factor == pytest.approx(1, rel=1e-3)


def test_without_a_command_the_profiles_are_listed():
    listed = CliRunner().invoke(cli, ["devices"])
    assert listed.exit_code == 0
    assert "stm32f746" in listed.output
    assert "nb-iot" in listed.output


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("model,energy_mj\nnet.tflite,1\n", "lacks column latency_ms"),
        ("", "lacks column model"),
        ("model,latency_ms\n", "has no measurement; give at least one"),
        ("model,latency_ms\nabsent.tflite,1\n", "line 2: model 'absent.tflite' cannot be read"),
        ("model,latency_ms\nnet.tflite,1\ntext.tflite,1\n", "line 3: model 'text.tflite' is no .tflite"),
        ("model,latency_ms\nnet.tflite,-1\n", "line 2: latency_ms is '-1', allowed numbers above 0"),
        ("model,latency_ms\nnet.tflite,soon\n", "latency_ms is 'soon'"),
        ("model,latency_ms\nnet.tflite\n", "latency_ms is None"),
        ("model,latency_ms,energy_mj\nnet.tflite,1,0\n", "energy_mj is '0'"),
    ],
)
def test_bad_tables_are_refused_by_line(folder, text, complaint):
    with pytest.raises(SpecError, match=complaint):
        fitting.read_measurements(write(folder, text))


def test_a_missing_table_and_a_missing_folder_are_refused(folder):
    with pytest.raises(SpecError, match=r"absent\.csv: cannot be read"):
        fitting.read_measurements(folder / "absent.csv")
    done = run(write(folder, "model,latency_ms\nnet.tflite,1\n"), "--out", str(folder / "no" / "mine.toml"))
    assert isinstance(done.exception, SpecError)
    assert "cannot be written" in str(done.exception)
    done = run(folder / "measured.csv", "--out", str(folder / "mine.txt"))
    assert "allowed a path ending in .toml" in done.output
