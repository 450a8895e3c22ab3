"""Images -> features: the one place that chooses a network and runs it.

Images are quantized to uint8 exactly as they would be saved, resized in float, and shown to a pretrained network whose
weights are named by a hash. Results are kept on disk, so that a second report on the same images costs nothing.
TensorFlow is imported only when a network has to run.
"""

import contextlib
import difflib
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from training.data import to_uint8
from zoo.perceptual import sources
from zoo.perceptual.weights import WeightsError, cache_root, file_sha256, written_atomically

_CACHE_FORMAT = 1  # counted up when the numbers change, so that no stale cache is read
_NATIVE_LEAST = 32  # smaller images are enlarged to this side for LPIPS
RESIZES = ("clean", "legacy-tf1")


@dataclass(frozen=True)
class Features:
    """Features of a set of images, and everything that they depend on.

    Args:
        features: float32 `[n, dimensions]`, in the order of the images. Of LPIPS, the embedding whose squared
            Euclidean distances are LPIPS.
        logits: float32 `[n, classes]`, or None where the network has none. Of inception-2015 without the bias: the
            published inception score is made of these.
        network: name in `NETWORKS`.
        weights_hash: SHA-256 of the weights.
        resize: how the images were resized: "clean" or "legacy-tf1"; of LPIPS "native", or "clean-32" for images
            smaller than 32.
    """

    features: np.ndarray
    logits: np.ndarray | None
    network: str
    weights_hash: str
    resize: str

    def __len__(self):
        return len(self.features)


@dataclass(frozen=True)
class _Network:
    """How a network is had: `read(weights, cache_dir)` -> (content, hash) without TensorFlow, `build(content)` -> a
    function of float32 RGB tensors in 0..255, `[batch, side, side, 3]`, that returns features and logits."""

    side: int | None  # None: the images' own
    read: Callable
    build: Callable


def distance_name(network):
    """The name of the Fréchet distance on features of `network`: "fid" is only what the published figures are."""
    _check_network(network)
    return "fid" if network == "inception-2015" else f"fd_{network.replace('-', '_')}"


def extract_features(
    images,
    network="efficientnet-lite0",
    *,
    resize="clean",
    batch_size=64,
    weights=None,
    cache_dir=None,
    progress=True,
):
    """Returns the `Features` of images, from the cache if these images have been seen by this network.

    Args:
        images: `[n, height, width, channels]`, uint8 or float in [-1, 1]; an array, an np.memmap, or anything with
            shape, dtype, len and slices (`training.data.ImageSet.images`). 1 channel is repeated, the fourth is alpha
            and composited on white. Only one batch is in memory at a time.
        network: name in `NETWORKS`.
        resize: "clean": antialiased bicubic in float, PIL's of mode F, clipped to 0..255, not quantized again.
            "legacy-tf1": bilinear without antialiasing or half-pixel centers, as the first papers on FID did.
        batch_size: images a pass; the result does not depend on it (to 1e-6).
        weights: file of the network's weights, `PATH` or `PATH@sha256:HEX`; by default the installed package's or a
            download, both checked.
        cache_dir: folder of the cache; $ZOO_CACHE or ~/.cache/keras-image-zoo if None.
        progress: whether to show a bar with the time left.

    Raises:
        ValueError: If the images or an option cannot be used, or the weights are missing or not the published ones
            (`zoo.perceptual.weights.WeightsError`).
    """
    spec = _check_network(network)
    if resize not in RESIZES:
        raise ValueError(f"resize must be one of {', '.join(map(repr, RESIZES))}. Received: {resize!r}.")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1. Received: {batch_size}.")
    _check_images(images)
    if spec.side:
        size = (spec.side, spec.side)
    else:
        size, resize = _native_size(images.shape[1:3])

    content, weights_hash = spec.read(weights, cache_dir)
    parts = (_CACHE_FORMAT, network, weights_hash, resize, _images_hash(images, batch_size))
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    path = cache_root(cache_dir) / "features" / f"{key[:40]}.npz"
    arrays = _read_cache(path, len(images))
    if arrays is None:
        run = _runner(network, spec, content, weights_hash, size, resize)
        arrays = _run(run, images, batch_size, f"features ({network})", progress)
        with written_atomically(path) as file:
            np.savez(file, **arrays)
    return Features(arrays["features"], arrays.get("logits"), network, weights_hash, resize)


def _check_network(network):
    if network not in NETWORKS:
        near = difflib.get_close_matches(str(network), NETWORKS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}. Received: {network!r}.{hint}")
    return NETWORKS[network]


# ---- images ---------------------------------------------------------------------------------------------------------


