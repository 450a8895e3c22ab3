"""The readers of files that other people wrote, as functions of bytes, and what none of them may do.

A target returns "read" or "refused" and raises `Broken` where a reader fails in another way than by its documented error,
runs what it reads, gives what it must not give, or gives far more bytes than it was given. `test_fuzz.py` calls the targets
with hypothesis, `run_atheris.py` with libFuzzer for as long as one likes.
"""

import contextlib
import functools
import io
import json
import pickle
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.subject import read_card
from serving.saved_model import locate
from serving.servable import Servable
from training import config, data, foreign_weights
from training.decode import CHANNELS, FITS, decode, pillow_warnings, reason
from zoo import checkpoint
from zoo.perceptual.weights import WeightsError, read_weights
from zoo.registry import names

READ, REFUSED = "read", "refused"
MOST_TIMES, LEAST_BYTES = 16, 2**26  # what a reader may give for a byte it was given, and what it may give always
# A fuzzer does not find the checksums of a zip: what begins so is put into a sound one.
NUMPY, STATE = b"\x93NUMPY", b"STATE"
REFERENCE = Path(__file__).parents[1] / "reference"
SIDE = 8


class Broken(AssertionError):
    """A reader did what it must not do."""


class _Watch:
    """Notes code that runs while `armed`, by Python's own audit events."""

    EVENTS = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "socket.connect", "ctypes.dlopen",
              "pickle.find_class")  # fmt: skip

    def __init__(self):
        self.armed, self.seen = False, []
        sys.addaudithook(self._hook)

    def _hook(self, event, arguments):
        if not self.armed:
            return
        # A module that is imported on first use runs as well; what is compiled from a text has no file.
        from_text = event == "exec" and getattr(arguments[0], "co_filename", "<").startswith("<string")
        if from_text or event in self.EVENTS:
            self.seen.append(event)


_watch = _Watch()


def run(target, content, folder):
    """Gives bytes to a target and returns what it returns.

    Args:
        target: A name in `TARGETS`.
        content: bytes.
        folder: An empty directory, which is empty again after that.

    Raises:
        Broken: If the reader did what none may do.
    """
    _watch.seen.clear()
    _watch.armed = True
    try:
        outcome = TARGETS[target](content, folder)
    except Exception as error:
        raise Broken(f"{target}: {type(error).__name__} in place of the documented error: {error}") from error
    finally:
        _watch.armed = False
        empty(folder)
    if _watch.seen:
        raise Broken(f"{target}: code was run: {_watch.seen}")
    return outcome


