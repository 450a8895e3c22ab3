"""Weights of PyTorch and Keras 2 become exports that make the same images, and other files are refused with the reason.

The fixtures dcgan64_generator.pth and dcgan64_discriminator.pth (narrow, the latter with DataParallel's prefix and in the
legacy format) and the images in gan_torch.npz are PyTorch 2.13's: tests/reference/make_gan_torch.py in the environment of
requirements-torch.txt. generator_keras2.h5 and the images in addons.npz are Keras 2.15's: tests/reference/make_addons.py
in the environment of requirements-addons.txt.
"""

import json
import pickle
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import tensorflow as tf

from training import convert, foreign_weights
from zoo.generative import count_parameters
from zoo.perceptual.weights import WeightsError, file_sha256, read_weights

REPOSITORY = Path(__file__).parents[2]
REFERENCE = REPOSITORY / "tests" / "reference"
TORCH = np.load(REFERENCE / "gan_torch.npz")
ADDONS = np.load(REFERENCE / "addons.npz")
seeded = SimpleNamespace(**runpy.run_path(str(REFERENCE / "seeded.py")))
seeded_dcgan = SimpleNamespace(**runpy.run_path(str(REFERENCE / "seeded_dcgan.py")))
write_state_dict = runpy.run_path(str(REFERENCE / "torch_format.py"))["write_state_dict"]

GENERATOR, DISCRIMINATOR = REFERENCE / "dcgan64_generator.pth", REFERENCE / "dcgan64_discriminator.pth"
KERAS_GENERATOR = REFERENCE / "generator_keras2.h5"


def images_last(array):
    return np.moveaxis(array, 1, -1)


def run(capsys, *words):
    """Returns (exit status, output, errors) of the command line, run in this process."""
    try:
        status = convert.main([str(word) for word in words])
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


def exported(directory):
    """Returns (signatures of the SavedModel, model.json)."""
    loaded = tf.saved_model.load(str(directory))
    return loaded.signatures, json.loads((directory / "model.json").read_text(encoding="utf-8"))


def test_a_pytorch_dcgan_becomes_an_export_with_the_same_images_and_logits(tmp_path, capsys):
    """Numbers: make_gan_torch.py, requirements-torch.txt."""
    words = ["--from", GENERATOR, "--discriminator", DISCRIMINATOR, "--name", "mine", "--export-dir", tmp_path]
    status, output, errors = run(capsys, *words)
    assert (status, errors) == (0, "")
    assert "64 px, 3 channels, base_filters 4, latent size 10" in output and str(tmp_path / "mine" / "1") in output
    signatures, card = exported(tmp_path / "mine" / "1")

    images = signatures["serving_default"](z=tf.constant(seeded_dcgan.latents(2, 10)))["images"]
    np.testing.assert_allclose(images, images_last(TORCH["dcgan64_narrow/images"]), atol=1e-4)
    logits = signatures["discriminate"](images=tf.constant(seeded.images(4, 64)))["logits"]
    np.testing.assert_allclose(logits, TORCH["dcgan64_narrow/logits"], atol=1e-4)

    assert (card["arch"], card["variant"], card["image_shape"]) == ("dcgan", "torch64", [64, 64, 3])
    assert card["converted"]["generator"] == {
        "file": "dcgan64_generator.pth", "sha256": file_sha256(GENERATOR), "format": "PyTorch state dict",
    }  # fmt: skip
    assert card["converted"]["discriminator"]["sha256"] == file_sha256(DISCRIMINATOR)


def test_a_keras_2_generator_becomes_an_export_with_the_same_images_and_no_discriminator(tmp_path, capsys):
    """Numbers: make_addons.py, requirements-addons.txt."""
    status, output, errors = run(capsys, "--from", KERAS_GENERATOR, "--name", "mine", "--export-dir", tmp_path)
    assert (status, errors) == (0, "")
    assert "32 px, 3 channels, base_filters 4, latent size 20" in output and "without `discriminate`" in output
    signatures, card = exported(tmp_path / "mine" / "1")
    images = signatures["serving_default"](z=tf.constant(ADDONS["keras_z"]))["images"]
    np.testing.assert_allclose(images, ADDONS["keras_images"], atol=1e-4)
    assert (card["variant"], list(card["converted"])) == ("keras32", ["generator"])
    # Nothing in it pretends to judge images, and no untrained weights are shipped.
    assert "discriminate" not in signatures and "discriminate" not in card["signatures"]
    variables = tf.train.list_variables(str(tmp_path / "mine" / "1" / "variables" / "variables"))
    assert not [name for name, _ in variables if "discriminator" in name]


