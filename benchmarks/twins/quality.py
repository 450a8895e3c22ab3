"""The twins trained for so many steps: the same images in the same order, the same recipe, draws of PyTorch's own."""

import numpy as np
import torch
from torch import nn

from benchmarks.figures import batch_indices
from benchmarks.twins import training


def by_steps(images, twin, steps, batch_size, seed, samples, count, threads, base_filters, norm_momentum):
    """Trains on uint8 images (a `.npy` file) for some steps; then `samples` holds `count` images of the average."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    pictures = np.load(images)
    step = training.make(twin, pictures.shape[1], base_filters)
    for network in step.networks.values():
        become_as_keras(network, norm_momentum)
    step.average = training.Average(step.generator)
    training.to_channels_last(step)

    def run():
        logs = {}
        for number in range(steps):
            batch = pictures[batch_indices(len(pictures), batch_size * step.discriminator_steps, number, seed)]
            batch = torch.from_numpy(batch.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
            logs = step(batch.to(memory_format=torch.channels_last))
        step.average.copy.eval()
        with torch.inference_mode():
            parts = [step.average.copy(torch.randn(100, step.latent_dim)) for _ in range(-(-count // 100))]
        drawn = torch.cat(parts)[:count].permute(0, 2, 3, 1)
        np.save(samples, ((drawn + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy())
        return logs

    facts = {"parameters": {name: training.count_parameters(network) for name, network in step.networks.items()}}
    return run, facts


@torch.no_grad()
def become_as_keras(network, norm_momentum):
    """Draws the weights as the layers of Keras do, Glorot's uniform and biases of zero, and has batch norm compute as there."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-3, 1 - norm_momentum
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
