"""Named experiments: `python -m training.fit --recipe NAME`. Explicit options win over a recipe's.

The documents' experiments, each with the values that its document ran. Where the notes that this project was written from
leave a value open, the architecture's own recipe decides, or `choices` says what was taken.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

NOT_STATED = "time, hardware and figures: not stated in the notes we have"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A named set of options of `training.fit`, and where it comes from.

    Args:
        summary: What it makes, of which data.
        options: Values of the command line's options, by their Python names.
        reported: What its source reported, or what was measured here, with the hardware.
        own_data: What to give for `--data` with a copy of the data of one's own.
        choices: What was decided here because the source does not say, or does otherwise.
    """

    summary: str
    options: Mapping[str, Any]
    reported: str
    own_data: str = "YOUR_FOLDER"
    choices: str = ""

    def command(self, name):
        """Returns the command that runs it, registered under `name`, on the user's own copy of the data."""
        return f"python -m training.fit --recipe {name} --data {self.own_data}"


# Adam as the documents' DCGANs ran it.
_DCGAN_SETTINGS = ["loss=non_saturating", "g_learning_rate=2e-4", "d_learning_rate=2e-4", "beta_1=0.5", "beta_2=0.999"]

EXPERIMENTS = {
    "emoji-faces-small": Experiment(
        summary="Emoji faces at 32 px with a quarter of the SN-GAN's width: the smallest run worth looking at.",
        options={
            "arch": "sngan",
            "data": "emoji",
            "classes": ["Smileys & Emotion"],
            "size": 32,
            "steps": 4000,
            "batch_size": 32,
            "settings": ["base_filters=16", "ema_decay=0.99"],
            "augment": "color,translation",
        },
        reported="",
    ),
    "photos-small": Experiment(
        summary="Pictures of your own at 32 px without a GPU: FastGAN at a quarter of its width, the best of what was tried "
        "for so little time (docs/performance.md, Quality).",
        options={
            "arch": "fastgan",
            "data": "photos",
            "size": 32,
            "steps": 3300,
            "batch_size": 16,
            "settings": ["base_filters=16", "reconstruction=multiscale_l1"],
            "augment": "color,translation",
        },
        reported="20 minutes of one CPU core for 3,300 steps; KID .136 on 5,000 cars, the SN-GAN's .289.",
        own_data="YOUR_FOLDER",
        choices="As it was measured: batches of 16, not 8, and an L1 distance in place of LPIPS.",
    ),
    "car-fronts-dcgan32": Experiment(
        summary="Car-fronts document: 44,481 fronts of traffic cameras (CompCars surveillance), DCGAN at 32 px.",
        options={
            "arch": "dcgan",
            "data": "tfds:compcars_surveillance:all",
            "size": 32,
            "batch_size": 32,
            "settings": ["variant=keras32", "latent_dim=100", *_DCGAN_SETTINGS],
        },
        reported=f"{NOT_STATED}. Its wish list: label smoothing, label noise, instance noise, a discriminator trained "
        "ahead, other latent sizes, more layers (the first five are --set label_smoothing, label_noise, "
        "instance_noise, pretraining_steps and latent_dim).",
        own_data="sv_data/image",
        choices="The length is the architecture's; beta_2 is Keras' default.",
    ),
    "cars-dcgan64": Experiment(
        summary="Cars document: 60,000 pictures of The Car Connection, DCGAN at 64 px.",
        options={
            "arch": "dcgan",
            "data": "tfds:car_connection",
            "size": 64,
            "batch_size": 128,
            "settings": ["variant=torch64", "latent_dim=100", *_DCGAN_SETTINGS],
        },
        reported=NOT_STATED,
        own_data="car_connection.zip",
        choices="The length is the architecture's.",
    ),
    "paintings-sngan128": Experiment(
        summary="Landscape-paintings document: 403 paintings, SN-GAN with a dense head at 128 px.",
        options={
            "arch": "sngan",
            "data": "tfds:paintings",
            "size": 128,
            "batch_size": 15,
            "settings": (
                "variant=dense_head head_pooling=flatten latent_dim=100 loss=non_saturating "
                "g_learning_rate=1e-4 d_learning_rate=1e-4 beta_1=0.5"
            ).split(),
        },
        reported=f"200 epochs; {NOT_STATED}.",
        own_data="paintings",
        choices="The spectral norm that the document's text asks for is there; its code had none. The discriminator's "
        "137 million parameters become 3.5 with --set head_pooling=average.",
    ),
    "cifar-cars-dcgan32": Experiment(
        summary="Landscape-paintings document, its proof of concept: 5,000 cars of CIFAR-10, DCGAN at 32 px.",
        options={
            "arch": "dcgan",
            "data": "tfds:cifar10",
            "classes": ["automobile"],
            "size": 32,
            "settings": ["variant=keras32"],
        },
        reported=NOT_STATED,
        own_data="cifar10/train",
        choices="Network, batch size, optimizer and length are those of the architecture: the notes name the images only.",
    ),
    "bedrooms-gan28": Experiment(
        summary="Indoor-scenes document: 662 bedrooms of MIT Indoor 67, multilayer perceptrons at 28 px, gray.",
        options={
            "arch": "gan",
            "data": "tfds:indoor67/bedroom:all",
            "size": 28,
            "channels": 1,
            "batch_size": 128,
            "settings": ["latent_dim=50", "weight_decay=0.01", *_DCGAN_SETTINGS],
        },
        reported=f"50 epochs; {NOT_STATED}. Its smoke test: trained on two images it must reproduce both.",
        own_data="Images/bedroom",
        choices="One channel, since its generator ends in 784 values; --channels 3 for colour.",
    ),
    "bedrooms-dcgan64": Experiment(
        summary="Indoor-scenes document: 662 bedrooms of MIT Indoor 67, DCGAN at 64 px.",
        options={
            "arch": "dcgan",
            "data": "tfds:indoor67/bedroom:all",
            "size": 64,
            "batch_size": 128,
            "settings": ["variant=torch64", "latent_dim=100", *_DCGAN_SETTINGS],
        },
        reported=NOT_STATED,
        own_data="Images/bedroom",
        choices="The length is the architecture's.",
    ),
    "bedrooms-vae64": Experiment(
        summary="Indoor-scenes document: 662 bedrooms of MIT Indoor 67, variational autoencoder at 64 px.",
        options={
            "arch": "vae",
            "data": "tfds:indoor67/bedroom:all",
            "size": 64,
            "batch_size": 64,
            "settings": (
                "latent_dim=256 kl_weight=3.07 g_learning_rate=5e-3 learning_rate_decay=exponential decay_rate=0.95"
            ).split(),
        },
        reported=f"100 epochs; {NOT_STATED}.",
        own_data="Images/bedroom",
        choices="Images in [-1, 1]; the document fed [0, 1] to a decoder that ends in tanh.",
    ),
    "bedrooms-vae256": Experiment(
        summary="Indoor-scenes document: 662 bedrooms of MIT Indoor 67, variational autoencoder at 256 px.",
        options={
            "arch": "vae",
            "data": "tfds:indoor67/bedroom:all",
            "size": 256,
            "batch_size": 8,
            "steps": 124_125,  # 1,500 epochs of 662 images
            "settings": ["latent_dim=512", "kl_weight=49.2", "g_learning_rate=3e-4", "learning_rate_decay=constant"],
        },
        reported=f"1,500 epochs; {NOT_STATED}.",
        own_data="Images/bedroom",
        choices="The document kept the KL weight of 64 px, .00025, which at 256 px means a beta of 49.2. The steps are "
        "1,500 epochs of 662 images: --steps for another number.",
    ),
    "bedrooms-fastgan1024": Experiment(
        summary="Indoor-scenes document: 662 bedrooms of MIT Indoor 67, FastGAN at 1024 px.",
        options={
            "arch": "fastgan",
            "data": "tfds:indoor67/bedroom:all",
            "size": 1024,
            "batch_size": 8,
            "steps": 50_000,
            "transform": "flip",
            "augment": "color,translation",
            "settings": (
                "variant=standard latent_dim=256 ema_decay=0.999 g_learning_rate=2e-4 "
                "d_learning_rate=2e-4 beta_1=0.5 beta_2=0.999"
            ).split(),
        },
        reported="FID 74 to 89, where real against real, at 331 images, gave 63. Time and hardware: not stated in the notes "
        "we have.",
        own_data="Images/bedroom",
        choices="The training settings are those of the FastGAN paper and its released code.",
    ),
    "parts-fastgan512": Experiment(
        summary="Image-augmentation document: pictures of parts, FastGAN with self-attention at 512 px.",
        options={
            "arch": "fastgan",
            "data": "parts",
            "per_class": True,
            "size": 512,
            "batch_size": 16,
            "settings": (
                "variant=attention latent_dim=256 ema_decay=0.995 g_learning_rate=1e-4 "
                "d_learning_rate=4e-4 beta_1=0.0 beta_2=0.9"
            ).split(),
        },
        reported="Accuracy of MobileNetV3-small on 450 test images, one seed: .798 on real images, .720, "
        ".844 and .867 with 25%, 75% and 125% of synthetic ones added (more data meant more steps, too). VGG16: .63 on "
        "real images, .57 with classical augmentation, .44, .71 and .75 with 23%, 53% and 150% synthetic. Time and "
        "hardware: not stated in the notes we have.",
        own_data="parts",
        choices="Samples come from the averaged weights and one fixed mapping to pixels; the document's from the last "
        "weights, stretched image by image. The length is the architecture's.",
    ),
    "parts-dcgan512": Experiment(
        summary="Image-augmentation document: pictures of parts, DCGAN at 512 px.",
        options={
            "arch": "dcgan",
            "data": "parts",
            "size": 512,
            "batch_size": 16,
            "settings": ["variant=torch64"],
        },
        reported=f"Trained at 512 and at 1024 px (--size 1024); {NOT_STATED}.",
        own_data="parts",
        choices="The batch size is that of the document's FastGAN; optimizer and length are the architecture's.",
    ),
    "parts-ae": Experiment(
        summary="Image-augmentation document: pictures of parts, autoencoder with a Gaussian fitted to its codes.",
        options={"arch": "ae", "data": "parts", "size": 64},
        reported=NOT_STATED,
        own_data="parts",
        choices="Side, latent size, batch size, optimizer and length are those of the architecture.",
    ),
}
