"""Clouds that only answer: tables with every way to be wrong, and servers over real HTTP."""

import json
import socket
from dataclasses import replace

import numpy as np
import pytest
from cloud_helpers import INFO, brightness, running
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from hybrid import blackbox
from hybrid.blackbox import table_scores, url_scores
from hybrid.endpoint import TensorInfo
from hybrid.errors import CloudError, SpecError
from hybrid.serve import create_app

X = np.arange(7 * 4, dtype=np.uint8).reshape(7, 2, 2, 1)
SPLITS = {"validation": 2, "test": 3}
VALIDATION = np.array([[0.1, 0.7, 0.2], [3.0, -2.0, 0.5]])  # probabilities or logits, both are scores
TEST_LABELS = np.array([2, 0, 1])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cloud.npz"


def save(path, **changes):
    arrays = {"validation": VALIDATION, "test": TEST_LABELS} | changes
    np.savez(path, **{name: values for name, values in arrays.items() if values is not None})


def test_scores_and_labels(path):
    save(path)
    scores = table_scores(path, SPLITS, num_classes=3)
    assert list(scores) == ["validation", "test"]
    np.testing.assert_array_equal(scores["validation"], VALIDATION.astype(np.float32))
    assert scores["test"].tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert {s.dtype for s in scores.values()} == {np.dtype(np.float32)}


def test_a_split_that_is_not_asked_for_may_be_there(path):
    save(path, train=np.zeros(9))
    assert list(table_scores(path, SPLITS, num_classes=3)) == ["validation", "test"]


def test_labels_need_not_show_every_class(path):
    save(path, test=np.array([0, 0, 1], np.uint8))
    assert table_scores(path, SPLITS, num_classes=3)["test"].shape == (3, 3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"test": None}, SpecError, "has no array test; needed: validation, test"),
        ({"tset": np.zeros(3, int)}, SpecError, "unknown array 'tset'; did you mean test?"),
        (
            {"test": np.zeros((2, 3))},
            CloudError,
            r"got shape \(2, 3\), expected \(3, 3\) scores or \(3,\) labels",
        ),
        ({"test": np.zeros((3, 3, 1))}, CloudError, r"test: got shape \(3, 3, 1\)"),
        ({"test": np.float32(1)}, CloudError, r"test: got shape \(\)"),
        ({"test": np.zeros((3, 4))}, CloudError, r"test: got float64 of shape \(3, 4\), expected 3 scores a row"),
        ({"test": np.zeros((3, 3), complex)}, CloudError, "test: got complex128"),
        ({"test": np.zeros((3, 3), bool)}, CloudError, "test: got bool"),
        ({"test": np.array([[0.0] * 3, [0.0, np.nan, 0.0], [0.0] * 3])}, CloudError, "test: row 1 holds NaN"),
        ({"test": np.array([[0.0] * 3, [0.0] * 3, [np.inf, 0.0, 0.0]])}, CloudError, "test: row 2 holds NaN, infinity"),
        ({"test": np.array([[1e300, 0.0, 0.0]] * 3)}, CloudError, "test: row 0 holds .* more than float32"),
        ({"test": np.array([0.0, 1.0, 2.0])}, CloudError, "test: labels of type float64, expected integers"),
        ({"test": np.array([0, 1, 3])}, CloudError, "test: labels 0 to 3, allowed 0 to 2"),
        ({"test": np.array([-1, 1, 2])}, CloudError, "test: labels -1 to 2, allowed 0 to 2"),
        ({"test": np.array([0, None, 2])}, CloudError, "test: cannot be read .*allow_pickle.*save plain numbers"),
    ],
)
def test_bad_tables(path, change, error, message):
    save(path, **change)
    with pytest.raises(error, match=message) as caught:
        table_scores(path, SPLITS, num_classes=3)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"not a table", b"PK\x03\x04 cut short"])
def test_files_that_are_no_table(path, content):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError, match=r"not a readable \.npz"):
        table_scores(path, SPLITS, num_classes=3)


@pytest.mark.parametrize("save_table", [np.savez, np.savez_compressed])
def test_a_damaged_table(path, save_table):
    save_table(path, validation=VALIDATION, test=TEST_LABELS)
    content = bytearray(path.read_bytes())
    middle = content.index(b"validation.npy") + 100
    content[middle : middle + 60] = bytes(60)
    path.write_bytes(content)
    with pytest.raises(CloudError, match="validation: cannot be read"):
        table_scores(path, SPLITS, num_classes=3)


def test_a_single_array_is_no_table(tmp_path):
    np.save(tmp_path / "cloud.npy", VALIDATION)
    with pytest.raises(SpecError, match="holds a single array; save one array per split"):
        table_scores(tmp_path / "cloud.npy", SPLITS, num_classes=3)


# A server


def ask(base, **changes):
    options = {"num_classes": 3, "batch_size": 4} | changes
    return url_scores(f"{base}/v2/models/cloud", X, **options)


@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
def test_a_server_answers_what_its_model_says(datatype):
    batches = []

    def model(pixels):
        batches.append(len(pixels))
        return brightness(pixels)

    info = replace(INFO, input=TensorInfo(name="pixels", datatype=datatype, shape=(-1, 2, 2, 1)))
    with running(create_app(model, info)) as base:
        scores, latency_ms = ask(base)
    np.testing.assert_array_equal(scores, brightness(X))
    assert scores.dtype == np.float32
    assert batches == [1] * (1 + blackbox.LATENCY_REQUESTS) + [4, 3]  # 7 examples in batches of 4
    assert 0 < latency_ms < 10_000