def test_the_full_width_pytorch_generator_makes_pytorchs_images(tmp_path):
    """Numbers: make_gan_torch.py, requirements-torch.txt. As old PyTorch wrote it, without `num_batches_tracked`."""
    write_state_dict(tmp_path / "netG.pth", seeded_dcgan.generator_state())
    model = convert.build(foreign_weights.read(tmp_path / "netG.pth"))
    assert (model.variant, model.latent_dim, model.base_filters) == ("torch64", 100, 64)
    assert count_parameters(model.generator) == 3_576_704
    images = model.generate(seeded_dcgan.latents(4, 100)[:2])
    np.testing.assert_allclose(images, images_last(TORCH["dcgan64/images"]), atol=1e-4)


def keras_shapes(base_filters, latent_dim, channels=3, num_doublings=3):
    """`{layer: {variable: shape}}` of the Keras tutorials' generator."""
    width = 4 * base_filters
    layers = {"dense": {"kernel:0": (latent_dim, 16 * width), "bias:0": (16 * width,)}}
    for index in range(num_doublings):
        layers[f"up_{index}"] = {"kernel:0": (4, 4, 2 * base_filters, width), "bias:0": (2 * base_filters,)}
        width = 2 * base_filters
        leaves = ("gamma:0", "beta:0", "moving_mean:0", "moving_variance:0")
        layers[f"norm_{index}"] = dict.fromkeys(leaves, (width,))
    return layers | {"conv": {"kernel:0": (3, 3, width, channels), "bias:0": (channels,)}}


