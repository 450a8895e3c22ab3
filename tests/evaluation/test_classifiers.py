"""The classifiers of the augmentation study: what they are made of, and that what they are saved as gives the same."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from evaluation import classifiers

SHAPE, CLASSES = (32, 32, 3), ("boat", "car", "dog")
PARAMETERS = {
    # 3x3 kernels 3-16-32-64-64, 4 a channel of batch normalization, and the last layer
    "cnn": 9 * (3 * 16 + 16 * 32 + 32 * 64 + 64 * 64) + 4 * (16 + 32 + 64 + 64) + 64 * 3 + 3,
    # what keras.applications documents of them without their tops, and the last layer
    "mobilenet_v3_small": 939_120 + 576 * 3 + 3,
    "vgg16": 14_714_688 + 512 * 3 + 3,
}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (4, *SHAPE), np.uint8)


@pytest.fixture(scope="module")
def cnn():
    """A CNN whose statistics of batch normalization have been moved away from where they start."""
    keras.utils.set_random_seed(0)
    classifier = classifiers.create("cnn", SHAPE, len(CLASSES))
    generator = np.random.default_rng(1)
    for weight in classifier.weights:
        weight.assign(weight + 0.1 * generator.random(weight.shape, np.float32))
    return classifier


@pytest.mark.parametrize("name", classifiers.CLASSIFIERS)
def test_each_classifier_is_a_functional_model_of_keras_own_layers_that_gives_logits(name):
    classifier = classifiers.create(name, SHAPE, len(CLASSES))
    assert classifier.count_params() == PARAMETERS[name]
    assert isinstance(classifier, keras.Model) and not isinstance(classifier, keras.Sequential)
    assert all(type(layer).__module__.startswith("keras.") for layer in classifier.layers)
    assert not any(isinstance(layer, keras.Model) for layer in classifier.layers), "a nested model hides its layers"
    last = classifier.layers[-1]
    assert last.activation is keras.activations.linear and last.dtype_policy.name == "float32"
    assert classifier.output_shape == (None, len(CLASSES)) and classifier.input_shape == (None, *SHAPE)


@pytest.mark.parametrize("side, last_side", [(8, 4), (16, 8), (32, 8), (48, 12), (128, 8)])
def test_the_cnn_keeps_positions_to_look_at_whatever_the_side(side, last_side):
    classifier = classifiers.create("cnn", (side, side, 1), 2)
    convolutions = [layer for layer in classifier.layers if isinstance(layer, keras.layers.Conv2D)]
    assert convolutions[-1].output.shape[1:3] == (last_side, last_side)


def test_pixels_are_taken_as_they_are_stored_and_scaled_inside(cnn, images):
    floats = np.asarray(cnn(images.astype(np.float32), training=False))
    np.testing.assert_allclose(np.asarray(cnn(images, training=False)), floats, rtol=1e-6)
    scaled = keras.Model(cnn.input, cnn.get_layer("rescaling").output)
    extremes = np.zeros((1, *SHAPE), np.float32)
    extremes[0, 0] = 255
    assert np.asarray(scaled(extremes)).min() == -1 and np.asarray(scaled(extremes)).max() == pytest.approx(1)


def test_vgg16_with_imagenet_weights_takes_rgb_and_gives_what_keras_applications_gives(tmp_path, images):
    keras.utils.set_random_seed(3)
    theirs = keras.applications.VGG16(input_shape=SHAPE, include_top=False, weights=None, pooling="avg")
    theirs.save_weights(tmp_path / "notop.weights.h5")
    expected = theirs(keras.applications.vgg16.preprocess_input(images.astype(np.float32)), training=False)
    ours = classifiers.create("vgg16", SHAPE, 2, weights=str(tmp_path / "notop.weights.h5"))
    pooled = keras.Model(ours.input, ours.get_layer("pooled").output)
    np.testing.assert_allclose(
        np.asarray(pooled(images.astype(np.float32))), np.asarray(expected), rtol=1e-4, atol=1e-5
    )


def test_mobilenet_with_imagenet_weights_gives_what_keras_applications_gives(tmp_path, images):
    theirs = keras.applications.MobileNetV3Small(input_shape=SHAPE, include_top=False, weights=None, pooling="avg")
    theirs.save_weights(tmp_path / "notop.weights.h5")
    ours = classifiers.create("mobilenet_v3_small", SHAPE, 2, weights=str(tmp_path / "notop.weights.h5"))
    pooled = keras.Model(ours.input, ours.get_layer("pooled").output)
    pixels = images.astype(np.float32)
    np.testing.assert_allclose(
        np.asarray(pooled(pixels)), np.asarray(theirs(pixels, training=False)), rtol=1e-4, atol=1e-6
    )


def test_weights_of_another_classifier_are_taken_but_for_its_last_layer(tmp_path, cnn):
    cnn.save(tmp_path / "other.keras")
    classifier = classifiers.create("cnn", SHAPE, 5, weights=str(tmp_path / "other.keras"))
    for ours, theirs in zip(classifier.layers[:-1], cnn.layers[:-1], strict=True):
        for own, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_array_equal(own, other)
    assert classifier.layers[-1].get_weights()[0].shape == (64, 5)


def test_weights_that_do_not_fit_are_refused(tmp_path, cnn):
    cnn.save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="does not hold the weights of a cnn for images of this shape"):
        classifiers.create("cnn", (32, 32, 1), 2, weights=str(tmp_path / "other.keras"))
    with pytest.raises(ValueError, match="does not hold the weights of a mobilenet_v3_small"):
        classifiers.create("mobilenet_v3_small", SHAPE, 2, weights=str(tmp_path / "other.keras"))
    for name in ("broken.keras", "broken.weights.h5"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(ValueError, match="cannot be read as a Keras model|are not those of"):
            classifiers.create("mobilenet_v3_small", SHAPE, 2, weights=str(tmp_path / name))


@pytest.mark.parametrize(
    "name, shape, weights, message",
    [
        ("resnet", SHAPE, None, "Unknown classifier 'resnet'. Known: cnn, mobilenet_v3_small, vgg16"),
        ("vgg16", (28, 28, 1), None, "vgg16 takes images of 32 pixels and more. Received: 28x28"),
        ("cnn", (4, 4, 3), None, "cnn takes images of 8 pixels and more"),
        ("cnn", SHAPE, "nowhere.keras", "There is none at 'nowhere.keras'"),
        ("cnn", SHAPE, __file__, "weights of cnn must be a file of .keras"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_reason(name, shape, weights, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        classifiers.check(name, shape, weights)


@pytest.mark.slow
def test_an_export_gives_the_same_logits_through_tensorflow_alone_and_through_keras_alone(tmp_path, cnn, images):
    directory = tmp_path / "mine" / "1"
    classifiers.export(cnn, directory, CLASSES, {"regime": "real"})
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, numpy as np, tensorflow as tf, keras\n"
        "images, directory = np.load(sys.argv[1]), sys.argv[2]\n"
        "served = tf.saved_model.load(directory).signatures['classify'](images=tf.constant(images))['logits'].numpy()\n"
        "loaded = keras.models.load_model(directory + '/assets.extra/classifier.keras')\n"
        "np.savez(sys.argv[3], served=served, loaded=np.asarray(loaded(images.astype('float32'), training=False)))\n"
        "assert not {'evaluation', 'training', 'zoo'} & set(sys.modules)\n"
    )
    words = [sys.executable, "-I", "-c", code, str(tmp_path / "images.npy"), str(directory), str(tmp_path / "out.npz")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = np.asarray(cnn(images, training=False))
    with np.load(tmp_path / "out.npz") as results:
        np.testing.assert_allclose(results["served"], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(results["loaded"], expected, rtol=1e-5, atol=1e-6)


def test_an_export_says_what_it_takes_and_gives_and_is_not_overwritten(tmp_path, cnn):
    directory = tmp_path / "mine" / "1"
    classifiers.export(cnn, directory, CLASSES, {"regime": "real"})
    card = json.loads((directory / "model.json").read_text())
    assert card["class_names"] == list(CLASSES) and card["image_shape"] == list(SHAPE) and card["regime"] == "real"
    signature = tf.saved_model.load(directory).signatures["classify"]
    assert signature.structured_input_signature[1]["images"].dtype == tf.uint8
    for kind, specs in (("inputs", signature.structured_input_signature[1]), ("outputs", signature.structured_outputs)):
        described = card["signatures"]["classify"][kind]
        assert {name: (spec.dtype.name, spec.shape.as_list()) for name, spec in specs.items()} == {
            name: (each["dtype"], each["shape"]) for name, each in described.items()
        }
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="nothing is overwritten"):
        classifiers.export(cnn, directory, CLASSES)
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before
    with pytest.raises(ValueError, match="class_names must be 3"):
        classifiers.export(cnn, tmp_path / "other" / "1", CLASSES[:2])
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["1"], "something was left behind"
