"""The Fréchet distance: closed forms, an independent number, scipy's square root, invariances, bias and floor."""

import numpy as np
import pytest
import scipy.linalg

from evaluation.frechet import frechet_distance, frechet_distance_from_statistics, real_vs_real_floor


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def test_the_case_on_which_three_public_packages_agree():
    r = np.random.RandomState(0)
    a = r.randn(500, 64)
    b = r.randn(400, 64) * 1.1 + 0.1
    for form in (None, "eigen", "low-rank"):
        assert frechet_distance(a, b, form=form).value == pytest.approx(6.865189195760422, abs=1e-9)
    statistics = a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False)
    assert float(frechet_distance_from_statistics(*statistics)) == pytest.approx(6.865189195760422, abs=1e-9)


def test_unit_gaussians_one_apart_in_every_one_of_2048_dimensions_are_2048_apart():
    result = frechet_distance_from_statistics(np.zeros(2048), np.eye(2048), np.ones(2048), np.eye(2048))
    assert result.value == pytest.approx(2048, abs=1e-8)


def test_diagonal_gaussians_have_their_closed_form():
    rng = np.random.default_rng(0)
    mean1, mean2, var1, var2 = rng.normal(size=30), rng.normal(size=30), rng.uniform(0, 2, 30), rng.uniform(0, 2, 30)
    var1[0] = 0  # and a singular one
    expected = np.square(mean1 - mean2).sum() + np.square(np.sqrt(var1) - np.sqrt(var2)).sum()
    assert frechet_distance_from_statistics(mean1, np.diag(var1), mean2, np.diag(var2)).value == pytest.approx(
        expected, rel=1e-10
    )


@pytest.mark.parametrize(
    "n_real, n_fake, dimension",
    [(20, 30, 50), (30, 200, 50), (200, 30, 50), (200, 300, 50), (50, 50, 50), (51, 51, 50), (20, 20, 1)],
)
def test_the_two_forms_agree_with_each_other_and_with_a_matrix_square_root(n_real, n_fake, dimension):
    mixing = gaussian(dimension, dimension, seed=5)
    real, fake = gaussian(n_real, dimension) @ mixing, gaussian(n_fake, dimension, seed=1) @ mixing * 1.2 + 0.3
    low_rank, eigen = (frechet_distance(real, fake, form=form).value for form in ("low-rank", "eigen"))
    assert low_rank == pytest.approx(eigen, rel=1e-6 if min(n_real, n_fake) <= dimension else 1e-9)
    assert low_rank == frechet_distance(real, fake).value or eigen == frechet_distance(real, fake).value

    s1, s2 = np.atleast_2d(np.cov(real, rowvar=False)), np.atleast_2d(np.cov(fake, rowvar=False))
    eigenvalues = np.clip(scipy.linalg.eigvals(s1 @ s2).real, 0, None)
    expected = np.square(real.mean(0) - fake.mean(0)).sum() + np.trace(s1 + s2) - 2 * np.sqrt(eigenvalues).sum()
    assert low_rank == pytest.approx(expected, rel=1e-4)


def test_the_form_is_chosen_by_n_against_d():
    assert frechet_distance(gaussian(10, 20), gaussian(100, 20)).details["form"] == "low-rank"
    assert frechet_distance(gaussian(30, 20), gaussian(100, 20)).details["form"] == "eigen"


@pytest.mark.parametrize("n", [50, 400])
def test_a_set_against_itself_is_at_zero_and_never_below(n):
    features = gaussian(n, 200) @ gaussian(200, 200, seed=1)
    scale = np.square(features).sum() / n
    assert 0 <= frechet_distance(features, features).value < 1e-12 * scale
    assert 0 <= frechet_distance(features, features[::-1]).value < 1e-12 * scale


@pytest.mark.parametrize("n", [30, 200])
def test_it_is_symmetric_and_blind_to_order_rotation_and_common_translation(n):
    real, fake = gaussian(n, 40), gaussian(n + 10, 40, seed=1) * np.linspace(0.5, 2, 40)
    value = frechet_distance(real, fake).value
    rotation = np.linalg.qr(gaussian(40, 40, seed=2))[0]
    order = np.random.default_rng(3).permutation
    for one, other in (
        (fake, real),
        (order(real), order(fake)),
        (real @ rotation, fake @ rotation),
        (real + 7, fake + 7),
        (real[:, ::-1], fake[:, ::-1]),
    ):
        assert frechet_distance(one, other).value == pytest.approx(value, rel=1e-9)
    assert frechet_distance(real * 3, fake * 3).value == pytest.approx(9 * value, rel=1e-9)
    assert frechet_distance(real, fake + 1).value != pytest.approx(value, rel=0.01)