def write_keras_weights(path, layers, value=0.5):
    """Writes what `save_weights("... .h5")` of Keras 2 does."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in [*layers, "leaky_re_lu"]]
        file.create_group("leaky_re_lu").attrs["weight_names"] = []
        for layer, variables in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/{name}".encode() for name in variables]
            for name, shape in variables.items():
                group[f"{layer}/{name}"] = np.full(shape, value, np.float32)


def test_the_full_width_keras_generator_is_read_from_weights_alone(tmp_path):
    write_keras_weights(tmp_path / "generator.h5", keras_shapes(64, 100))
    weights = foreign_weights.read(tmp_path / "generator.h5")
    assert "weights alone" in weights.note and "slope .2" in weights.note
    model = convert.build(weights)
    assert count_parameters(model.generator) == 1_466_883
    for network in (model.generator, model.ema_generator):
        assert all(np.all(np.asarray(variable) == 0.5) for variable in network.variables)


@pytest.mark.parametrize("prefix", ["", "main.", "module.main.", "generator.net."])
def test_the_names_of_a_state_dict_may_have_any_prefix(tmp_path, prefix):
    state = {f"{prefix}{name.removeprefix('main.')}": array for name, array in narrow_state().items()}
    write_state_dict(tmp_path / "netG.pth", state)
    weights = foreign_weights.read(tmp_path / "netG.pth")
    assert [name for name, _, _ in weights.arrays] == list(state)
    for (_, _, ours), array in zip(weights.arrays, state.values(), strict=True):
        np.testing.assert_array_equal(ours, array.transpose(2, 3, 1, 0) if array.ndim == 4 else array)


def test_larger_sides_and_gray_images_are_recognized(tmp_path):
    widths = [7, 32, 16, 8, 4, 2, 1]  # z, 16 to 1 times base_filters 2, a channel
    state = {}
    for index, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        state[f"main.{3 * index}.weight"] = np.ones((inputs, outputs, 4, 4))
        if index < 5:
            leaves = ("weight", "bias", "running_mean", "running_var")
            state |= {f"main.{3 * index + 1}.{leaf}": np.ones(outputs) for leaf in leaves}
    write_state_dict(tmp_path / "netG.pth", state)
    model = convert.build(foreign_weights.read(tmp_path / "netG.pth"))
    assert (model.image_shape, model.latent_dim, model.base_filters) == ((128, 128, 1), 7, 2)
    assert model.generate(np.ones((1, 7), np.float32)).shape == (1, 128, 128, 1)


# ---- what is refused ------------------------------------------------------------------------------------------------


def narrow_state(**changes):
    """The state of the narrow generator, with some arrays replaced; `None` removes one."""
    state = seeded_dcgan.generator_state(4, 10) | {name.replace("__", "."): array for name, array in changes.items()}
    return {name: array for name, array in state.items() if array is not None}


def refusal(path, kind="generator"):
    with pytest.raises((WeightsError, ValueError)) as caught:
        convert.build(foreign_weights.read(path, kind))
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"main__4__bias": None}, ["Missing: 4.bias. Not of it: none", "Expected: 0.weight, 1.weight, 1.bias"]),
        ({"main__0__bias": np.zeros(32)}, ["Missing: none. Not of it: main.0.bias."]),
        ({"other__weight": np.zeros((2, 2))}, ["Not of it: other.weight."]),
        ({"main__0__weight": np.zeros((10, 32))}, ["Missing: none. Not of it: main.10.weight", "main.12.weight."]),
        (
            {"main__3__weight": np.zeros((32, 8, 4, 4))},
            ["main.3.weight", "shape (32, 16, 4, 4)", "Received: (32, 8, 4, 4)"],
        ),
        ({"main__7__weight": np.zeros(7)}, ["main.7.weight", "shape (8,)", "Received: (7,)"]),
        ({"main__3__weight": np.zeros((32, 16, 3, 3))}, ["shape (32, 16, 4, 4)", "Received: (32, 16, 3, 3)"]),
        ({"main__1__bias": np.full(32, np.nan)}, ["main.1.bias", "must be finite floats"]),
        ({"main__12__weight": np.zeros((4, 5, 4, 4))}, ["1, 3 or 4 channels. Received: 5"]),
    ],
)
def test_a_state_dict_of_another_network_is_refused_with_what_differs(tmp_path, changes, told):
    write_state_dict(tmp_path / "netG.pth", narrow_state(**changes))
    message = refusal(tmp_path / "netG.pth")
    for part in told:
        assert part in message


def test_a_side_that_dcgan_has_not_is_refused_with_those_it_has(tmp_path):
    state = narrow_state()
    names = [name for name in state if int(name.split(".")[1]) < 9]
    write_state_dict(tmp_path / "netG.pth", {name: state[name] for name in names} | {"main.9.weight": state["main.12.weight"]})  # fmt: skip
    assert "cannot make images of side 32" in refusal(tmp_path / "netG.pth")


def test_a_discriminator_in_place_of_a_generator_is_recognized_and_the_reverse():
    assert "It is a discriminator: give it with --discriminator" in refusal(DISCRIMINATOR)
    assert "It is a generator: give it with --from" in refusal(GENERATOR, "discriminator")
    assert "of those the generator alone is read" in refusal(KERAS_GENERATOR, "discriminator")


@pytest.mark.parametrize(("generator", "differs"), [(GENERATOR, "base_filters"), (KERAS_GENERATOR, "variant")])
def test_networks_that_do_not_belong_together_are_refused(tmp_path, generator, differs):
    write_state_dict(tmp_path / "netD.pth", seeded_dcgan.discriminator_state(6))
    discriminator = foreign_weights.read(tmp_path / "netD.pth", "discriminator")
    with pytest.raises(WeightsError, match=f"`{differs}` must be the same in both networks"):
        convert.build(foreign_weights.read(generator), discriminator)


def test_a_whole_pickled_model_is_refused_unrun_with_what_to_save_instead(tmp_path):
    (tmp_path / "netG.pth").write_bytes(pickle.dumps(SimpleNamespace(weight=1.0)))
    message = refusal(tmp_path / "netG.pth")
    assert "it names types.SimpleNamespace" in message and "torch.save(network.state_dict(), FILE)" in message


@pytest.mark.parametrize("file", [GENERATOR, DISCRIMINATOR, KERAS_GENERATOR])
def test_truncated_files_are_refused(tmp_path, file):
    content = file.read_bytes()
    kind = "discriminator" if file is DISCRIMINATOR else "generator"
    for length in (0, 3, 100, len(content) // 2, len(content) - 1000):
        (tmp_path / file.name).write_bytes(content[:length])
        with pytest.raises(WeightsError, match="cannot be read") as caught:
            foreign_weights.read(tmp_path / file.name, kind)
        assert str(tmp_path / file.name) in str(caught.value)


def test_a_file_of_other_arrays_is_refused_with_what_it_holds(tmp_path):
    np.savez(tmp_path / "other.npz", matrix=np.ones((2, 3)), table=np.ones(4))
    assert "Missing: 0.weight, 1.weight" in refusal(tmp_path / "other.npz")
    assert "Not of it: matrix, table" in refusal(tmp_path / "other.npz")


def altered(tmp_path, alter):
    """A copy of the Keras fixture that `alter(file)` has changed."""
    path = tmp_path / "generator.h5"
    shutil.copy(KERAS_GENERATOR, path)
    with h5py.File(path, "r+") as file:
        alter(file)
    return path


def configured(**settings):
    """Returns a change of the first layer with each of the settings."""

    def alter(file):
        config = json.loads(file.attrs["model_config"])
        for name, value in settings.items():
            next(each for each in config["config"]["layers"] if name in each["config"])["config"][name] = value
        file.attrs["model_config"] = json.dumps(config)

    return alter


def renamed_class(old, new):
    def alter(file):
        file.attrs["model_config"] = file.attrs["model_config"].replace(
            f'"class_name": "{old}"', f'"class_name": "{new}"'
        )

    return alter


def replaced(name, array):
    def alter(file):
        del file["model_weights"][name]
        file["model_weights"][name] = array

    return alter


def linked(file):
    del file["model_weights"]["conv2d/conv2d/bias:0"]
    file["model_weights"]["conv2d/conv2d/bias:0"] = h5py.ExternalLink("/etc/hostname", "/data")


def stored_elsewhere(file):
    group = file["model_weights"]["conv2d/conv2d"]
    del group["bias:0"]
    group.create_dataset("bias:0", (3,), "f4", external=[("elsewhere.bin", 0, 12)])


def never_written(file):
    group = file["model_weights"]["dense/dense"]
    del group["kernel:0"]
    group.create_dataset("kernel:0", (20, 2**40), "f4", chunks=(1, 1024))


@pytest.mark.parametrize(
    ("alter", "told"),
    [
        (configured(alpha=0.3), "`alpha` of its LeakyReLU must be 0.2. Received: 0.3"),
        (configured(epsilon=1e-5), "`epsilon` of its BatchNormalization must be 0.001. Received: 1e-05"),
        (renamed_class("LeakyReLU", "ReLU"), "its layers must be Dense, LeakyReLU, .* Received: Dense, ReLU"),
        (replaced("conv2d/conv2d/bias:0", np.zeros(4, "f4")), r"conv2d/bias:0.* shape \(3,\).* Received: \(4,\)"),
        (replaced("conv2d/conv2d/bias:0", np.array([b"text"])), "conv2d/bias:0 is not an array of floats"),
        (linked, "conv2d/bias:0 is missing, or a link to elsewhere"),
        (stored_elsewhere, "conv2d/bias:0 is not an array of floats stored in the file"),
        (never_written, "dense/kernel:0 is not an array of floats stored in the file"),
        (lambda file: file["model_weights"].attrs.__delitem__("layer_names"), "no list of layers"),
        (lambda file: file["model_weights"].__delitem__("conv2d"), "conv2d is missing"),
        (lambda file: file.attrs.__setitem__("model_config", "[]"), "cannot be read"),
    ],
)  # fmt: skip
def test_a_keras_file_of_another_network_is_refused_with_what_differs(tmp_path, alter, told):
    with pytest.raises(WeightsError, match=told):
        convert.build(foreign_weights.read(altered(tmp_path, alter)))


def test_a_keras_model_of_other_layers_is_refused_with_what_it_holds(tmp_path):
    layers = keras_shapes(4, 10)
    del layers["norm_1"]
    write_keras_weights(tmp_path / "generator.h5", layers)
    message = refusal(tmp_path / "generator.h5")
    assert "a BatchNormalization for each doubling" in message and "Received: dense/dense/kernel:0" in message


# ---- the command ----------------------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_read_is_told_in_one_line_and_leaves_nothing(tmp_path, capsys):
    (tmp_path / "netG.pth").write_text("no weights")
    status, output, errors = run(capsys, "--from", tmp_path / "netG.pth", "--name", "a", "--export-dir", tmp_path / "b")
    assert status == 1 and output == "" and not (tmp_path / "b").exists()
    assert errors.startswith("training.convert: ") and errors.count("\n") == 1 and "Traceback" not in errors


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--from", "nowhere.pth", "--name", "a"], "--from must be a file. Received: 'nowhere.pth'"),
        (["--from", GENERATOR, "--name", "a", "--discriminator", "no.pth"], "--discriminator must be a file"),
        (["--from", GENERATOR, "--name", "../a"], "--name must be letters, digits"),
        (["--from", GENERATOR], "required: --name"),
    ],
)
def test_a_wrong_option_is_answered_with_status_2(capsys, words, told):
    status, _, errors = run(capsys, *words)
    assert status == 2 and told in errors


def test_files_are_judged_before_tensorflow_is_imported(tmp_path):
    (tmp_path / "netG.pth").write_text("no weights")
    code = f"""
import sys
from training import convert
assert convert.main(["--from", {str(tmp_path / "netG.pth")!r}, "--name", "a"]) == 1
print(sorted({{"tensorflow", "keras", "torch", "h5py"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_fixtures_are_what_pytorch_saved():
    """With `num_batches_tracked`, which newer PyTorch writes, and the prefix of `nn.DataParallel`."""
    assert "main.1.num_batches_tracked" in read_weights(GENERATOR)
    assert "module.main.0.weight" in read_weights(DISCRIMINATOR)
