"""Decoded images on disk: one directory a cache, written beside and then renamed, read back memory-mapped.

    KEY/images.bin     uint8 [n, h, w, c], no header
    KEY/columns.npz    labels, content hashes, checksums and names of the n images
    KEY/about.json     shape, class names, skipped files, CRC of columns.npz

A build writes to KEY.tmp-XXXX and holds a lock on its images.bin; the lock dies with the process, so that the next
build can tell the leftovers of a dead one from the work of a live one.
"""

import contextlib
import errno
import json
import os
import secrets
import shutil
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.decode import DataError

try:
    import fcntl
except ImportError:  # Windows: leftovers are told by their age alone
    fcntl = None

CHECKED_IMAGES = 20_000  # of larger caches, evenly spread: checking must not take minutes
_MARGIN_BYTES = 2**24
_BYTES_PER_ROW = 150  # label, hash, checksum, name
_STALE_SECONDS = 86_400
_MOVE_IT = "Free some space, choose a smaller size, or put the cache elsewhere: ZOO_CACHE=DIR (cache_dir= in code)."


class Names(Sequence):
    """n strings as one block of bytes: a million paths in tens of megabytes.

    Args:
        block: uint8 `[bytes]`, UTF-8.
        ends: int64 `[n]`, where each string ends.
        rows: int64 `[m]`, which strings, in which order; all if None.
    """

    def __init__(self, block, ends, rows=None):
        self._block, self._ends = block, ends
        self._rows = np.arange(len(ends)) if rows is None else rows

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, index):
        if not isinstance(index, (int, np.integer)):
            return Names(self._block, self._ends, self._rows[index])
        row = self._rows[index]
        start = self._ends[row - 1] if row else 0
        return self._block[start : self._ends[row]].tobytes().decode("utf-8", "surrogateescape")


@dataclass
class Chunk:
    """Some decoded files: uint8 images `[k, h, w, c]`, the k columns, and [(name, reason)] of those that failed."""

    images: np.ndarray
    labels: np.ndarray
    content_hashes: np.ndarray
    names: list
    skipped: list


@dataclass(frozen=True)
class Decoded:
    """What a cache holds. `images` is a read-only np.memmap."""

    images: np.ndarray
    labels: np.ndarray
    content_hashes: np.ndarray
    names: Names
    class_names: tuple
    skipped: tuple


def root(cache_dir=None):
    """The folder of all caches: `cache_dir`, or $ZOO_CACHE, or ~/.cache/keras-image-zoo."""
    folder = cache_dir or os.environ.get("ZOO_CACHE") or Path.home() / ".cache" / "keras-image-zoo"
    return Path(folder).expanduser().absolute()


