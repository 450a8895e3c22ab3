"""What an export holds, and that programs which know nothing of the zoo get from it what the model itself makes.

A reload in Python does not show whether TensorFlow Serving can restore a SavedModel. `saved_model_cli` and the C program
`run_signature.c` restore it as Serving does, in processes of their own.
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.python.tools import saved_model_utils

import zoo
from training import export as exporting
from training.data import to_model_range, to_uint8
from training.export import export, versions
from zoo.generative import dtype_policy

REPOSITORY = Path(__file__).parents[2]
ARCHITECTURES = ["dcgan", "sngan"]
SEEDS = np.array([7, 0, 10**12], np.int64)
TRUNCATIONS = np.array([1.0, 0.5, 0.0], np.float32)
C_TYPES = {"float32": "float", "int64": "int64", "int32": "int32", "uint8": "uint8"}

# Runs every signature asked for, with a loader that cannot import this project.
PLAIN_RELOAD = """
import json, sys
import numpy as np

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("zoo", "training", "evaluation", "serving"):
            raise ImportError(f"{name} is not to be had here")

sys.meta_path.insert(0, Blocked())
import tensorflow as tf

loaded = {}
for directory, signature, feeds, result in json.loads(sys.argv[1]):
    if directory not in loaded:
        loaded[directory] = tf.saved_model.load(directory)
    feeds = {name: tf.constant(value) for name, value in np.load(feeds).items()}
    outputs = loaded[directory].signatures[signature](**feeds)
    np.savez(result, **{name: np.array(value.numpy().tolist()) if value.dtype == tf.string else value.numpy()
                        for name, value in outputs.items()})
assert not {"zoo", "training"} & set(sys.modules)
"""

# `saved_model_cli` several times in one process: each start would take ten seconds.
COMMAND_LINES = """
import json, sys
from tensorflow.python.tools import saved_model_cli

for words in json.loads(sys.argv[1]):
    sys.argv = ["saved_model_cli", *words]
    try:
        saved_model_cli.main()
    except SystemExit as stop:
        if stop.code:
            raise
"""


def tiny(arch, side=16, channels=3, seed=0):
    """A tiny model whose every number was moved away from its start, differently in each network."""
    keras.utils.set_random_seed(seed)
    model = zoo.create(arch, (side, side, channels), base_filters=4, latent_dim=8)
    generator = np.random.default_rng(seed + 1)
    for network in model.networks.values():
        for variable in network.variables:
            value, change = np.asarray(variable), 0.1 * generator.normal(size=variable.shape)
            if "variance" in variable.name or "sigma" in variable.name:
                change = np.abs(change)
            variable.assign(value + change.astype(value.dtype))
    return model


def feeds_of(model):
    """Returns `{signature: {input: array}}` with three rows each."""
    generator = np.random.default_rng(3)
    return {
        "serving_default": {"z": generator.normal(size=(3, model.latent_dim)).astype(np.float32)},
        "latents": {"seed": SEEDS},
        "sample": {"seed": SEEDS, "truncation": TRUNCATIONS},
        "sample_png": {"seed": SEEDS, "truncation": TRUNCATIONS},
        "discriminate": {"images": generator.integers(0, 256, (3, *model.image_shape), np.uint8)},
    }


def samples_of(model):
    """What `model.sample` makes for SEEDS and TRUNCATIONS."""
    return np.concatenate(
        [model.sample(1, int(seed), truncation=float(factor)) for seed, factor in zip(SEEDS, TRUNCATIONS, strict=True)]
    )


def assert_right(model, signature, feeds, outputs, rows=slice(None)):
    """The outputs of a signature for `feeds_of(model)` (some rows of it) are what the model's own methods give."""
    if signature == "serving_default":
        assert outputs["images"].dtype == np.float32
        np.testing.assert_allclose(outputs["images"], model.generate(feeds["z"]), atol=1e-5)
    elif signature == "latents":
        np.testing.assert_allclose(outputs["z"], model.latents(feeds["seed"]), atol=1e-6)
    elif signature == "sample":
        assert_same_pictures(outputs["images"], to_uint8(samples_of(model))[rows])
    elif signature == "sample_png":
        assert_same_pictures(decoded(outputs["image_bytes"], model.image_shape), to_uint8(samples_of(model))[rows])
    elif signature == "discriminate":
        assert outputs["logits"].dtype == np.float32
        np.testing.assert_allclose(
            outputs["logits"], model.discriminate(to_model_range(feeds["images"])), rtol=1e-4, atol=1e-5
        )
    else:
        raise AssertionError(f"no expectation for the signature {signature}")


