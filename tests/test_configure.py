"""One way to configure: presets, files and --set become a spec, or one line that names the key."""

from dataclasses import replace

import pytest
from cloud_helpers import INPUTS

from firmware_export.cloud import cloud_files
from firmware_export.tflm import arena_bytes
from hybrid.configure import PRESETS, check, run_spec, set_key, structure, to_toml, toml_value, tomllib
from hybrid.errors import SpecError
from hybrid.specs import ArchSpec, BlockSpec, RunSpec, TrainSpec


def read_back(spec):
    return structure(tomllib.loads(to_toml(spec)), type(spec), where="spec")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_themselves_and_read_back(name):
    spec = run_spec(preset_name=name)
    assert spec.preset == name
    assert read_back(spec) == spec


def test_a_spec_with_every_kind_of_value_reads_back():
    spec = RunSpec(seed=7, train=TrainSpec(flip=False, mixup=0.25, edge_learning_rate=1e-5))
    assert read_back(spec) == spec
    arch = ArchSpec(name="a", input_shape=(28, 28, 1), num_classes=3, blocks=(BlockSpec(kind="ib", width=4),) * 2)
    assert read_back(arch) == arch


def test_later_files_win_and_assignments_win_over_files(tmp_path):
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text("seed = 1\nlink = 'ble'\n[train]\nedge_epochs = 11\nrounds = 11\nbatch_size = 11\n")
    second.write_text("seed = 2\n[train]\nrounds = 22\nbatch_size = 22\n")
    spec = run_spec(paths=[first, second], assignments=["train.batch_size=33", "train.batch_size=44"])
    assert (spec.seed, spec.link) == (2, "ble")
    assert (spec.train.edge_epochs, spec.train.rounds, spec.train.batch_size) == (11, 22, 44)
    assert spec.search == run_spec().search  # what no file names is the preset's


@pytest.mark.parametrize(
    ("assignment", "section", "key", "value"),
    [
        ("train.rounds=3", "train", "rounds", 3),
        ("train.mixup=1", "train", "mixup", 1.0),  # an integer may stand for a float
        ("train.flip=false", "train", "flip", False),
        ("router.kind=learned", "router", "kind", "learned"),  # a bare word is a string
        ('router.kind="learned"', "router", "kind", "learned"),
        ("data.name=a folder/of=images", "data", "name", "a folder/of=images"),
        ("quantize.methods=['ptq']", "quantize", "methods", ("ptq",)),
        ("sweep.max_latency_ms=1e2", "sweep", "max_latency_ms", 100.0),
    ],
)
def test_set(assignment, section, key, value):
    got = getattr(getattr(run_spec(assignments=[assignment]), section), key)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("trian.rounds=3", "^spec: unknown key 'trian'; did you mean train[?] Allowed: cloud, clouds, data,"),
        ("train.edge_epoch=3", "^spec.train: unknown key 'edge_epoch'; did you mean edge_epochs[?] Allowed: batch_"),
        ("train.zzz=3", "^spec.train: unknown key 'zzz'; Allowed: batch_size,"),
        ("train.rounds=2.5", r"^spec\.train\.rounds: got 2\.5, expected int$"),
        ("train.rounds=true", r"^spec\.train\.rounds: got True, expected int$"),
        ("train.flip=1", r"^spec\.train\.flip: got 1, expected bool$"),
        ("train.mixup=much", r"^spec\.train\.mixup: got 'much', expected float$"),
        ("data.name=3", r"^spec\.data\.name: got 3, expected str$"),
        ("train=3", r"^spec\.train: got 3, expected a section$"),
        ("seed.x=3", r"^spec\.seed: got {'x': 3}, expected int$"),
        (
            "router.kind=lerned",
            r"^spec\.router\.kind: unknown 'lerned'; did you mean learned\? Allowed: auto, class_offsets, gain",
        ),
        (
            "quantize.methods=['ptq', 'qut']",
            r"^spec\.quantize\.methods\[1\]: unknown 'qut'; did you mean qat\? Allowed: ptq, qat$",
        ),
        ("quantize.methods=ptq", r"^spec\.quantize\.methods: got 'ptq', expected a list$"),
        ("sweep.links=lte", r"^spec\.sweep\.links: got 'lte', expected a list$"),
        ("quantize.methods=3", r"^spec\.quantize\.methods: got 3, expected a list$"),
        ("train.rounds", "^--set train.rounds: expected section.key=value$"),
        ("=3", "^--set =3: expected section.key=value$"),
        ("preset.seed=3", "^--set preset.seed=3: preset is a value, not a section$"),
    ],
)
def test_what_is_refused_by_name(assignment, message):
    with pytest.raises(SpecError, match=message) as caught:
        run_spec(assignments=[assignment])
    assert "\n" not in str(caught.value)


