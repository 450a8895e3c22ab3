"""The cases of `benchmarks.worker` in PyTorch. Each returns `(step, facts)`."""

import itertools
from pathlib import Path

import numpy as np
import torch

from benchmarks.figures import features
from benchmarks.twins import training


def train(twin, side, batch_size, threads, variant="eager", base_filters=None, count_flops=False):
    """A training step: `variant` is eager, channels_last, or compile (with the channels last)."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    step = training.make(twin, side, base_filters)
    facts = {"parameters": {name: training.count_parameters(network) for name, network in step.networks.items()}}
    updates = getattr(step, "discriminator_steps", 1)
    count = batch_size * updates
    images = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (count, 3, side, side)).astype(np.float32))
    if count_flops:
        few = 2 * updates  # batch norm wants two
        facts["flops"] = training.count_flops(step, images[:few]) / few * count
    if variant != "eager":
        training.to_channels_last(step)
        images = images.to(memory_format=torch.channels_last)
    if variant == "compile":
        step.compile()
    return lambda: step(images), facts


def matrix_product(threads, size=2048):
    """A product of two square float32 matrices: what the machine can do."""
    torch.set_num_threads(threads)
    a, b = torch.randn(size, size), torch.randn(size, size)

    def step():
        torch.mm(a, b)

    return step, {"flops": 2 * size**3}


def neighbours(metric, count, dimension, threads, dtype):
    """A metric of nearest neighbours by torch.cdist, on the features that `benchmarks.ours` has."""
    from benchmarks.neighbour_metrics import metrics
    from benchmarks.twins.neighbours import inside, nearest

    torch.set_num_threads(threads)
    real, fake = (torch.from_numpy(features(count, dimension, seed)).to(getattr(torch, dtype)) for seed in (0, 1))
    return lambda: metrics(metric, real, fake, nearest, inside), {"dtype": dtype}


def extract(count, side, batch_size, threads, variant):
    """Features of uint8 images by the twin of EfficientNet-Lite0, its weights random; `variant` as for `train`."""
    from benchmarks.twins.efficientnet import EfficientNetLite0

    torch.set_num_threads(threads)
    network = EfficientNetLite0().eval()
    if variant != "eager":
        network.to(memory_format=torch.channels_last)
    run = torch.compile(network) if variant == "compile" else network
    seeds = itertools.count()

    @torch.inference_mode()
    def step():
        images = np.random.default_rng(next(seeds)).integers(0, 256, (count, side, side, 3), np.uint8)
        for batch in torch.from_numpy(images).permute(0, 3, 1, 2).split(batch_size):
            run(batch)

    return step, {"images": count, "parameters": training.count_parameters(network)}


def load_images(folder, side, batch_size, workers):
    """An epoch of a folder by a DataLoader with worker processes."""
    from benchmarks.twins.folder import Folder

    loader = torch.utils.data.DataLoader(
        Folder(folder, side), batch_size, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True
    )
    return lambda: {"images": sum(len(batch) for batch in loader)}, {}


def first_image(folder, threads, base_filters):
    """Reads a generator's weights and draws one image into a file."""
    from PIL import Image

    from benchmarks.twins import sngan

    torch.set_num_threads(threads)
    path = Path(folder) / "generator.pt"
    if not path.exists():
        torch.save(sngan.cnn_generator(32, base_filters=base_filters).state_dict(), path)

    @torch.inference_mode()
    def step():
        network = sngan.cnn_generator(32, base_filters=base_filters).eval()
        network.load_state_dict(torch.load(path, weights_only=True))
        image = network(torch.randn(1, 128))[0].permute(1, 2, 0)
        pixels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
        Image.fromarray(pixels).save(Path(folder) / "torch.png")

    return step, {}
