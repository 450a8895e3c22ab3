"""Fréchet distance between Gaussians fitted to two sets of features: FID, or `fd_NAME` for another network.

    |m_r - m_f|^2 + Tr(S_r + S_f - 2 (S_r S_f)^(1/2))        means m, covariances S with ddof 1

No matrix square root: Tr (S_r S_f)^(1/2) is the nuclear norm (sum of singular values) of A B^T, where S_r = A^T A and
S_f = B^T B. The centred features over sqrt(n - 1) are such factors, exactly and at rank <= n (low-rank form, for n <= d); the
symmetric square roots, from eigendecompositions, are as well (eigen form, for n > d; the same numbers as the
eigenvalues of S_r^(1/2) S_f S_r^(1/2), without squaring their condition). Both are symmetric in the two sets and
give about 1e-13 for a set against itself, where scipy's sqrtm gives -1e-5 and takes a hundred times as long.

How to read it: 0 is equal mean and covariance. It is biased upwards, and strongly at small n: one 2048-d Gaussian against
itself scores 88 at n = 331 (trace 100, variances falling as exp(-i / 300)). Only compare it at equal n, network and resize mode, beside `real_vs_real_floor`.

Reference: Heusel et al. 2017, arXiv 1706.08500 (FID); Mathiasen and Hvilshøj 2020, arXiv 2009.14075 (FastFID).
"""

import numpy as np

from evaluation.result import Result, check_count, check_features, check_same_dimension, check_varied

__all__ = ["frechet_distance", "frechet_distance_from_statistics", "real_vs_real_floor"]


def frechet_distance(real, fake, form=None):
    """Fréchet distance between real and fake features. It has no interval: read it beside `real_vs_real_floor`.

    Args:
        real: features, `[n_real, d]`; at least two different rows.
        fake: features, `[n_fake, d]`; all equal (a collapsed model) is allowed, and scores as badly as it should.
        form: "low-rank", "eigen", or None to choose by n against d. The value is the same.
    """
    real, fake = check_features("real", real), check_features("fake", fake)
    check_same_dimension(real=real, fake=fake)
    check_varied("real", real)
    if form not in (None, "low-rank", "eigen"):
        raise ValueError(
            f'`form` must be "low-rank", "eigen" or None. Received: form={form!r}. Leave it out to have it chosen.'
        )
    dimension = real.shape[1]
    if form is None:
        form = "low-rank" if min(len(real), len(fake)) <= dimension else "eigen"

    (real_mean, a), (fake_mean, b) = _centred(real), _centred(fake)
    shift = float(np.square(real_mean - fake_mean).sum())
    spread = float(np.square(a).sum() + np.square(b).sum())
    if form == "eigen":
        overlap = _nuclear_norm(_square_root(a.T @ a) @ _square_root(b.T @ b))
    else:
        overlap = _nuclear_norm(_reduced(a) @ _reduced(b).T)
    details = {
        "n_real": len(real),
        "n_fake": len(fake),
        "dimension": dimension,
        "form": form,
        "mean_term": shift,
        "covariance_term": max(spread - 2 * overlap, 0.0),
    }
    return Result(_distance(shift, spread, overlap), None, details)


def frechet_distance_from_statistics(mean1, cov1, mean2, cov2):
    """The same from two means `[d]` and two covariances `[d, d]`, symmetric and positive semi-definite."""
    mean1, cov1 = _check_statistics("1", mean1, cov1)
    mean2, cov2 = _check_statistics("2", mean2, cov2)
    if mean1.shape != mean2.shape:
        raise ValueError(
            f"`mean1` and `mean2` must have the same length. Received: {mean1.shape} and {mean2.shape}. Use statistics of one network."
        )
    shift = float(np.square(mean1 - mean2).sum())
    spread = float(np.trace(cov1) + np.trace(cov2))
    overlap = _nuclear_norm(_square_root(cov1, "cov1") @ _square_root(cov2, "cov2"))
    return Result(
        _distance(shift, spread, overlap),
        None,
        {
            "dimension": len(mean1),
            "form": "eigen",
            "mean_term": shift,
            "covariance_term": max(spread - 2 * overlap, 0.0),
        },
    )


def real_vs_real_floor(real, n, seed=0, num_splits=5):
    """What a perfect model would score at n images: real features against other real features, n against n.

    Two disjoint random subsets of min(n, len(real) // 2) rows, `num_splits` times; never overlapping, since shared rows
    would lower the floor. With fewer than 2n rows the subsets are smaller than n, and the floor is then somewhat *above*
    that at n (the bias falls about as 1/n): `details` has both `n` and `n_requested`.

    Returns:
        The mean over the splits; the interval is their smallest and largest.
    """
    return _floor(frechet_distance, real, n, seed, num_splits)


def _floor(metric, real, n, seed, num_splits):
    """Shared by the metrics that compare two sets: `metric(one part of real, another)`."""
    real = check_features("real", real, minimum=4)
    requested, num_splits = check_count("n", n, 2), check_count("num_splits", num_splits, 1)
    n = min(requested, len(real) // 2)
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(num_splits):
        order = generator.permutation(len(real))
        values.append(float(metric(real[order[:n]], real[order[n : 2 * n]])))
    details = {
        "n": n,
        "n_requested": requested,
        "n_real": len(real),
        "splits": values,
        "seed": seed,
        "interval_method": f"smallest and largest of {num_splits} random disjoint splits",
    }
    return Result(float(np.mean(values)), (min(values), max(values)), details)


def _centred(features):
    """Mean `[d]`, and A `[n, d]` with covariance A^T A."""
    features = features.astype(np.float64)
    mean = features.mean(axis=0)
    features -= mean
    features /= np.sqrt(len(features) - 1)
    return mean, features


def _reduced(factor):
    """A with A^T A unchanged and at most d rows."""
    return np.linalg.qr(factor, mode="r") if len(factor) > factor.shape[1] else factor


def _nuclear_norm(matrix):
    return float(np.linalg.svd(matrix, compute_uv=False).sum())


def _square_root(covariance, name="covariance"):
    values, vectors = np.linalg.eigh(covariance)
    if values[0] < -1e-6 * max(abs(values[-1]), abs(values[0])):
        raise ValueError(
            f"`{name}` must be positive semi-definite. Received: an eigenvalue of {values[0]:.3g}. Compute it with numpy.cov(features, rowvar=False)."
        )
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def _distance(shift, spread, overlap):
    return max(shift + spread - 2 * overlap, 0.0)  # below 0 by rounding only


def _check_statistics(number, mean, covariance):
    mean, covariance = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
    if mean.ndim != 1 or not mean.size:
        raise ValueError(
            f"`mean{number}` must be a vector [d]. Received: shape {mean.shape}. Use features.mean(axis=0)."
        )
    if covariance.shape != mean.shape * 2:
        raise ValueError(
            f"`cov{number}` must be [d, d] with d = {len(mean)}. Received: shape {covariance.shape}. Use numpy.cov(features, rowvar=False)."
        )
    for name, values in ((f"mean{number}", mean), (f"cov{number}", covariance)):
        if not np.isfinite(values).all():
            raise ValueError(
                f"`{name}` must be finite. Received: NaN or infinity in it. Look at the features it was computed from."
            )
    if not np.allclose(covariance, covariance.T, rtol=1e-5, atol=1e-8 * np.abs(covariance).max()):
        raise ValueError(
            f"`cov{number}` must be symmetric. Received: a matrix that is not. Use numpy.cov(features, rowvar=False)."
        )
    return mean, (covariance + covariance.T) / 2
