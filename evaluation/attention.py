"""Maps of the pixels that speak for a class of a classifier, by tf-keras-vis, and what can be read off them.

Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391), Grad-CAM++ (Chattopadhyay et al. 2018, arXiv 1710.11063), Score-CAM
(Wang et al. 2020, arXiv 1910.01279) and saliency (Simonyan et al. 2014, arXiv 1312.6034). A map is believable only if
it depends on what the classifier has learned: `randomized` is for that check (Adebayo et al. 2018, arXiv 1810.03292).
TensorFlow is imported by the functions that need it.
"""

import contextlib
import difflib
import io
import warnings
import weakref

import numpy as np
from tqdm import tqdm

METHODS = ("gradcam", "gradcam++", "scorecam", "saliency")
BATCH_SIZE = 32
SCORECAM_BYTES = 2**27  # of the images that Score-CAM makes at a time: one for each channel of the layer

_functional_copies = weakref.WeakKeyDictionary()  # classifier: its `_Copy`


def heatmaps(classifier, images_uint8, targets, method="gradcam", layer=None, progress=False):
    """Maps of the pixels that speak for a class.

    Args:
        classifier: Functional or Sequential Keras model, images in [0, 255] to logits `[n, classes]`. A softmax at its
            end is left out. It is not changed.
        images_uint8: uint8 `[n, height, width, channels]`.
        targets: int `[n]`, the class whose logit each map explains.
        method: One of `METHODS`.
        layer: Name of the layer whose channels are weighed; `None` for the last convolution that still has positions.
            Saliency uses none.
        progress: Show progress on standard error.

    Returns:
        float32 `[n, height, width]`, each divided by its maximum: 0 to 1. All 0 where nothing speaks for the class.

    Raises:
        ValueError: If the classifier, the layer or the method cannot be used.
    """
    if method not in METHODS:
        raise ValueError(f"Unknown method {method!r}. Known: {', '.join(METHODS)}.")
    images, targets = np.asarray(images_uint8), np.asarray(targets, np.int64)
    model = functional(classifier)
    _check_images(images, model)
    num_classes = model.output_shape[-1]
    if targets.shape != (len(images),) or (len(targets) and not 0 <= targets.min() <= targets.max() < num_classes):
        raise ValueError(
            f"targets must be {len(images)} classes from 0 to {num_classes - 1}. Received: {targets.tolist()[:8]}."
        )
    layer = None if method == "saliency" else find_layer(model, layer)
    step = BATCH_SIZE
    if method == "scorecam":
        step = max(
            1, min(step, SCORECAM_BYTES // (4 * layer.output.shape[-1] * max(1, int(np.prod(images.shape[1:])))))
        )
    maps = np.zeros(images.shape[:3], np.float32)
    with tqdm(total=len(images), desc="Maps", unit="image", disable=not progress) as bar:
        for start in range(0, len(images), step):
            part = slice(start, min(start + step, len(images)))
            with _quiet_library():
                maps[part] = _maps(model, images[part].astype(np.float32), targets[part], method, layer)
            bar.update(part.stop - part.start)
    if not np.isfinite(maps).all():
        raise ValueError("The maps are not finite: the classifier's weights or logits are not.")
    most = maps.max(axis=(1, 2), keepdims=True, initial=0)
    return np.divide(maps, most, out=np.zeros_like(maps), where=most > 0)


def attention_share(heatmaps):
    """Returns the share of the pixels of each map, `[n, height, width]`, above half its maximum: float64 `[n]`.

    Of a map that is 0 everywhere it is 0.
    """
    maps = np.asarray(heatmaps)
    return (maps > maps.max(axis=(1, 2), keepdims=True, initial=0) / 2).mean(axis=(1, 2))


def rank_correlation(heatmaps, others):
    """Returns Spearman's correlation of each map with its other, `[n, height, width]` both: float64 `[n]`.

    Near 1 with the maps of a `randomized` classifier, they show the image and not what was learned. Of a map that is
    the same everywhere it is 0.
    """
    from scipy.stats import rankdata

    first, second = (rankdata(np.asarray(maps).reshape(len(maps), -1), axis=1) for maps in (heatmaps, others))
    first, second = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (first, second))
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.divide((first * second).sum(axis=1), lengths, out=np.zeros(len(lengths)), where=lengths > 0)


def randomized(classifier, seed):
    """Returns a copy with random weights: of kernels He-normal draws, of the rest what a new layer starts from.

    Args:
        classifier: As for `heatmaps`.
        seed: int; the same seed gives the same weights.
    """
    import keras

    copy = _Copy(classifier)
    draw = keras.initializers.HeNormal(keras.random.SeedGenerator(seed))
    for original, layer in copy.pairs:
        if isinstance(layer, keras.layers.Normalization):  # the scale of the data, which nobody learned
            layer.set_weights(original.get_weights())
            continue
        for weight in layer.weights:
            if len(weight.shape) > 1:
                weight.assign(draw(weight.shape))
    return copy.model


def predict(classifier, images_uint8):
    """Returns `(classes int64 [n], confidences float32 [n])`: the likeliest class of each image and its softmax."""
    images = np.asarray(images_uint8)
    model = functional(classifier)
    _check_images(images, model)
    logits = np.concatenate(
        [np.zeros([0, model.output_shape[-1]], np.float32)]
        + [
            np.asarray(model(images[start : start + BATCH_SIZE].astype(np.float32), training=False), np.float32)
            for start in range(0, len(images), BATCH_SIZE)
        ]
    )
    shares = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    shares /= shares.sum(axis=1, keepdims=True)
    return shares.argmax(axis=1), shares.max(axis=1, initial=0)


