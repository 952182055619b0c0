"""The endpoint over real HTTP: the protocol with a third party's client, refusals, the device's query, the process."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import cbor2
import numpy as np
import pytest
import urllib3
from cloud_helpers import DIGEST, INFO, INPUTS, brightness, running
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from firmware_export.cloud import cloud_files
from firmware_export.packing import pack
from firmware_export.payload import payload_bytes
from hybrid.errors import BundleError, CloudError, HybridError, SpecError
from hybrid.serve import create_app, load_model, serve
from hybrid.serve.app import body_limit, query_limit
from hybrid.serve.errors import RequestError
from hybrid.serve.oip import read_infer
from hybrid.serve.query import decode_query

ROOT = Path(__file__).parents[1]
PIXELS = np.array([[[[0], [64]], [[128], [64]]], [[[255], [255]], [[255], [255]]]], np.uint8)  # (2, 2, 2, 1)
SCORES = [[0.25, 0.0, 0.5], [255 / 256] * 3]  # mean, minimum, maximum, over 256: (0 + 64 + 128 + 64) / 4 / 256 = 0.25
JSON = {"Content-Type": "application/json"}
CBOR = {"Content-Type": "application/cbor"}


@pytest.fixture(scope="module")
def server():
    with running(create_app(brightness, INFO)) as base:
        yield base


@pytest.fixture(scope="module")
def client(server):
    with triton.InferenceServerClient(server.removeprefix("http://")) as client:
        yield client


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory):
    """A SavedModel that computes `brightness`, as the files of its folder."""
    import tensorflow as tf

    module = tf.Module()
    module.scale = tf.Variable(256.0)

    @tf.function(input_signature=[tf.TensorSpec((None, 2, 2, 1), tf.uint8, name="input")])
    def scores(pixels):
        flat = tf.reshape(tf.cast(pixels, tf.float32) / module.scale, (-1, 4))
        columns = [tf.reduce_mean(flat, 1), tf.reduce_min(flat, 1), tf.reduce_max(flat, 1)]
        return {"scores": tf.stack(columns, 1)}

    folder = tmp_path_factory.mktemp("saved_model")
    tf.saved_model.save(module, str(folder), signatures=scores)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_bundle(folder, **changes):
    for path, content in cloud_files(replace(INPUTS, **changes)).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def bundle(saved_model, tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bundle"), saved_model=saved_model)


def post(base, path, body, headers=JSON):
    return urllib3.request("POST", f"{base}/v2/models/cloud/{path}", body=body, headers=headers, retries=False)


def tensor(**changes):
    plain = {"name": "input", "shape": [1, 2, 2, 1], "datatype": "UINT8", "data": [0, 64, 128, 64]}
    return {key: value for key, value in (plain | changes).items() if value is not None}


def infer_body(**changes):
    return json.dumps({"inputs": [tensor(**changes)]})


# The protocol, with Triton's own client


def test_health(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("cloud")
    assert not client.is_model_ready("sky")


def test_metadata(client):
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    model = client.get_model_metadata("cloud")
    assert model == {
        "name": "cloud",
        "versions": ["1"],
        "platform": "tensorflow_savedmodel",
        "inputs": [{"name": "input", "datatype": "UINT8", "shape": [-1, 2, 2, 1]}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 3]}],
    }


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
def test_infer_with_tritonclient(client, binary_in, binary_out, datatype):
    asked = triton.InferInput("input", PIXELS.shape, datatype)
    asked.set_data_from_numpy(PIXELS.astype(np.uint8 if datatype == "UINT8" else np.float32), binary_data=binary_in)
    wanted = triton.InferRequestedOutput("scores", binary_data=binary_out)
    answer = client.infer("cloud", [asked], outputs=[wanted], request_id="q7")
    np.testing.assert_array_equal(answer.as_numpy("scores"), np.array(SCORES, np.float32))
    assert answer.get_response()["id"] == "q7"
    assert ("data" in answer.get_output("scores")) is not binary_out


def test_infer_without_naming_outputs(client):
    asked = triton.InferInput("input", PIXELS.shape, "UINT8")
    asked.set_data_from_numpy(PIXELS)
    np.testing.assert_array_equal(client.infer("cloud", [asked]).as_numpy("scores"), np.array(SCORES, np.float32))


def test_tritonclient_hears_our_errors(client):
    asked = triton.InferInput("input", [1, 4], "UINT8")
    asked.set_data_from_numpy(np.zeros((1, 4), np.uint8))
    with pytest.raises(InferenceServerException, match=r"shape: got \[1, 4\], expected \[1\.\.4, 2, 2, 1\]"):
        client.infer("cloud", [asked])


def test_flat_and_nested_data_are_the_same(server):
    flat = post(server, "infer", infer_body())
    nested = post(server, "infer", infer_body(data=[[[[0], [64]], [[128], [64]]]]))
    assert flat.status == nested.status == 200
    assert flat.json()["outputs"][0] == {"name": "scores", "datatype": "FP32", "shape": [1, 3], "data": SCORES[0]}
    assert flat.data == nested.data


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [2, 2, 1]}, "shape: got [2, 2, 1], expected [1..4, 2, 2, 1]"),  # rank
        ({"shape": [1, 2, 2, 1, 1]}, "shape: got"),
        ({"shape": [1, 3, 2, 1]}, "shape: got"),
        ({"shape": [0, 2, 2, 1], "data": []}, "shape: got"),
        ({"shape": [5, 2, 2, 1], "data": [0] * 20}, "shape: got"),  # more than max_batch
        ({"shape": [True, 2, 2, 1]}, "shape: got"),
        ({"shape": [1.0, 2, 2, 1]}, "shape: got"),
        ({"shape": []}, "shape: got []"),
        ({"shape": "1221"}, "shape: got str, expected list"),
        ({"shape": None}, "shape: missing; expected list"),
        ({"datatype": "FP64"}, "datatype: got 'FP64', allowed UINT8, FP32"),
        ({"datatype": 3}, "datatype: got int, expected str"),
        ({"name": "image"}, "inputs: unknown tensor 'image'; allowed input"),
        ({"data": [0, 64, 128]}, "data: a list of 3, expected 4; give a flat list, or lists nested as in [1, 2, 2, 1]"),
        ({"data": [[0, 64], [128, 64]]}, "data: a list of 2, expected 1"),
        ({"data": [[[0, 64], [128, 64]]]}, "data: int, expected a list"),
        ({"data": [[[[0], [64]], [[128], 64]]]}, "data: int, expected a list"),
        ({"data": [[[[0], [64]], [[128]]]]}, "data: a list of 1, expected 2"),
        ({"data": [0, 64, 128, [64]]}, "data: a list of 4, expected 1"),
        ({"data": [[[[0], [64]], [[128], [[64]]]]]}, "data: list, expected a number"),
        ({"data": [0, 64, 128, 256]}, "data: expected whole pixel values 0 to 255"),
        ({"data": [0, 64, 128, -1]}, "data: expected whole pixel values"),
        ({"data": [0, 64, 128, 0.5], "datatype": "FP32"}, "do not scale, the model does"),
        ({"data": [0, 64, 128, float("nan")], "datatype": "FP32"}, "data: expected whole pixel values"),
        ({"data": [0, 64, 128, 10**30]}, "data: expected whole pixel values"),
        ({"data": [0, 64, 128, 10**400]}, "data: expected whole pixel values"),
        ({"data": ["0", "64", "128", "64"]}, "data: str, expected a number"),
        ({"data": ["0" * 60_000, "", "", ""]}, "data: str, expected a number"),
        ({"data": [True, False, True, True]}, "data: bool, expected a number"),
        ({"data": [0, 64, 128, None]}, "data: NoneType, expected a number"),
        ({"data": [{}] * 4}, "data: dict, expected a number"),
        ({"data": None}, "data: missing; expected list"),
        ({"parameters": {"binary_data_size": 4}}, "binary_data_size: got 4 for 0 bytes sent, expected 4"),
        ({"parameters": 4}, "parameters: got int, expected dict"),
    ],
)
def test_a_bad_tensor_never_reaches_the_model(server, change, message):
    answer = post(server, "infer", infer_body(**change))
    assert answer.status == 400
    assert list(answer.json()) == ["error"]
    assert message in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body: not valid JSON"),
        (b"\xff", "body: not valid JSON"),
        (b"[" * 60_000, "body: "),
        (b"[]", "body: got list, expected a JSON object"),
        (b"{}", "inputs: missing"),
        (b'{"inputs": []}', "inputs: expected a list of one tensor named input"),
        (b'{"inputs": [3]}', "inputs: expected a list of one tensor named input"),
        (json.dumps({"inputs": [tensor()], "outputs": [{"name": "logits"}]}), "outputs: unknown tensor 'logits'"),
        (json.dumps({"inputs": [tensor()], "id": 7}), "id: got int, expected str"),
    ],
)
def test_a_bad_body(server, body, message):
    answer = post(server, "infer", body)
    assert answer.status == 400
    assert message in answer.json()["error"]


def test_numbers_are_told_from_strings_before_they_take_memory():
    """As an array they would take 4 bytes for each letter of the longest, for each of them: 11 GB."""
    info = replace(INFO, max_batch=20_000)
    data = ["0" * 40_000, *[""] * (4 * 20_000 - 1)]
    body = json.dumps({"inputs": [tensor(shape=[20_000, 2, 2, 1], data=data)]}).encode()
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match="data: str, expected a number"):
            read_infer(body, None, info)
        assert tracemalloc.get_traced_memory()[1] < 100 * len(body)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("length", ["99999", "0" * 12 + "9" * 5000, "-1", "x", "\u00b2".encode().decode("latin-1")])
def test_a_bad_length_of_the_json_part(server, length):
    answer = post(server, "infer", infer_body(), {"Inference-Header-Content-Length": length})
    assert answer.status == 400
    assert "Inference-Header-Content-Length: got" in answer.json()["error"]


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/v3", 404), ("GET", "/v2/models/sky", 404), ("POST", "/v2/models/sky/infer", 404),
    ("POST", "/v2/models/sky/query", 404), ("GET", "/v2/models/cloud/infer", 405),
])  # fmt: skip
def test_unknown_addresses(server, method, path, status):
    answer = urllib3.request(method, server + path, retries=False)
    assert answer.status == status
    assert list(answer.json()) == ["error"]


def test_a_body_is_limited(server):
    limit = body_limit(INFO)
    assert limit == 65_536 + 26 * 4 * 4
    assert post(server, "infer", b" " * limit).status == 400  # read, and no JSON
    answer = post(server, "infer", iter([b" " * limit, b" "]))  # chunked, so that no header tells its length
    assert answer.status == 413
    assert "send smaller batches" in answer.json()["error"]


def test_the_largest_honest_request_fits():
    worst = np.full((INFO.max_batch, *INFO.input_shape), 255.0)
    body = json.dumps({"inputs": [tensor(shape=list(worst.shape), datatype="FP32", data=worst.tolist())]}, indent=1)
    assert len(body) < body_limit(INFO)


def test_compressed_bodies_are_refused(server):
    answer = post(server, "infer", b"", {"Content-Encoding": "gzip"})
    assert answer.status == 415


def test_answers_do_not_wait_for_acknowledgements(server):
    """A delayed acknowledgement takes 40 ms; the quickest of many answers tells, whatever else the machine does."""
    with urllib3.PoolManager() as http:
        times_ms = []
        for _ in range(20):
            start = time.perf_counter()
            http.request("POST", f"{server}/v2/models/cloud/infer", body=infer_body(), headers=JSON)
            times_ms.append((time.perf_counter() - start) * 1e3)
    assert min(times_ms) < 30


def test_a_failing_model_answers_500():
    def model(pixels):
        raise ArithmeticError("out of luck")

    with running(create_app(model, INFO)) as base:
        answer = post(base, "infer", infer_body())
        assert answer.status == 500
        assert list(answer.json()) == ["error"]
        assert urllib3.request("GET", f"{base}/v2/health/live").status == 200


@settings(max_examples=50, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: (
    st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["inputs", "shape", "data", "datatype"]), inner)
)))  # fmt: skip
def test_whatever_json_comes_is_refused_in_one_line(data):
    for body in (json.dumps(data), json.dumps({"inputs": [tensor(data=data)]})):
        with pytest.raises(RequestError):
            read_infer(body.encode(), None, INFO)


# The device's query


def query(**changes):
    plain = {"v": 1, "m": bytes.fromhex(DIGEST)[:8], "c": 2, "s": -7, "x": PIXELS[0].tobytes()}
    return cbor2.dumps({key: value for key, value in (plain | changes).items() if value is not None})


@pytest.mark.parametrize("kind", ["application/cbor", "Application/CBOR; v=1"])
def test_query(server, kind):
    answer = post(server, "query", query(), {"Content-Type": kind})
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/cbor"
    assert cbor2.loads(answer.data) == {"class": 2, "scores": SCORES[0]}


def test_query_with_packed_pixels(server):
    packed = pack(PIXELS)[0]
    answer = post(server, "query", query(x=None, z=packed), CBOR)
    assert cbor2.loads(answer.data) == {"class": 2, "scores": SCORES[0]}
    cut = post(server, "query", query(x=None, z=packed[:-1]), CBOR)
    assert (cut.status, cut.json()["error"]) == (400, "payload: z is not packed pixels (ends before the image does)")


def test_of_equal_scores_the_lowest_class_wins(server):
    assert cbor2.loads(post(server, "query", query(x=bytes(4)), CBOR).data) == {"class": 0, "scores": [0, 0, 0]}


def test_an_answer_is_small(server):
    """A map of two, the keys of 5 and 6 letters, the class, a list, and three floats of at most 5 bytes."""
    answer = post(server, "query", query(x=PIXELS[1].tobytes()), CBOR)
    assert len(answer.data) <= 1 + (1 + 5) + 1 + (1 + 6) + 1 + 3 * 5


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"v": 2}, 400, "v is 2, expected 1"),
        ({"v": None}, 400, "v is missing, expected 1"),
        ({"m": bytes(8)}, 409, "m: not the edge model 0123456789abcdef this cloud is paired with"),
        ({"m": None}, 400, "keys ['c', 's', 'v', 'x'], expected"),
        ({"x": bytes(3)}, 400, "x: got 3 bytes, expected 4 for pixels of shape [2, 2, 1]"),
        ({"x": [0, 0, 0, 0]}, 400, "x is a list, expected an integer or bytes"),
        ({"c": 2**64}, 400, "c is a tag, expected an integer or bytes"),
        ({"z": b""}, 400, "keys ['c', 'm', 's', 'v', 'x', 'z'], expected"),
        ({"x": None}, 400, "keys ['c', 'm', 's', 'v'], expected"),
    ],
)
def test_a_bad_query(server, change, status, message):
    answer = post(server, "query", query(**change), CBOR)
    assert answer.status == status
    assert message in answer.json()["error"]


def test_a_query_in_another_format(server):
    answer = post(server, "query", infer_body())
    assert answer.status == 415
    assert "Content-Type: got 'application/json', allowed application/cbor" in answer.json()["error"]


@settings(deadline=None)
@given(st.binary(max_size=64) | st.builds(lambda cut: query()[:cut], st.integers(0, len(query()) - 1)))
def test_whatever_bytes_come_are_refused(body):
    with pytest.raises(RequestError):
        decode_query(body, "cbor", INFO)


@settings(deadline=None)
@given(st.binary(max_size=20))
def test_whatever_packed_pixels_come_are_read_or_refused(packed):
    with suppress(RequestError):
        assert decode_query(query(x=None, z=packed), "cbor", INFO).shape == (1, *INFO.input_shape)


@pytest.mark.parametrize("body", [b"\x9f" * 5000, b"\x81" * 5000, b"\x5b" + b"\xff" * 8, b"\x9b" + b"\x7f" * 8])
def test_deep_and_boastful_cbor(body):
    with pytest.raises(RequestError, match="payload: "):
        decode_query(body, "cbor", INFO)


def test_a_query_is_limited_to_the_longest_frame(server):
    """Its map and five keys, whose heads an encoder may write 8 bytes longer than need be, as those of the values."""
    limit = query_limit(INFO)
    assert limit == payload_bytes(INFO.input_shape) + 11 * 8
    assert post(server, "query", b" " * limit, CBOR).status == 400  # read, and no frame
    answer = post(server, "query", iter([b" " * limit, b" "]), CBOR)
    assert answer.status == 413
    assert answer.json()["error"] == f"body: more than {limit} bytes, the most that a query takes; send one at a time"


def test_pixels_alone(server):
    answer = post(server, "query", PIXELS[0].tobytes(), {"Content-Type": "application/octet-stream"})
    assert cbor2.loads(answer.data) == {"class": 2, "scores": SCORES[0]}
    short = post(server, "query", bytes(3), {"Content-Type": "application/octet-stream"})
    assert (short.status, short.json()["error"]) == (
        400,
        "payload: x: got 3 bytes, expected 4 for pixels of shape [2, 2, 1]",
    )


# The SavedModel and the process


def test_load_model_computes_what_the_net_does(bundle):
    model, info = load_model(bundle / "cloud")
    assert info == INFO
    np.testing.assert_allclose(model(PIXELS), brightness(PIXELS), rtol=1e-6)
    assert model(PIXELS).dtype == np.float32


def test_a_black_box_has_nothing_to_serve(tmp_path):
    write_bundle(tmp_path, saved_model=None)
    with pytest.raises(CloudError, match="no SavedModel, this bundle's cloud is a black box; devices ask http"):
        load_model(tmp_path / "cloud")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"input_shape": (2, 2, 3)},
            "endpoint.toml has input uint8 (None, 2, 2, 3)",
        ),
        ({"class_names": ("dark", "bright")}, "answers scores of shape (1, 3), endpoint.toml has 2 classes"),
        ({"saved_model": {"saved_model.pb": b"not one"}}, "not a SavedModel with a serving_default signature"),
    ],
)
def test_a_saved_model_that_is_not_what_the_toml_says(saved_model, tmp_path, change, message):
    write_bundle(tmp_path, **({"saved_model": saved_model} | change))
    with pytest.raises(BundleError, match=re.escape(message)) as caught:
        load_model(tmp_path / "cloud")
    assert "\n" not in str(caught.value)


def test_no_bundle(tmp_path):
    with pytest.raises(SpecError, match=r"endpoint\.toml: cannot be read"):
        load_model(tmp_path)


def test_a_port_in_use(bundle):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HybridError, match=f"127.0.0.1:{port} cannot be opened .*; choose another host or port"):
            serve(bundle, port=port)


@pytest.mark.parametrize("port", [-1, 65536])
def test_no_such_port(bundle, port):
    with pytest.raises(HybridError, match="cannot be opened"):
        serve(bundle, port=port)


def test_a_server_process_answers_and_stops_on_interrupt(bundle):
    code = (
        "import sys; from pathlib import Path; from hybrid.serve import serve; from hybrid.progress import Silent\n"
        "class Loud(Silent):\n    def say(self, text): print(text, flush=True)\n"
        "serve(Path(sys.argv[1]), port=0, narrator=Loud())\n"
    )
    command = [sys.executable, "-c", code, str(bundle)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            url = process.stdout.readline().split()[-1]
            base = url.removesuffix("/v2/models/cloud")
            answers = [post(base, "infer", infer_body(data=PIXELS[0].ravel().tolist())) for _ in range(2)]
            assert [a.json()["outputs"][0]["data"] for a in answers] == [SCORES[0]] * 2
            assert post(base, "infer", infer_body(shape=[4])).status == 400  # would abort the process in TensorFlow
            assert cbor2.loads(post(base, "query", query(), CBOR).data)["class"] == 2
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
