"""What TensorFlow Serving is configured with: read back by the protos that it reads them with."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving import config

REPOSITORY = Path(__file__).parents[2]
# BatchingParameters of TensorFlow Serving's session_bundle_config.proto, which tensorflow-serving-api leaves out.
WRAPPED = {"max_batch_size": 1, "batch_timeout_micros": 2, "max_enqueued_batches": 3, "num_batch_threads": 4}
ALLOWED_BATCH_SIZES = 6


def batching_parameters():
    """Returns the message class, made of the field names, numbers and types of that file."""
    file = descriptor_pb2.FileDescriptorProto(
        name="session_bundle_config.proto", package="tensorflow.serving", syntax="proto3"
    )
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    message = file.message_type.add(name="BatchingParameters")
    field = descriptor_pb2.FieldDescriptorProto
    for name, number in WRAPPED.items():
        message.field.add(
            name=name,
            number=number,
            label=field.LABEL_OPTIONAL,
            type=field.TYPE_MESSAGE,
            type_name=".google.protobuf.Int64Value",
        )
    message.field.add(
        name="allowed_batch_sizes", number=ALLOWED_BATCH_SIZES, label=field.LABEL_REPEATED, type=field.TYPE_INT64
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.serving.BatchingParameters"))


@pytest.fixture
def models(tmp_path):
    """Exports as far as a listing goes; and what is none."""
    directory = tmp_path / "saved models"
    for version in ("faces/1", "faces/12", 'it\'s "odd"/3', "empty/1", "draft/new", "faces/.writing-5", ".hidden/1"):
        (directory / version).mkdir(parents=True)
        if version != "empty/1":
            (directory / version / "saved_model.pb").write_bytes(b"")
    (directory / "README.md").write_text("notes")
    return directory


def run(capsys, *arguments):
    try:
        status = config.main([str(each) for each in arguments])
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def read_models(path):
    parsed = text_format.Parse(path.read_text(encoding="utf-8"), model_server_config_pb2.ModelServerConfig())
    return list(parsed.model_config_list.config)


def test_every_export_is_in_models_config_and_nothing_else(models, tmp_path, capsys):
    status, out, _ = run(capsys, "--models", models, "--out", tmp_path / "out", "--latest", 2)
    assert status == 0 and "2 models" in out
    entries = read_models(tmp_path / "out" / "models.config")
    assert [entry.name for entry in entries] == ["faces", 'it\'s "odd"']
    for entry in entries:
        assert entry.base_path == str(models / entry.name) and Path(entry.base_path).is_absolute()
        assert entry.model_platform == "tensorflow"
        assert entry.model_version_policy.latest.num_versions == 2


def test_paths_inside_a_container_are_those_asked_for(models, capsys):
    assert run(capsys, "--models", models, "--base-path", "/models")[0] == 0
    assert [entry.base_path for entry in read_models(models / "models.config")] == [
        "/models/faces",
        '/models/it\'s "odd"',
    ]


@pytest.mark.parametrize("most", [1, 32, 256])
def test_batching_config_is_what_tensorflow_serving_demands_of_it(models, capsys, most):
    arguments = ("--max-batch", most, "--batch-wait", 1.5, "--batch-threads", 3)
    assert run(capsys, "--models", models, *arguments)[0] == 0
    parsed = text_format.Parse((models / "batching.config").read_text(), batching_parameters()())
    assert parsed.max_batch_size.value == most
    assert parsed.batch_timeout_micros.value == 1500
    assert parsed.num_batch_threads.value == 3
    assert parsed.max_enqueued_batches.value >= 3
    sizes = list(parsed.allowed_batch_sizes)
    assert sizes == sorted(set(sizes)) and sizes[0] == 1 and sizes[-1] == most


def test_files_that_say_something_else_are_replaced_only_when_told_to(models, capsys):
    assert run(capsys, "--models", models)[0] == 0
    status, out, _ = run(capsys, "--models", models)
    assert status == 0 and out.count("unchanged") == 2
    before = {path: path.read_bytes() for path in models.glob("*.config")}
    status, _, err = run(capsys, "--models", models, "--latest", 3)
    assert status == 1 and "--overwrite" in err and err.count("\n") == 1
    assert {path: path.read_bytes() for path in models.glob("*.config")} == before
    status, out, _ = run(capsys, "--models", models, "--latest", 3, "--overwrite")
    assert status == 0 and "models.config: replaced" in out and "batching.config: unchanged" in out
    assert read_models(models / "models.config")[0].model_version_policy.latest.num_versions == 3
    assert not list(models.glob("*.tmp"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--models", "/nowhere"], "--models must be a directory"),
        (["--models", "MODELS/empty"], "no SavedModel"),
        (["--models", "MODELS", "--latest", "0"], "--latest must be at least 1. Received: 0"),
        (["--models", "MODELS", "--max-batch", "24"], "--max-batch must be a power of two. Received: 24"),
        (["--models", "MODELS", "--max-batch", "0"], "--max-batch must be at least 1"),
        (["--models", "MODELS", "--batch-wait", "nan"], "--batch-wait must be"),
        (["--models", "MODELS", "--base-path", "models"], "--base-path must be an absolute path"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_written(models, capsys, arguments, said):
    status, _, err = run(capsys, *[each.replace("MODELS", str(models)) for each in arguments])
    assert status == 2 and said in err
    assert not list(models.rglob("*.config"))


def test_a_directory_that_cannot_be_written_is_one_line(models, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    status, _, err = run(capsys, "--models", models, "--out", tmp_path / "file")
    assert status == 1 and err.startswith("serving.config: ") and err.count("\n") == 1


def test_the_command_needs_no_tensorflow_and_says_when_the_protos_are_missing(models):
    code = """
import sys
if "absent" in sys.argv:
    sys.modules["tensorflow_serving"] = None
from serving import config
status = config.main(["--models", sys.argv[1]])
print(status, "tensorflow" in sys.modules)
"""
    for extra, status in (("absent", 1), ("present", 0)):
        done = subprocess.run(
            [sys.executable, "-c", code, str(models), extra], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
        )
        assert done.stdout.splitlines()[-1:] == [f"{status} False"], done.stderr
        assert ("requirements-nodeps.txt" in done.stderr) == bool(status)
        assert bool(list(models.glob("*.config"))) == (not status)
