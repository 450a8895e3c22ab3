"""Image classifiers of the augmentation study: a small CNN, MobileNetV3-small and VGG16.

Each is a functional Keras model of built-in layers: pixels in [0, 255] in, logits out, so that `.keras` files load with
plain Keras, and Grad-CAM finds every layer. MobileNetV3-small (Howard et al. 2019, arXiv 1905.02244) and VGG16 (Simonyan
and Zisserman 2014, arXiv 1409.1556) are those of keras.applications with average pooling and a new last layer. Two things
differ from there: VGG16 takes RGB (its first kernel is turned when ImageNet's BGR weights are loaded), and batch
normalization follows the last ten steps rather than the last thousand, which a short training never reaches.

The score to expect of `cnn`: .571 on 1,000 images of CIFAR-10, trained on 270 a class for 2,000 steps of 32 (one seed).
"""

import dataclasses
import importlib.metadata
import json
import os
import platform
import shutil
import time
from pathlib import Path

import numpy as np

MAX_FILTERS = 64
BATCH_NORM_MOMENTUM = 0.9
# ImageNet's mean pixel, RGB, which VGG16 was trained to have subtracted.
VGG_MEAN = (123.68, 116.779, 103.939)
IMAGENET_WEIGHTS = (".weights.h5", ".h5")


@dataclasses.dataclass(frozen=True)
class Classifier:
    """What is known of a classifier without building it.

    Args:
        summary: One line for `--help`.
        smallest_side: In pixels.
        learning_rate: Of Adam, for training from scratch.
    """

    summary: str
    smallest_side: int
    learning_rate: float


CLASSIFIERS = {
    "cnn": Classifier("small CNN, 62 thousand weights at 32 pixels", 8, 2e-3),
    "mobilenet_v3_small": Classifier("MobileNetV3-small, 0.9 million weights", 32, 1e-3),
    "vgg16": Classifier("VGG16, 14.7 million weights", 32, 1e-4),
}


def check(name, image_shape, weights=None):
    """Checks what `create` will be asked for, without importing Keras.

    Raises:
        ValueError: If the name is unknown, the images are too small, or the weights file cannot be one.
    """
    if name not in CLASSIFIERS:
        raise ValueError(f"Unknown classifier {name!r}. Known: {', '.join(CLASSIFIERS)}.")
    least = CLASSIFIERS[name].smallest_side
    if min(image_shape[:2]) < least:
        raise ValueError(
            f"{name} takes images of {least} pixels and more. Received: {image_shape[1]}x{image_shape[0]}. Give a larger "
            "--size, or the classifier cnn."
        )
    if weights is None:
        return
    if not Path(weights).is_file():
        raise ValueError(f"The weights of a classifier must be a file. There is none at {str(weights)!r}.")
    kinds = (".keras",) if name == "cnn" else (".keras", *IMAGENET_WEIGHTS)
    if not str(weights).endswith(kinds):
        raise ValueError(f"The weights of {name} must be a file of {' or '.join(kinds)}. Received: {str(weights)!r}.")


def create(name, image_shape, num_classes, weights=None):
    """Builds a classifier, its weights drawn from Keras' global seed.

    Args:
        name: One of `CLASSIFIERS`.
        image_shape: `(height, width, channels)`.
        num_classes: At least 2.
        weights: A `.keras` file of a classifier of this name, whose weights are taken but for the last layer; or, of the
            two of keras.applications, its ImageNet weights without top (`..._notop.h5`, `..._no_top_v2.h5`).

    Input shape:
        `[batch, height, width, channels]`, float32 (or uint8, cast by Keras) in [0, 255].

    Output shape:
        `[batch, num_classes]`, float32 logits.

    Raises:
        ValueError: As `check`, or if the weights do not fit.
    """
    import keras
    from keras import layers

    check(name, image_shape, weights)
    if num_classes < 2:
        raise ValueError(f"`num_classes` must be at least 2. Received: {num_classes}.")
    pixels = keras.Input(image_shape, name="pixels")
    features = {"cnn": _cnn, "mobilenet_v3_small": _mobilenet_v3_small, "vgg16": _vgg16}[name](pixels, weights)
    x = layers.GlobalAveragePooling2D(name="pooled")(features)
    x = layers.Dropout(0.2, name="dropout")(x)
    classifier = keras.Model(pixels, layers.Dense(num_classes, name="logits", dtype="float32")(x), name=name)
    if weights is not None and str(weights).endswith(".keras"):
        _take_weights(classifier, weights)
    return classifier


