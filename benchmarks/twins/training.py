"""The training step of the twins: updates of the discriminator, one of the generator, one of the moving average."""

import copy

import torch
from torch.nn import functional

from benchmarks.twins import dcgan, fastgan, sngan, vae
from benchmarks.twins.layers import count_parameters, power_iterations
from benchmarks.twins.lpips import LPIPS

EMA_DECAY = 0.999


class Average:
    """A copy of a network that follows it."""

    def __init__(self, network):
        self.step, self.network = 0, network
        self.copy = copy.deepcopy(network).requires_grad_(False)

    @torch.no_grad()
    def update(self):
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        # Looked up at each step: another memory format gives a network other tensors.
        torch._foreach_lerp_(_tensors(self.copy), _tensors(self.network), 1 - decay)
        self.step += 1


def _tensors(network):
    return [each for each in (*network.parameters(), *network.buffers()) if each.is_floating_point()]


class GANStep:
    """Callable that takes one step on a batch of `batch_size * discriminator_steps` images."""

    def __init__(self, generator, discriminator, latent_dim, *, hinge=False, betas=(0.5, 0.999), discriminator_steps=1):
        self.generator, self.discriminator = generator, discriminator
        self.latent_dim, self.hinge, self.discriminator_steps = latent_dim, hinge, discriminator_steps
        self.average = Average(generator)
        # The fused Adam is the fastest that PyTorch has on a CPU.
        self.d_optimizer, self.g_optimizer = (
            torch.optim.Adam(network.parameters(), 2e-4, betas, fused=True) for network in (discriminator, generator)
        )
        self.generate, self.criticize = generator, discriminator

    @property
    def networks(self):
        return {"generator": self.generator, "discriminator": self.discriminator}

    def compile(self):
        """Has torch.compile make one graph of each network."""
        self.generate, self.criticize = torch.compile(self.generator), torch.compile(self.discriminator)

    def __call__(self, images):
        count = len(images) // self.discriminator_steps
        for part in images.split(count):
            power_iterations(self.discriminator)
            with torch.no_grad():
                fake = self.generate(torch.randn(count, self.latent_dim))
            self.d_optimizer.zero_grad()
            d_loss = self.discriminator_loss(part, fake)
            d_loss.backward()
            self.d_optimizer.step()
        power_iterations(self.generator)
        self.discriminator.requires_grad_(False)  # its gradients are not wanted here
        self.g_optimizer.zero_grad()
        g_loss = self.generator_loss(self.generate(torch.randn(count, self.latent_dim)))
        g_loss.backward()
        self.g_optimizer.step()
        self.discriminator.requires_grad_(True)
        self.average.update()
        return {"d_loss": d_loss.item(), "g_loss": g_loss.item()}

    def discriminator_loss(self, real, fake):
        of_real, of_fake = self.criticize(real), self.criticize(fake)
        if self.hinge:
            return functional.relu(1 - of_real).mean() + functional.relu(1 + of_fake).mean()
        return functional.softplus(-of_real).mean() + functional.softplus(of_fake).mean()

    def generator_loss(self, fake):
        logits = self.criticize(fake)
        return -logits.mean() if self.hinge else functional.softplus(-logits).mean()


class FastGANStep(GANStep):
    """With DiffAugment, the softened hinge, and the decoders' reconstruction as LPIPS judges it."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, hinge=True, **options)
        self.perceptual = self.embed_and_compare = LPIPS()

    def compile(self):
        super().compile()
        self.embed_and_compare = torch.compile(self.perceptual)

    def discriminator_loss(self, real, fake):
        real, fake = fastgan.distorted(real), [fastgan.distorted(each) for each in fake]
        quadrant = torch.randint(0, 4, (len(real),))
        of_real, decoded = self.criticize(real, _resized(real, fake[1].shape[2]), quadrant)
        of_fake = self.criticize(*fake)
        loss = functional.relu(_margins(of_real) - of_real).mean() + functional.relu(_margins(of_fake) + of_fake).mean()
        side = decoded[0].shape[2]
        with torch.no_grad():  # the target of two decoders is embedded once
            whole = self.perceptual.embed(_resized(real, side))
            part = self.perceptual.embed(_resized(fastgan.cut(real, quadrant), side))
        for images, target in zip(decoded, (whole, whole, part)):
            loss = loss + 8.0 * self.embed_and_compare(images, target)
        return loss

    def generator_loss(self, fake):
        return -self.criticize(*(fastgan.distorted(each) for each in fake)).mean()


def _margins(logits):
    return 0.8 + 0.2 * torch.rand_like(logits)


def _resized(images, side):
    if images.shape[2] > side:
        return functional.avg_pool2d(images, images.shape[2] // side)
    return images if images.shape[2] == side else functional.interpolate(images, size=side, mode="bilinear")


class VAEStep:
    """Callable that takes one step of both networks on a batch of images."""

    def __init__(self, network, side, kl_weight=3.07):
        self.network, self.weight = network, kl_weight / (3 * side * side)
        self.optimizer = torch.optim.Adam(network.parameters(), 5e-3, (0.9, 0.999), fused=True)
        self.average = Average(network)
        self.run = network

    @property
    def networks(self):
        return {"encoder": self.network.encoder, "decoder": self.network.decoder}

    def compile(self):
        self.run = torch.compile(self.network)

    def __call__(self, images):
        self.optimizer.zero_grad()
        decoded, divergence = self.run(images)
        loss = functional.mse_loss(decoded, images) + self.weight * divergence
        loss.backward()
        self.optimizer.step()
        self.average.update()
        return {"loss": loss.item()}


def make(twin, side, base_filters=None):
    """Returns the step of a twin: dcgan, dcgan-keras, sngan-cnn, sngan-resnet, fastgan or vae.

    Args:
        twin: Name.
        side: Of the square images, pixels.
        base_filters: Width; that of the papers if None.
    """
    width = {} if base_filters is None else {"base_filters": base_filters}
    if twin == "dcgan":
        return GANStep(dcgan.generator(side, **width), dcgan.discriminator(side, **width), 100)
    if twin == "dcgan-keras":
        return GANStep(dcgan.keras_generator(side, **width), dcgan.keras_discriminator(side, **width), 100)
    if twin == "sngan-cnn":
        return GANStep(sngan.cnn_generator(side, **width), sngan.cnn_discriminator(side, **width), 128)
    if twin == "sngan-resnet":
        networks = sngan.resnet_generator(side, **width), sngan.ResnetDiscriminator(side, **width)
        return GANStep(*networks, 128, hinge=True, betas=(0.0, 0.9), discriminator_steps=5)
    if twin == "fastgan":
        return FastGANStep(fastgan.Generator(side, **width), fastgan.Discriminator(side, **width), 256)
    if twin == "vae":
        return VAEStep(vae.VAE(side, **width), side)
    raise ValueError(f"There is no twin {twin!r}.")


def parameters(twin, side, base_filters=None):
    """Returns the trainable parameters of a twin's networks by name."""
    return {name: count_parameters(network) for name, network in make(twin, side, base_filters).networks.items()}


def to_channels_last(step):
    """Lays out the weights of a step's networks with the channels last."""
    for network in (
        *step.networks.values(),
        step.average.copy,
        *([step.perceptual] if hasattr(step, "perceptual") else ()),
    ):
        network.to(memory_format=torch.channels_last)


def count_flops(step, images):
    """Returns the floating-point operations of a step, two a multiplication and addition, of its products alone.

    Counted by PyTorch on the operations that a step runs, forward and backward; element-wise work, the spectral norms and
    the optimizers are left out. It grows in proportion to the images.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step(images)
    return counter.get_total_flops()
