"""Nearest neighbours against brute force and scikit-learn, above all where a shortcut would go wrong: duplicates, ties, blocks, memory."""

import tracemalloc

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from evaluation.neighbors import count_within, nearest, normalized


def brute_force(queries, references, exclude_self=False):
    distances = np.sqrt(np.square(queries[:, None].astype(np.float64) - references[None].astype(np.float64)).sum(-1))
    if exclude_self:
        np.fill_diagonal(distances, np.inf)
    return distances


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("dimension", [1, 5, 200])
def test_neighbours_equal_those_of_scikit_learn(dimension, k):
    queries, references = gaussian(70, dimension), gaussian(90, dimension, seed=1)
    expected, expected_indices = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(references).kneighbors(queries)
    distances, indices = nearest(queries, references, k=k, block=32)
    np.testing.assert_allclose(distances, expected, rtol=1e-9, atol=1e-11)  # scikit-learn's own cancellation
    np.testing.assert_array_equal(indices, expected_indices)
    assert distances.dtype == np.float64 and indices.dtype == np.int64 and distances.shape == (70, k)

    own, own_indices = nearest(references, references, k=k, exclude_self=True, block=32)
    expected, expected_indices = (
        NearestNeighbors(n_neighbors=k, algorithm="brute").fit(references).kneighbors()
    )  # leaves each point out
    np.testing.assert_allclose(own, expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(own_indices, expected_indices)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_identical_rows_are_at_distance_exactly_zero_even_far_from_the_origin(offset):
    references = gaussian(60, 300) + offset
    queries = references[[7, 7, 50, 3]]
    distances, indices = nearest(queries, references, block=16)
    assert (distances == 0).all()
    np.testing.assert_array_equal(indices[:, 0], [7, 7, 50, 3])


def test_ties_go_to_the_lower_index_in_blocks_of_any_size():
    references = np.array([[0.0], [2.0], [0.0], [2.0], [2.0]])
    for block in (1, 2, 3, 100):
        distances, indices = nearest(np.array([[1.0], [0.0], [2.0]]), references, k=3, block=block)
        np.testing.assert_array_equal(indices, [[0, 1, 2], [0, 2, 1], [1, 3, 4]])
        np.testing.assert_array_equal(distances, [[1, 1, 1], [0, 0, 2], [0, 0, 0]])


def test_a_point_is_left_out_by_index_so_that_its_duplicate_remains_a_neighbour():
    points = np.array([[5.0], [0.0], [5.0]])
    distances, indices = nearest(points, points, k=2, exclude_self=True)
    np.testing.assert_array_equal(indices, [[2, 1], [0, 2], [0, 1]])
    np.testing.assert_array_equal(distances, [[0, 5], [5, 5], [0, 5]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_block_changes_nothing_not_even_the_last_bit(dtype):
    points = np.round(gaussian(130, 40), 1).astype(dtype)  # rounded: many ties
    points[100:120] = points[:20]
    queries = np.concatenate([gaussian(30, 40, seed=1).astype(dtype), points[:10]])
    whole, whole_own = nearest(queries, points, k=4), nearest(points, points, k=4, exclude_self=True)
    radii = whole_own[0][:, -1]
    whole_counts = count_within(queries, points, radii)
    for block in (1, 7, 64, 129, 131):
        for expected, seen in (
            (whole, nearest(queries, points, k=4, block=block)),
            (whole_own, nearest(points, points, k=4, exclude_self=True, block=block)),
        ):
            np.testing.assert_array_equal(expected[0], seen[0])
            np.testing.assert_array_equal(expected[1], seen[1])
        for expected, seen in zip(whole_counts, count_within(queries, points, radii, block=block)):
            np.testing.assert_array_equal(expected, seen)


def test_distances_are_symmetric_to_the_last_bit_and_equal_the_plain_formula():
    x, y = gaussian(20, 777) * 1e3 + 50, gaussian(30, 777, seed=1) * 1e3
    distances, indices = nearest(x, y, k=30)
    back, back_indices = nearest(y, x, k=20)
    forward_table, back_table = np.empty((20, 30)), np.empty((30, 20))
    np.put_along_axis(forward_table, indices, distances, 1)
    np.put_along_axis(back_table, back_indices, back, 1)
    np.testing.assert_array_equal(forward_table, back_table.T)
    np.testing.assert_allclose(forward_table, brute_force(x, y), rtol=1e-14)


def test_near_duplicates_far_below_the_cancellation_of_a_matrix_product_are_told_apart():
    base = gaussian(1, 500) * 100
    steps = np.array([0, 3e-9, 1e-9, 2e-9])[:, None] * np.eye(1, 500)
    references = np.concatenate([base + steps, gaussian(40, 500, seed=1)])
    distances, indices = nearest(base, references, k=4)
    np.testing.assert_array_equal(indices, [[0, 2, 3, 1]])
    np.testing.assert_array_equal(distances, np.sort(brute_force(base, references))[:, :4])


def test_an_outlier_does_not_spoil_the_others():
    references = gaussian(50, 20)
    references[10] = 1e9
    np.testing.assert_array_equal(
        nearest(references, references, exclude_self=True)[1][:, 0], brute_force(references, references, True).argmin(1)
    )


@pytest.mark.parametrize("strict", [False, True])
def test_counts_equal_brute_force_including_points_exactly_on_the_boundary(strict):
    references, queries = np.round(gaussian(60, 2), 1), np.round(gaussian(80, 2, seed=1), 1)
    radii = np.linspace(0, 2, 60).round(1)
    radii[5] = brute_force(queries, references)[3, 5]
    inside = np.less if strict else np.less_equal
    table = inside(brute_force(queries, references), radii)
    by_query, by_reference = count_within(queries, references, radii, strict=strict, block=17)
    np.testing.assert_array_equal(by_query, table.sum(1))
    np.testing.assert_array_equal(by_reference, table.sum(0))
    assert inside(0.3, 0.3) != strict  # what the test is about


def test_a_zero_radius_holds_its_own_duplicates_unless_strict():
    points = np.array([[1.1], [1.1], [2.0]])
    np.testing.assert_array_equal(count_within(points, points, np.zeros(3))[0], [2, 2, 1])
    np.testing.assert_array_equal(count_within(points, points, np.zeros(3), strict=True)[0], [0, 0, 0])


def test_memory_does_not_grow_with_the_number_of_pairs():
    points = gaussian(4000, 32).astype(np.float32)
    tracemalloc.start()
    nearest(points, points, k=5, exclude_self=True, block=256)
    count_within(points, points, np.full(4000, 5.0), block=256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24e6  # all distances would take 128e6


def test_a_collapsed_set_costs_neither_memory_nor_time():
    points = np.repeat(gaussian(3, 512), 700, axis=0)
    tracemalloc.start()
    distances, indices = nearest(points, points, exclude_self=True, block=512)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (distances == 0).all() and (
        indices[:, 0] == np.repeat([0, 700, 1400], 700) + (np.arange(2100) % 700 == 0)
    ).all()
    assert peak < 200e6  # every difference would take 700 * 2100 * 512 * 8 = 6e9


def test_progress_counts_up_to_all_queries():
    seen = []
    nearest(gaussian(25, 2), gaussian(9, 2), block=10, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(10, 25), (20, 25), (25, 25)]


def test_inputs_are_left_as_they_were():
    points = gaussian(30, 4)
    before = points.copy()
    nearest(points, points, exclude_self=True)
    normalized(points)
    np.testing.assert_array_equal(points, before)


def test_normalized_rows_have_length_one_and_give_cosine_distance():
    points = gaussian(20, 6) * np.logspace(-200, 200, 20)[:, None]
    unit = normalized(points)
    np.testing.assert_allclose(np.square(unit).sum(1), 1, rtol=1e-12)
    x, y = gaussian(2, 6)
    cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    np.testing.assert_allclose(nearest(normalized([x]), normalized([y]))[0], np.sqrt(2 - 2 * cosine), rtol=1e-12)


def test_a_zero_row_has_no_direction():
    with pytest.raises(ValueError, match="`features` must have no zero rows.*row 1"):
        normalized([[1.0, 2.0], [0.0, 0.0]])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: nearest(x, x, k=5), "`k` must be a whole number in 1..4.*k=5"),
        (lambda x: nearest(x, x, k=4, exclude_self=True), "`k` must be a whole number in 1..3.*k=4"),
        (lambda x: nearest(x, x, k=0), "`k` must be"),
        (lambda x: nearest(x, x, k=1.5), "`k` must be a whole number"),
        (lambda x: nearest(x, x[:3], exclude_self=True), "`exclude_self`"),
        (lambda x: nearest(x, x, block=0), "`block` must be"),
        (lambda x: nearest(x, x[:, :1]), "`queries` and `references` must have the same number of features"),
        (lambda x: nearest(x[0], x), "`queries` must be a matrix"),
        (lambda x: nearest(x, x * np.nan), "`references` must be finite"),
        (lambda x: count_within(x, x, np.ones(3)), "`radii` must be 4"),
        (lambda x: count_within(x, x, -np.ones(4)), "`radii` must be 4"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(gaussian(4, 2))
