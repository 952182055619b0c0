"""The command as a person meets it: help, lists, and one line for everything that a person can get wrong."""

import gzip
import os
import resource
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybrid import profiles
from hybrid.configure import to_toml

ROOT = Path(__file__).parents[1]
TINY = (
    "search.trials=2",
    "search.supernet_epochs=1",
    'cloud.kind="table"',
    "train.edge_epochs=1",
    "train.rounds=0",
)


def stripes(n=80, classes=4, size=8):
    """Grey images with a bright stripe where the class says, ``(n, size, size)``, and their labels."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % classes
    x = rng.integers(0, 60, (n, size, size)).astype(np.uint8)
    x[np.arange(n), y * size // classes] = 250
    return x, y


@pytest.fixture
def npz(tmp_path):
    path = tmp_path / "stripes.npz"
    x, y = stripes()
    np.savez(path, x=x, y=y)
    return path


def settings(*assignments):
    return [word for assignment in assignments for word in ("--set", assignment)]


# What it says of itself


def test_without_a_command_it_shows_the_help(hybrid):
    assert hybrid()[:2] == hybrid("--help")[:2]


def test_help_lists_the_commands_in_the_order_of_the_story(hybrid):
    code, out, err = hybrid("--help")
    assert (code, err) == (0, "")
    commands = [line.split()[0] for line in out.partition("Commands:\n")[2].splitlines()]
    assert commands == [
        *("run", "data", "search", "train", "quantize", "sweep", "export", "report"),
        *("verify", "emulate", "serve", "compile", "devices"),
    ]
    assert "..." not in out.partition("Commands:\n")[2]  # every description is whole


@pytest.mark.parametrize(
    "command", ["run", "data", "search", "train", "sweep", "export", "report", "verify", "emulate", "serve", "compile"]
)
def test_each_command_has_help(hybrid, command):
    code, out, _ = hybrid(command, "--help")
    assert code == 0
    assert out.startswith(f"Usage: hybrid {command} ")


def test_version(hybrid):
    code, out, _ = hybrid("--version")
    assert code == 0
    assert out.startswith("hybrid, version ")


def test_devices_lists_every_profile(hybrid):
    code, out, err = hybrid("devices")
    assert (code, err) == (0, "")
    for profile in (*profiles.devices().values(), *profiles.links().values()):
        assert any(line.split()[:1] == [profile.name] and profile.title in line for line in out.splitlines())
    f746 = next(line for line in out.splitlines() if line.strip().startswith("stm32f746"))
    assert "216 MHz" in f746  # the board's data sheet: 320 KiB of SRAM, 1 MiB of flash
    assert "320 KiB" in f746
    assert "1024 KiB" in f746


def test_devices_where_the_terminal_knows_ascii_alone():
    done = subprocess.run(
        [sys.executable, "-m", "hybrid.cli", "devices"],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert b"stm32f746" in done.stdout
    assert done.stderr == b""


def test_data_shows_the_card(hybrid):
    code, out, err = hybrid("data", "fashion_mnist")
    assert (code, err) == (0, "")
    assert out.startswith("fashion_mnist: 28 x 28 x 1, 10 classes\n")
    counts = next(line.split()[1:] for line in out.splitlines() if line.startswith("Ankle boot"))
    assert counts == [
        "boot",
        "4,800",
        "600",
        "600",
        "1,000",
    ]  # 60,000 less two tenths, by class; the test part is whole
    assert "MIT" in out


def test_data_reads_an_npz(hybrid, npz):
    code, out, err = hybrid("data", npz)
    assert (code, err) == (0, "")
    assert out.startswith("stripes: 8 x 8 x 1, 4 classes\n")


# Bad input: options and specs


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dataset", "fashon_mnist"], ["data.name", "fashon_mnist", "did you mean fashion_mnist?"]),
        (["--device", "stm32f74"], ["device", "stm32f74", "did you mean stm32f746?"]),
        (["--device", "nowhere.toml"], ["nowhere.toml", "check the path"]),
        (["--link", "5g"], ["link", "5g", "wifi"]),
        (["--preset", "slow"], ["preset", "slow", "quick, standard"]),
        (["--spec", "nowhere.toml"], ["nowhere.toml", "check the path"]),
        (settings("train.epochs=3"), ["train", "unknown key 'epochs'", "edge_epochs"]),
        (settings("trian.edge_epochs=3"), ["unknown key 'trian'", "did you mean train?"]),
        (settings("train.edge_epochs"), ["train.edge_epochs", "expected section.key=value"]),
        (settings("train.edge_epochs=many"), ["train.edge_epochs", "'many'", "int"]),
        (settings("train.edge_epochs=0"), ["train.edge_epochs", "0", "1 or more"]),
        (settings("seed.low=1"), ["seed"]),
        (settings("seed=1", "seed.low=1"), ["seed is a value"]),
        (settings("router.kind=clever"), ["router.kind", "clever", "max_softmax"]),
        (settings("train.distillation=1.5"), ["train.distillation", "1.5", "0 to 1"]),
        (settings("data.calibration_fraction=0.6", "data.validation_fraction=0.6"), ["leave no training examples"]),
        (settings("quantize.methods=[]"), ["quantize.methods", "empty"]),
        (["--trials", "0"], ["search.trials", "1 or more"]),
        (settings("search.rows=99"), ["search.rows", "99", "100 or more"]),
        (settings("search.supernet_epochs=0"), ["search.supernet_epochs", "0", "1 or more"]),
        (settings("search.min_coverage=1.1"), ["search.min_coverage", "1.1", "0 to 1"]),
        (settings("search.epochs=1"), ["search", "unknown key 'epochs'"]),
        (settings("cloud.latency_ms=-1"), ["cloud.latency_ms", "-1", "0 or more"]),
        (settings("clouds=[{width=8}, {width=0}]"), ["clouds[1].width", "0", "1 or more"]),
        (settings("clouds=[{wide=8}]"), ["clouds", "unknown key 'wide'"]),
        (settings("clouds=3"), ["clouds", "a list"]),
        (settings('clouds=[{server="mainframe"}]'), ["cloud", "mainframe", "cpu-large"]),
        (["--trials", "few"], ["--trials", "few", "see hybrid run --help"]),
        (["--min-accuracy", "95"], ["sweep.min_accuracy", "95", "0 to 1"]),
        (["--min-coverage", "nan"], ["sweep.min_coverage", "nan"]),
        (["--max-latency-ms", "-5"], ["sweep.max_latency_ms", "-5"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (settings("data.limit=-1"), ["limit", "-1"]),
        (settings("train.temperature=0"), ["train.temperature", "0"]),
        (settings("train.rounds=-1"), ["train.rounds", "-1"]),
        (settings("router.folds=1", 'router.supervision="cross_fit"'), ["router.folds", "1"]),
        (settings("cloud.width=0"), ["cloud.width", "0"]),
        (settings("export.golden_examples=0"), ["export.golden_examples", "0"]),
        (settings("export.arena_margin=-0.5"), ["export.arena_margin", "-0.5"]),
        (settings("export.deadline_ms=0"), ["export.deadline_ms", "0"]),
        (settings('sweep.links=["wifi", "5g"]'), ["sweep.links", "5g"]),
        (settings('sweep.clouds=["mainframe"]'), ["sweep.clouds", "mainframe"]),
        (settings('clouds=[{width=8}, {width=8, server="gpuu"}]'), ["clouds[1].server", "gpuu"]),
        (["--frobnicate"], ["--frobnicate", "see hybrid run --help"]),
    ],
)
def test_bad_options(refused, tmp_path, options, words):
    out = tmp_path / "run"
    line = refused("run", "--out", out, "--dataset", "no such data", *options)
    assert [word for word in words if word not in line] == []
    assert not out.exists()


def test_unknown_command(refused):
    assert "frob" in refused("frob")


def test_out_is_required(refused):
    assert "--out" in refused("run")


def test_bad_toml_names_file_and_line(refused, tmp_path):
    spec = tmp_path / "mine.toml"
    spec.write_text("[train]\nedge_epochs = = 3\n")
    line = refused("run", "--out", tmp_path / "run", "--spec", spec)
    assert "mine.toml" in line
    assert "line 2" in line
    assert not (tmp_path / "run").exists()


def test_a_damaged_spec_in_the_run_folder_is_named(refused, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/spec.toml").write_text("seed = 'x'\n")
    assert "spec.toml" in refused("run", "--out", tmp_path / "run")


# Bad input: data


@pytest.fixture
def refused_data(refused, tmp_path):
    """Run on this data, which must be refused before anything is written; gives the line."""

    def call(path):
        for command in (["data", path], ["run", "--out", tmp_path / "out", "--dataset", path]):
            line = refused(*command)
            assert str(path) in line or path.stem in line or "class " in line
        assert not (tmp_path / "out").exists()
        return line

    return call


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_class_with_one_example(refused_data, tmp_path):
    x, y = stripes()
    y[y == 3] = 2
    y[0] = 3
    line = refused_data(saved(tmp_path / "lonely.npz", x=x, y=y))
    assert "class 3" in line
    assert "has 1" in line


def test_labels_out_of_range(refused_data, tmp_path):
    x, y = stripes()
    y[7] = -1
    assert "-1 at index 7" in refused_data(saved(tmp_path / "labels.npz", x=x, y=y))


def test_nan_pixels(refused_data, tmp_path):
    x, y = stripes()
    x = x.astype(np.float32)[..., None]
    x[5, 2, 3, 0] = np.nan
    assert "(5, 2, 3, 0)" in refused_data(saved(tmp_path / "holes.npz", x=x, y=y))


def test_truncated_npz(refused_data, npz):
    npz.write_bytes(npz.read_bytes()[:-200])
    assert "npz" in refused_data(npz)


def test_one_class(refused_data, tmp_path):
    x, y = stripes()
    assert "class" in refused_data(saved(tmp_path / "same.npz", x=x, y=np.zeros_like(y)))


def write_images(folder, sizes):
    x, y = stripes()
    for index, (image, label) in enumerate(zip(x, y, strict=True)):
        path = folder / f"c{label}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize(sizes[index % len(sizes)]).save(path)
    return folder


def test_folder_of_mixed_sizes(refused_data, tmp_path):
    line = refused_data(write_images(tmp_path / "mixed", [(8, 8), (9, 8)]))
    assert "8x8" in line
    assert "9x8" in line
    assert "data.image_size" in line


def test_corrupt_gz_is_named(refused, tmp_path, monkeypatch):
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(b"\0" * 5000)[:-9])
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    assert "train-images-idx3-ubyte.gz" in refused("run", "--out", tmp_path / "run", "--dataset", "fashion_mnist")
    assert not (tmp_path / "run").exists()


# Bad input: places


def test_out_is_a_file(refused, npz):
    before = npz.read_bytes()
    assert "is a file" in refused("run", "--out", npz)
    assert npz.read_bytes() == before


def test_out_cannot_be_made(refused, npz):
    """/proc takes no folders, from nobody."""
    assert "cannot be written" in refused("run", "--out", "/proc/hybrid", "--dataset", npz)


@pytest.fixture
def table(tmp_path, npz):
    """A black box that knows the labels of the held-out splits."""
    from datasets import load

    return saved(tmp_path / "table.npz", **{n: s.y for n, s in load(str(npz)).splits.items() if n != "train"})


def test_full_disk(small_disk, npz, table):
    words = ["run", "--out", small_disk / "run", "--dataset", npz, *settings(*TINY, f'cloud.table="{table}"')]
    done = subprocess.run(
        [sys.executable, "-m", "hybrid.cli", *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "cannot be written (No space left on device)" in done.stderr
    assert list(small_disk.rglob("*.partial")) == []


# Bad input: devices and clouds


def test_no_net_fits_the_device(refused, tmp_path, npz, table):
    """16 KiB of SRAM and 20 KiB of flash, most of it reserved."""
    device = to_toml(profiles.device("rp2040"))
    small = {
        "sram_bytes": 16 << 10,
        "reserved_sram_bytes": 15 << 10,
        "flash_bytes": 20 << 10,
        "reserved_flash_bytes": 19 << 10,
    }
    lines = [line for line in device.splitlines() if line.partition(" =")[0] not in small]
    head = [f"{key} = {value}" for key, value in small.items()]
    profile = tmp_path / "tiny.toml"
    profile.write_text("\n".join([*head, *lines]))
    line = refused(
        "run",
        "--out",
        tmp_path / "run",
        "--dataset",
        npz,
        "--device",
        profile,
        *settings(*TINY, f'cloud.table="{table}"'),
    )
    assert "needs" in line
    assert "device rp2040 has 1,024" in line
    assert not (tmp_path / "run").exists()


def test_a_latency_that_no_net_keeps_to_is_refused_before_anything_is_kept(refused, tmp_path, npz):
    """The next command with this folder does not find the budget that nothing fits in."""
    out = tmp_path / "run"
    line = refused("search", "--out", out, "--dataset", npz, "--max-latency-ms", "0.001")
    assert line.startswith("error: latency_ms: needs ")
    assert "device stm32f746 under search.max_latency_ms has 0.001; this is the smallest net of the space" in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("cloud.example", ["cloud.url", "http://host:8080/v2/models/NAME"]),
        ("http://127.0.0.1:1/v2/models/cloud", ["127.0.0.1:1", "is the server up?"]),
    ],
)
def test_bad_url(refused, tmp_path, npz, url, words):
    out = tmp_path / "run"
    line = refused("run", "--out", out, "--dataset", npz, *settings(*TINY, 'cloud.kind="url"', f'cloud.url="{url}"'))
    assert [word for word in words if word not in line] == []
    assert [path.name for path in out.iterdir()] == ["spec.toml"]


def test_missing_table(refused, tmp_path, npz):
    line = refused("run", "--out", tmp_path / "run", "--dataset", npz, *settings(*TINY, 'cloud.table="none.npz"'))
    assert "none.npz" in line


@pytest.mark.parametrize(("command", "missing"), [("verify", "manifest.json"), ("serve", "endpoint.toml")])
def test_no_bundle(refused, tmp_path, command, missing):
    assert missing in refused(command, tmp_path)
    assert "nowhere" in refused(command, tmp_path / "nowhere")


# Interruption


def test_ctrl_c(tmp_path, npz):
    """The interrupt comes while the command waits for a cloud that is silent."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v2/models/cloud"
        words = ["run", "--out", tmp_path / "run", "--dataset", npz]
        words += settings(*TINY, 'cloud.kind="url"', f'cloud.url="{url}"')
        job = subprocess.Popen(
            [sys.executable, "-m", "hybrid.cli", *map(str, words)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # shells let background jobs ignore it
        )
        with silent.accept()[0]:
            job.send_signal(signal.SIGINT)
            out, err = job.communicate()
    assert job.returncode == 130, err
    assert err.strip() == "interrupted; run the same command again to go on"
    assert out.splitlines()[-1].startswith("Cloud: asking the black box")
    assert not (tmp_path / "run/cloud").exists()


def test_no_room_for_any_file(tmp_path, npz):
    """The limit of a shell's ``ulimit -f 0``: not one byte can be written."""
    done = subprocess.run(
        [sys.executable, "-m", "hybrid.cli", "run", "--out", str(tmp_path / "run"), "--dataset", str(npz)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "cannot be written (File too large)" in done.stderr
    assert not (tmp_path / "run").exists()
    assert [path.name for path in tmp_path.rglob("*.partial")] == []
