"""Grids, principal components and charts."""

import io

import numpy as np
import pytest
from PIL import Image

from evaluation import pictures


def opened(content):
    return Image.open(io.BytesIO(content))


def test_a_grid_keeps_the_pixels_and_is_white_where_it_has_no_image():
    images = np.arange(3 * 2 * 2 * 3, dtype=np.uint8).reshape(3, 2, 2, 3)
    whole = pictures.grid(images, columns=2, gap=1)
    assert whole.shape == (5, 5, 3)
    assert (
        (whole[:2, :2] == images[0]).all() and (whole[:2, 3:] == images[1]).all() and (whole[3:, :2] == images[2]).all()
    )
    assert (whole[2] == 255).all() and (whole[3:, 3:] == 255).all()
    assert pictures.grid(images, columns=8, gap=0).shape == (2, 6, 3)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_small_images_are_enlarged_by_whole_factors_and_large_ones_reduced(channels, mode):
    small = np.random.default_rng(0).integers(0, 256, (8, 8, channels), np.uint8)
    picture = opened(pictures.png(small, least=30))
    assert picture.size == (24, 24) and picture.mode == mode
    assert (np.asarray(picture).reshape(24, 24, channels)[::3, ::3] == small).all()
    assert opened(pictures.png(np.zeros((64, 32, channels), np.uint8), most=16)).size == (8, 16)


def test_transparent_pixels_become_white():
    images = np.zeros((1, 1, 2, 4), np.uint8)
    images[0, 0, 1, 3] = 255
    assert pictures.on_white(images).tolist() == [[[[255] * 3, [0] * 3]]]


@pytest.mark.parametrize("count", [30, 4])
def test_principal_components_are_those_of_the_covariance(count):
    features = np.random.default_rng(1).normal(size=(count, 6)) * [5, 3, 1, 1, 1, 1] + 7
    mean, axes, shares = pictures.principal_components(features)
    values, vectors = np.linalg.eigh(np.cov(features.T))
    np.testing.assert_allclose(mean, features.mean(axis=0))
    np.testing.assert_allclose(np.abs(axes @ vectors[:, ::-1][:, :2]), np.eye(2), atol=1e-9)
    np.testing.assert_allclose(shares, values[::-1][:2] / values.sum())


def test_the_scatter_is_fitted_on_the_training_images_alone():
    generator = np.random.default_rng(2)
    train = generator.normal(size=(40, 5)) * [9, 4, 1, 1, 1]
    far = generator.normal(size=(20, 5)) * [0, 0, 0, 0, 900]
    charts, shares = pictures.pca_scatters(train, None, {"one": far, "two": train})
    assert list(charts) == ["one", "two"]
    np.testing.assert_allclose(shares, pictures.principal_components(train)[2])


def test_charts_are_drawn_light_and_dark_at_the_asked_size():
    chart = pictures.metric_curve("KID", [1, 2], [0.3, 0.1], [(0.2, 0.4), None], best=1, floor=0.0)
    light, dark = opened(chart["light"]).convert("L"), opened(chart["dark"]).convert("L")
    assert light.size == dark.size == tuple(round(side * pictures.DPI) for side in pictures.CHART_INCHES)
    assert light.getpixel((3, 3)) > 240 and dark.getpixel((3, 3)) < 40


def test_a_comparison_shows_a_panel_for_every_metric_even_with_gaps():
    panels = [
        ("KID", "lower", [0.1, None], [(0.0, 0.2), None], [0.0, 0.0]),
        ("Recall", "higher", [0.5, 0.6], [None, None], [None, None]),
        ("AA", "near .5", [0.5, 0.6], [None, (0.5, 0.7)], [0.5, 0.5]),
    ]
    assert opened(pictures.comparison_chart(panels, ["a", "b"])["light"]).size[0] == round(10 * pictures.DPI)