def test_covariances_are_unbiased_with_ddof_1():
    assert frechet_distance([[0.0], [2.0]], [[0.0], [0.0]]).value == pytest.approx(
        1 + 2
    )  # means 1 apart; variance 2, not 1


def test_the_bias_at_small_n_is_as_large_as_documented():
    # The table's Gaussian: 2048 dimensions, trace 100, variances falling as exp(-i / 300). Both sets are samples of it.
    rng = np.random.default_rng(0)
    variances = np.exp(-np.arange(2048) / 300)
    scale = np.sqrt(100 * variances / variances.sum())
    for n, expected in ((50, 156), (100, 135), (200, 110), (331, 88)):
        assert frechet_distance(*(rng.standard_normal((2, n, 2048)) * scale)).value == pytest.approx(expected, rel=0.03)


def test_the_floor_never_lets_the_halves_overlap_and_says_how_many_rows_it_used():
    features = gaussian(100, 8)
    floor = real_vs_real_floor(features, 500)
    assert floor.details["n"] == 50 and floor.details["n_requested"] == 500
    assert floor.interval[0] <= floor.value <= floor.interval[1] and floor.value > 0
    distinct = np.arange(40.0)[:, None] * [1.0, 0.0] + [0.0, 1.0]
    seen = real_vs_real_floor(distinct, 20, num_splits=1)
    half = np.random.default_rng(0).permutation(40)
    assert seen.value == frechet_distance(distinct[half[:20]], distinct[half[20:]]).value


def test_the_floor_falls_with_n_and_is_what_a_perfect_model_scores():
    features = gaussian(1200, 32)
    small, large = real_vs_real_floor(features, 60).value, real_vs_real_floor(features, 500).value
    assert small > 3 * large
    perfect = np.mean(
        [frechet_distance(gaussian(60, 32, seed=s), gaussian(60, 32, seed=s + 100)).value for s in range(1, 9)]
    )
    assert small == pytest.approx(perfect, rel=0.1)
    assert real_vs_real_floor(features, 60).value == small and real_vs_real_floor(features, 60, seed=1).value != small


def test_a_collapsed_model_is_scored_and_a_constant_real_set_is_refused():
    real, collapsed = gaussian(50, 4), np.zeros((50, 4))
    assert frechet_distance(real, collapsed).value == pytest.approx(
        np.square(real.mean(0)).sum() + np.trace(np.cov(real, rowvar=False))
    )
    with pytest.raises(ValueError, match="`real` must hold at least two different rows.*50 identical rows"):
        frechet_distance(collapsed, real)


@pytest.mark.parametrize(
    "statistics, message",
    [
        ((np.zeros((2, 2)), np.eye(2), np.zeros(2), np.eye(2)), "`mean1` must be a vector"),
        ((np.zeros(2), np.eye(3), np.zeros(2), np.eye(2)), r"`cov1` must be \[d, d\]"),
        ((np.zeros(2), np.eye(2), np.zeros(3), np.eye(3)), "`mean1` and `mean2`"),
        ((np.zeros(2), np.eye(2), np.full(2, np.nan), np.eye(2)), "`mean2` must be finite"),
        ((np.zeros(2), np.eye(2), np.zeros(2), np.array([[1.0, 2.0], [0.0, 1.0]])), "`cov2` must be symmetric"),
        ((np.zeros(2), -np.eye(2), np.zeros(2), np.eye(2)), "`cov1` must be positive"),
        ((np.zeros(2), np.eye(2), np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]])), "`cov2` must be positive"),
    ],
)
def test_bad_statistics_are_named(statistics, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance_from_statistics(*statistics)


def test_an_unknown_form_and_too_few_images_for_a_floor_are_refused():
    with pytest.raises(ValueError, match='`form` must be "low-rank"'):
        frechet_distance(gaussian(5, 2), gaussian(5, 2), form="sqrtm")
    with pytest.raises(ValueError, match="`real` must have at least 4 rows"):
        real_vs_real_floor(gaussian(3, 2), 2)
    with pytest.raises(ValueError, match="`n` must be a whole number of at least 2"):
        real_vs_real_floor(gaussian(9, 2), 1)
