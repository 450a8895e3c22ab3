"""Weights of a DCGAN that PyTorch or Keras 2 trained, in Keras' layout, read without either.

Two networks are known: the PyTorch tutorial's DCGAN (a state dict; here `dcgan`, variant torch64) and the 32 px generator of
the Keras tutorials (an `.h5`; variant keras32). Width, latent size, channels and side are read off the shapes. What the
files name is not run: a state dict goes through `zoo.perceptual.weights`, and of an `.h5` only the arrays are taken.
"""

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np

from zoo.perceptual.weights import WeightsError, from_torch, read_weights

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
SHOWN = 6  # names of each kind in a message
MOST_TIMES = 16  # the bytes of an array for a byte in the file, which may be compressed


@dataclasses.dataclass(frozen=True)
class Weights:
    """One network's weights, and what their shapes say of it.

    Args:
        path: The file.
        kind: `generator` or `discriminator`.
        format: What the file is, in words.
        variant: Of `dcgan`.
        side: Of the images, pixels.
        channels: Of the images.
        base_filters: Width.
        latent_dim: Size of z; `None` of a discriminator.
        arrays: `(name in the file, name of the variable, array in Keras' layout)`, in the order of the network.
        note: What the file leaves open, for the user.
    """

    path: Path
    kind: str
    format: str
    variant: str
    side: int
    channels: int
    base_filters: int
    latent_dim: int | None
    arrays: tuple
    note: str = ""

    def shape_in_file(self, shape):
        """Returns the shape that an array of Keras' layout has in the file."""
        is_torch_kernel = len(shape) == 4 and self.variant == "torch64"
        return (shape[3], shape[2], *shape[:2]) if is_torch_kernel else tuple(shape)

    def __str__(self):
        latent = "" if self.latent_dim is None else f", latent size {self.latent_dim}"
        return (
            f"{self.path.name}: {self.format}, {self.kind} of dcgan ({self.variant}), {self.side} px, "
            f"{self.channels} channels, base_filters {self.base_filters}{latent}"
        )


def read(path, kind="generator"):
    """Reads a network's weights from a PyTorch state dict or a Keras 2 `.h5`, told apart by content.

    Args:
        path: The file.
        kind: `generator` or `discriminator`.

    Returns:
        `Weights`.

    Raises:
        WeightsError: If the file is damaged, of another format or of another network; it says what was found.
    """
    path = Path(path)
    with path.open("rb") as file:
        is_hdf5 = file.read(len(HDF5_MAGIC)) == HDF5_MAGIC
    if not is_hdf5:
        return read_torch(path, kind)
    if kind != "generator":
        raise WeightsError(f"{path} is an HDF5 file: of those the generator alone is read. Leave the {kind} out.")
    return read_keras(path)


# ---- PyTorch --------------------------------------------------------------------------------------------------------


def torch_names(kind, num_convolutions):
    """Returns the names in the tutorial's `nn.Sequential`, in order: convolutions, batch norms; activations have none."""
    names = []
    for index in range(num_convolutions):
        is_first, is_last = index == 0, index == num_convolutions - 1
        # (convolution, batch norm, activation) each; the discriminator's first block has no batch norm.
        position = 3 * index if kind == "generator" else max(0, 3 * index - 1)
        names.append(f"{position}.weight")
        if not is_last and not (is_first and kind == "discriminator"):
            leaves = ("weight", "bias", "running_mean", "running_var")
            names += [f"{position + 1}.{leaf}" for leaf in leaves]
    return names


def read_torch(path, kind):
    """Reads the state dict of the tutorial's generator or discriminator; see `read`.

    The names may have any prefix, such as `main.`, `module.main.` (of `nn.DataParallel`) or none.
    """
    try:
        arrays = read_weights(path)
    except WeightsError as error:
        raise WeightsError(f"{error} A state dict is what torch.save(network.state_dict(), FILE) writes.") from None
    num_convolutions = max(2, sum(array.ndim == 4 for array in arrays.values()))
    names = torch_names(kind, num_convolutions)
    prefix = next((name.removesuffix("0.weight") for name in arrays if re.search(r"(^|[./])0\.weight$", name)), "")
    found = {name.removeprefix(prefix): name for name in arrays if not name.endswith("num_batches_tracked")}
    if set(names) != set(found):
        raise WeightsError(_wrong_names(path, kind, names, found, num_convolutions))
    arrays = from_torch({short: arrays[name] for short, name in found.items()})
    if arrays[names[0]].ndim != 4 or arrays[names[-1]].ndim != 4:
        raise WeightsError(f"{found[names[0]]} and {found[names[-1]]} of {path} must be kernels of convolutions.")
    # Kernels are [height, width, in, out] now, and of the generator, whose are transposed, [height, width, out, in].
    ends = [arrays[name].shape[2:] for name in (names[0], names[-1])]
    if kind == "generator":
        (_, latent_dim), (channels, base_filters) = ends
    else:
        latent_dim, (channels, base_filters) = None, ends[0]
    return Weights(
        path=path,
        kind=kind,
        format="PyTorch state dict",
        variant="torch64",
        side=4 << (num_convolutions - 1),
        channels=channels,
        base_filters=base_filters,
        latent_dim=latent_dim,
        arrays=tuple((found[name], _variable_name(name, arrays[name]), arrays[name]) for name in names),
    )


def _variable_name(name, array):
    leaves = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    return "kernel" if array.ndim == 4 else leaves[name.rpartition(".")[2]]


