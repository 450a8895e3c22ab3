"""The cases of `benchmarks.worker` in this project's own code. Each returns `(step, facts)`."""

import itertools
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.figures import features


def train(arch, side, batch_size, jit_compile="auto", **hyperparameters):
    """A training step as `training.fit` runs it, with or without XLA; LPIPS, where it is used, of random weights."""
    from training.fit import import_tensorflow

    import_tensorflow()
    import keras
    import tensorflow as tf

    import zoo

    keras.utils.set_random_seed(0)
    if arch == "fastgan":
        hyperparameters |= {"reconstruction": "lpips_vgg", "lpips_weights": _random_lpips()}
    model = zoo.create(arch, (side, side, 3), **hyperparameters)
    model.compile(steps=10_000, steps_per_epoch=1_000, jit_compile=jit_compile)
    count = batch_size * getattr(model, "discriminator_steps", 1)
    images = np.random.default_rng(0).uniform(-1, 1, (count, side, side, 3)).astype(np.float32)
    iterator = iter(tf.data.Dataset.from_tensors(images).repeat())
    model.make_train_function()

    def step():
        return {name: float(value) for name, value in model.train_function(iterator).items()}

    return step, {"parameters": parameters(model)}


def parameters(model):
    """Returns the trainable parameters of a model's two networks by name."""
    from zoo.generative import count_parameters

    names = ("encoder", "decoder") if hasattr(model, "encoder") else ("generator", "discriminator")
    return {name: count_parameters(model.networks[name]) for name in names}


def _random_lpips():
    """Returns a file of LPIPS weights, drawn at random: the time does not depend on what they are."""
    from zoo.perceptual.sources import Weights
    from zoo.perceptual.weights import file_sha256

    generator, arrays, before = np.random.default_rng(0), {}, 3
    widths = (64, 64, 128, 128, *[256] * 3, *[512] * 6)
    for index, width in enumerate(widths):
        kernel = generator.standard_normal((3, 3, before, width)) * np.sqrt(2 / (9 * before))
        arrays |= {f"conv_{index}.weight": kernel, f"conv_{index}.bias": np.zeros(width)}
        before = width
    arrays |= {f"head_{index}.weight": generator.random(width) for index, width in enumerate((64, 128, 256, 512, 512))}
    folder = tempfile.TemporaryDirectory(prefix="benchmark-")
    _folders.append(folder)
    path = Path(folder.name) / "lpips.npz"
    Weights({name: array.astype(np.float32) for name, array in arrays.items()}, str(path)).save(path)
    return f"{path}@sha256:{file_sha256(path)}"


_folders = []  # removed with the process


def frechet(count, dimension, method):
    """A Fréchet distance of features `[count, dimension]`: `ours`, `sqrtm` (scipy's) or `eigenvalues` (torch-fidelity's)."""
    real, fake = features(count, dimension, 0), features(count, dimension, 1)

    def step():
        if method == "ours":
            from evaluation.frechet import frechet_distance

            return float(frechet_distance(real, fake))
        (mean, covariance), (other_mean, other_covariance) = (
            (each.mean(axis=0), np.cov(each.astype(np.float64), rowvar=False)) for each in (real, fake)
        )
        product = covariance @ other_covariance
        if method == "sqrtm":
            from scipy.linalg import sqrtm

            overlap = np.trace(sqrtm(product).real)
        else:
            overlap = np.sqrt(np.linalg.eigvals(product).astype(np.complex128)).sum().real
        shift = np.square(mean - other_mean).sum()
        return float(shift + np.trace(covariance) + np.trace(other_covariance) - 2 * overlap)

    return step, {"dtype": "float64"}


def neighbours(metric, count, dimension, method):
    """A metric of nearest neighbours by `ours`, or by scikit-learn's brute force: `[count, dimension]` against as many.

    `metric` is nearest (the 3 nearest of each), adversarial-accuracy, or precision-recall.
    """
    real, fake = features(count, dimension, 0), features(count, dimension, 1)
    if method == "ours":
        step = _our_neighbours(metric, real, fake)
        return step, {"dtype": "float64"}
    from sklearn.metrics import pairwise_distances_chunked
    from sklearn.neighbors import NearestNeighbors

    from benchmarks.neighbour_metrics import metrics

    def nearest(queries, references, k):
        return NearestNeighbors(n_neighbors=k, algorithm="brute").fit(references).kneighbors(queries)[0]

    def inside(queries, references, radii):
        parts = pairwise_distances_chunked(
            queries, references, reduce_func=lambda part, start: (part <= radii).any(axis=1)
        )
        return np.concatenate(list(parts))

    return lambda: metrics(metric, real, fake, nearest, inside), {"dtype": "float32"}


def _our_neighbours(metric, real, fake):
    from evaluation.adversarial_accuracy import adversarial_accuracy
    from evaluation.neighbors import nearest
    from evaluation.precision_recall import precision_recall

    def step():
        if metric == "nearest":
            return {"distance": float(nearest(fake, real, k=3)[0].mean())}
        if metric == "adversarial-accuracy":
            return {"adversarial_accuracy": float(adversarial_accuracy(real, fake))}
        found = precision_recall(real, fake)
        return {"precision": float(found.precision), "recall": float(found.recall)}

    return step


def extract(count, side, batch_size):
    """Features of uint8 images by EfficientNet-Lite0; new images at each step, so that no cache helps."""
    from evaluation.features import extract_features
    from training.fit import import_tensorflow

    import_tensorflow()
    folder = tempfile.TemporaryDirectory(prefix="benchmark-")
    _folders.append(folder)
    seeds = itertools.count()

    def step():
        images = np.random.default_rng(next(seeds)).integers(0, 256, (count, side, side, 3), np.uint8)
        extract_features(images, batch_size=batch_size, cache_dir=folder.name, progress=False)

    return step, {"images": count}


def load_images(folder, side, batch_size, method):
    """An epoch of a folder of JPEG files as batches: `cold` (no cache), `warm` (from ours), `tf.data`, `tf.data cached`."""
    from training.fit import import_tensorflow

    import_tensorflow()
    if method.startswith("tf.data"):
        dataset = _plain_pipeline(folder, side, batch_size, cached=method == "tf.data cached")
        return lambda: _consume(dataset), {}

    from training import data

    def loaded(cache_dir):
        images = data.load(folder, size=side, cache_dir=cache_dir, progress=False)
        return data.batches(images, batch_size, stop_step=len(images) // batch_size)

    if method == "cold":

        def step():
            with tempfile.TemporaryDirectory(prefix="benchmark-") as cache:
                return _consume(loaded(cache))

        return step, {}
    cache = tempfile.TemporaryDirectory(prefix="benchmark-")
    _folders.append(cache)
    dataset = loaded(cache.name)
    return lambda: _consume(dataset), {}


def _plain_pipeline(folder, side, batch_size, cached):
    """What tutorials write: files, decoded and resized in parallel, shuffled, in batches."""
    import tensorflow as tf

    def decoded(path):
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        square = tf.reduce_min(tf.shape(image)[:2])
        image = tf.image.resize_with_crop_or_pad(image, square, square)
        return tf.image.resize(image, (side, side), antialias=True) / 127.5 - 1.0

    files = tf.data.Dataset.list_files(f"{folder}/*.jpg", shuffle=False)
    dataset = files.map(decoded, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.cache() if cached else dataset
    return dataset.shuffle(1_000).batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def _consume(dataset):
    return {"images": sum(batch.shape[0] for batch in dataset)}
