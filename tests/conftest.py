"""What several test files share: the command, a small disk; Fashion-MNIST, a briefly trained edge, its int8 form."""

import shutil
import subprocess
from dataclasses import replace

import pytest
from learner_helpers import EDGE, SPEC, head
from run_helpers import end_of

from datasets import load
from datasets.sources import DEBIAN_FASHION_MNIST
from hybrid.progress import SILENT

LONG = ("test_pipeline.py", "test_runs.py", "test_notebooks.py", "test_look_runs.py", "test_quantize.py")
"""Files that take a minute or more: they come first, so that no worker is left alone with one of them at the end."""


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))


@pytest.fixture(scope="session")
def fashion():
    """Fashion-MNIST with 1200 + 600 + 400 + 200 examples."""
    if not DEBIAN_FASHION_MNIST.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    data = load("fashion_mnist", limit=1200)
    return replace(
        data,
        calibration=head(data.calibration, 600),
        validation=head(data.validation, 400),
        test=head(data.test, 200),
    )


@pytest.fixture(scope="session")
def edge_net(fashion):
    """A float edge net after a few epochs, right about two times in three. Tests that train it train a copy."""
    from hybrid.train import Trainer

    trainer = Trainer(data=fashion, spec=SPEC, narrator=SILENT)
    net = trainer.new_edge(EDGE)
    trainer.fit_edge(net, fashion.train, None)
    return net


@pytest.fixture(scope="session")
def int8_edge(fashion, edge_net):
    """That net after post-training quantisation."""
    from hybrid.quantize import quantize_edge

    spec = replace(SPEC, quantize=replace(SPEC.quantize, methods=("ptq",)))
    return quantize_edge(EDGE, edge_net, fashion, None, spec, narrator=SILENT)


@pytest.fixture
def hybrid(capfd):
    """Call the command in this process: exit code, standard output and standard error."""

    def call(*arguments):
        code, said = end_of(*arguments), capfd.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def refused(hybrid):
    """Call the command, which must end with exit code 2 and one line; gives the line."""

    def call(*arguments):
        code, _, err = hybrid(*arguments)
        assert code == 2, err
        assert err.endswith("\n")
        assert err.count("\n") == 1, err
        assert err.startswith("error: ")
        return err

    return call


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KiB where root may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if not mount or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs mount and the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)
