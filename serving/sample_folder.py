"""A folder of samples that is never half-written: images, `manifest.csv`, and what they were made with.

Each file is written beside and renamed, and its rows of the manifest follow at once. A process may be killed at any
moment: the next one puts the manifest right and does only what is missing.
"""

import contextlib
import csv
import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two processes apart there
    fcntl = None

FORMATS = ("png", "jpeg", "webp", "npz")
MANIFEST, CONFIG, TEMPORARY = "manifest.csv", "sample.json", ".writing"
COLUMNS = ("file", "model", "version", "seed", "label")
# Images a file of the format npz: at most so many, and at most so many bytes.
MOST_IMAGES, MOST_BYTES = 1024, 2**26
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # Windows cannot make these


@dataclass(frozen=True)
class Samples:
    """Which images the folder is to hold, and in which files.

    Args:
        seeds: int64 `[n]`.
        labels: int64 `[n]`, places in `class_names`, or `None`.
        class_names: of the labels.
        files: `[(name, start, stop)]`: the file `name`, "/" between its parts, holds the images start ... stop - 1.
    """

    seeds: np.ndarray
    labels: np.ndarray | None
    class_names: tuple
    files: list

    def __len__(self):
        return len(self.seeds)

    def label(self, place):
        """The name of the label of an image, "" where there are none."""
        return "" if self.labels is None else self.class_names[self.labels[place]]


def plan(seeds, labels, class_names, file_format, image_shape):
    """Returns the `Samples` of some seeds: one file an image, below a folder a class, or archives of many (npz)."""
    if file_format == "npz":
        step = max(1, min(MOST_IMAGES, MOST_BYTES // int(np.prod(image_shape))))
        bounds = [(start, min(start + step, len(seeds))) for start in range(0, len(seeds), step)]
        files = [(f"{seeds[start]:08d}-{seeds[stop - 1]:08d}.npz", start, stop) for start, stop in bounds]
    else:
        suffix = "jpg" if file_format == "jpeg" else file_format
        folders = [f"{folder}/" for folder in folder_names(class_names)]
        files = [
            (f"{'' if labels is None else folders[labels[i]]}{seed:08d}.{suffix}", i, i + 1)
            for i, seed in enumerate(seeds.tolist())
        ]
    return Samples(seeds, labels, class_names, files)


def folder_names(class_names):
    """Returns a name for the folder of each class that every file system takes; where they can, the classes' own."""
    names, taken = [], set()
    for place, class_name in enumerate(class_names):
        name = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f]+', "_", class_name).strip(" .")
        name = name.encode("utf-8", "replace")[:120].decode("utf-8", "ignore").strip(" .")
        if not name or _RESERVED.fullmatch(name):
            name = f"class_{place}{'_' + name if name else ''}"
        while name.casefold() in taken:
            name = f"{name}_{place}"
        taken.add(name.casefold())
        names.append(name)
    return names


def encode(images, samples, start, file_format):
    """Returns the bytes of a file.

    Args:
        images: uint8 `[n, height, width, channels]`: one for an image file, any number for npz.
        samples: The `Samples` they are of.
        start: Place of the first of them there.
        file_format: One of `FORMATS`. PNG and WebP keep every pixel; JPEG has quality 95 without chroma subsampling.
    """
    from PIL import Image

    buffer = io.BytesIO()
    if file_format == "npz":
        arrays = {"images": images, "seeds": samples.seeds[start : start + len(images)]}
        if samples.labels is not None:
            arrays["labels"] = samples.labels[start : start + len(images)]
            arrays["class_names"] = np.array(samples.class_names)
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()
    options = {
        "png": {},
        "jpeg": {"quality": 95, "subsampling": 0},
        "webp": {"lossless": True, "exact": True},
    }
    (image,) = images
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.save(buffer, file_format.upper(), **options[file_format])
    return buffer.getvalue()


def present(root, samples):
    """Returns those of `samples.files` that are there."""
    found = set()
    for folder in {name.rpartition("/")[0] for name, _, _ in samples.files}:
        with contextlib.suppress(FileNotFoundError), os.scandir(Path(root) / folder) as items:
            prefix = f"{folder}/" if folder else ""
            # A power cut may leave an empty file.
            found |= {prefix + item.name for item in items if item.is_file() and item.stat().st_size}
    return [each for each in samples.files if each[0] in found]


def check(root, record):
    """Checks that samples made as `record` says may be written to `root`.

    Args:
        root: Directory; it need not exist.
        record: Dict of what decides the images, for `sample.json`. Only `count` may be larger than before, where the
            files hold one image each.

    Raises:
        ValueError: If other files lie there, or samples that were made in another way; it shows the difference.
    """
    root = Path(root)
    if not root.exists():
        return
    path = root / CONFIG
    if not path.exists():
        others = sorted(item.name for item in root.iterdir() if item.name != TEMPORARY)
        if others:
            raise ValueError(
                f"{root} holds other files ({', '.join(others[:3])}{' ...' if len(others) > 3 else ''}), and nothing is "
                "overwritten. Give another --out, or an empty directory."
            )
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}). Give another --out.") from error
    different = [key for key in {**before, **record} if before.get(key) != record.get(key)]
    if different == ["count"] and record["format"] != "npz" and record["count"] > before["count"]:
        return
    if different:
        table = "\n".join(f"  {key}: {before.get(key)!r} there, {record.get(key)!r} now" for key in different)
        hint = " More images: the next --seed and another --out." if different == ["count"] else ""
        raise ValueError(
            f"{root} holds samples of another configuration:\n{table}\nGive the same options to go on with them, or "
            f"another --out.{hint}"
        )


