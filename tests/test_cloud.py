"""The cloud half of a bundle, each file against the schema of the program that reads it."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import urllib3
import yaml
from cloud_helpers import DIGEST, INFO, INPUTS, brightness, running
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2, monitoring_config_pb2
from tritonclient.grpc import model_config_pb2

from firmware_export.cloud import cloud_files
from hybrid.endpoint import read_endpoint
from hybrid.errors import BundleError, HybridError, SpecError
from hybrid.serve import create_app


@pytest.fixture(scope="module")
def files():
    return cloud_files(INPUTS)


@pytest.fixture(scope="module")
def folder(files, tmp_path_factory):
    root = tmp_path_factory.mktemp("bundle")
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root / "cloud"


def text(files, path):
    return files[f"cloud/{path}"].decode()


def test_what_a_bundle_gets(files):
    assert list(files) == [
        "cloud/README.md",
        "cloud/compose.yaml",
        "cloud/endpoint.toml",
        "cloud/kserve/inferenceservice.yaml",
        "cloud/models/cloud/1/model.savedmodel/saved_model.pb",
        "cloud/models/cloud/1/model.savedmodel/variables/variables.index",
        "cloud/models/cloud/config.pbtxt",
        "cloud/tfserving/batching_parameters.txt",
        "cloud/tfserving/models.config",
        "cloud/tfserving/monitoring.config",
    ]


def test_same_inputs_same_bytes(files):
    assert cloud_files(INPUTS) == files


def test_the_model_is_there_once(files):
    assert sum(content == b"graph" for content in files.values()) == 1


def test_a_black_box_gets_no_server():
    files = cloud_files(replace(INPUTS, saved_model=None))
    assert list(files) == ["cloud/README.md", "cloud/endpoint.toml"]
    assert INPUTS.url in text(files, "README.md")


def test_endpoint_toml_reads_back(folder):
    assert read_endpoint(folder) == INFO
    assert INFO.input_shape == (2, 2, 1)
    assert INFO.edge_digest == DIGEST
    assert INFO.class_names[1] == 'half "lit"'


def test_endpoint_toml_refuses_unknown_keys(files, tmp_path):
    (tmp_path / "endpoint.toml").write_bytes(b"surprise = 1\n" + files["cloud/endpoint.toml"])
    with pytest.raises(SpecError, match="unknown key 'surprise'"):
        read_endpoint(tmp_path)


def test_tf_serving_models_config(files):
    config = text_format.Parse(text(files, "tfserving/models.config"), model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("cloud", "/models/cloud", "tensorflow")


def test_tf_serving_monitoring_config(files):
    config = text_format.Parse(text(files, "tfserving/monitoring.config"), monitoring_config_pb2.MonitoringConfig())
    assert config.prometheus_config.enable
    assert config.prometheus_config.path.startswith("/")


def batching_parameters():
    """The message of TensorFlow Serving's session_bundle_config.proto, which no wheel holds."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="batching.proto", package="tensorflow.serving", syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    message = file.message_type.add(name="BatchingParameters")
    wrapped = {
        "max_batch_size": "Int64Value",
        "batch_timeout_micros": "Int64Value",
        "max_enqueued_batches": "Int64Value",
        "num_batch_threads": "Int64Value",
        "thread_pool_name": "StringValue",
    }
    for number, (name, kind) in enumerate(wrapped.items(), start=1):
        message.field.add(
            name=name, number=number, label=field.LABEL_OPTIONAL, type=field.TYPE_MESSAGE,
            type_name=f".google.protobuf.{kind}",
        )  # fmt: skip
    message.field.add(name="allowed_batch_sizes", number=6, label=field.LABEL_REPEATED, type=field.TYPE_INT64)
    message.field.add(name="pad_variable_length_inputs", number=7, label=field.LABEL_OPTIONAL, type=field.TYPE_BOOL)
    pool = descriptor_pool.DescriptorPool()
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    pool.Add(wrappers)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.serving.BatchingParameters"))()


@pytest.mark.parametrize(("max_batch", "sizes"), [(1, [1]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])])
def test_tf_serving_batching_parameters(max_batch, sizes):
    files = cloud_files(replace(INPUTS, max_batch=max_batch))
    parsed = text_format.Parse(text(files, "tfserving/batching_parameters.txt"), batching_parameters())
    assert parsed.max_batch_size.value == max_batch
    assert list(parsed.allowed_batch_sizes) == sizes  # increasing, the last one is max_batch_size
    assert parsed.num_batch_threads.value >= 1


def test_the_batching_schema_catches_a_slip():
    with pytest.raises(text_format.ParseError, match="max_batchsize"):
        text_format.Parse("max_batchsize { value: 1 }", batching_parameters())