def _wrong_names(path, kind, expected, found, num_convolutions):
    """Returns the message for names, `{without prefix: in the file}`, that are not those of the network."""
    missing = [name for name in expected if name not in found]
    surplus = [found[name] for name in found if name not in expected]
    other, option = "generator", "--from"
    if kind == "generator":
        other, option = "discriminator", "--discriminator, beside a generator"
    is_other = set(found) == set(torch_names(other, num_convolutions))
    return (
        f"{path} is not the state dict of the PyTorch tutorial's DCGAN {kind}. Expected: {_listed(expected)}, all with the "
        f"same prefix. Missing: {_listed(missing) or 'none'}. Not of it: {_listed(surplus) or 'none'}."
        + (f" It is a {other}: give it with {option}." if is_other else "")
    )


def _listed(names):
    return ", ".join(names[:SHOWN]) + (f" ... ({len(names)})" if len(names) > SHOWN else "")


# ---- Keras 2 --------------------------------------------------------------------------------------------------------

_BLOCK = ["Conv2DTranspose", "BatchNormalization", "LeakyReLU"]
# What the weights do not tell, where the file holds the whole model. Keras 3 calls alpha `negative_slope`.
_SETTINGS = {
    "Dense": {"activation": "linear"},
    "LeakyReLU": {"alpha": 0.2, "negative_slope": 0.2},
    "Conv2DTranspose": {"strides": [2, 2], "padding": "same", "activation": "linear"},
    "BatchNormalization": {"epsilon": 0.001},
    "Conv2D": {"strides": [1, 1], "padding": "same", "activation": "tanh"},
}


def read_keras(path):
    """Reads the generator from an `.h5` that Keras 2 wrote with `save` or `save_weights`; see `read`."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            arrays = tuple(_keras_arrays(file))
            num_doublings = _count_doublings(arrays)
            layers = _layers_of_config(file.attrs.get("model_config"))
            if layers is not None:
                _check_layers(layers, num_doublings)
    except WeightsError as error:
        raise WeightsError(f"{path} is not a generator that can be read: {error}.") from None
    except Exception as error:  # a damaged or hostile file can raise anything
        reason = str(error) or type(error).__name__
        raise WeightsError(f"{path} cannot be read (truncated, altered, or not of Keras 2): {reason}.") from None
    dense, last = arrays[0][2], arrays[-2][2]
    return Weights(
        path=path,
        kind="generator",
        format="Keras 2 weights" if layers is None else "Keras 2 model",
        variant="keras32",
        side=4 << num_doublings,
        channels=last.shape[3],
        base_filters=max(1, dense.shape[1] // 64),  # 4 x 4 places of 4 base_filters
        latent_dim=dense.shape[0],
        arrays=arrays,
        note=""
        if layers
        else f"{path.name} holds weights alone: LeakyReLU's slope .2, batch norm's epsilon .001 assumed",
    )


def _count_doublings(arrays):
    names = [name for _, name, _ in arrays]
    num_doublings = names.count("kernel") - 2  # a dense start, and a convolution at the end
    block = ["kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"]
    ranks = [array.ndim for _, name, array in arrays if name == "kernel"]
    as_expected = names == ["kernel", "bias", *block * num_doublings, "kernel", "bias"]
    if not as_expected or ranks != [2] + [4] * (num_doublings + 1):
        raise WeightsError(
            "it must hold a Dense layer, a Conv2DTranspose and a BatchNormalization for each doubling, and a Conv2D, all "
            f"with biases. Received: {_listed([source for source, _, _ in arrays]) or 'no weights'}"
        )
    return num_doublings


def _keras_arrays(file):
    """Yields `(name in the file, name of the variable, array)`, layer by layer."""
    root = _own(file, "model_weights") if "model_weights" in file else file
    if "layer_names" not in root.attrs:
        raise WeightsError("it has no list of layers, layer_names, which Keras 2 writes")
    for layer in map(_text, root.attrs["layer_names"]):
        group = _own(root, layer)
        for name in map(_text, group.attrs["weight_names"]):
            dataset = _own(group, name)
            # Numbers that lie in this file, and as many as it says.
            stored = dataset.id.get_storage_size()
            is_stored = stored and dataset.nbytes <= MOST_TIMES * stored
            if dataset.dtype.kind != "f" or dataset.external or dataset.is_virtual or not is_stored:
                raise WeightsError(f"{layer}/{name} is not an array of floats stored in the file")
            yield f"{layer}/{name}", name.rpartition("/")[2].partition(":")[0], np.asarray(dataset)


def _own(group, name):
    """Returns what lies at `name` below `group`, refusing links, which may lead into other files."""
    import h5py

    for part in filter(None, name.split("/")):
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise WeightsError(f"{group.name.rstrip('/')}/{part} is missing, or a link to elsewhere")
        group = group[part]
    return group


def _text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def _layers_of_config(text):
    """Returns `(class, settings)` of each layer of a saved model, `None` where the file holds weights alone."""
    if text is None:
        return None
    config = json.loads(_text(text))["config"]
    layers = config["layers"] if isinstance(config, dict) else config
    return [
        (each["class_name"], each["config"]) for each in layers if each["class_name"] not in ("InputLayer", "Dropout")
    ]


def _check_layers(layers, num_doublings):
    expected = ["Dense", "LeakyReLU", "Reshape", *_BLOCK * num_doublings, "Conv2D"]
    received = [kind for kind, _ in layers]
    if received != expected:
        raise WeightsError(f"its layers must be {', '.join(expected)}. Received: {', '.join(received)}")
    for kind, settings in layers:
        for key, value in _SETTINGS.get(kind, {}).items():
            received = settings.get(key, value)
            same = math.isclose(received, value, rel_tol=1e-6) if isinstance(value, float) else received == value
            if not same:
                raise WeightsError(f"`{key}` of its {kind} must be {value!r}. Received: {received!r}")