def _check_images(images):
    shape = tuple(getattr(images, "shape", ()))
    if len(shape) != 4 or shape[0] < 1 or min(shape[1:]) < 1 or shape[3] not in (1, 3, 4):
        raise ValueError(
            f"images must be one array of shape [n, height, width, channels], all of one size, with 1, 3 or 4 channels. "
            f"Received: {shape or type(images).__name__}."
        )
    if images.dtype != np.uint8 and not np.issubdtype(np.dtype(images.dtype), np.floating):
        raise ValueError(f"images must be uint8, or float in [-1, 1]. Received: {images.dtype}.")


def _batches(images, batch_size):
    """Yields uint8 RGB `[batch, height, width, 3]`."""
    for start in range(0, len(images), batch_size):
        batch = np.asarray(images[start : start + batch_size])
        if batch.dtype != np.uint8:
            largest = np.abs(batch).max()
            if not largest <= 1.001:  # NaN too
                raise ValueError(
                    f"float images must be finite and in [-1, 1]. Received: {largest} among images {start} to "
                    f"{start + len(batch) - 1}. Scale them, or give uint8."
                )
            batch = to_uint8(batch)
        if batch.shape[-1] == 1:
            batch = np.repeat(batch, 3, axis=-1)
        elif batch.shape[-1] == 4:
            alpha = batch[..., 3:].astype(np.float32) / 255
            batch = np.rint(batch[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
        yield np.ascontiguousarray(batch)


def _images_hash(images, batch_size):
    digest = hashlib.sha256(str(tuple(images.shape[:3])).encode())
    for batch in _batches(images, batch_size):
        digest.update(batch.data)
    return digest.hexdigest()


def _native_size(size):
    if min(size) >= _NATIVE_LEAST:
        return tuple(size), "native"
    return tuple(max(_NATIVE_LEAST, round(side * _NATIVE_LEAST / min(size))) for side in size), f"clean-{_NATIVE_LEAST}"


# ---- resizing -------------------------------------------------------------------------------------------------------


def bicubic_matrix(inputs, outputs):
    """Returns float32 `[outputs, inputs]`: PIL's antialiased bicubic resampling of one axis, as a matrix.

    The kernel has a = -1/2 and, for reduction, is widened by the scale (Pillow's `precompute_coeffs`).
    """
    scale = inputs / outputs
    width = max(scale, 1.0)
    center = (np.arange(outputs)[:, None] + 0.5) * scale
    first = np.maximum((center - 2 * width + 0.5).astype(np.int64), 0)
    end = np.minimum((center + 2 * width + 0.5).astype(np.int64), inputs)
    places = np.arange(inputs)[None]
    t = np.abs((places - center + 0.5) / width)
    kernel = np.where(t < 1, (1.5 * t - 2.5) * t * t + 1, np.where(t < 2, ((-0.5 * t + 2.5) * t - 4) * t + 2, 0.0))
    kernel = np.where((places >= first) & (places < end), kernel, 0.0)
    return (kernel / kernel.sum(axis=1, keepdims=True)).astype(np.float32)


def _resized(images, size, resize):
    """uint8 tensor -> float32 tensor in 0..255 of the given size."""
    import tensorflow as tf

    if resize == "legacy-tf1":
        return tf.raw_ops.ResizeBilinear(images=tf.cast(images, tf.float32), size=size)
    if tuple(images.shape[1:3]) == tuple(size):
        return tf.cast(images, tf.float32)
    # Two products of matrices, channels first: as exact as PIL, many times faster than tf.image.resize.
    rows, columns = (bicubic_matrix(*pair) for pair in zip(images.shape[1:3], size))
    x = tf.cast(tf.transpose(images, (0, 3, 1, 2)), tf.float32)
    x = tf.linalg.matmul(rows, tf.linalg.matmul(x, columns, transpose_b=True))
    return tf.clip_by_value(tf.transpose(x, (0, 2, 3, 1)), 0.0, 255.0)


# ---- running --------------------------------------------------------------------------------------------------------

_built = {}  # the last networks and their compiled functions: a report runs one over several sets


def _runner(network, spec, content, weights_hash, size, resize):
    """A compiled function: uint8 batch -> features and logits."""
    import tensorflow as tf

    key = (network, weights_hash)
    if key not in _built:
        while len(_built) >= 2:
            _built.pop(next(iter(_built)))
        _built[key] = spec.build(content), {}
    forward, compiled = _built[key]
    if (size, resize) not in compiled:
        # Not by XLA, whose depthwise convolutions are 30 times slower than oneDNN's on a CPU.
        compiled[size, resize] = tf.function(lambda images: forward(_resized(images, size, resize)), autograph=False)
    return compiled[size, resize]


def _run(run, images, batch_size, title, progress):
    """Every batch has the same shape, the last one filled up: one graph, and no image depends on its neighbours."""
    num_images = len(images)
    # At least 4: with one row, a product of matrices is another algorithm.
    padded = max(4, min(batch_size, 1 << (num_images - 1).bit_length()))
    arrays = {}
    with _full_precision(), tqdm(total=num_images, desc=title, unit="image", disable=not progress) as bar:
        start = 0
        for batch in _batches(images, padded):
            missing = padded - len(batch)
            filled = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch
            for name, value in run(filled).items():
                value = value.numpy()[: len(batch)]
                if name not in arrays:
                    arrays[name] = np.empty((num_images, *value.shape[1:]), np.float32)
                arrays[name][start : start + len(batch)] = value
            start += len(batch)
            bar.update(len(batch))
    if not np.isfinite(arrays["features"]).all():
        raise ValueError("The network returned features that are not finite: its weights are damaged.")
    return arrays


@contextlib.contextmanager
def _full_precision():
    """Without TensorFloat-32, which on GPUs rounds what is multiplied to 10 bits."""
    import tensorflow as tf

    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def _read_cache(path, num_images):
    """The arrays of a cache file, each checked by the CRC-32 of the container; None if there is none or it is damaged."""
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        return None
    if "features" not in arrays or any(len(array) != num_images for array in arrays.values()):
        return None
    return arrays


# ---- networks -------------------------------------------------------------------------------------------------------


def _read_efficientnet_lite0(weights, cache_dir):
    content = sources.efficientnet_lite0(weights)
    return content, content.hash


def _build_efficientnet_lite0(content):
    from zoo.perceptual.efficientnet_lite import efficientnet_lite0

    model = efficientnet_lite0(content)
    return lambda images: model((images - 127.0) / 128.0, training=False)


def _read_inception_2015(weights, cache_dir):
    content = sources.inception_2015(weights, cache_dir)
    return content, content.hash


def _build_inception_2015(content):
    from zoo.perceptual.inception import inception_2015

    model = inception_2015(content)

    def forward(images):
        outputs = model((images - 128.0) / 128.0, training=False)
        return {"features": outputs["features"], "logits": outputs["logits_unbiased"]}

    return forward


def _lpips(trunk):
    def read(weights, cache_dir):
        content = sources.lpips(trunk, weights)
        return content, content.hash

    def build(content):
        from zoo.perceptual.lpips import LPIPS

        layer = LPIPS(trunk, content)
        return lambda images: {"features": layer.embed(images / 127.5 - 1.0)}

    return _Network(None, read, build)


def _application(module, name, url, md5, side):
    """A network of keras.applications with its own ImageNet weights, from a file or downloaded once."""

    def read(weights, cache_dir):
        if weights is not None:
            path, _, stated = os.fspath(weights).partition("@sha256:")
            if not os.path.isfile(path):
                raise WeightsError(f"There is no weight file {path} (for {name} of keras.applications).")
            received = file_sha256(path)
            if stated and not received.startswith(stated.lower()):
                raise WeightsError(f"{path} is not the expected file. Expected sha256: {stated}. Received: {received}.")
            return path, received
        import keras

        folder = cache_root(cache_dir)
        try:
            path = keras.utils.get_file(origin=url, file_hash=md5, cache_dir=str(folder), cache_subdir="weights")
        except Exception as error:  # get_file raises bare Exceptions
            raise WeightsError(
                f"{url.rsplit('/', 1)[1]} (md5 {md5}) could not be downloaded: {error}. Fetch it on another machine and name it "
                f"with weights=PATH."
            ) from None
        return path, file_sha256(path)

    def build(path):
        import keras

        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy("float32")
        try:
            application = getattr(keras.applications, module)
            model = getattr(application, name)(weights=None, classifier_activation=None)
            try:
                model.load_weights(path)
            except Exception as error:  # Keras and h5py raise what they like
                raise WeightsError(f"{path} holds no weights of {name} of keras.applications: {error}") from None
        finally:
            keras.config.set_dtype_policy(before)
        both = keras.Model(model.input, {"features": model.get_layer("avg_pool").output, "logits": model.output})
        both.trainable = False
        return lambda images: both(application.preprocess_input(images), training=False)

    return _Network(side, read, build)


_STORAGE = "https://storage.googleapis.com/tensorflow/keras-applications"
NETWORKS = {
    "efficientnet-lite0": _Network(224, _read_efficientnet_lite0, _build_efficientnet_lite0),
    "inception-2015": _Network(299, _read_inception_2015, _build_inception_2015),
    "inception-keras": _application(
        "inception_v3",
        "InceptionV3",
        f"{_STORAGE}/inception_v3/inception_v3_weights_tf_dim_ordering_tf_kernels.h5",
        "9a0d58056eeedaa3f26cb7ebd46da564",
        299,
    ),
    "resnet50": _application(
        "resnet50",
        "ResNet50",
        f"{_STORAGE}/resnet/resnet50_weights_tf_dim_ordering_tf_kernels.h5",
        "2cb95161c43110f7111970584f804107",
        224,
    ),
    "lpips-alex": _lpips("alex"),
    "lpips-vgg": _lpips("vgg"),
}
