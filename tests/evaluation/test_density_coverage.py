"""Density and coverage: the hand case, the analytic nulls by simulation, strictness, collapse."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from evaluation import density_coverage
from evaluation.density_coverage import coverage_null


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def column(*values):
    return np.array(values, float)[:, None]


def test_the_hand_case():
    result = density_coverage(column(0, 1, 3, 7), column(0.5, 0.6, 20, 21), k=1)
    assert (result.density.value, result.coverage.value) == (1.0, 0.5)
    density, coverage = result
    assert (float(density), float(coverage)) == (1.0, 0.5)


@pytest.mark.parametrize("n_real, n_fake, dimension, k", [(60, 60, 2, 5), (50, 80, 8, 1), (80, 10, 30, 12)])
def test_it_equals_an_independent_implementation(n_real, n_fake, dimension, k):
    real, fake = gaussian(n_real, dimension), gaussian(n_fake, dimension, seed=1) * 0.8 + 0.3
    radii = NearestNeighbors(n_neighbors=k).fit(real).kneighbors()[0][:, -1]
    inside = np.sqrt(np.square(fake[:, None] - real[None]).sum(-1)) < radii
    result = density_coverage(real, fake, k=k)
    assert result.density.value == pytest.approx(inside.sum() / (k * n_fake))
    assert result.coverage.value == pytest.approx(inside.any(0).mean())


def test_the_coverage_null_has_its_published_value_and_is_one_half_at_k_1():
    assert coverage_null(200, 200, 5) == pytest.approx(0.9699, abs=5e-5)
    assert coverage_null(2, 1, 1) == pytest.approx(
        1 / 2
    )  # of one other real image and one fake, either is as likely the nearer
    assert coverage_null(5, 5, 1) == pytest.approx(5 / 9)
    assert density_coverage(gaussian(30, 3), gaussian(50, 3, seed=1), k=2).coverage.details["null"] == coverage_null(
        30, 50, 2
    )


@pytest.mark.parametrize("dimension", [2, 64])
def test_under_the_null_density_and_coverage_are_what_the_details_say(dimension):
    results = [
        density_coverage(gaussian(40, dimension, seed=s), gaussian(60, dimension, seed=s + 5000)) for s in range(250)
    ]
    for part in ("density", "coverage"):
        values = np.array([getattr(r, part).value for r in results])
        null = getattr(results[0], part).details["null"]
        assert abs(values.mean() - null) < 4 * values.std() / np.sqrt(len(values)), (part, values.mean(), null)


def test_the_boundary_counts_as_outside():
    real = column(0, 1)
    assert [r.value for r in density_coverage(real, column(2, 9), k=1)] == [0, 0]
    assert [r.value for r in density_coverage(real, column(np.nextafter(2, 0), 9), k=1)] == [0.5, 0.5]


def test_one_image_over_and_over_gives_coverage_near_0_and_density_does_not_show_it():
    real = gaussian(200, 8)
    centre = np.square(real).sum(1).argmin()
    result = density_coverage(real, np.repeat(real[centre : centre + 1], 200, axis=0))
    assert result.coverage.value < 0.25 and result.density.value > 1
    edge = np.square(real).sum(1).argmax()
    assert density_coverage(real, np.repeat(real[edge : edge + 1], 200, axis=0)).coverage.value <= 0.01


def test_density_exceeds_1_where_a_model_keeps_to_the_dense_part():
    results = [density_coverage(gaussian(200, 4, seed=s), 0.5 * gaussian(200, 4, seed=s + 99)) for s in range(10)]
    assert np.mean([r.density.value for r in results]) > 1.1
    assert np.mean([r.coverage.value for r in results]) < 0.8 < results[0].coverage.details["null"]


def test_it_is_blind_to_order_rotation_translation_and_scale():
    real, fake = gaussian(50, 6), gaussian(50, 6, seed=1) * 0.7
    expected = [r.value for r in density_coverage(real, fake)]
    rotation = np.linalg.qr(gaussian(6, 6, seed=2))[0]
    for one, other in (
        (real[::-1], fake[::-1]),
        (real @ rotation, fake @ rotation),
        (real + 5, fake + 5),
        (real * 9, fake * 9),
    ):
        assert [r.value for r in density_coverage(one, other)] == expected


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_intervals_hold_the_mean_over_samples(shift):
    results = [density_coverage(gaussian(80, 16, seed=s), gaussian(80, 16, seed=s + 999) + shift) for s in range(80)]
    for part, least in (("density", 0.8), ("coverage", 0.9)):
        values = np.array([getattr(r, part).value for r in results])
        intervals = np.array([getattr(r, part).interval for r in results])
        held = (intervals[:, 0] <= values.mean()) & (values.mean() <= intervals[:, 1])
        assert held.mean() >= least


def test_k_must_be_below_the_number_of_real_images():
    assert density_coverage(gaussian(6, 2), gaussian(2, 2), k=5)  # the number of fake images does not matter
    with pytest.raises(ValueError, match=r"`k` must be a whole number in 1\.\.5 .*n_real=6.*k=6"):
        density_coverage(gaussian(6, 2), gaussian(9, 2), k=6)


def test_a_constant_real_set_is_refused():
    with pytest.raises(ValueError, match="`real` must hold at least two different rows"):
        density_coverage(np.ones((9, 2)), gaussian(9, 2))
