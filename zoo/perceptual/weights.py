"""Weight files of other frameworks as NumPy arrays, without those frameworks and without executing what a file names.

Reads PyTorch state dicts (the zip format and the legacy one), NumPy pickles and `.npz`. A pickle is a program: here it
may call only the stand-ins of `_ADMITTED`, which record what tensor is meant; everything else that it names is refused.
"""

import contextlib
import hashlib
import io
import math
import os
import pickle
import re
import tempfile
import urllib.request
import zipfile
from pathlib import Path

import numpy as np

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER
_LEGACY_PROTOCOL = 1001
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_PLAIN_DTYPES = frozenset("?bhilqBHILQefdg")  # numbers: never objects, strings or records


class WeightsError(ValueError):
    """A weight file that is missing, damaged, not the right one, or that tries to run code."""


def read_weights(path):
    """Returns the arrays of a weight file as `{name: array}`; names of nested levels are joined by "/".

    Args:
        path: `.npz`, a PyTorch state dict (`torch.save`, both formats), or a pickle of NumPy arrays. Told apart by
            content, not by name.

    Raises:
        WeightsError: If the file is missing, damaged, of another format, or names a global that is not admitted.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"There is no weight file {path}.")
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if start == b"PK\x03\x04":
                tree = _read_zip(file)
            elif start[:1] == b"\x80":
                tree = _read_pickle(file)
            else:
                raise WeightsError("it is neither a pickle nor a zip archive")
            arrays = dict(_leaves(tree))
    except Exception as error:  # a damaged or hostile pickle can raise anything
        reason = str(error) or type(error).__name__
        raise WeightsError(
            f"{path} cannot be read as weights (truncated, altered or of another format): {reason}."
        ) from None
    if not arrays:
        raise WeightsError(f"{path} holds no arrays.")
    return arrays


def file_sha256(path):
    """Returns the SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path, expected, option):
    """Raises WeightsError unless the file's SHA-256 is `expected`; returns it.

    Args:
        path: the file.
        expected: hexadecimal, the whole or its beginning, at least 8 digits.
        option: how the user states another hash, for the message.
    """
    if not Path(path).is_file():
        raise WeightsError(f"There is no weight file {path}.")
    received = file_sha256(path)
    if len(expected) < 8 or not received.startswith(expected.lower()):
        raise WeightsError(
            f"{path} is not the expected file. Expected sha256: {expected}. Received: {received}. If you trust this file, "
            f"say so with {option}."
        )
    return received


def array_hash(arrays):
    """Returns the SHA-256 of named arrays, hexadecimal: equal for equal weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        digest.update(array.data.cast("B") if array.size else b"")
    return digest.hexdigest()


def cache_root(cache_dir=None):
    """The folder of all caches: `cache_dir`, or $ZOO_CACHE, or ~/.cache/keras-image-zoo."""
    return Path(cache_dir or os.environ.get("ZOO_CACHE") or Path.home() / ".cache" / "keras-image-zoo")


@contextlib.contextmanager
def written_atomically(path):
    """Yields a file beside `path` that takes its name when the block ends well, and is removed otherwise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def download(url, sha256, option, cache_dir=None):
    """Returns the path of a downloaded file, kept in the cache and checked on every use.

    Raises:
        WeightsError: If it cannot be had (the message names the file, its hash and `option`) or its hash differs.
    """
    path = cache_root(cache_dir) / "weights" / url.rsplit("/", 1)[1]
    if path.is_file():
        check_sha256(path, sha256, option)
        return path
    way_out = f"Fetch it on another machine and name it with {option}."
    try:
        with urllib.request.urlopen(url, timeout=30) as response, written_atomically(path) as file:
            digest = hashlib.sha256()
            while chunk := response.read(2**20):
                digest.update(chunk)
                file.write(chunk)
            if digest.hexdigest() != sha256:
                raise WeightsError(
                    f"{url} is not the expected file. Expected sha256: {sha256}. Received: {digest.hexdigest()}. {way_out}"
                )
    except OSError as error:
        raise WeightsError(
            f"{path.name} (sha256 {sha256}) could not be downloaded from {url}: {error}. {way_out}"
        ) from None
    return path


