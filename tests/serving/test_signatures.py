"""Every signature of every architecture, run by programs that know nothing of this project.

The C program and `saved_model_cli` restore an export in processes of their own, as TensorFlow Serving does; OpenVINO
converts its graph to a runtime that is not TensorFlow's. `tests/training/test_export.py` says for two architectures
that what TensorFlow computes is what the model itself makes; here the others are held against TensorFlow.
"""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf

import zoo
from tests.training.test_export import (
    COMMAND_LINES,
    decoded,
    run_in_c,
    run_process,
    run_signature,  # noqa: F401
    signature_defs,
)
from tests.zoo.test_conformance import FIRST, VARIANTS, create
from training.export import export
from training.warmup import typical_values

NUM_CLASSES = 3
ROWS = 3
CONDITIONAL = [name for name in zoo.names() if "num_classes" in zoo.describe(name).parameters]
CASES = [(name, variant, None) for name, variant in VARIANTS]
CASES += [(name, FIRST[name], NUM_CLASSES) for name in CONDITIONAL]
QUICK = [("dcgan", FIRST["dcgan"], None), ("sngan", FIRST["sngan"], None)]


def case(name, variant, num_classes, quick=False):
    marks = [] if quick and (name, variant, num_classes) in QUICK else [pytest.mark.slow]
    words = [name, variant, *(["conditional"] if num_classes else [])]
    return pytest.param((name, variant, num_classes), id="-".join(words), marks=marks)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A function that gives the directory of the export of a case, made once."""
    root, made = tmp_path_factory.mktemp("saved_models"), {}

    def export_once(each):
        if each not in made:
            name, variant, num_classes = each
            model = create(name, variant, **({"num_classes": num_classes} if num_classes else {}))
            make_varied(model)
            options = {"class_names": ["a", "b", "c"]} if num_classes else {}
            made[each] = export(model, root, f"{name}-{variant}-{num_classes}", **options)
        return made[each]

    return export_once


def make_varied(model):
    """Scales the weights of a fresh model until its images are neither flat nor black and white, and can be compared."""
    # Spectral normalization takes the scale out of a kernel; the batch normalization after it has one.
    names = ("kernel", "gamma", "class_gamma")
    scales = [each for network in model.networks.values() for each in network.variables if each.name in names]
    for each in scales:
        if each.name == "class_gamma":  # the classes begin as one
            each.assign(each * np.linspace(1, 0.5, NUM_CLASSES, dtype=np.float32)[:, None])
    for _ in range(50):
        deviation = model.sample(2).std()
        if 0.1 < deviation < 0.8:
            return
        for each in scales:
            each.assign((1.2 if deviation < 0.8 else 0.9) * each)
    raise AssertionError(f"no scale of the weights suits: {deviation}")


def feeds_of(directory):
    """Returns `{signature: {input: array}}`, as `model.json` describes the inputs."""
    described = json.loads((directory / "model.json").read_text(encoding="utf-8"))["signatures"]
    assert described.keys() == signature_defs(directory).keys()
    feeds = {
        signature: {tensor: typical_values(tensor, info, ROWS) for tensor, info in each["inputs"].items()}
        for signature, each in described.items()
    }
    for each in feeds.values():
        if "label" in each:
            each["label"] = np.arange(ROWS) % NUM_CLASSES
    return feeds


def by_tensorflow(directory, *signatures):
    """Returns `{signature: outputs}` of the feeds, as TensorFlow computes them in this process; default of all."""
    loaded = tf.saved_model.load(str(directory))
    return {
        signature: {
            tensor: value.numpy()
            for tensor, value in loaded.signatures[signature](
                **{tensor: tf.constant(value) for tensor, value in feeds.items()}
            ).items()
        }
        for signature, feeds in feeds_of(directory).items()
        if not signatures or signature in signatures
    }


def assert_equal(outputs, expected, directory):
    """The outputs of one signature are those expected, up to the last bit of a float."""
    assert outputs.keys() == expected.keys()
    for tensor, value in expected.items():
        if tensor.endswith("_bytes"):
            shape = json.loads((directory / "model.json").read_text(encoding="utf-8"))["image_shape"]
            assert_close_pixels(decoded(outputs[tensor], shape), decoded(value, shape))
        elif value.dtype == np.uint8:
            assert_close_pixels(outputs[tensor], value)
        else:
            assert outputs[tensor].dtype == value.dtype and np.ptp(value) > 1e-3, "nothing to compare"
            np.testing.assert_allclose(outputs[tensor], value, rtol=1e-4, atol=1e-4)


def assert_close_pixels(pixels, expected):
    assert pixels.dtype == np.uint8 and pixels.shape == expected.shape and expected.std() > 1
    distance = np.abs(pixels.astype(int) - expected)
    assert distance.max() <= 1 and (distance > 0).mean() < 0.01


@pytest.mark.parametrize("each", [case(*each, quick=True) for each in CASES])
def test_openvino_converts_serving_default_and_computes_what_tensorflow_does(exports, each):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    directory = exports(each)
    core = openvino.Core()
    model = core.read_model(str(directory))
    # Its default on some processors is bfloat16.
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    feeds = feeds_of(directory)["serving_default"]
    assert {each.any_name for each in model.inputs} == feeds.keys()
    images = compiled(feeds)["images"]
    expected = by_tensorflow(directory, "serving_default")["serving_default"]["images"]
    assert images.shape == expected.shape and np.ptp(expected) > 0.05
    np.testing.assert_allclose(images, expected, atol=1e-4)


@pytest.mark.parametrize("each", [case(*each) for each in CASES])
def test_the_c_program_runs_every_signature(exports, run_signature, tmp_path, each):  # noqa: F811
    directory = exports(each)
    expected = by_tensorflow(directory)
    for signature, feeds in feeds_of(directory).items():
        folder = tmp_path / signature
        folder.mkdir()
        assert_equal(run_in_c(run_signature, directory, signature, feeds, folder), expected[signature], directory)


@pytest.mark.slow
def test_saved_model_cli_runs_every_signature_of_every_architecture(exports, tmp_path):
    lines, folders = [], {}
    for number, each in enumerate(CASES):
        directory = exports(each)
        for signature, feeds in feeds_of(directory).items():
            folder = folders[each, signature] = tmp_path / f"{number}-{signature}"
            folder.mkdir()
            for tensor, value in feeds.items():
                np.save(folder / f"{tensor}.npy", value)
            inputs = ";".join(f"{tensor}={folder}/{tensor}.npy" for tensor in feeds)
            lines.append(["run", "--dir", str(directory), "--tag_set", "serve", "--signature_def", signature,
                          "--inputs", inputs, "--outdir", str(folder / "out")])  # fmt: skip
    run_process([sys.executable, "-c", COMMAND_LINES, json.dumps(lines)], cwd=tmp_path, PYTHONPATH="")
    for each in CASES:
        expected = by_tensorflow(exports(each))
        for signature, outputs in expected.items():
            # Strings are objects to NumPy, which pickles them: this file is the test's own.
            found = {
                tensor: np.load(
                    folders[each, signature] / "out" / f"{tensor}.npy", allow_pickle=tensor.endswith("_bytes")
                )
                for tensor in outputs
            }
            assert_equal(found, outputs, exports(each))