class SampleFolder:
    """The folder while it is being filled; a context manager, which nobody else can enter meanwhile.

    Args:
        root: Directory, which `check` has passed.
        samples: `Samples`.
        model: Name of the model, for the manifest.
        version: Its version, for the manifest, or `None`.
        record: For `sample.json`.

    Raises:
        OSError: If it cannot be written, or another process is writing there.
    """

    def __init__(self, root, samples, model, version, record):
        self.root = Path(root)
        self.samples = samples
        self._model = (model, "" if version is None else version)
        self._record = record
        self._lock = self._manifest = None

    def __enter__(self):
        self.root.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        try:
            check(self.root, self._record)  # again, now that it is ours
            (self.root / TEMPORARY).unlink(missing_ok=True)
            self._write_if_new(CONFIG, (json.dumps(self._record, indent=2) + "\n").encode())
            self._restore_manifest()
            self._manifest = open(self.root / MANIFEST, "ab", buffering=0)
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, kind, error, traceback):
        try:
            self._manifest.close()
            # Rows are appended in the order of their making: here they come into the order of the seeds.
            with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
                self._restore_manifest()
        finally:
            self._release()

    def _take_lock(self):
        if fcntl is None:
            return
        self._lock = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._release()
            raise BlockingIOError(f"Another process is writing to {self.root}. Wait for it, or end it.") from None
        except OSError:  # a file system without locks
            pass

    def _release(self):
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write(self, name, start, stop, content):
        """Adds one whole file, with its rows of the manifest; after an error there is neither.

        Args:
            name: of the file.
            start: Place of its first image in the samples.
            stop: Place after its last.
            content: bytes.
        """
        self._replace(name, content)
        end = self._manifest.seek(0, os.SEEK_END)
        rows = memoryview(self._rows([(name, start, stop)]))
        try:
            while rows:
                rows = rows[self._manifest.write(rows) :]
        except OSError:
            self._manifest.truncate(end)
            (self.root / name).unlink()
            raise

    def _replace(self, name, content):
        path, temporary = self.root / name, self.root / TEMPORARY
        path.parent.mkdir(exist_ok=True)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _restore_manifest(self):
        rows = self._rows(present(self.root, self.samples))
        self._write_if_new(MANIFEST, ",".join(COLUMNS).encode() + b"\n" + rows)

    def _write_if_new(self, name, content):
        path = self.root / name
        if not path.exists() or path.read_bytes() != content:
            self._replace(name, content)

    def _rows(self, files):
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        for name, start, stop in files:
            writer.writerows(
                (name, *self._model, self.samples.seeds[i], self.samples.label(i)) for i in range(start, stop)
            )
        return buffer.getvalue().encode("utf-8", "surrogateescape")