def from_torch(arrays):
    """Returns a PyTorch state dict in Keras' layout: kernels HWIO (depthwise HWIM), dense weights `[in, out]`.

    Names lose the underscores that begin their parts; `num_batches_tracked` is dropped, which inference does not use.
    """
    converted = {}
    for name, array in arrays.items():
        if name.endswith("num_batches_tracked"):
            continue
        if array.ndim == 4:
            array = array.transpose((2, 3, 0, 1) if "depthwise" in name else (2, 3, 1, 0))
        elif array.ndim == 2:
            array = array.T
        converted[re.sub(r"(^|\.)_", r"\1", name)] = np.ascontiguousarray(array)
    return converted


def assign(model, arrays, source):
    """Gives a Keras model the arrays `LAYER.weight`, `.bias`, `.running_mean`, `.running_var`, every one of them.

    Raises:
        WeightsError: If one is missing, left over, not finite, or of another shape than the layer's.
    """
    remaining = dict(arrays)
    for layer in model.layers:
        for variable in layer.weights:
            name = f"{layer.name}.{_SUFFIXES[variable.name]}"
            if name not in remaining:
                raise WeightsError(f"{source} holds no {name!r}: it is not of the network {model.name!r}.")
            array = remaining.pop(name)
            if tuple(variable.shape) != array.shape:
                raise WeightsError(
                    f"{name!r} of {source} must have shape {tuple(variable.shape)}. Received: {array.shape}."
                )
            if not np.isfinite(array).all():
                raise WeightsError(f"{name!r} of {source} must be finite. Received: NaN or infinity.")
            variable.assign(array)
    if remaining:
        raise WeightsError(
            f"{source} holds arrays that {model.name!r} has no place for: {', '.join(sorted(remaining)[:5])}."
        )


# Keras' names of variables -> PyTorch's.
_SUFFIXES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def _leaves(tree, prefix=""):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}/{key}" if prefix else str(key))
    elif isinstance(tree, (_Tensor, _Array)):
        yield prefix, tree.materialize()
    elif isinstance(tree, np.ndarray):
        yield prefix, tree


# ---- what a pickle may name -----------------------------------------------------------------------------------------


class _Storage:
    """The numbers behind one or several tensors, known by name before they are read."""

    def __init__(self, dtype, key, count):
        self.dtype, self.key, self.count, self.values = np.dtype(dtype), str(key), int(count), None


class _Tensor:
    """A view of a storage: `torch._utils._rebuild_tensor_v2`, which the pickle calls, makes one of these instead."""

    def __init__(self, storage, offset, size, stride):
        if not isinstance(storage, _Storage):
            raise WeightsError("a tensor without a storage")
        self.storage, self.offset = storage, int(offset)
        self.size, self.stride = tuple(map(int, size)), tuple(map(int, stride))

    def materialize(self):
        values, count = self.storage.values, math.prod(self.size)
        if values is None or len(values) != self.storage.count:
            raise WeightsError(f"storage {self.storage.key} is missing or incomplete")
        if len(self.size) != len(self.stride) or min((self.offset, *self.size, *self.stride)) < 0:
            raise WeightsError("a tensor of impossible shape")
        if count == 0:
            return np.zeros(self.size, values.dtype)
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.size, self.stride))
        if last >= len(values) or count > len(values):
            raise WeightsError(f"a tensor of shape {self.size} reaches beyond its storage of {len(values)} numbers")
        strides = [stride * values.itemsize for stride in self.stride]
        # A copy: independent of the storage, contiguous, in the machine's byte order.
        return np.array(
            np.lib.stride_tricks.as_strided(values[self.offset :], self.size, strides),
            values.dtype.newbyteorder("="),
            order="C",
        )


class _DType:
    """`numpy.dtype`: the name, and by `__setstate__` the byte order."""

    def __init__(self, name, align=False, copy=True):
        self.name = str(name)
        self.order = "="

    def __setstate__(self, state):
        self.order = state[1]

    def numpy(self):
        dtype = np.dtype(self.name) if self.name.isalnum() else None
        if dtype is None or dtype.char not in _PLAIN_DTYPES or self.order not in ("<", ">", "=", "|"):
            raise WeightsError(f"arrays of {self.name!r}, not numbers")
        return dtype if self.order == "|" else dtype.newbyteorder(self.order)


