"""Makes gan_torch.npz, dcgan64_generator.pth and dcgan64_discriminator.pth with PyTorch (requirements-torch.txt).

    python tests/reference/make_gan_torch.py

Written from the papers' tables in plain PyTorch, without a look at zoo/: spectral norm, the blocks of FastGAN, DCGAN-64
(the network of the PyTorch tutorial), the adversarial losses, the gradient penalty and R1. All kernels and images in the
file have PyTorch's layout. Names are `CASE/ARRAY`; the blocks' own weights are `CASE/state/NAME`.
"""

import collections
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import seeded  # noqa: E402
import seeded_dcgan  # noqa: E402


def arrays(case, values):
    return {f"{case}/{name}": torch.as_tensor(value).detach().numpy().copy() for name, value in values.items()}


def unit(*shape):
    return F.normalize(torch.randn(shape), dim=0)


# ---- spectral norm --------------------------------------------------------------------------------------------------


def spectral_layers():
    """kind: (layer, input)."""
    return {
        "conv": (nn.Conv2d(4, 5, 3, padding=1), torch.randn(2, 4, 6, 6)),
        "transpose": (nn.ConvTranspose2d(4, 5, 4, 2, 1), torch.randn(2, 4, 3, 3)),
        "dense": (nn.Linear(7, 5), torch.randn(2, 7)),
    }


def spectral_steps():
    """Three steps of SGD on sum(output * cotangent), one power iteration each: Miyato's order, v from u, then u from v."""
    golden = {}
    for kind, (layer, x) in spectral_layers().items():
        layer = spectral_norm(layer, n_power_iterations=1)
        layer.weight_u.copy_(unit(*layer.weight_u.shape))
        layer.weight_v.copy_(unit(*layer.weight_v.shape))
        cotangent = torch.randn(layer(x).shape)
        layer.weight_u.copy_(unit(*layer.weight_u.shape))  # the pass above moved it
        values = {"x": x, "cotangent": cotangent, "weight": layer.weight_orig, "bias": layer.bias, "u": layer.weight_u}
        golden |= arrays(f"spectral_{kind}", values | {"v": layer.weight_v})
        optimizer = torch.optim.SGD([layer.weight_orig], lr=0.01)
        for step in range(3):
            optimizer.zero_grad()
            output = layer(x)
            (output * cotangent).sum().backward()
            values = {
                "output": output,
                "normalized": layer.weight,
                "sigma": (layer.weight_orig / layer.weight).mean(),
                "gradient": layer.weight_orig.grad,
                "u": layer.weight_u,
                "v": layer.weight_v,
            }
            golden |= arrays(f"spectral_{kind}/step_{step}", values)
            optimizer.step()
    return golden


def parametrized_spectral_steps():
    """The newer `parametrizations.spectral_norm`: one power iteration is u from v, then v from u."""
    golden = {}
    for kind, (layer, x) in spectral_layers().items():
        layer = parametrizations.spectral_norm(layer, n_power_iterations=1)
        parametrization = layer.parametrizations.weight[0]
        original = layer.parametrizations.weight.original
        cotangent = torch.randn(layer(x).shape)
        parametrization._v.copy_(unit(*parametrization._v.shape))
        golden |= arrays(
            f"parametrized_{kind}", {"x": x, "cotangent": cotangent, "weight": original, "bias": layer.bias}
        )
        for step in range(3):
            weight = layer.weight  # in training mode this makes one iteration
            values = {"u": parametrization._u, "v": parametrization._v, "sigma": (original / weight).mean()}
            golden |= arrays(f"parametrized_{kind}/step_{step}", values)
        for _ in range(200):
            layer.weight  # noqa: B018
        layer.eval()
        (layer(x) * cotangent).sum().backward()
        values = {"normalized": layer.weight, "sigma": (original / layer.weight).mean(), "gradient": original.grad}
        golden |= arrays(f"parametrized_{kind}/converged", values)
    return golden


# ---- FastGAN (Liu et al. 2021, section 3) ---------------------------------------------------------------------------


def convolution(inputs, outputs, kernel, stride=1, padding=0):
    return spectral_norm(nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False))


class Excitation(nn.Module):
    def __init__(self, small, large):
        super().__init__()
        self.squeeze, self.expand = convolution(small, large, 4), convolution(large, large, 1)

    def forward(self, small, large):
        gate = torch.sigmoid(self.expand(F.silu(self.squeeze(F.adaptive_avg_pool2d(small, 4)))))
        return large * gate


