"""Images for training and evaluation: from any source to float32 batches in [-1, 1].

`load` decodes a source once into a memory-mapped cache and returns an `ImageSet`; `batches` streams one as a
tf.data.Dataset whose order, and whose augmentation, are pure functions of (seed, step). TensorFlow is imported by the
functions that need it, so that a wrong option is answered at once.
"""

import functools
import hashlib
import itertools
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from training import image_cache, transforms
from training.decode import CHANNELS, FITS, DataError, decode, pillow_warnings, reason
from training.sources import check_source, open_source
from training.transforms import parse_transform

__all__ = ["DataError", "ImageSet", "batches", "check_source", "load", "parse_transform", "to_model_range", "to_uint8"]

_CACHE_FORMAT = 1  # counted up when decoding changes, so that no stale cache is read
_CHUNK_IMAGES, _CHUNK_BYTES = 64, 2**24
_LISTED = 20

EMOJI_CREDIT = "Twemoji, copyright Twitter, Inc and other contributors, CC-BY 4.0"


def to_model_range(images):
    """uint8 images, NumPy or TensorFlow, any shape -> float32 in [-1, 1]: x / 127.5 - 1."""
    if not _is_tensor(images):
        images = np.asarray(images)
    if images.dtype != np.uint8:
        raise DataError(f"images must be uint8 in 0..255. Received: {images.dtype}. They may be in [-1, 1] already.")
    if _is_tensor(images):
        import tensorflow as tf

        return tf.cast(images, tf.float32) / 127.5 - 1.0
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(images):
    """Float images in [-1, 1], NumPy or TensorFlow, any shape -> uint8: round((x + 1) * 127.5), clipped."""
    if _is_tensor(images):
        import tensorflow as tf

        return tf.cast(tf.clip_by_value(tf.round((tf.cast(images, tf.float32) + 1.0) * 127.5), 0.0, 255.0), tf.uint8)
    scaled = (np.asarray(images).astype(np.float32) + np.float32(1)) * np.float32(127.5)
    return np.rint(scaled).clip(0, 255).astype(np.uint8)


def _is_tensor(images):
    tensorflow = sys.modules.get("tensorflow")  # whoever has a tensor has imported it
    return tensorflow is not None and tensorflow.is_tensor(images)


