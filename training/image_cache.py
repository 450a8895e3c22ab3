"""Decoded images on disk: one directory a cache, written beside and then renamed, read back memory-mapped.

    KEY/images.bin     uint8 [n, h, w, c], no header
    KEY/columns.npz    labels, content hashes, checksums and names of the n images
    KEY/about.json     shape, class names, skipped files, CRC of columns.npz

A build writes to KEY.tmp-XXXX and holds a lock on its images.bin; the lock dies with the process, so that the next
build can tell the leftovers of a dead one from the work of a live one. Of those of its own KEY it takes over the images
that journal.jsonl tells of, a line a chunk: its CRC-32, and the columns as JSON.
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
_CRC_LENGTH = 9  # of a line of the journal: eight digits and a space
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


def write(path, chunks, shape, count, class_names, skipped=()):
    """Builds the cache at `path` and opens it. The first of several processes that build the same one wins.

    What a build of it that died (`kill -9`, a power cut, Ctrl-C) had decoded is taken over.

    Args:
        path: where the finished cache goes.
        chunks: from a number of entries to an iterable of the `Chunk`s of those after them.
        shape: (h, w, c) of an image.
        count: how many images to expect at most, for the check of the free space.
        class_names: tuple of strings.
        skipped: [(name, reason)] known beforehand, which are no entries.

    Returns:
        A `Decoded`.

    Raises:
        DataError: if the disk is full or cannot be written, or fewer than two images came.
    """
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        needed = count * (int(np.prod(shape)) + _BYTES_PER_ROW) + _MARGIN_BYTES
        left = sum(file.stat().st_size for file in folder.glob(f"{path.name}.tmp-*/images.bin"))
        _check_space(folder, needed - left)
        with _lock(folder / ".lock"):
            remove_stale(folder)
            build = _left_over(path) or _Build(folder / f"{path.name}.tmp-{secrets.token_hex(6)}")
    except OSError as error:
        raise DataError(
            f"The image cache cannot be written to {folder} ({error.strerror or error}). {_MOVE_IT}"
        ) from error
    try:
        with contextlib.closing(build):
            build.take_over(shape)
            for chunk in chunks(build.num_entries):
                build.add(chunk)
            build.finish(shape, class_names, skipped)
            _publish(build.folder, path)
    except Exception as error:  # what is left of a build that was merely interrupted is of use
        shutil.rmtree(build.folder, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        text = "The disk filled up" if full else f"Writing failed ({error.strerror or error})"
        raise DataError(f"{text} while the image cache was written to {folder}. {_MOVE_IT}") from error
    shutil.rmtree(build.folder, ignore_errors=True)  # where another process was faster
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


class _Build:
    """A cache that is being built.

    Args:
        folder: Where. If it exists, the build goes on from what lies there.

    Attributes:
        num_entries: How many files of the source are dealt with.
    """

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._images = open(folder / "images.bin", "a+b")
        self._journal = open(folder / "journal.jsonl", "a+b")
        try:
            self.is_ours = try_lock(self._images)
        except OSError:  # without locks nobody can tell whether another process is at it
            self.is_ours = self._images.tell() == 0
        self._labels, self._hashes, self._checksums, self._ends, self._skipped = [], [], [], [], []
        self._block = bytearray()

    def close(self):
        self._images.close()
        self._journal.close()

    @property
    def num_entries(self):
        return len(self._ends) + len(self._skipped)

    def take_over(self, shape):
        """Counts in the chunks that lie here, up to the first one that is not whole, and removes the rest."""
        length, whole = int(np.prod(shape)), 0
        self._images.seek(0)
        self._journal.seek(0)
        for line in self._journal:
            if line != _journal_line(line[_CRC_LENGTH:-1]):
                break
            row = json.loads(line[_CRC_LENGTH:])
            count = len(row["checksums"])
            content = self._images.read(count * length)
            found = [zlib.crc32(content[i * length : (i + 1) * length]) for i in range(count)]
            if len(content) < count * length or found != row["checksums"]:
                break
            self._count(row)
            whole += len(line)
        self._journal.truncate(whole)
        self._images.truncate(len(self._ends) * length)

    def add(self, chunk):
        row = {
            "labels": chunk.labels.tolist(),
            "content_hashes": chunk.content_hashes.tolist(),
            "checksums": [zlib.crc32(image) for image in chunk.images],
            "names": chunk.names,
            "skipped": chunk.skipped,
        }
        self._images.write(np.ascontiguousarray(chunk.images).data)
        self._images.flush()  # before the line that says that they are there
        self._journal.write(_journal_line(json.dumps(row).encode("ascii")))
        self._journal.flush()
        self._count(row)

    def _count(self, row):
        self._labels.append(np.array(row["labels"], np.int32))
        self._hashes.append(np.array(row["content_hashes"], np.uint64))
        self._checksums.append(np.array(row["checksums"], np.uint32))
        for name in row["names"]:
            self._block += name.encode("utf-8", "surrogateescape")
            self._ends.append(len(self._block))
        self._skipped += map(tuple, row["skipped"])

    def finish(self, shape, class_names, skipped):
        """Writes what `read` wants besides the images; `skipped` come before those of the chunks."""
        skipped = [*skipped, *self._skipped]
        if len(self._ends) < 2:
            raise DataError(_too_few(len(self._ends), skipped))
        _to_disk(self._images)
        with open(self.folder / "columns.npz", "wb") as columns:
            np.savez(
                columns,
                labels=np.concatenate(self._labels),
                content_hashes=np.concatenate(self._hashes),
                checksums=np.concatenate(self._checksums),
                name_block=np.frombuffer(self._block, np.uint8),
                name_ends=np.array(self._ends, np.int64),
            )
            _to_disk(columns)
        about = {
            "shape": [len(self._ends), *shape],
            "class_names": list(class_names),
            "skipped": skipped,
            "columns_crc": zlib.crc32((self.folder / "columns.npz").read_bytes()),
        }
        with open(self.folder / "about.json", "w", encoding="ascii") as text:
            json.dump(about, text)
            _to_disk(text)
        (self.folder / "journal.jsonl").unlink()


def _journal_line(row):
    return b"%08x %s\n" % (zlib.crc32(row), row)


def _left_over(path):
    """Returns a build of the cache at `path` that another process left when it died, or `None`."""
    for folder in path.parent.glob(f"{path.name}.tmp-*"):
        with contextlib.suppress(OSError):
            build = _Build(folder)
            if build.is_ours:
                return build
            build.close()
    return None


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
            damaged = path.parent / f"{path.name}.damaged.tmp-{secrets.token_hex(6)}"  # nobody's to take over
            os.rename(path, damaged)  # whoever has it mapped keeps it
            shutil.rmtree(damaged, ignore_errors=True)
        os.rename(temporary, path)


def remove_stale(folder):
    """Removes what builds that died over a day ago left in `folder`."""
    for item in folder.glob("*.tmp-*"):
        with contextlib.suppress(OSError):
            if _is_stale(item):
                shutil.rmtree(item, ignore_errors=True)


def _is_stale(item):
    images = item / "images.bin"
    is_old = time.time() - (images if images.exists() else item).stat().st_mtime > _STALE_SECONDS
    if not is_old or fcntl is None or not images.exists():
        return is_old
    with open(images, "rb") as file:
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