def up_block(inputs, outputs, rows):
    """One row is the plain block. Two are the noisy block while the weight of its noise is 0."""
    layers = [nn.Upsample(scale_factor=2, mode="nearest")]
    for row in range(rows):
        layers += [
            convolution(outputs if row else inputs, 2 * outputs, 3, 1, 1),
            nn.BatchNorm2d(2 * outputs),
            nn.GLU(1),
        ]
    return nn.Sequential(*layers)


class DownBlock(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.main = nn.Sequential(
            convolution(inputs, outputs, 4, 2, 1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2),
            convolution(outputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2),
        )  # fmt: skip
        self.direct = nn.Sequential(
            nn.AvgPool2d(2), convolution(inputs, outputs, 1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)
        )

    def forward(self, x):
        return (self.main(x) + self.direct(x)) / 2


def blocks():
    """Each block with statistics and gammas of its own, in inference and then in training, and its input's gradient."""
    cases = {
        "excitation": (Excitation(6, 5), [torch.randn(2, 6, 8, 8), torch.randn(2, 5, 16, 16)]),
        "up_plain": (up_block(6, 5, 1), [torch.randn(2, 6, 4, 4)]),
        "up_noisy": (up_block(6, 5, 2), [torch.randn(2, 6, 4, 4)]),
        "down": (DownBlock(6, 5), [torch.randn(2, 6, 8, 8)]),
    }
    golden = {}
    for case, (block, inputs) in cases.items():
        for _ in range(3):
            block.train()(*inputs)  # sigma comes near the norm
        for module in block.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.7, 1.4)
                nn.init.normal_(module.bias, 0, 0.3)
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
        state = {name: value for name, value in block.state_dict().items() if not name.endswith("num_batches_tracked")}
        golden |= arrays(f"{case}/state", state)
        golden |= arrays(case, {f"input_{index}": value for index, value in enumerate(inputs)})
        golden |= arrays(case, {"inference": block.eval()(*inputs)})
        inputs = [value.requires_grad_() for value in inputs]
        output = block.train()(*inputs)
        cotangent = torch.randn(output.shape)
        (output * cotangent).sum().backward()
        golden |= arrays(case, {"training": output, "cotangent": cotangent})
        golden |= arrays(case, {f"gradient_{index}": value.grad for index, value in enumerate(inputs)})
        moved = {name: value for name, value in block.state_dict().items() if "running" in name}
        golden |= arrays(f"{case}/moved", moved)
    return golden


# ---- DCGAN-64, the network of the PyTorch tutorial ------------------------------------------------------------------


class Generator(nn.Module):
    def __init__(self, base, latent_dim=100):
        super().__init__()
        layers, widths = [], [8 * base, 4 * base, 2 * base, base]
        for index, width in enumerate(widths):
            inputs, stride, padding = (latent_dim, 1, 0) if index == 0 else (widths[index - 1], 2, 1)
            layers += [
                nn.ConvTranspose2d(inputs, width, 4, stride, padding, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)
            ]  # fmt: skip
        self.main = nn.Sequential(*layers, nn.ConvTranspose2d(base, 3, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, z):
        return self.main(z[:, :, None, None])


class Discriminator(nn.Module):
    def __init__(self, base):
        super().__init__()
        layers = [nn.Conv2d(3, base, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
        for width in (base, 2 * base, 4 * base):
            layers += [nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2)]
        self.main = nn.Sequential(*layers, nn.Conv2d(8 * base, 1, 4, 1, 0, bias=False))

    def forward(self, images):
        return self.main(images)[:, 0, 0, 0]


def filled(network, state):
    """Puts the seeded arrays into a network, after checking that they are all that it has."""
    own = {name: tuple(value.shape) for name, value in network.state_dict().items() if value.dim()}
    assert own == {name: array.shape for name, array in state.items()}
    network.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()}, strict=False)
    return network


def dcgan_networks(base, latent_dim):
    generator = filled(Generator(base, latent_dim), seeded_dcgan.generator_state(base, latent_dim))
    return generator, filled(Discriminator(base), seeded_dcgan.discriminator_state(base))


def real_images():
    return torch.from_numpy(seeded.images(4, 64).astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2).contiguous()


def dcgan():
    generator, discriminator = dcgan_networks(64, 100)
    z = torch.from_numpy(seeded_dcgan.latents(4, 100))
    values = {"images": generator.eval()(z[:2]), "logits": discriminator.eval()(real_images())}
    # In training: batch statistics, and the moving ones take a step.
    values |= {
        "training_images": generator.train()(z)[:1],
        "training_logits": discriminator.train()(real_images()),
        "generator_moved_mean": generator.main[10].running_mean,
        "generator_moved_variance": generator.main[10].running_var,
        "discriminator_moved_mean": discriminator.main[9].running_mean,
        "discriminator_moved_variance": discriminator.main[9].running_var,
    }
    return arrays("dcgan64", values)


