"""Writes state dicts in PyTorch's zip format without PyTorch, as `torch.save` lays them out."""

import collections
import io
import pickle
import sys
import types
import zipfile
from unittest import mock

import numpy as np


def write_state_dict(path, state):
    """Writes `{name: float32 array}`."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def rebuild():
        raise NotImplementedError

    rebuild.__module__, rebuild.__name__, rebuild.__qualname__ = (
        "torch._utils",
        "_rebuild_tensor_v2",
        "_rebuild_tensor_v2",
    )
    utils._rebuild_tensor_v2 = rebuild
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
    storages = []

    class Storage:
        def __init__(self, array):
            self.array, self.key = array, str(len(storages))
            storages.append(self)

    class Tensor:
        def __init__(self, array):
            self.storage, self.shape = Storage(array), array.shape
            self.strides = tuple(stride // 4 for stride in array.strides)

        def __reduce__(self):
            return rebuild, (self.storage, 0, self.shape, self.strides, False, collections.OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if isinstance(value, Storage):
                return ("storage", torch.FloatStorage, value.key, "cpu", value.array.size)
            return None

    stream = io.BytesIO()
    tensors = {name: Tensor(np.ascontiguousarray(array, np.float32)) for name, array in state.items()}
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        Pickler(stream, protocol=2).dump(collections.OrderedDict(tensors))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/byteorder", "little")
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.array.tobytes())
        archive.writestr("archive/version", "3\n")