def test_triton_config(files):
    config = text_format.Parse(text(files, "models/cloud/config.pbtxt"), model_config_pb2.ModelConfig())
    assert (config.name, config.platform, config.max_batch_size) == ("cloud", "tensorflow_savedmodel", 4)
    (tensor,), (answer,) = config.input, config.output
    assert (tensor.name, tensor.data_type, list(tensor.dims)) == ("input", model_config_pb2.TYPE_UINT8, [2, 2, 1])
    assert (answer.name, answer.data_type, list(answer.dims)) == ("scores", model_config_pb2.TYPE_FP32, [3])


KSERVE = {  # the fields of KServe's v1beta1 API that a predictor with a model can have, and their types
    "InferenceService": {"apiVersion": str, "kind": str, "metadata": "ObjectMeta", "spec": "Spec"},
    "ObjectMeta": {"name": str, "namespace": str, "labels": dict, "annotations": dict},
    "Spec": {"predictor": "Predictor", "transformer": dict, "explainer": dict},
    "Predictor": {"model": "Model", "minReplicas": int, "maxReplicas": int, "timeout": int, "serviceAccountName": str},
    "Model": {
        "modelFormat": "ModelFormat", "protocolVersion": str, "runtime": str, "runtimeVersion": str,
        "storageUri": str, "resources": dict,
    },
    "ModelFormat": {"name": str, "version": str},
}  # fmt: skip


def walk(value, kind):
    if not isinstance(kind, str):
        assert isinstance(value, kind)
        return
    for key, inner in value.items():
        assert key in KSERVE[kind], f"{kind} has no {key}"
        walk(inner, KSERVE[kind][key])


def test_kserve_inference_service(files):
    service = yaml.safe_load(text(files, "kserve/inferenceservice.yaml"))
    walk(service, "InferenceService")
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    predictor = service["spec"]["predictor"]
    assert predictor["timeout"] == 2  # 1500 ms, in whole seconds
    assert predictor["model"]["modelFormat"] == {"name": "tensorflow", "version": "2"}


def test_compose_file_fits_its_schema(folder):
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", folder / "compose.yaml"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_compose_mounts_what_is_there(files, folder):
    services = yaml.safe_load(text(files, "compose.yaml"))["services"]
    mounts = {v.split(":")[1]: folder / v.split(":")[0] for s in services.values() for v in s["volumes"]}
    assert (mounts["/models/cloud/1"] / "saved_model.pb").is_file()  # TensorFlow Serving: base_path/version
    assert (mounts["/models"] / "cloud/config.pbtxt").is_file()  # Triton: repository/model
    flags = dict(flag[2:].split("=") for flag in services["tfserving"]["command"])
    for name in ("model_config_file", "monitoring_config_file", "batching_parameters_file"):
        assert (mounts["/config"] / flags[name].removeprefix("/config/")).is_file()


def test_the_request_in_the_readme_works(files, tmp_path):
    readme = text(files, "README.md")
    code = readme.split("```python\n")[1].split("```")[0]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    request = (tmp_path / "request.json").read_bytes()
    curl = next(line for line in readme.splitlines() if "curl" in line and "/infer" in line)
    path = curl.split("http://127.0.0.1:8080")[1]
    with running(create_app(brightness, INFO)) as base:
        answer = urllib3.request("POST", base + path, body=request, headers={"Content-Type": "application/json"})
    assert answer.json()["outputs"][0]["data"] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model_name": "My Cloud"}, SpecError, "model_name: got 'My Cloud'"),
        ({"model_name": "../cloud"}, SpecError, "model_name"),
        ({"edge_digest": "beef"}, SpecError, "edge_digest: got 'beef'"),
        ({"deadline_ms": 0.0}, SpecError, "export.deadline_ms: got 0.0"),
        ({"deadline_ms": float("nan")}, SpecError, "export.deadline_ms: got nan"),
        ({"max_batch": 0}, SpecError, "max_batch: got 0"),
        ({"saved_model": {"model.keras": b""}}, BundleError, "no saved_model.pb"),
    ],
)
def test_what_no_server_takes(change, error, message):
    with pytest.raises(error, match=message) as caught:
        cloud_files(replace(INPUTS, **change))
    assert isinstance(caught.value, HybridError)
    assert "\n" not in str(caught.value)


def test_texts_are_plain(files):
    for path, content in files.items():
        if "savedmodel" not in path:
            content.decode("ascii")
            assert b"{{" not in content
            assert content.endswith(b"\n")
    assert json.dumps(INFO.class_names[1])[1:-1] in text(files, "endpoint.toml")