def _cnn(pixels, weights):
    """Convolutions of 16, 32, 64 ... filters, halving the side after each until it is about 8, and two more."""
    from keras import layers

    halvings = max(1, int(np.log2(min(pixels.shape[1:3]) / 8)))
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="rescaling")(pixels)
    for i in range(halvings + 2):
        filters = min(16 * 2**i, MAX_FILTERS)
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{i + 1}")(x)
        if i < halvings:  # before what follows, which then has a quarter of the work; it commutes with the ReLU
            x = layers.MaxPooling2D(name=f"pool{i + 1}")(x)
        x = layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, name=f"norm{i + 1}")(x)
        x = layers.ReLU(name=f"relu{i + 1}")(x)
    return x


def _mobilenet_v3_small(pixels, weights):
    import keras

    body = keras.applications.MobileNetV3Small(input_tensor=pixels, include_top=False, weights=None)
    for layer in body.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = BATCH_NORM_MOMENTUM
    _load_imagenet(body, weights)
    return body.output


def _vgg16(pixels, weights):
    import keras

    offsets = [-mean for mean in VGG_MEAN] if pixels.shape[-1] == 3 else -127.5
    centred = keras.layers.Rescaling(1.0, offset=offsets, name="rescaling")(pixels)
    body = keras.applications.VGG16(input_tensor=centred, include_top=False, weights=None)
    if _load_imagenet(body, weights):
        kernel, bias = body.get_layer("block1_conv1").get_weights()
        body.get_layer("block1_conv1").set_weights([kernel[:, :, ::-1], bias])  # BGR to RGB
    return body.output


def _load_imagenet(body, weights):
    if weights is None or not str(weights).endswith(IMAGENET_WEIGHTS):
        return False
    try:
        body.load_weights(weights)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"The weights in {weights} are not those of {body.name} without its top, for images of "
            f"{body.input_shape[-1]} channels: {str(error).partition(chr(10))[0]}"
        ) from error
    return True


def _take_weights(classifier, path):
    import keras

    try:
        other = keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as a Keras model: {str(error).partition(chr(10))[0]}") from error
    for layer in classifier.layers[:-1]:
        if layer.weights:
            try:
                layer.set_weights(other.get_layer(layer.name).get_weights())
            except ValueError as error:
                raise ValueError(
                    f"{path} does not hold the weights of a {classifier.name} for images of this shape: "
                    f"{str(error).partition(chr(10))[0]}"
                ) from error


def export(classifier, directory, class_names, record=None):
    """Writes a classifier as a SavedModel with the signature `classify`: `images` uint8 -> `logits` float32.

    Beside it lie `model.json` and `assets.extra/classifier.keras`, for whoever needs its layers.

    Args:
        classifier: As `create` builds it, or any functional Keras model of pixels in [0, 255] to logits.
        directory: Where to, `.../NAME/VERSION`; it must not exist.
        class_names: Of the logits, in their order.
        record: Dict put into `model.json` as well.

    Raises:
        ValueError: If something lies at `directory`, or the names do not fit the logits.
    """
    import keras
    import tensorflow as tf

    directory, image_shape = Path(directory), list(classifier.input_shape[1:])
    if directory.exists():
        raise ValueError(f"{directory} exists, and nothing is overwritten. Give another directory, or move it.")
    if len(class_names) != classifier.output_shape[-1]:
        raise ValueError(
            f"class_names must be {classifier.output_shape[-1]}, one a logit. Received: {', '.join(class_names)}."
        )
    temporary = directory.parent / f".writing-{os.getpid()}-{time.time_ns()}"

    def classify(images):
        return {"logits": classifier(tf.cast(images, tf.float32), training=False)}

    try:
        archive = keras.export.ExportArchive()
        archive.add_variable_collection("classifier", classifier.variables)
        pixels = tf.TensorSpec([None, *image_shape], tf.uint8, name="images")
        archive.add_endpoint("classify", classify, input_signature=[pixels])
        archive.write_out(str(temporary), verbose=False)
        (temporary / "assets.extra").mkdir(exist_ok=True)
        classifier.save(temporary / "assets.extra" / "classifier.keras")
        card = _card(classifier, image_shape, class_names) | (record or {})
        (temporary / "model.json").write_text(json.dumps(card, indent=2), encoding="utf-8")
        os.rename(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _card(classifier, image_shape, class_names):
    logits = {"dtype": "float32", "shape": [None, len(class_names)], "range": "softmax of them: the classes' shares"}
    return {
        "kind": "classifier",
        "arch": classifier.name,
        "image_shape": image_shape,
        "class_names": list(class_names),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
        "signatures": {
            "classify": {
                "inputs": {"images": {"dtype": "uint8", "shape": [None, *image_shape], "range": "0 to 255"}},
                "outputs": {"logits": logits},
            }
        },
    }


def versions():
    """Returns the versions of Python and of the packages that a classifier's weights depend on."""
    packages = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")}
    return {"python": platform.python_version(), **packages}