def assert_same_pictures(images, expected):
    assert images.dtype == np.uint8 and images.shape == expected.shape
    # A float of another batch size may differ in its last bit, and then round to the other side.
    distance = np.abs(images.astype(int) - expected)
    assert distance.max() <= 1 and (distance > 0).mean() < 0.01
    assert images.std() > 5, "the picture is flat: the comparison shows nothing"


def decoded(encoded, image_shape):
    pictures = [Image.open(io.BytesIO(each)) for each in encoded]
    assert {picture.format for picture in pictures} == {"PNG"}
    assert {picture.mode for picture in pictures} == {{1: "L", 3: "RGB", 4: "RGBA"}[image_shape[2]]}
    return np.stack([np.asarray(picture).reshape(image_shape) for picture in pictures])


def run_process(command, cwd, **environment):
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=1800,  # one process may run the signatures of every architecture
    )
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}: {done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """`{architecture: (model, directory of its export)}`."""
    root = tmp_path_factory.mktemp("saved_models")
    models = {arch: tiny(arch) for arch in ARCHITECTURES}
    return {arch: (model, export(model, root, f"tiny-{arch}")) for arch, model in models.items()}


@pytest.fixture(scope="module")
def cases(exported, tmp_path_factory):
    """`[(architecture, signature, feeds)]`, every signature that the exports really have."""
    found = [
        (arch, signature)
        for arch, (_, directory) in exported.items()
        for signature in sorted(signature_defs(directory))
    ]
    return [(arch, signature, feeds_of(exported[arch][0])[signature]) for arch, signature in found]


def signature_defs(directory):
    """Returns `{name: SignatureDef}` of a SavedModel, TensorFlow's own initialization left out."""
    definitions = saved_model_utils.get_meta_graph_def(str(directory), "serve").signature_def
    return {name: definition for name, definition in definitions.items() if not name.startswith("__saved_model")}


@pytest.fixture(scope="module")
def reloaded(exported, cases, tmp_path_factory):
    """`{(architecture, signature, rows): outputs}` of a Python process that has TensorFlow and nothing of ours."""
    folder, wanted, results = tmp_path_factory.mktemp("reload"), [], {}
    for arch, signature, feeds in cases:
        for rows in (3, 1):
            stem = f"{arch}-{signature}-{rows}"
            np.savez(folder / f"{stem}-in.npz", **{name: value[:rows] for name, value in feeds.items()})
            result = folder / f"{stem}-out.npz"
            wanted.append([str(exported[arch][1]), signature, str(folder / f"{stem}-in.npz"), str(result)])
            results[arch, signature, rows] = result
    run_process([sys.executable, "-c", PLAIN_RELOAD, json.dumps(wanted)], cwd=folder, PYTHONPATH="")
    return {key: dict(np.load(path)) for key, path in results.items()}


def test_an_export_has_the_signatures_of_a_gan(exported):
    for _, directory in exported.values():
        assert sorted(signature_defs(directory)) == [
            "discriminate",
            "latents",
            "sample",
            "sample_png",
            "serving_default",
        ]


def test_every_input_and_output_has_an_open_batch_dimension_and_strings_end_in_bytes(exported):
    for model, directory in exported.values():
        for name, definition in signature_defs(directory).items():
            tensors = {**definition.inputs, **definition.outputs}
            assert definition.inputs and definition.outputs
            for key, tensor in tensors.items():
                sizes = [dimension.size for dimension in tensor.tensor_shape.dim]
                assert not tensor.tensor_shape.unknown_rank and sizes[:1] == [-1], f"{name}: {key} has shape {sizes}"
                assert -1 not in sizes[1:], f"{name}: {key} has shape {sizes}"
                assert (tf.as_dtype(tensor.dtype) == tf.string) == key.endswith("_bytes"), f"{name}: {key}"
        inputs = {name: list(definition.inputs) for name, definition in signature_defs(directory).items()}
        assert {name: sorted(keys) for name, keys in inputs.items()} == {
            name: sorted(feeds) for name, feeds in feeds_of(model).items()
        }


@pytest.mark.parametrize("rows", [1, 3])
def test_a_process_that_cannot_import_the_zoo_gets_what_the_model_makes(exported, cases, reloaded, rows):
    for arch, signature, feeds in cases:
        feeds = {name: value[:rows] for name, value in feeds.items()}
        outputs = reloaded[arch, signature, rows]
        assert all(len(value) == rows for value in outputs.values())
        assert_right(exported[arch][0], signature, feeds, outputs, slice(rows))


def test_the_png_bytes_are_the_pixels_of_sample(exported, reloaded):
    for arch, (model, _) in exported.items():
        png = decoded(reloaded[arch, "sample_png", 3]["image_bytes"], model.image_shape)
        np.testing.assert_array_equal(png, reloaded[arch, "sample", 3]["images"])


def test_saved_model_cli_runs_every_signature(exported, cases, reloaded, tmp_path):
    lines = []
    for arch, signature, feeds in cases:
        outputs = tmp_path / f"{arch}-{signature}"
        for name, value in feeds.items():
            np.save(tmp_path / f"{arch}-{signature}-{name}.npy", value)
        inputs = ";".join(f"{name}={tmp_path}/{arch}-{signature}-{name}.npy" for name in feeds)
        lines.append(["run", "--dir", str(exported[arch][1]), "--tag_set", "serve", "--signature_def", signature,
                      "--inputs", inputs, "--outdir", str(outputs)])  # fmt: skip
    run_process([sys.executable, "-c", COMMAND_LINES, json.dumps(lines)], cwd=tmp_path, PYTHONPATH="")
    for arch, signature, feeds in cases:
        # An array of strings is one of objects, which NumPy pickles: this file is the test's own.
        outputs = {
            path.stem: np.load(path, allow_pickle=path.stem == "image_bytes")
            for path in (tmp_path / f"{arch}-{signature}").glob("*.npy")
        }
        assert outputs.keys() == reloaded[arch, signature, 3].keys()
        assert_right(exported[arch][0], signature, feeds, outputs)


def test_saved_model_cli_as_installed_writes_png_bytes_that_pillow_opens(exported, tmp_path):
    program = Path(sys.executable).with_name("saved_model_cli")
    model, directory = exported["sngan"]
    run_process(
        [str(program), "run", "--dir", str(directory), "--tag_set", "serve", "--signature_def", "sample_png",
         "--input_exprs", "seed=[7];truncation=[1.0]", "--outdir", "."],
        cwd=tmp_path, PYTHONPATH="",
    )  # fmt: skip
    encoded = np.load(tmp_path / "image_bytes.npy", allow_pickle=True)
    assert encoded.shape == (1,)
    assert_same_pictures(decoded(encoded, model.image_shape), to_uint8(model.sample(1, 7)))


@pytest.fixture(scope="module")
def run_signature(tmp_path_factory):
    """The C program, compiled against the TensorFlow package of this environment."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed: no C program can be compiled to run the export")
    package = Path(tf.__file__).parent
    program = tmp_path_factory.mktemp("c") / "run_signature"
    run_process(
        ["gcc", "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", str(Path(__file__).with_name("run_signature.c")),
         f"-I{tf.sysconfig.get_include()}", f"-L{package}", "-l:libtensorflow_cc.so.2",
         "-l:libtensorflow_framework.so.2", f"-Wl,-rpath,{package}", "-o", str(program)],
        cwd=tmp_path_factory.getbasetemp(),
    )  # fmt: skip
    return program


def run_in_c(program, directory, signature, feeds, folder):
    """Returns the outputs of a signature as the C program computes them."""
    definition = signature_defs(directory)[signature]
    command = [str(program), str(directory)]
    for name, value in feeds.items():
        (folder / name).write_bytes(value.tobytes())
        command += [
            "in",
            definition.inputs[name].name,
            C_TYPES[value.dtype.name],
            str(folder / name),
            *map(str, value.shape),
        ]
    for name, tensor in definition.outputs.items():
        command += ["out", tensor.name, str(folder / f"{name}.out")]
    printed = {
        line.split()[0]: [int(word) for word in line.split()[1:]] for line in run_process(command, folder).splitlines()
    }
    outputs = {}
    for name, tensor in definition.outputs.items():
        code, *shape = printed[tensor.name]
        content = (folder / f"{name}.out").read_bytes()
        if tf.as_dtype(code) == tf.string:
            outputs[name] = []
            while content:
                end = 8 + int.from_bytes(content[:8], sys.byteorder)
                outputs[name].append(content[8:end])
                content = content[end:]
            assert shape == [len(outputs[name])]
        else:
            outputs[name] = np.frombuffer(content, tf.as_dtype(code).as_numpy_dtype).reshape(shape)
    return outputs


def test_a_c_program_runs_every_signature_with_the_same_result(exported, cases, reloaded, run_signature, tmp_path):
    for arch, signature, feeds in cases:
        folder = tmp_path / f"{arch}-{signature}"
        folder.mkdir()
        outputs = run_in_c(run_signature, exported[arch][1], signature, feeds, folder)
        assert outputs.keys() == reloaded[arch, signature, 3].keys()
        assert_right(exported[arch][0], signature, feeds, outputs)
        if signature == "sample_png":
            assert outputs["image_bytes"] == list(reloaded[arch, signature, 3]["image_bytes"]), "same seed, other bytes"


def test_truncation_scales_each_row_by_its_own_factor(exported):
    model, directory = exported["dcgan"]
    signature = tf.saved_model.load(str(directory)).signatures["sample"]
    seed = np.array([5, 5, 5, 6], np.int64)
    images = signature(seed=tf.constant(seed), truncation=tf.constant([1.0, 0.5, 0.0, 0.0]))["images"].numpy()
    assert (images[0] != images[1]).mean() > 0.1 and (images[1] != images[2]).mean() > 0.1
    np.testing.assert_array_equal(images[2], images[3])  # nothing of the seed is left
    assert_same_pictures(images[:1], to_uint8(model.sample(1, 5)))
    assert_same_pictures(images[1:2], to_uint8(model.sample(1, 5, truncation=0.5)))


def test_the_same_seed_gives_the_same_bytes_wherever_it_stands_in_the_batch(exported):
    _, directory = exported["sngan"]
    signature = tf.saved_model.load(str(directory)).signatures["sample_png"]
    first, again = (
        signature(seed=tf.constant([4, 9, 4], tf.int64), truncation=tf.ones([3]))["image_bytes"].numpy()
        for _ in range(2)
    )
    assert list(first) == list(again)
    assert first[0] == first[2] != first[1]


def test_the_card_describes_every_signature_as_it_is(exported):
    for model, directory in exported.values():
        card = json.loads((directory / "model.json").read_text(encoding="utf-8"))
        definitions = signature_defs(directory)
        assert card["signatures"].keys() == definitions.keys()
        for name, described in card["signatures"].items():
            for side in ("inputs", "outputs"):
                tensors = getattr(definitions[name], side)
                assert described[side].keys() == tensors.keys()
                for key, tensor in tensors.items():
                    shape = [None if dimension.size == -1 else dimension.size for dimension in tensor.tensor_shape.dim]
                    assert described[side][key]["shape"] == shape
                    assert described[side][key]["dtype"] == tf.as_dtype(tensor.dtype).name
                    assert described[side][key]["range"].strip()
        assert card["signatures"]["serving_default"]["outputs"]["images"]["range"] == "[-1, 1]"
        assert card["signatures"]["discriminate"]["inputs"]["images"]["range"] == "0 to 255"
        assert card["signatures"]["sample"]["inputs"]["seed"]["shape"] == [None]
        assert card["signatures"]["sample"]["outputs"]["images"]["shape"] == [None, *model.image_shape]


def test_the_card_says_how_to_make_the_model_again_and_what_made_it(exported):
    for arch, (model, directory) in exported.items():
        card = json.loads((directory / "model.json").read_text(encoding="utf-8"))
        assert card["arch"] == arch
        again = zoo.create(card["arch"], card["image_shape"], **card["hyperparameters"])
        assert again.get_config() == model.get_config()
        assert again.base_filters == 4 and again.latent_dim == 8
        assert card["step"] == 0
        assert card["versions"]["tensorflow"] == tf.__version__ and card["versions"]["keras"] == keras.__version__
        if (REPOSITORY / ".git").exists() and shutil.which("git"):
            command = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
            head = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
            assert re.fullmatch(f"{head}(-dirty)?", card["git_commit"])


def test_what_the_caller_records_and_real_images_with_their_credit_go_along(tmp_path, quick_archive):
    reals = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    directory = export(
        tiny("dcgan", 8), tmp_path, "m", record={"training": {"data": "x"}}, reals=reals, credit="Somebody"
    )
    assert json.loads((directory / "model.json").read_text())["training"] == {"data": "x"}
    with np.load(directory / "assets.extra" / "reals.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["images"], reals)
        assert str(file["credit"]) == "Somebody"


def test_a_model_trained_in_bfloat16_is_exported_in_float32(tmp_path):
    with dtype_policy("mixed_bfloat16"):
        model = tiny("dcgan")
        assert model.generator.compute_dtype == "bfloat16"
        directory = export(model, tmp_path, "half")
        assert keras.config.dtype_policy().name == "mixed_bfloat16", "the export changed the precision of the training"
        expected = samples_of(model)
    graph = saved_model_utils.get_meta_graph_def(str(directory), "serve").graph_def
    types = {
        tf.as_dtype(attribute.type).name
        for function in graph.library.function
        for node in function.node_def
        for attribute in node.attr.values()
        if attribute.WhichOneof("value") == "type"
    }
    assert "float32" in types and not types & {"bfloat16", "float16"}
    signatures = tf.saved_model.load(str(directory)).signatures
    images = signatures["sample"](seed=tf.constant(SEEDS), truncation=tf.constant(TRUNCATIONS))["images"].numpy()
    assert_same_pictures(images, to_uint8(expected))
    assert signatures["serving_default"](z=tf.zeros([1, 8]))["images"].dtype == tf.float32
    pixels = feeds_of(model)["discriminate"]["images"]
    logits = signatures["discriminate"](images=tf.constant(pixels))["logits"]
    assert logits.dtype == tf.float32
    np.testing.assert_allclose(logits, model.discriminate(to_model_range(pixels)), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("channels", [1, 4])
def test_gray_pictures_and_pictures_with_alpha_are_exported_as_well(tmp_path, channels):
    model = tiny("dcgan", 8, channels)
    signatures = tf.saved_model.load(str(export(model, tmp_path, "m"))).signatures
    for name, feeds in feeds_of(model).items():
        outputs = signatures[name](**{key: tf.constant(value) for key, value in feeds.items()})
        assert_right(model, name, feeds, {key: value.numpy() for key, value in outputs.items()})


# Versions and failures: what is written does not matter here.


class QuickArchive:
    """Stands for `keras.export.ExportArchive` and writes one file."""

    def __init__(self):
        self.endpoints = []

    def track(self, resource):
        pass

    def add_variable_collection(self, name, variables):
        pass

    def add_endpoint(self, name, function, input_signature):
        self.endpoints.append(name)

    def write_out(self, path, verbose):
        Path(path).mkdir()
        (Path(path) / "saved_model.pb").write_text(" ".join(self.endpoints))


@pytest.fixture
def quick_archive(monkeypatch):
    monkeypatch.setattr(keras.export, "ExportArchive", QuickArchive)
    monkeypatch.setattr(exporting, "_describe", lambda function, signature: {"inputs": {}, "outputs": {}})
    return QuickArchive


def contents(directory):
    return {path.relative_to(directory): path.read_bytes() for path in Path(directory).rglob("*") if path.is_file()}


def test_versions_are_successive_integers_and_never_overwritten(tmp_path, quick_archive):
    model = tiny("dcgan", 8)
    first = export(model, tmp_path, "m")
    before = contents(first)
    (tmp_path / "m" / "7").mkdir()
    (tmp_path / "m" / "7" / "mine").write_text("kept")
    (tmp_path / "m" / "notes").mkdir()
    second = export(model, tmp_path, "m")
    assert [first.name, second.name] == ["1", "8"], "a version after the highest one, whoever made that"
    assert contents(first) == before
    assert (tmp_path / "m" / "7" / "mine").read_text() == "kept"
    assert versions(tmp_path / "m") == [1, 7, 8]
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["1", "7", "8", "notes"]


def test_exports_at_the_same_time_get_numbers_of_their_own(tmp_path):
    root, together, published = tmp_path / "m", threading.Barrier(8), {}
    root.mkdir()

    def publish(worker):
        for turn in range(5):
            temporary = root / f".writing-{worker}-{turn}"
            temporary.mkdir()
            (temporary / "saved_model.pb").write_text(f"{worker}-{turn}")
            together.wait()
            published[f"{worker}-{turn}"] = exporting._publish(temporary, root)

    threads = [threading.Thread(target=publish, args=[worker]) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(path.name) for path in published.values()) == list(range(1, 41))
    assert all((path / "saved_model.pb").read_text() == name for name, path in published.items())


@pytest.mark.slow
def test_real_exports_of_several_processes_at_the_same_time_are_all_whole(tmp_path):
    code = (
        "import sys, zoo\n"
        "from training.export import export\n"
        "model = zoo.create('dcgan', (8, 8, 3), base_filters=4)\n"
        "for _ in range(2): print(export(model, sys.argv[1], 'm').name)\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    numbers = [int(line) for process in running for line in process.communicate(timeout=600)[0].split()]
    assert sorted(numbers) == [1, 2, 3, 4, 5, 6]
    for version in versions(tmp_path / "m"):
        directory = tmp_path / "m" / str(version)
        assert (directory / "model.json").is_file()
        tf.saved_model.load(str(directory)).signatures["latents"](seed=tf.constant([1], tf.int64))


@pytest.mark.parametrize("where", ["write_out", "after"])
@pytest.mark.parametrize("earlier", [0, 1])
def test_a_failure_in_the_middle_leaves_nothing_behind(tmp_path, quick_archive, monkeypatch, where, earlier):
    model = tiny("dcgan", 8)
    for _ in range(earlier):
        export(model, tmp_path, "m")
    before = sorted(tmp_path.rglob("*"))

    def fail(*args, **kwargs):
        if where == "write_out":
            Path(args[1]).mkdir()
            (Path(args[1]) / "half").write_text("half")
        raise OSError("No space left on device")

    monkeypatch.setattr(
        *((QuickArchive, "write_out", fail) if where == "write_out" else (exporting, "model_card", fail))
    )
    with pytest.raises(OSError, match="No space left"):
        export(model, tmp_path, "m")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_directory_that_cannot_be_written_is_an_os_error(tmp_path):
    model = tiny("dcgan", 8)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        export(model, tmp_path / "file", "m")
    assert (tmp_path / "file").read_text() == "in the way"
    read_only = tmp_path / "read_only"
    read_only.mkdir(mode=0o555)
    if os.access(read_only, os.W_OK):  # the administrator may write there; in /proc nobody may
        read_only = Path("/proc/self")
    with pytest.raises(OSError):
        export(model, read_only, "m")
    assert not (read_only / "m").exists()