def oip_app(*, metadata=None, infer=None):
    """A server that says whatever the test wants it to say."""
    sound = {"name": "cloud", "inputs": [{"name": "input", "datatype": "UINT8", "shape": [-1, 2, 2, 1]}]}

    def told(answer):
        async def endpoint(request):
            return answer if isinstance(answer, Response) else PlainTextResponse(json.dumps(answer))

        return endpoint

    return Starlette(routes=[
        Route("/v2/models/cloud", told(sound if metadata is None else metadata)),
        Route("/v2/models/cloud/infer", told(infer), methods=["POST"]),
    ])  # fmt: skip


def inputs(**changes):
    return {"inputs": [{"name": "input", "datatype": "UINT8", "shape": [-1, 2, 2, 1]} | changes]}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "the answer has no inputs; is it an Open Inference Protocol v2 server"),
        ([], "the answer has no inputs"),
        ({"inputs": []}, "no single input"),
        ({"inputs": [7]}, "the answer has no name"),
        (inputs(datatype="FP64"), "takes FP64, only UINT8 and FP32"),
        (inputs(shape=[-1, 28, 28, 1]), r"takes shape \[-1, 28, 28, 1\], the data has \[-1, 2, 2, 1\]"),
        (inputs(shape=[-1, 4]), r"takes shape \[-1, 4\]"),
        (inputs(shape="any"), "takes shape any"),
        (PlainTextResponse("<html>"), "answers no JSON"),
        (PlainTextResponse("gone", 410), "answers status 410: gone"),
    ],
)
def test_bad_metadata(metadata, message):
    with running(oip_app(metadata=metadata)) as base, pytest.raises(CloudError, match=message):
        ask(base)


def test_any_size_fits_any_image():
    metadata = inputs(shape=[-1, -1, -1, 1])
    infer = {"outputs": [{"name": "p", "shape": [1, 3], "data": [1, 2, 3]}]}
    with running(oip_app(metadata=metadata, infer=infer)) as base:
        scores, _ = ask(base, batch_size=1)
    assert scores.tolist() == [[1, 2, 3]] * 7


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([], "answers no single output"),
        ([{"shape": [1, 3]}], "the answer has no data"),
        ([{"shape": [1, 3], "data": [1, 2]}], "data does not fit its shape"),
        ([{"shape": "wide", "data": [1, 2, 3]}], "data does not fit its shape"),
        ([{"shape": [3], "data": [1, 2, 3]}], r"answers shape \(3,\), expected \(1, 3\)"),
        ([{"shape": [1, 2], "data": [1, 2]}], r"shape \(1, 2\), expected 3 scores a row"),
        ([{"shape": [1, 3], "data": ["a", "b", "c"]}], "expected 3 scores a row"),
        ([{"shape": [1, 3], "data": [1, None, 3]}], "expected 3 scores a row"),
        ([{"shape": [1, 3], "data": [1, float("nan"), 3]}], "row 0 holds NaN"),
    ],
)
def test_bad_answers(outputs, message):
    with running(oip_app(infer={"outputs": outputs})) as base, pytest.raises(CloudError, match=message) as caught:
        ask(base)
    assert "\n" not in str(caught.value)


def flaky(app, failures):
    """`app`, whose first answers are `failures` times "busy"."""
    left = [failures]

    async def wrapped(scope, receive, send):
        if left[0]:
            left[0] -= 1
            await PlainTextResponse("busy", 503)(scope, receive, send)
        else:
            await app(scope, receive, send)

    return wrapped


def test_a_busy_server_is_asked_again(monkeypatch):
    monkeypatch.setattr(blackbox, "BACKOFF_S", 0.001)
    with running(flaky(create_app(brightness, INFO), blackbox.ATTEMPTS - 1)) as base:
        scores, _ = ask(base)
    np.testing.assert_array_equal(scores, brightness(X))


def test_attempts_are_bounded(monkeypatch):
    monkeypatch.setattr(blackbox, "BACKOFF_S", 0.001)
    with (
        running(flaky(create_app(brightness, INFO), 99)) as base,
        pytest.raises(CloudError, match=r"no answer after 4 attempts .*503"),
    ):
        ask(base)


def test_nobody_listens(monkeypatch):
    monkeypatch.setattr(blackbox, "BACKOFF_S", 0.001)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(CloudError, match=r"no answer after 4 attempts \(.*refused.*\); is the server up") as caught:
        ask(f"http://127.0.0.1:{port}")
    assert "\n" not in str(caught.value)


def test_a_server_that_never_answers(monkeypatch):
    monkeypatch.setattr(blackbox, "BACKOFF_S", 0.001)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(CloudError, match=r"no answer after 4 attempts .*timed out"),
    ):
        ask(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.05)


@pytest.mark.parametrize(
    "url",
    [
        *("", "cloud", "ftp://host/v2/models/cloud", "http://host", "http:///v2/models/cloud"),
        *("http://host:99999/v2/models/cloud", "http://[::1/v2/models/cloud", "http://host:port/v2/models/cloud"),
    ],
)
def test_bad_urls(url):
    with pytest.raises(SpecError, match=r"cloud\.url: got .* expected the form http://host:8080/v2/models/NAME"):
        url_scores(url, X, num_classes=3)