class _Array:
    """A NumPy array: `numpy.core.multiarray._reconstruct` makes one empty, `__setstate__` gives shape, type and bytes."""

    def __init__(self, *ignored):
        self.state = None

    def __setstate__(self, state):
        self.state = state

    def materialize(self):
        if self.state is None:
            raise WeightsError("an array without content")
        _, shape, dtype, fortran_order, content = self.state
        if not isinstance(dtype, _DType) or not isinstance(content, (bytes, bytearray)):
            raise WeightsError("an array of objects, not numbers")
        dtype, shape = dtype.numpy(), tuple(map(int, shape))
        if min(shape, default=0) < 0 or len(content) != math.prod(shape) * dtype.itemsize:
            raise WeightsError(f"an array of shape {shape} with {len(content)} bytes")
        values = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran_order else "C")
        return np.array(values, dtype.newbyteorder("="), order="C")


class _Dictionary(dict):
    """`collections.OrderedDict`; the attributes that torch hangs on it (`_metadata`) are dropped."""

    def __setstate__(self, state):
        pass


def _rebuild_tensor(storage, offset, size, stride, *ignored):
    return _Tensor(storage, offset, size, stride)


def _rebuild_parameter(tensor, *ignored):
    return tensor


def _frombuffer(content, dtype, shape, order):
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", bytes(content)))
    return array


def _encode(text, encoding):
    # How protocol 2 writes bytes.
    if not isinstance(text, str) or encoding != "latin1":
        raise WeightsError("_codecs.encode of something else than bytes")
    return text.encode("latin1")


def _array_type():
    raise WeightsError("numpy.ndarray is called")  # it is only ever an argument of _reconstruct


_ADMITTED = {
    "collections.OrderedDict": _Dictionary,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "numpy.ndarray": _array_type,
    "numpy.dtype": _DType,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy._core.numeric._frombuffer": _frombuffer,
    "_codecs.encode": _encode,
} | {f"torch.{name}": dtype for name, dtype in _STORAGES.items()}


class _RestrictedUnpickler(pickle.Unpickler):
    def __init__(self, file):
        super().__init__(file, encoding="latin1")
        self.storages = {}

    def find_class(self, module, name):
        try:
            return _ADMITTED[f"{module}.{name}"]
        except KeyError:
            raise WeightsError(
                f"it names {module}.{name}, which weights have no use for and which was not run. Only tensors, NumPy arrays "
                f"and dictionaries of them are read"
            ) from None

    def persistent_load(self, identifier):
        kind, dtype, key, _, count, *view = identifier
        if kind != "storage" or dtype not in _STORAGES.values() or any(part is not None for part in view):
            raise WeightsError(f"an unknown kind of storage: {identifier!r}"[:200])
        storage = self.storages.setdefault(str(key), _Storage(dtype, key, count))
        if (storage.dtype, storage.count) != (np.dtype(dtype), count):
            raise WeightsError(f"storage {key} is described in two ways")
        return storage


# ---- containers -----------------------------------------------------------------------------------------------------


def _read_zip(file):
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if names and all(name.endswith(".npy") for name in names):
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise WeightsError("a zip archive, but neither .npz nor a PyTorch state dict")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise WeightsError("its numbers are big-endian")
        unpickler = _RestrictedUnpickler(io.BytesIO(archive.read(pickles[0])))
        tree = unpickler.load()
        for key, storage in unpickler.storages.items():
            entry = archive.getinfo(f"{folder}data/{key}")
            if entry.file_size != storage.count * storage.dtype.itemsize:
                raise WeightsError(f"storage {key} has {entry.file_size} bytes for {storage.count} numbers")
            storage.values = np.frombuffer(archive.read(entry), storage.dtype)
    return tree


def _read_pickle(file):
    unpickler = _RestrictedUnpickler(file)
    tree = unpickler.load()
    if tree != _LEGACY_MAGIC:
        return tree
    # torch.save before 1.6: magic number, version, machine, the state dict, the order of storages, then each one.
    version, machine = _RestrictedUnpickler(file).load(), _RestrictedUnpickler(file).load()
    if version != _LEGACY_PROTOCOL or not machine.get("little_endian", True):
        raise WeightsError(f"PyTorch's legacy format {version}, {machine}")
    unpickler = _RestrictedUnpickler(file)
    tree = unpickler.load()
    size = os.fstat(file.fileno()).st_size
    for key in _RestrictedUnpickler(file).load():
        storage = unpickler.storages[str(key)]
        num_bytes = 8 + storage.count * storage.dtype.itemsize
        content = file.read(num_bytes) if 8 <= num_bytes <= size else b""
        if len(content) != num_bytes or int.from_bytes(content[:8], "little") != storage.count:
            raise WeightsError(f"storage {key} is incomplete")
        storage.values = np.frombuffer(content, storage.dtype, offset=8)
    return tree