def empty(folder):
    """Removes everything from a directory."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _check_arrays(arrays, num_bytes):
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.hasobject:
            raise Broken(f"{name!r} is {type(array).__name__}, not an array of numbers")
    total = sum(array.nbytes for array in arrays.values())
    if total > max(LEAST_BYTES, MOST_TIMES * num_bytes):
        raise Broken(f"{total:,} bytes of arrays from a file of {num_bytes:,}")


def images(content, folder):
    """An image file: whatever is wrong with it must give one line for the list of skipped files."""
    channels, fit = CHANNELS[len(content) % 3], FITS[len(content) // 3 % 3]
    with pillow_warnings():
        try:
            image = decode(content, SIDE, SIDE, channels, fit)
        except RecursionError as error:
            raise Broken("the decoder recursed") from error
        except Exception as error:  # as documented: Pillow's plugins raise whatever they meet
            if not reason(error).strip() or "\n" in reason(error):
                raise Broken(f"no reason is told: {error!r}") from error
            return REFUSED
    if image.shape != (SIDE, SIDE, channels) or image.dtype != np.uint8:
        raise Broken(f"the image is {image.dtype} {image.shape}")
    return READ


def zips(content, folder):
    """A zip of images, read as `--data` is."""
    if not content.startswith(b"PK"):
        content = _zip({"a.png": _encoded("PNG"), "b": content, "c/d.jpg": content})
    (folder / "images.zip").write_bytes(content)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            found = data.load(
                folder / "images.zip", size=SIDE, workers=1, progress=False, cache_dir=folder / "cache"
            )  # fmt: skip
    except data.DataError:
        return REFUSED
    if len(found) < 2 or found.images.shape[1:] != (SIDE, SIDE, 3):
        raise Broken(f"the images are {found.images.shape}")
    json.dumps([found.class_names, list(found.names)])
    return READ


def checkpoints(content, folder):
    """A checkpoint, or one array of it."""
    content = _zip({"a.npy": content}, zipfile.ZIP_STORED) if content.startswith(NUMPY) else content
    path = folder / "step_00000001.npz"
    path.write_bytes(content)
    try:
        arrays = checkpoint.read(path)
    except checkpoint.CheckpointError:
        return REFUSED
    _check_arrays(arrays, len(content))
    return READ


def weights(content, folder):
    """A weight file of another framework (a pickle, a state dict, `.npz`), or what lies in the zip of one."""
    if content.startswith(NUMPY):
        content = _zip({"a.npy": content})
    elif content.startswith(STATE):
        content = _zip(_state_dict() | {"archive/data.pkl": content.removeprefix(STATE)})
    path = folder / "weights.pth"
    path.write_bytes(content)
    outcome = READ
    try:
        arrays = read_weights(path)
    except WeightsError:
        outcome = REFUSED
    else:
        _check_arrays(arrays, len(content))
    if content[:4] != foreign_weights.HDF5_MAGIC[:4]:  # the HDF5 library in C is not ours to test
        with contextlib.suppress(WeightsError):
            foreign_weights.read(path)
    return outcome


def cards(content, folder):
    """The `model.json` of an export, read as serving and evaluation read it."""
    (folder / "saved_model.pb").write_bytes(b"")
    (folder / "model.json").write_bytes(content)
    outcomes = set()
    try:
        export = locate(folder)
        assert isinstance(export.takes_labels, bool)
        assert all(isinstance(name, str) for name in export.class_names)
        assert export.image_shape is None or len(export.image_shape) == 3
        described = Servable(export.name, 1, export.card, {}, {}, None, folder).described()
        json.dumps(described, allow_nan=False)
        outcomes.add(READ)
    except ValueError:
        outcomes.add(REFUSED)
    try:
        card = read_card(folder)
        assert isinstance(card.get("training", {}), dict)
        assert f"{card.get('step', 0):,}"
        outcomes.add(READ)
    except ValueError:
        outcomes.add(REFUSED)
    return REFUSED if REFUSED in outcomes else READ


def settings(content, folder):
    """Words of `--set`, one a line; the first byte chooses the architecture."""
    architectures = names()
    arch = architectures[(content[0] if content else 0) % len(architectures)]
    words = content[1:].decode("utf-8", "surrogateescape").split("\n")
    try:
        resolved = config.resolve(
            config.build_parser().parse_args(["--arch", arch, *(f"--set={word}" for word in words)])
        )
    except ValueError:
        return REFUSED
    json.dumps(resolved.hyperparameters, allow_nan=False)
    return READ


TARGETS = {target.__name__: target for target in (images, zips, checkpoints, weights, cards, settings)}


def seeds(target):
    """Returns some contents, `[bytes]`, that the reader of a target reads."""
    return {
        "images": _images,
        "zips": _zips,
        "checkpoints": _checkpoints,
        "weights": _weights,
        "cards": lambda: [json.dumps(_CARD).encode(), b"{}"],
        "settings": lambda: [b"\1base_filters=8\nloss=hinge", b"\4g_learning_rate=1e-4\nbeta_1=0", b"\0variant=none"],
    }[target]()


_CARD = {
    "arch": "sngan", "image_shape": [32, 32, 3], "class_names": ["cat", "dog"], "step": 100, "training": {"data": "/a/b"},
    "signatures": {"sample": {"inputs": {"seed": {"dtype": "int64", "shape": [None], "range": "any"}, "label": {}}}},
}  # fmt: skip


def _picture(mode="RGB"):
    generator = np.random.default_rng(0)
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = generator.integers(0, 256, (12, 10, bands), np.uint8)
    return Image.fromarray(pixels[..., 0] if bands == 1 else pixels).convert(mode)


def _encoded(suffix, mode="RGB", **options):
    stream = io.BytesIO()
    _picture(mode).save(stream, suffix, **options)
    return stream.getvalue()


def _images():
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        _encoded("PNG"), _encoded("PNG", "RGBA"), _encoded("PNG", "P", transparency=3), _encoded("PNG", "1"),
        _encoded("JPEG", exif=exif), _encoded("JPEG", "CMYK", progressive=True), _encoded("BMP"), _encoded("GIF", "P"),
        _encoded("WEBP", lossless=True), _encoded("WEBP", "RGBA"), _encoded("PNG", "I;16"),
    ]  # fmt: skip


def _zip(entries, compression=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return stream.getvalue()


def _zips():
    png, jpeg = _encoded("PNG"), _encoded("JPEG")
    return [
        _zip({"a.png": png, "b.jpg": jpeg}, zipfile.ZIP_STORED),
        png,
        jpeg,
        _zip({"top/cat/a.png": png, "top/dog/b.jpg": jpeg, "top/dog/c.gif": b"", "top/notes.txt": b"x"}),
    ]


def npz(arrays, save=np.savez):
    """Returns `.npz` bytes."""
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


def _npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _checkpoints():
    arrays = {"model/0000/step": np.int64(3), "generator/0000/kernel": np.ones((2, 3), np.float32)}
    return [npz(arrays), *map(_npy, arrays.values()), _npy(np.array(["text"])), _npy(np.zeros(2, "i4,f8"))]


@functools.cache
def _state_dict():
    with zipfile.ZipFile(REFERENCE / "state_dict_zip.pth") as archive:
        return {f"archive/{name.partition('/')[2]}": archive.read(name) for name in archive.namelist()}


def _weights():
    arrays = {"conv": {"kernel": np.ones((2, 3), np.float32)}, "step": np.arange(3)}
    return [
        pickle.dumps(arrays, 2), pickle.dumps(arrays, 5), npz({"a/b": np.ones(3)}), npz({"a": np.ones(9)}, np.savez_compressed),
        _npy(np.ones((2, 3), "<f2")), STATE + _state_dict()["archive/data.pkl"],
        (REFERENCE / "state_dict_zip.pth").read_bytes(), (REFERENCE / "state_dict_legacy.pth").read_bytes(),
    ]  # fmt: skip
