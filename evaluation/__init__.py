"""Judging a generative model: metrics on plain `[n, d]` arrays of features, with intervals, floors and nulls.

    real, fake = evaluation.extract_features(real_images), evaluation.extract_features(fake_images)
    result = evaluation.kid(real, fake)
    float(result), result.interval, result.details

Importing this package imports NumPy and no TensorFlow. `evaluation.kid` and `evaluation.precision_recall` and the like are the functions, not
the modules of the same names (`from evaluation.kid import ...` reaches those).
"""

from evaluation.adversarial_accuracy import adversarial_accuracy, privacy_loss
from evaluation.authenticity import authenticity
from evaluation.density_coverage import DensityCoverage, density_coverage
from evaluation.frechet import frechet_distance, frechet_distance_from_statistics
from evaluation.inception_score import inception_score
from evaluation.kid import kid
from evaluation.precision_recall import PrecisionRecall, precision_recall
from evaluation.result import Result

__all__ = [
    "DensityCoverage",
    "PrecisionRecall",
    "Result",
    "adversarial_accuracy",
    "authenticity",
    "density_coverage",
    "extract_features",
    "frechet_distance",
    "frechet_distance_from_statistics",
    "inception_score",
    "kid",
    "precision_recall",
    "privacy_loss",
]


def extract_features(images, network="efficientnet-lite0", **options):
    """Features of images, `[n, d]`, by one of the networks of `evaluation.features`, whose options these are.

    Imports TensorFlow on the first call.
    """
    from evaluation import features

    return features.extract_features(images, network=network, **options)