def narrow_dcgan():
    """Small state dicts as users have them: one plain, one of a model in `nn.DataParallel`, in the legacy format."""
    generator, discriminator = dcgan_networks(4, 10)
    torch.save(generator.state_dict(), HERE / "dcgan64_generator.pth")
    state = collections.OrderedDict((f"module.{name}", value) for name, value in discriminator.state_dict().items())
    torch.save(state, HERE / "dcgan64_discriminator.pth", _use_new_zipfile_serialization=False)
    z = torch.from_numpy(seeded_dcgan.latents(2, 10))
    return arrays("dcgan64_narrow", {"images": generator.eval()(z), "logits": discriminator.eval()(real_images())})


# ---- losses and penalties -------------------------------------------------------------------------------------------


def losses():
    """name: (discriminator's, generator's), with PyTorch's own criteria where it has them."""
    ones, zeros = torch.ones_like, torch.zeros_like
    cross_entropy, square = F.binary_cross_entropy_with_logits, F.mse_loss

    def discriminator_entropy(real, fake):
        return cross_entropy(real, ones(real)) + cross_entropy(fake, zeros(fake))

    return {
        "non_saturating": (discriminator_entropy, lambda fake: cross_entropy(fake, ones(fake))),
        "minimax": (discriminator_entropy, lambda fake: -cross_entropy(fake, zeros(fake))),
        "hinge": (
            lambda real, fake: nn.HingeEmbeddingLoss(1.0)(real, -ones(real)) + nn.HingeEmbeddingLoss(1.0)(-fake, -ones(fake)),
            lambda fake: -fake.mean(),
        ),
        "least_squares": (
            lambda real, fake: (square(real, ones(real)) + square(fake, zeros(fake))) / 2,
            lambda fake: square(fake, ones(fake)) / 2,
        ),
        "wasserstein": (lambda real, fake: fake.mean() - real.mean(), lambda fake: -fake.mean()),
    }  # fmt: skip


def loss_values():
    real, fake = 3 * torch.randn(16), 3 * torch.randn(16)
    golden = arrays("losses", {"real": real, "fake": fake})
    real.requires_grad_(), fake.requires_grad_()
    for name, (discriminator_loss, generator_loss) in losses().items():
        value = discriminator_loss(real, fake)
        real_gradient, fake_gradient = torch.autograd.grad(value, (real, fake))
        values = {"discriminator": value, "real_gradient": real_gradient, "fake_gradient": fake_gradient}
        value = generator_loss(fake)
        values |= {"generator": value, "generator_gradient": torch.autograd.grad(value, fake)[0]}
        golden |= arrays(f"losses/{name}", values)
    return golden


def penalties():
    """WGAN-GP at given interpolations (Gulrajani et al. 2017, eq. 3) and R1 (Mescheder et al. 2018, eq. 9), weight 1."""
    first, second, last = nn.Conv2d(3, 6, 4, 2, 1), nn.Conv2d(6, 8, 3, 1, 1), nn.Linear(8, 1)

    def critic(images):
        x = torch.tanh(second(F.leaky_relu(first(images), 0.2)))
        return last(x.sum((2, 3)))[:, 0]

    parameters = {
        f"{layer}_{kind}": getattr(module, kind)
        for layer, module in {"first": first, "second": second, "last": last}.items()
        for kind in ("weight", "bias")
    }
    real, fake, share = torch.rand(4, 3, 8, 8) * 2 - 1, torch.rand(4, 3, 8, 8) * 2 - 1, torch.rand(4)

    def slopes(images):
        images = images.detach().requires_grad_()
        return torch.autograd.grad(critic(images).sum(), images, create_graph=True)[0].flatten(1)

    between = share[:, None, None, None] * real + (1 - share[:, None, None, None]) * fake
    values = {
        "gradient_penalty": ((slopes(between).norm(dim=1) - 1) ** 2).mean(),
        "r1": 0.5 * slopes(real).square().sum(1).mean(),
    }
    golden = arrays("penalties", parameters | {"real": real, "fake": fake, "share_of_real": share} | values)
    for name, value in values.items():
        gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True, materialize_grads=True)
        golden |= arrays(f"penalties/{name}_gradient", dict(zip(parameters, gradients)))
    return golden


def main():
    torch.manual_seed(0)
    golden = spectral_steps() | parametrized_spectral_steps() | blocks() | loss_values() | penalties()
    golden |= dcgan() | narrow_dcgan()
    np.savez_compressed(HERE / "gan_torch.npz", **golden)
    for name, array in golden.items():
        if "/state/" not in name:
            print(name, array.shape, array.min(), array.max(), array.std())


if __name__ == "__main__":
    main()