class _Rows:
    """Some rows of an array that may be larger than memory: read when indexed, whole only by np.asarray."""

    def __init__(self, array, rows):
        self._array, self._rows = array, rows
        self.shape, self.dtype, self.ndim = (len(rows), *array.shape[1:]), array.dtype, array.ndim

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, index):
        if not isinstance(index, tuple):
            return self._array[self._rows[index]]
        if isinstance(index[0], slice):
            return self._array[self._rows[index[0]]][(slice(None), *index[1:])]
        if isinstance(index[0], (int, np.integer)):
            return self._array[self._rows[index[0]]][index[1:]]
        return np.asarray(self)[index]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self._array[self._rows], dtype)

    def select(self, rows):
        return _Rows(self._array, self._rows[rows])


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Decoded images and what is known about each.

    Args:
        images: uint8 `[n, h, w, c]`, a read-only np.memmap. Of a `subset`, a view of one: it has shape, dtype, len
            and every index that starts with rows, and becomes an array by np.asarray.
        labels: int32 `[n]`, places in `class_names`; zeros when unlabelled.
        class_names: the labels' names; () when unlabelled.
        names: path of each image below the source's top.
        content_hashes: uint64 `[n]`, of the bytes of each file.
        fingerprint: hex, of the content hashes, labels and decoding options: equal for a copy elsewhere.
        skipped: (path, reason) of each file that could not be used.
    """

    images: Any
    labels: np.ndarray
    class_names: tuple
    names: Sequence
    content_hashes: np.ndarray
    fingerprint: str
    skipped: tuple = ()

    def __len__(self):
        return len(self.labels)

    def subset(self, indices):
        """The images at `indices` (integers or a mask), in that order, without reading them."""
        rows = np.arange(len(self))[np.asarray(indices, None if len(indices) else np.int64)]
        images = self.images.select(rows) if isinstance(self.images, _Rows) else _Rows(self.images, rows)
        names = self.names[rows] if isinstance(self.names, image_cache.Names) else [self.names[i] for i in rows]
        labels, hashes = self.labels[rows], self.content_hashes[rows]
        fingerprint = _fingerprint(hashes, labels, self.fingerprint)
        return ImageSet(images, labels, self.class_names, names, hashes, fingerprint, self.skipped)

    def split(self, fraction=0.1, seed=0):
        """Returns (train, held_out), both in the order of this set.

        The side of an image depends on the content of its file and on the seed alone: other images may come or go,
        and copies of one file stay together. So `fraction` is met on average, not exactly; but no side stays empty.
        """
        if not 0 < fraction < 1:
            raise DataError(f"fraction must be between 0 and 1, both excluded. Received: {fraction!r}.")
        draws = transforms.uniform(seed, 0, self.content_hashes)
        if len(self) == 0 or draws.min() == draws.max():
            raise DataError(f"A set with fewer than 2 different images cannot be split. Received: {len(self)} images.")
        held_out = draws < fraction
        if not held_out.any():
            held_out = draws == draws.min()
        elif held_out.all():
            held_out = draws != draws.max()
        return self.subset(np.flatnonzero(~held_out)), self.subset(np.flatnonzero(held_out))


def load(
    data,
    *,
    size,
    channels=3,
    fit="crop",
    classes=(),
    label_depth="first",
    strict=False,
    workers=None,
    cache_dir=None,
    progress=True,
):
    """Reads a source of images, through the cache of decoded ones.

    Args:
        data: "emoji", a folder (flat, or with one folder a class), a zip of one, or "tfds:NAME[:SPLIT]".
        size: height and width of the result in pixels, or a pair (height, width).
        channels: 1, 3 or 4. Alpha is composited on white unless 4.
        fit: how other aspects are brought to `size`: "crop" (the centre), "squash", or "pad" (with white).
        classes: names of the labels to keep; all if empty.
        label_depth: "first": the label is the first folder below `data`; "last": the folder that holds the file.
            Images that lie beside class folders have the label ".".
        strict: make unusable files an error. Otherwise they are listed on standard error and in `skipped`.
        workers: threads that decode; the number of processors if None.
        cache_dir: folder of the cache; $ZOO_CACHE or ~/.cache/keras-image-zoo if None.
        progress: show progress and skipped files on standard error.

    Returns:
        An `ImageSet`, ordered by path.

    Raises:
        DataError: a ValueError that says what is wrong with the source, an option, a file (if `strict`) or the disk.
    """
    shape = _image_shape(size, channels)
    if fit not in FITS:
        raise DataError(f"fit must be one of {', '.join(FITS)}. Received: {fit!r}.")
    workers = os.cpu_count() or 1 if workers is None else workers
    if workers < 1:
        raise DataError(f"workers must be at least 1. Received: {workers!r}.")
    source = open_source(data, classes, label_depth, progress)
    options = (_CACHE_FORMAT, shape, fit)
    key = hashlib.sha256(repr((options, source.identity)).encode()).hexdigest()[:32]
    path = image_cache.root(cache_dir) / key
    decoded = image_cache.read(path)
    if decoded is None:
        chunks = functools.partial(_decoded_chunks, source, shape, fit, workers, progress)
        try:
            decoded = image_cache.write(path, chunks, shape, source.count, source.class_names, source.skipped)
        except DataError as error:
            raise DataError(f"{source.title}: {error}") from error
    fingerprint = _fingerprint(decoded.content_hashes, decoded.labels, repr((options, decoded.class_names)))
    _report_skipped(source.title, len(decoded.labels), decoded.skipped, strict, progress)
    return ImageSet(
        decoded.images,
        decoded.labels,
        decoded.class_names,
        decoded.names,
        decoded.content_hashes,
        fingerprint,
        decoded.skipped,
    )


def _image_shape(size, channels):
    pair = (size, size) if isinstance(size, (int, np.integer)) else tuple(size)
    if len(pair) != 2 or not all(isinstance(side, (int, np.integer)) and 1 <= side <= 8192 for side in pair):
        raise DataError(f"size must be 1..8192 pixels, or a pair (height, width) of such. Received: {size!r}.")
    if channels not in CHANNELS:
        raise DataError(f"channels must be 1, 3 or 4. Received: {channels!r}.")
    return int(pair[0]), int(pair[1]), int(channels)


def _fingerprint(content_hashes, labels, options):
    digest = hashlib.sha256(options.encode("utf-8", "surrogateescape"))
    digest.update(np.ascontiguousarray(content_hashes, "<u8").tobytes())
    digest.update(np.ascontiguousarray(labels, "<i4").tobytes())
    return digest.hexdigest()


def _decoded_chunks(source, shape, fit, workers, progress, start):
    """Yields an `image_cache.Chunk` for some entries at a time, in their order from the `start`-th, decoding some ahead."""
    from tqdm import tqdm  # here, because it would slow down every --help

    entries = itertools.islice(source.entries(), start, None)
    length = max(1, min(_CHUNK_IMAGES, _CHUNK_BYTES // int(np.prod(shape))))
    pool = ThreadPoolExecutor(workers)  # Pillow releases the GIL while it decodes and resizes
    try:
        bar = tqdm(total=source.count, initial=start, desc="Decoding", unit="image", disable=not progress)
        with pillow_warnings(), bar:
            waiting = deque()
            while part := list(itertools.islice(entries, length)):
                waiting.append(pool.submit(_decode_part, source, part, shape, fit))
                if len(waiting) > 2 * workers:
                    yield _counted(waiting.popleft().result(), bar)
            while waiting:
                yield _counted(waiting.popleft().result(), bar)
    finally:
        pool.shutdown(cancel_futures=True)


def _counted(chunk, bar):
    bar.update(len(chunk.names) + len(chunk.skipped))
    return chunk


def _decode_part(source, part, shape, fit):
    height, width, channels = shape
    done, skipped = [], []
    for name, label, payload in part:
        try:
            content = source.read(name, payload)
            image = decode(content, height, width, channels, fit)
        except Exception as error:  # Pillow's plugins and zipfile raise whatever a damaged file leads them into
            skipped.append((name, reason(error)))
        else:
            content_hash = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
            done.append((image, label, content_hash, name))
    return _chunk_of(done, shape, skipped)


def _chunk_of(done, shape, skipped):
    images, labels, hashes, names = zip(*done, strict=True) if done else ((), (), (), ())
    images = np.stack(images) if images else np.zeros((0, *shape), np.uint8)
    return image_cache.Chunk(images, np.array(labels, np.int32), np.array(hashes, np.uint64), list(names), skipped)


def _report_skipped(title, usable, skipped, strict, progress):
    if not skipped:
        return
    lines = [f"  {name}: {text}" for name, text in skipped[:_LISTED]]
    if len(skipped) > _LISTED:
        lines.append(f"  and {len(skipped) - _LISTED} more")
    listed = "\n".join(lines)
    if strict:
        raise DataError(
            f"{len(skipped)} of {usable + len(skipped)} files in {title} cannot be used (strict=True makes "
            f"that an error). Repair or remove them, or do without strict:\n{listed}"
        )
    if progress:
        print(f"Skipped {len(skipped)} of {usable + len(skipped)} files in {title}:\n{listed}", file=sys.stderr)


def stream_indices(count, seed, places):
    """Which image stands at each place of the endless stream of a set.

    Place q belongs to epoch q // count, and every epoch is a permutation drawn from (seed, epoch).

    Args:
        count: number of images.
        seed: any integer.
        places: int64 `[b]`.

    Returns:
        int64 `[b]`.
    """
    epochs, offsets = np.divmod(places, count)
    indices = np.empty_like(places)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = _permutation(count, seed, int(epoch))[offsets[here]]
    return indices


@functools.lru_cache(maxsize=8)
def _permutation(count, seed, epoch):
    return np.argsort(transforms.random_bits(seed, 6, epoch, np.arange(count)), kind="stable")


def batches(
    image_set,
    batch_size,
    *,
    seed=0,
    start_step=0,
    stop_step=None,
    transform="",
    with_labels=False,
    shard_index=0,
    shard_count=1,
    num_shards=1,
    num_updates=1,
):
    """The batches of steps start_step, start_step + 1, ... (below stop_step, or endless) as a tf.data.Dataset.

    The batch of step k is the same wherever the stream was started, and the shards' parts, put one after another, are
    the batch of a single reader (of several updates: those of each update). A batch may be larger than the set.

    Args:
        image_set: an `ImageSet`.
        batch_size: images a step, over all shards.
        seed: any integer; decides order and augmentation.
        start_step: the first step.
        stop_step: the step to stop before; endless if None.
        transform: geometric augmentation, a text for `parse_transform`.
        with_labels: yield (images, labels) instead of images.
        shard_index: which part of each batch to yield, 0 ... shard_count - 1.
        shard_count: number of equal parts.
        num_shards: yield that many parts of each batch, from shard_index on, one after another.
        num_updates: number of equal runs of a batch that are used one after another; a shard has its part of each.

    Returns:
        A dataset of float32 `[batch_size / shard_count, h, w, c]` in [-1, 1]; labels are int32
        `[batch_size / shard_count]`.
    """
    transform = parse_transform(transform)
    _check_stream(image_set, batch_size, start_step, stop_step, shard_index, shard_count, num_shards, num_updates)
    import tensorflow as tf

    part = batch_size // shard_count
    shape = tuple(image_set.images.shape[1:])

    def read(element):
        step, shard = divmod(int(element), num_shards)
        run = part // num_updates
        within = (shard_index + shard) * run + np.arange(run)
        places = (
            int(step) * batch_size + (np.arange(num_updates)[:, None] * (batch_size // num_updates) + within).ravel()
        )
        indices = stream_indices(len(image_set), seed, places)
        images, labels = np.asarray(image_set.images[indices]), image_set.labels[indices]
        if transform.flip:
            mirrored = transforms.flips(seed, places)
            images[mirrored] = images[mirrored, :, ::-1]
        return images, labels, transforms.affine_matrices(transform, seed, places, *shape[:2])

    def element(number):
        images, labels, matrices = tf.numpy_function(read, [number], (tf.uint8, tf.int32, tf.float32), stateful=False)
        images = to_model_range(tf.ensure_shape(images, (part, *shape)))
        if transform.warps:
            warped = tf.raw_ops.ImageProjectiveTransformV3(
                images=images,
                transforms=tf.ensure_shape(matrices, (part, 8)),
                output_shape=shape[:2],
                fill_value=0.0,
                interpolation="BILINEAR",
                fill_mode="REFLECT",
            )
            images = tf.ensure_shape(tf.clip_by_value(warped, -1.0, 1.0), (part, *shape))  # rounding may pass 1 by 1e-7
        return (images, tf.ensure_shape(labels, (part,))) if with_labels else images

    if stop_step is None:
        elements = tf.data.Dataset.counter(start_step * num_shards)
    else:
        elements = tf.data.Dataset.range(start_step * num_shards, stop_step * num_shards)
    dataset = elements.map(element, num_parallel_calls=2, deterministic=True).prefetch(2)
    if stop_step is None:  # Keras must not take the length of the counter for an epoch
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    return dataset


class Waiting:
    """Measures how long whoever reads a dataset waits for its elements.

    Attributes:
        seconds: In all, so far.
    """

    def __init__(self):
        self.seconds = 0.0

    def of(self, dataset):
        """Returns the same dataset, measured. What reads it must not fetch ahead: the waiting would be that reader's."""
        import tensorflow as tf

        # A zip asks its datasets one after another: the clock, then the element.
        clock = tf.data.Dataset.counter().map(lambda _: tf.numpy_function(time.monotonic, [], tf.float64))
        timed = tf.data.Dataset.zip((clock, dataset)).map(self._counted)
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False
        return timed.with_options(options)

    def _counted(self, asked, element):
        import tensorflow as tf

        def add(asked):
            self.seconds += time.monotonic() - float(asked)
            return np.int64(0)

        with tf.control_dependencies([tf.numpy_function(add, [asked], tf.int64)]):
            return tf.nest.map_structure(tf.identity, element)


def _check_stream(image_set, batch_size, start_step, stop_step, shard_index, shard_count, num_shards, num_updates):
    if len(image_set) == 0:
        raise DataError("image_set must hold at least one image. Received: none.")
    if min(shard_count, batch_size, num_updates) < 1 or batch_size % (shard_count * num_updates):
        raise DataError(
            "batch_size must be a positive multiple of shard_count times num_updates. Received: "
            f"batch_size={batch_size}, shard_count={shard_count}, num_updates={num_updates}."
        )
    if not 0 <= shard_index < shard_count:
        raise DataError(f"shard_index must be in 0..{shard_count - 1}. Received: {shard_index}.")
    if not 1 <= num_shards <= shard_count - shard_index:
        raise DataError(f"num_shards must be in 1..{shard_count - shard_index}. Received: {num_shards}.")
    if start_step < 0 or (stop_step is not None and stop_step < start_step):
        raise DataError(
            "start_step must be at least 0, and stop_step at least start_step. Received: "
            f"start_step={start_step}, stop_step={stop_step}."
        )
