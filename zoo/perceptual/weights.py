"""Weight files of other frameworks as NumPy arrays, without those frameworks and without executing what a file names.

Reads PyTorch state dicts (the zip format and the legacy one), NumPy pickles and `.npz`. A pickle is a program: here it
may use only the instructions of `_OPCODES` and call only the stand-ins of `_ADMITTED`, which record what tensor is meant;
everything else is refused. What is read takes at most `_MOST_TIMES` the bytes of the file.
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
_MOST_DIMENSIONS = 64
# A file may name one array a thousand times, or hold zeros that were packed a thousandfold.
_MOST_TIMES, _LEAST_BYTES = 16, 2**26
_NODE_BYTES = 100  # what a name costs beside its letters
_LONGEST_REASON = 500


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
            most_bytes = max(_LEAST_BYTES, _MOST_TIMES * os.fstat(file.fileno()).st_size)
            if start == b"PK\x03\x04":
                tree = _read_zip(file, most_bytes)
            elif start[:1] == b"\x80":
                tree = _read_pickle(file)
            else:
                raise WeightsError("it is neither a pickle nor a zip archive")
            arrays = _arrays(tree, most_bytes)
    except Exception as error:  # a damaged or hostile pickle can raise anything
        reason = str(error)[:_LONGEST_REASON] or type(error).__name__
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


def _arrays(tree, most_bytes):
    """Returns `{name: array}` of nested dictionaries, each array a copy."""
    arrays, waiting, spent = {}, [("", tree)], 0
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            spent += sum(_NODE_BYTES + len(name) + len(str(key)) for key in value)
        elif isinstance(value, (_Tensor, _Array)):
            spent += value.num_bytes()
        if spent > most_bytes:
            raise WeightsError(f"its arrays and their names would take more than {most_bytes:,} bytes")
        if isinstance(value, dict):
            children = [(f"{name}/{key}" if name else str(key), child) for key, child in value.items()]
            waiting += reversed(children)
        elif isinstance(value, (_Tensor, _Array)):
            arrays[name] = value.materialize()
        elif isinstance(value, np.ndarray):
            arrays[name] = value
    return arrays


# ---- what a pickle may name -----------------------------------------------------------------------------------------


def _shape(sizes):
    sizes = tuple(map(int, sizes))
    if len(sizes) > _MOST_DIMENSIONS or min(sizes, default=0) < 0:
        raise WeightsError("an array of impossible shape")
    return sizes


class _Storage:
    """The numbers behind one or several tensors, known by name before they are read."""

    def __init__(self, dtype, key, count):
        self.dtype, self.key, self.count, self.values = np.dtype(dtype), key, count, None


class _Tensor:
    """A view of a storage: `torch._utils._rebuild_tensor_v2`, which the pickle calls, makes one of these instead."""

    def __init__(self, storage, offset, size, stride):
        if not isinstance(storage, _Storage):
            raise WeightsError("a tensor without a storage")
        self.storage, self.offset = storage, int(offset)
        self.size, self.stride = _shape(size), _shape(stride)

    def num_bytes(self):
        values, count = self.storage.values, math.prod(self.size)
        if values is None or len(values) != self.storage.count:
            raise WeightsError(f"storage {self.storage.key} is missing or incomplete")
        if len(self.size) != len(self.stride) or self.offset < 0:
            raise WeightsError("a tensor of impossible shape")
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.size, self.stride))
        if count and (last >= len(values) or count > len(values)):
            raise WeightsError(f"a tensor of shape {self.size} reaches beyond its storage of {len(values)} numbers")
        return count * values.itemsize

    def materialize(self):
        values = self.storage.values
        if not self.num_bytes():
            return np.zeros(self.size, values.dtype)
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
        self.name = name if isinstance(name, str) else ""
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
        self.content = None

    def __setstate__(self, state):
        _, shape, dtype, self.fortran_order, content = state
        if not isinstance(dtype, _DType) or not isinstance(content, bytes):
            raise WeightsError("an array of objects, not numbers")
        self.dtype, self.shape, self.content = dtype.numpy(), _shape(shape), content
        if len(content) != math.prod(self.shape) * self.dtype.itemsize:
            raise WeightsError(f"an array of shape {self.shape} with {len(content)} bytes")

    def num_bytes(self):
        if self.content is None:
            raise WeightsError("an array without content")
        return len(self.content)

    def materialize(self):
        values = np.frombuffer(self.content, self.dtype).reshape(self.shape, order="F" if self.fortran_order else "C")
        return np.array(values, self.dtype.newbyteorder("="), order="C")


class _Dictionary(dict):
    """A dictionary, or `collections.OrderedDict`; the attributes that torch hangs on it (`_metadata`) are dropped."""

    def __init__(self, pairs=()):
        super().__init__()
        for key, value in pairs:
            self[key] = value

    def __setitem__(self, key, value):
        # Tuples can be built so that to hash one takes for ever.
        if not isinstance(key, (str, int)):
            raise WeightsError(f"a name that is no text: a {type(key).__name__}")
        super().__setitem__(key, value)

    def __setstate__(self, state):
        pass


def _rebuild_tensor(storage, offset, size, stride, *ignored):
    return _Tensor(storage, offset, size, stride)


def _rebuild_parameter(tensor, *ignored):
    return tensor


def _frombuffer(content, dtype, shape, order):
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", content))
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


# What picklers write for tensors, arrays and dictionaries from protocol 2 on.
_OPCODES = (
    "PROTO FRAME STOP MARK POP POP_MARK MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET NONE NEWTRUE NEWFALSE BININT BININT1 "
    "BININT2 LONG1 LONG4 BINFLOAT BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BINUNICODE SHORT_BINUNICODE "
    "BINUNICODE8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS SETITEM SETITEMS GLOBAL STACK_GLOBAL "
    "REDUCE BINPERSID"
).split()


class _Instructions(dict):
    def __missing__(self, opcode):
        raise WeightsError(f"it holds the instruction {bytes([opcode])!r}, which weights have no use for")


class _RestrictedUnpickler(pickle._Unpickler):
    """The unpickler in Python: that in C sets aside as much memory as the number of a place in its memo says."""

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
        plain = isinstance(key, (str, int)) and type(count) is int
        if not plain or kind != "storage" or dtype not in _STORAGES.values() or any(part is not None for part in view):
            raise WeightsError("an unknown kind of storage")
        storage = self.storages.setdefault(str(key), _Storage(dtype, str(key), count))
        if (storage.dtype, storage.count) != (np.dtype(dtype), count):
            raise WeightsError(f"storage {key} is described in two ways")
        return storage

    def _empty_dictionary(self):
        self.append(_Dictionary())

    def _build(self):
        state = self.stack.pop()
        # Others, such as the functions of `_ADMITTED`, would take any attribute.
        if not isinstance(self.stack[-1], (_Array, _DType, _Dictionary)):
            raise WeightsError(f"it changes a {type(self.stack[-1]).__name__}")
        self.stack[-1].__setstate__(state)

    dispatch = _Instructions(
        {getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in _OPCODES}
        | {
            pickle.EMPTY_DICT[0]: _empty_dictionary,
            pickle.BUILD[0]: _build,
            # Not as a bytearray, which would be as large as it says before it is read.
            pickle.BYTEARRAY8[0]: pickle._Unpickler.load_binbytes8,
        }
    )


# ---- containers -----------------------------------------------------------------------------------------------------


def _read_zip(file, most_bytes):
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if sum(entry.file_size for entry in archive.infolist()) > most_bytes:
            raise WeightsError(f"unpacked, it would take more than {most_bytes:,} bytes")
        if names and all(name.endswith(".npy") for name in names):
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                tree = {name: arrays[name] for name in arrays.files}
            if any(array.dtype.char not in _PLAIN_DTYPES for array in tree.values()):
                raise WeightsError("it holds arrays of something else than numbers")
            return tree
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
    if not isinstance(tree, int) or tree != _LEGACY_MAGIC:
        return tree
    # torch.save before 1.6: magic number, version, machine, the state dict, the order of storages, then each one.
    version, machine = _RestrictedUnpickler(file).load(), _RestrictedUnpickler(file).load()
    little_endian = machine.get("little_endian", True) if isinstance(machine, dict) else False
    if type(version) is not int or version != _LEGACY_PROTOCOL or little_endian is not True:
        raise WeightsError("PyTorch's legacy format, but not of this version or not little-endian")
    unpickler = _RestrictedUnpickler(file)
    tree = unpickler.load()
    size = os.fstat(file.fileno()).st_size
    for key in _RestrictedUnpickler(file).load():
        storage = unpickler.storages[key if isinstance(key, str) else str(int(key))]
        num_bytes = 8 + storage.count * storage.dtype.itemsize
        content = file.read(num_bytes) if 8 <= num_bytes <= size else b""
        if len(content) != num_bytes or int.from_bytes(content[:8], "little") != storage.count:
            raise WeightsError(f"storage {key} is incomplete")
        storage.values = np.frombuffer(content, storage.dtype, offset=8)
    return tree