def _maps(model, pixels, targets, method, layer):
    import tensorflow as tf
    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
    from tf_keras_vis.saliency import Saliency
    from tf_keras_vis.scorecam import Scorecam

    def score(logits):
        return tf.gather(logits, targets, batch_dims=1)

    def bounded_score(logits):
        # Grad-CAM++ weighs by exp(score), which overflows; a constant taken from the score scales the map alone.
        return score(logits) - tf.stop_gradient(score(logits))

    if method == "saliency":
        return Saliency(model)(score, pixels, normalize_map=False)
    options = {"penultimate_layer": layer, "normalize_cam": False}
    if method == "scorecam":
        return Scorecam(model)(score, pixels, seek_penultimate_conv_layer=False, **options)
    if method == "gradcam++":
        return GradcamPlusPlus(model)(bounded_score, pixels, seek_penultimate_conv_layer=False, **options)
    return Gradcam(model)(score, pixels, seek_penultimate_conv_layer=False, **options)


@contextlib.contextmanager
def _quiet_library():
    """Keeps in what tf-keras-vis says about its own use of SciPy and Keras: deprecations, list inputs, a progress bar."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", message="The structure of `inputs` doesn't match", category=UserWarning)
        yield


def _check_images(images, model):
    shape = model.input_shape[1:]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape:
        raise ValueError(
            f"images must be uint8 [n, {', '.join(map(str, shape))}], as the classifier takes them. Received: "
            f"{images.dtype} {list(images.shape)}."
        )


# The classifier as the maps need it


class _Copy:
    """A classifier as a functional model of float32 images, without nested models, ending in logits.

    A model that takes uint8 has no gradients of its inputs, and of a nested model the inner layers belong to another
    graph. tf-keras-vis finds a layer's tensor by its first call, so that the layers must be new ones.
    """

    def __init__(self, classifier):
        import keras

        self.pairs = []  # (layer of the classifier, its copy)
        self._copies, self._names = {}, set()
        shape = self._input_shape(classifier)
        images = keras.Input(shape, name="pixels")
        logits = self._call(classifier, images)
        if len(logits.shape) != 2 or logits.shape[-1] is None or logits.shape[-1] < 2:
            raise ValueError(
                f"The classifier must give logits [n, classes], at least 2. It gives {list(logits.shape)}."
            )
        last = self.pairs[-1][1]
        if isinstance(last, keras.layers.Softmax):
            logits = last.input
        elif getattr(last, "activation", None) is keras.activations.softmax:
            last.activation = keras.activations.linear
        self.model = keras.Model(images, logits)

    def _input_shape(self, classifier):
        import keras

        functional = isinstance(classifier, keras.Sequential) or hasattr(classifier, "_run_through_graph")
        inputs = getattr(classifier, "inputs", None)
        if not functional or not inputs:
            raise ValueError(
                f"The classifier must be a functional or Sequential Keras model that is built: maps need its inner "
                f"layers. Received: {type(classifier).__name__}."
            )
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or None in inputs[0].shape[1:]:
            raise ValueError(
                "The classifier must take one batch of images [n, height, width, channels] of a fixed size. It takes: "
                f"{', '.join(str(list(each.shape)) for each in inputs)}."
            )
        return inputs[0].shape[1:]

    def _call(self, model, tensor):
        """Returns the output of copies of a model's layers, those of nested models included."""
        import keras

        if isinstance(model, keras.Sequential):
            for layer in model.layers:
                tensor = self._call_layer(layer, tensor)
            return tensor
        output = model._run_through_graph(tensor, operation_fn=lambda layer: layer, call_fn=self._call_layer)
        (output,) = keras.tree.flatten(output)
        return output

    def _call_layer(self, layer, *arguments, **options):
        import keras

        if isinstance(layer, keras.Sequential) or hasattr(layer, "_run_through_graph"):
            return self._call(layer, *arguments)
        if not isinstance(layer, keras.layers.Layer):
            return layer(*arguments, **options)  # an operation of keras.ops, which holds no weights
        if id(layer) not in self._copies:
            config, number = layer.get_config(), 1
            while config["name"] in self._names:  # as two nested models may have layers of the same name
                number += 1
                config["name"] = f"{layer.name}_{number}"
            self._names.add(config["name"])
            self._copies[id(layer)] = type(layer).from_config(config)
            self.pairs.append((layer, self._copies[id(layer)]))
        return self._copies[id(layer)](*arguments, **options)

    def take_weights(self):
        for original, layer in self.pairs:
            layer.set_weights(original.get_weights())


def functional(classifier):
    """Returns a classifier as a functional model of float32 images without nested models, ending in logits.

    It is made once for each classifier, and has the weights that the classifier has now.
    """
    copy = _functional_copies.get(classifier)
    if copy is None:
        copy = _functional_copies[classifier] = _Copy(classifier)
    copy.take_weights()
    return copy.model


def find_layer(model, name=None):
    """Returns a layer of a `functional` model by its name, or the last convolution that still has positions.

    Raises:
        ValueError: If there is none, or its output has no positions.
    """
    import keras

    def positions(layer):
        shape = getattr(layer.output, "shape", ())
        return int(np.prod([side or 1 for side in shape[1:3]])) if len(shape) == 4 else 0

    usable = [layer for layer in model.layers[1:] if positions(layer) > 1]
    if name is not None:
        for layer in usable:
            if layer.name == name:
                return layer
        names = [layer.name for layer in usable]
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"Unknown layer, or one without positions: {name!r}.{hint} Those with positions: {', '.join(names)}."
        )
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
    convolutions = [layer for layer in usable if isinstance(layer, kinds)]
    if not convolutions:
        raise ValueError(
            "The classifier has no convolution whose output has positions. Name a layer that has (--layer), or use the "
            "method saliency, which needs none."
        )
    return convolutions[-1]
