"""Adversarial losses and the penalties that go with them: pure functions, numerically stable.

Logits are float32, `[batch]` or `[batch, num_logits]`; a loss is a scalar, the mean over them.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf
from keras import ops


@dataclasses.dataclass(frozen=True)
class AdversarialLoss:
    """One game between discriminator and generator, by its terms: functions of logits, element by element.

    Args:
        real: The discriminator's loss of logits that should say real.
        fake: The discriminator's loss of logits that should say fake.
        fool: The generator's loss of the logits of its images.
        weight: Factor on the discriminator's loss.
    """

    real: Callable
    fake: Callable
    fool: Callable
    weight: float = 1.0

    def discriminator(self, real_logits, fake_logits, label_smoothing=0.0):
        """Returns the discriminator's loss.

        Args:
            real_logits: Logits of real images.
            fake_logits: Logits of generated images.
            label_smoothing: Share s in [0, 1) of one-sided smoothing (Salimans et al. 2016, section 3.4): real images
                cost (1 - s) real + s fake, which for the cross-entropy is the target 1 - s.
        """
        real = ops.mean(self.real(real_logits))
        if label_smoothing:
            real = (1 - label_smoothing) * real + label_smoothing * ops.mean(self.fake(real_logits))
        return self.weight * (real + ops.mean(self.fake(fake_logits)))

    def generator(self, fake_logits):
        """Returns the generator's loss."""
        return self.weight * ops.mean(self.fool(fake_logits))


def soft_hinge(real_margin, fake_margin):
    """The hinge game with margins of one's own, arrays of the shape of the logits (FastGAN's are U(.8, 1))."""

    def of_real(logits):
        return ops.relu(real_margin - logits)

    def of_fake(logits):
        return ops.relu(fake_margin + logits)

    return AdversarialLoss(of_real, of_fake, ops.negative)


def _cross_entropy_of_real(logits):
    return ops.softplus(-logits)


def _negative_cross_entropy_of_fake(logits):
    return -ops.softplus(logits)


def _hinge_of_real(logits):
    return ops.relu(1.0 - logits)


def _hinge_of_fake(logits):
    return ops.relu(1.0 + logits)


def _square_to_one(logits):
    return ops.square(logits - 1.0)


def _identity(logits):
    return logits


ADVERSARIAL = {
    # Goodfellow et al. 2014, eq. 1 as a cross-entropy, with the generator's heuristic of section 3.
    "non_saturating": AdversarialLoss(_cross_entropy_of_real, ops.softplus, _cross_entropy_of_real),
    # Goodfellow et al. 2014, eq. 1, both sides.
    "minimax": AdversarialLoss(_cross_entropy_of_real, ops.softplus, _negative_cross_entropy_of_fake),
    # Miyato et al. 2018, eq. 16 and 17.
    "hinge": AdversarialLoss(_hinge_of_real, _hinge_of_fake, ops.negative),
    # Mao et al. 2017, eq. 9 with a = 0, b = c = 1.
    "least_squares": AdversarialLoss(_square_to_one, ops.square, _square_to_one, weight=0.5),
    # Arjovsky et al. 2017, algorithm 1.
    "wasserstein": AdversarialLoss(ops.negative, _identity, ops.negative),
}


def flip_labels(real_logits, fake_logits, flipped):
    """Returns `(real_logits, fake_logits)` with those of the pairs in `flipped` (bool `[batch]`) exchanged: label noise."""
    flipped = ops.reshape(flipped, [-1] + [1] * (len(real_logits.shape) - 1))
    return ops.where(flipped, fake_logits, real_logits), ops.where(flipped, real_logits, fake_logits)


def gradient_penalty(critic, real_images, fake_images, mix):
    """Penalty (|gradient| - 1)^2 of a critic between real and generated images (Gulrajani et al. 2017, eq. 3).

    Args:
        critic: Function from images to logits. Its gradient is that of the mean of an image's logits.
        real_images: Float `[batch, height, width, channels]`, or a tuple of such at several sizes.
        fake_images: The same for generated images.
        mix: Float `[batch]` in [0, 1], how much of the real image there is in each mixture.

    Returns:
        The mean over the batch, a float32 scalar.
    """
    mix = tf.reshape(mix, [-1, 1, 1, 1])

    def mixture(real, fake):
        return mix * real + (1 - mix) * fake

    mixed = tf.nest.map_structure(mixture, real_images, fake_images)
    return ops.mean(ops.square(ops.sqrt(_squared_gradient(critic, mixed) + 1e-12) - 1.0))


def r1_penalty(critic, real_images):
    """Penalty |gradient|^2 / 2 at real images (Mescheder et al. 2018, eq. 9); arguments as in `gradient_penalty`."""
    return 0.5 * ops.mean(_squared_gradient(critic, real_images))


def _squared_gradient(critic, images):
    """Returns the squared norm `[batch]` of the gradient of the critic at each image, over all its sizes."""
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = critic(images)
        # An image's logits depend on it alone, but for batch norm: the gradient of the sum holds that of each.
        total = ops.sum(ops.mean(ops.reshape(logits, (logits.shape[0], -1)), axis=1))
    gradients = tf.nest.flatten(tape.gradient(total, images, unconnected_gradients="zero"))
    return sum(ops.sum(ops.square(gradient), axis=(1, 2, 3)) for gradient in gradients)