def test_every_complaint_is_told_at_once():
    with pytest.raises(SpecError) as caught:
        run_spec(assignments=["train.roundz=3", "router.hidden=x", "seed=1.5"])
    assert {part.split(":")[0] for part in str(caught.value).split("; spec")} >= {
        "spec.seed",
        ".train",
        ".router.hidden",
    }


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.distillation=1.5", "train.distillation: got 1.5, allowed 0 to 1"),
        ("train.distillation=nan", "train.distillation: got nan, allowed 0 to 1"),
        ("sweep.min_coverage=-0.1", "sweep.min_coverage: got -0.1, allowed 0 to 1"),
        ("train.batch_size=0", "train.batch_size: got 0, allowed 1 or more"),
        ("router.folds=1", "router.folds: got 1, allowed 2 or more"),
        ("data.calibration_fraction=0.0", "calibration_fraction and validation_fraction must be above 0"),
        ("data.calibration_fraction=0.9", "leave no training examples; lower them"),
        ("quantize.methods=[]", "quantize.methods: empty; allowed ptq, qat or both"),
    ],
)
def test_values_that_no_run_can_use(assignment, message):
    with pytest.raises(SpecError, match=message):
        run_spec(assignments=[assignment])


def test_check_speaks_of_specs_that_were_made_in_code():
    with pytest.raises(SpecError, match=r"train\.edge_epochs: got -1"):
        check(replace(RunSpec(), train=TrainSpec(edge_epochs=-1)))


def test_an_unknown_preset():
    with pytest.raises(SpecError, match=r"preset: unknown 'quik'; did you mean quick[?] Allowed: quick, standard"):
        run_spec(preset_name="quik")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read .No such file.*check the path"),
        (b"seed = = 3", r"not valid TOML .*line 1"),
        (b"seed = '\xff'", "not valid TOML"),
        (b"[train]\nroundz = 3", r"bad\.toml\.train: unknown key 'roundz'; did you mean rounds"),
        (b"train = 3", r"bad\.toml\.train: got 3, expected a section"),
    ],
)
def test_bad_files_are_named(tmp_path, content, message):
    path = tmp_path / "bad.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError, match=message) as caught:
        run_spec(paths=[path])
    assert str(path) in str(caught.value)


def test_missing_keys_are_named():
    with pytest.raises(SpecError, match=r"arch\.blocks\[1\]\.width: missing key 'width'"):
        structure(
            {
                "name": "a",
                "input_shape": [8, 8, 1],
                "num_classes": 2,
                "blocks": [{"kind": "conv", "width": 4}, {"kind": "ds"}],
            },
            ArchSpec,
            where="arch",
        )


def test_set_key_makes_sections_on_its_way():
    data = {"a": {"b": 1}}
    set_key(data, "a.c.d=[1, 2]")
    assert data == {"a": {"b": 1, "c": {"d": [1, 2]}}}


@pytest.mark.parametrize("value", ['a "quoted" b\\c', True, 3, 0.5, [1, 2], ["x"]])
def test_toml_value_is_read_back_by_set(value):
    data = {}
    set_key(data, f"key={toml_value(value)}")
    assert data == {"key": value}


@pytest.mark.parametrize("margin", [0, 10])
def test_the_ends_of_the_arena_s_margin_are_reserved(margin):
    assert arena_bytes(1000, run_spec(assignments=[f"export.arena_margin={margin}"]).export.arena_margin) >= 1000
    with pytest.raises(SpecError, match=r"export\.arena_margin: got 10\.5, allowed 0 to 10"):
        run_spec(assignments=["export.arena_margin=10.5"])


@pytest.mark.parametrize("deadline_ms", [1, 86_400_000])
def test_the_ends_of_the_deadline_make_an_endpoint(deadline_ms):
    asked = run_spec(assignments=[f"export.deadline_ms={deadline_ms}"]).export.deadline_ms
    assert f"deadline_ms = {asked}" in cloud_files(replace(INPUTS, deadline_ms=asked))["cloud/endpoint.toml"].decode()