def read(path):
    """Opens the cache at `path`. Returns a `Decoded`, or None if there is none or it is damaged."""
    try:
        about = json.loads((path / "about.json").read_bytes())
        columns_file = path / "columns.npz"
        if zlib.crc32(columns_file.read_bytes()) != about["columns_crc"]:
            return None
        with np.load(columns_file, allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
        shape = tuple(about["shape"])
        if (path / "images.bin").stat().st_size != np.prod(shape, dtype=np.int64):
            return None
        if not _sound(path / "images.bin", shape, columns["checksums"]):
            return None
        images = np.memmap(path / "images.bin", np.uint8, "r", shape=shape)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    skipped = tuple((name, reason) for name, reason in about["skipped"])
    return Decoded(
        images,
        columns["labels"],
        columns["content_hashes"],
        Names(columns["name_block"], columns["name_ends"]),
        tuple(about["class_names"]),
        skipped,
    )


def _sound(file, shape, checksums):
    count, length = shape[0], int(np.prod(shape[1:]))
    with open(file, "rb") as images:  # read, not mapped: what is mapped and touched counts as this process's memory
        for i in range(0, count, -(-count // CHECKED_IMAGES)):
            images.seek(i * length)
            if zlib.crc32(images.read(length)) != checksums[i]:
                return False
    return True


def write(path, chunks, shape, count, class_names):
    """Builds the cache at `path` and opens it. The first of several processes that build the same one wins.

    Args:
        path: where the finished cache goes.
        chunks: iterable of `Chunk`.
        shape: (h, w, c) of an image.
        count: how many images to expect at most, for the check of the free space.
        class_names: tuple of strings.

    Returns:
        A `Decoded`.

    Raises:
        DataError: if the disk is full or cannot be written, or fewer than two images came.
    """
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(folder, count * (int(np.prod(shape)) + _BYTES_PER_ROW) + _MARGIN_BYTES)
        with _lock(folder / ".lock"):
            remove_stale(folder)
            temporary = folder / f"{path.name}.tmp-{secrets.token_hex(6)}"
            temporary.mkdir()
            file = open(temporary / "images.bin", "wb")
            with contextlib.suppress(OSError):  # without locks, leftovers are told by their age alone
                try_lock(file)
    except OSError as error:
        raise DataError(
            f"The image cache cannot be written to {folder} ({error.strerror or error}). {_MOVE_IT}"
        ) from error
    try:
        with file:
            _fill(temporary, file, chunks, shape, class_names)
            _publish(temporary, path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        text = "The disk filled up" if full else f"Writing failed ({error.strerror or error})"
        raise DataError(f"{text} while the image cache was written to {folder}. {_MOVE_IT}") from error
    finally:  # Ctrl-C included
        shutil.rmtree(temporary, ignore_errors=True)
    decoded = read(path)
    if decoded is None:
        raise DataError(f"The image cache {path} was damaged while it was written. Delete it and check the disk.")
    return decoded


def _check_space(folder, needed):
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"The decoded images need {_readable(needed)} in {folder}, and {_readable(free)} are free. " + _MOVE_IT
        )


def _readable(size):
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _fill(temporary, file, chunks, shape, class_names):
    labels, hashes, checksums, ends, skipped = [], [], [], [], []
    block = bytearray()
    for chunk in chunks:
        file.write(np.ascontiguousarray(chunk.images).data)
        labels.append(chunk.labels)
        hashes.append(chunk.content_hashes)
        checksums.append(np.array([zlib.crc32(image) for image in chunk.images], np.uint32))
        for name in chunk.names:
            block += name.encode("utf-8", "surrogateescape")
            ends.append(len(block))
        skipped += chunk.skipped
    if len(ends) < 2:
        raise DataError(_too_few(len(ends), skipped))
    _to_disk(file)
    with open(temporary / "columns.npz", "wb") as columns:
        np.savez(
            columns,
            labels=np.concatenate(labels),
            content_hashes=np.concatenate(hashes),
            checksums=np.concatenate(checksums),
            name_block=np.frombuffer(block, np.uint8),
            name_ends=np.array(ends, np.int64),
        )
        _to_disk(columns)
    about = {
        "shape": [len(ends), *shape],
        "class_names": list(class_names),
        "skipped": skipped,
        "columns_crc": zlib.crc32((temporary / "columns.npz").read_bytes()),
    }
    with open(temporary / "about.json", "w", encoding="ascii") as text:
        json.dump(about, text)
        _to_disk(text)


def _too_few(usable, skipped):
    message = f"{'One' if usable else 'No'} usable image: at least 2 are needed."
    if skipped:
        listed = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        message += f" {len(skipped)} files could not be used, the first: {listed}."
    return message


def _to_disk(file):
    file.flush()
    os.fsync(file.fileno())  # or a power cut after the rename could leave a whole name over half a file


def _publish(temporary, path):
    with _lock(path.parent / ".lock"):
        if path.exists():
            if read(path) is not None:  # another process was faster, with the same files
                return
            damaged = path.parent / f"{path.name}.tmp-{secrets.token_hex(6)}"
            os.rename(path, damaged)  # whoever has it mapped keeps it
            shutil.rmtree(damaged, ignore_errors=True)
        os.rename(temporary, path)


def remove_stale(folder):
    """Removes what builds that died left in `folder`."""
    for item in folder.glob("*.tmp-*"):
        with contextlib.suppress(OSError):
            if _is_stale(item):
                shutil.rmtree(item, ignore_errors=True)


def _is_stale(item):
    if fcntl is None or not (item / "images.bin").exists():
        return time.time() - item.stat().st_mtime > _STALE_SECONDS
    with open(item / "images.bin", "rb") as file:
        return try_lock(file)


def try_lock(file):
    """Locks an open file until it is closed or the process ends. Returns whether that worked: another may hold it.

    Raises:
        OSError: Where there are no locks, of the system or of the file system.
    """
    if fcntl is None:
        raise OSError(errno.ENOTSUP, "this system has no locks")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _lock(path):
    """Waits for, then holds, the lock that guards the moments when directories appear, vanish or are renamed."""
    with open(path, "a") as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
