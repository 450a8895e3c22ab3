"""Adversarial losses: pure functions of logits, each the mean over the batch, all numerically stable.

Every function takes float32 logits `[batch]` or `[batch, num_logits]` and returns a scalar.
"""

from keras import ops


def non_saturating_discriminator_loss(real_logits, fake_logits):
    """Binary cross-entropy (Goodfellow et al. 2014, eq. 1): softplus(-real) + softplus(fake)."""
    return ops.mean(ops.softplus(-real_logits)) + ops.mean(ops.softplus(fake_logits))


def non_saturating_generator_loss(fake_logits):
    """The generator's heuristic loss (Goodfellow et al. 2014, section 3): softplus(-fake)."""
    return ops.mean(ops.softplus(-fake_logits))


def minimax_generator_loss(fake_logits):
    """The generator's side of the minimax game (Goodfellow et al. 2014, eq. 1): -softplus(fake)."""
    return -ops.mean(ops.softplus(fake_logits))


def hinge_discriminator_loss(real_logits, fake_logits):
    """Hinge (Miyato et al. 2018, eq. 16): relu(1 - real) + relu(1 + fake)."""
    return ops.mean(ops.relu(1.0 - real_logits)) + ops.mean(ops.relu(1.0 + fake_logits))


def linear_generator_loss(fake_logits):
    """The generator's side of hinge (Miyato et al. 2018, eq. 17) and of Wasserstein (Arjovsky et al. 2017): -fake."""
    return -ops.mean(fake_logits)


def least_squares_discriminator_loss(real_logits, fake_logits):
    """Least squares (Mao et al. 2017, eq. 9, a = 0, b = 1): ((real - 1)^2 + fake^2) / 2."""
    return 0.5 * (ops.mean(ops.square(real_logits - 1.0)) + ops.mean(ops.square(fake_logits)))


def least_squares_generator_loss(fake_logits):
    """Least squares (Mao et al. 2017, eq. 9, c = 1): (fake - 1)^2 / 2."""
    return 0.5 * ops.mean(ops.square(fake_logits - 1.0))


def wasserstein_discriminator_loss(real_logits, fake_logits):
    """The critic (Arjovsky et al. 2017, algorithm 1): fake - real."""
    return ops.mean(fake_logits) - ops.mean(real_logits)


# name: (discriminator_loss(real_logits, fake_logits), generator_loss(fake_logits))
ADVERSARIAL = {
    "non_saturating": (non_saturating_discriminator_loss, non_saturating_generator_loss),
    "minimax": (non_saturating_discriminator_loss, minimax_generator_loss),
    "hinge": (hinge_discriminator_loss, linear_generator_loss),
    "least_squares": (least_squares_discriminator_loss, least_squares_generator_loss),
    "wasserstein": (wasserstein_discriminator_loss, linear_generator_loss),
}
