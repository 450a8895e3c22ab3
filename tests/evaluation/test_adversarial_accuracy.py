"""Adversarial accuracy and privacy loss: every hand case, scikit-learn, the null's mean and spread, what copying looks like."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from evaluation import adversarial_accuracy, privacy_loss
from evaluation.neighbors import normalized


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def column(*values):
    return np.array(values, float)[:, None]


def reference(real, synthetic):
    def side(own, other):
        among_own = NearestNeighbors(n_neighbors=1).fit(own).kneighbors()[0][:, 0]
        return (NearestNeighbors(n_neighbors=1).fit(other).kneighbors(own)[0][:, 0] > among_own).mean()

    return side(real, synthetic), side(synthetic, real)


@pytest.mark.parametrize(
    "real, synthetic, left, right",
    [
        ([0, 1], [10, 11], 1, 1),
        ([0, 10], [0.5, 10.5], 0, 0),
        ([0, 1, 5], [0, 1, 5], 0, 0),
        ([0, 0, 5, 5], [0, 0, 5, 5], 0, 0),
        ([0, 1], [-2, 3], 1, 0),
        ([0, 1], [2, 3], 0.5, 0.5),
        ([0, 1, 2, 3], [0.5] * 4, 0.5, 1),
        ([0, 10, 20, 30], [0, 10, 100, 101], 0.25, 0.5),
    ],
)
def test_hand_cases(real, synthetic, left, right):
    result = adversarial_accuracy(column(*real), column(*synthetic))
    assert (result.details["left"], result.details["right"]) == (left, right)
    assert result.value == (left + right) / 2
    assert 0 <= result.interval[0] <= result.value <= result.interval[1] <= 1
    assert result.interval[1] - result.interval[0] > 0.3  # four images prove little, also at 0 and 1


def test_privacy_loss_of_the_hand_case():
    result = privacy_loss(column(0, 10), column(100, 101), column(0.5, 10.5))
    assert (result.details["aa_train"]["value"], result.details["aa_test"]["value"], result.value) == (0, 1, 1)
    assert result.interval[1] == 1 and result.interval[0] < 0.6


@pytest.mark.parametrize("n, dimension", [(50, 1), (40, 6), (60, 100)])
def test_it_equals_an_independent_implementation(n, dimension):
    real, synthetic = gaussian(n, dimension), gaussian(n, dimension, seed=1) * 0.9 + 0.2
    result = adversarial_accuracy(real, synthetic)
    assert (result.details["left"], result.details["right"]) == pytest.approx(reference(real, synthetic))


def test_the_null_is_just_below_one_half_by_its_formula():
    assert adversarial_accuracy(gaussian(50, 3), gaussian(50, 3, seed=1)).details["null"] == pytest.approx(98 / 198)
    small = [adversarial_accuracy(gaussian(4, 3, seed=s), gaussian(4, 3, seed=s + 9999)).value for s in range(1500)]
    assert np.mean(small) == pytest.approx(6 / 14, abs=4 * np.std(small) / np.sqrt(len(small)))  # and clearly not 1/2


@pytest.mark.parametrize(
    "n, expected, expected_loss", [(50, 0.058, 0.07), (100, 0.040, 0.05), (200, 0.028, 0.035), (331, 0.021, 0.027)]
)
def test_the_stated_spread_is_that_of_the_table_and_of_simulation(n, expected, expected_loss):
    repeats = 100 if n < 200 else 30
    sets = [gaussian(3, n, 16, seed=s) for s in range(repeats)]
    losses = [privacy_loss(*three) for three in sets]
    accuracies = [loss.details["aa_train"] for loss in losses]
    values, stated = np.array([a["value"] for a in accuracies]), np.mean([a["sd"] for a in accuracies])
    assert stated == pytest.approx(expected, rel=0.12)
    assert np.mean([a["null_sd"] for a in accuracies]) == pytest.approx(expected, rel=0.12)
    assert values.std() == pytest.approx(expected, rel=4 / np.sqrt(2 * repeats))
    stated_loss = np.mean([loss.interval[1] - loss.interval[0] for loss in losses]) / 3.92
    assert stated_loss == pytest.approx(expected_loss, rel=0.12)
    assert np.std([loss.value for loss in losses]) == pytest.approx(expected_loss, rel=4 / np.sqrt(2 * repeats))
    assert np.mean([a["interval"][0] <= a["null"] <= a["interval"][1] for a in accuracies]) >= 0.85
    assert np.mean([loss.interval[0] <= 0 <= loss.interval[1] for loss in losses]) >= 0.85


@pytest.mark.parametrize("dimension, shift", [(2, 0.0), (512, 0.0), (2, 0.5), (64, 0.4)])
def test_the_interval_holds_the_mean_in_few_and_many_dimensions_and_for_a_bad_model(dimension, shift):
    results = [
        adversarial_accuracy(gaussian(60, dimension, seed=s), gaussian(60, dimension, seed=s + 999) + shift)
        for s in range(100)
    ]
    mean = np.mean([r.value for r in results])
    assert np.mean([r.interval[0] <= mean <= r.interval[1] for r in results]) >= 0.88
    assert np.mean([r.interval[1] - r.interval[0] for r in results]) / 3.92 < 1.4 * np.std([r.value for r in results])


def test_a_perfect_copy_of_train_has_a_privacy_loss_of_one_half_with_test_of_the_same_distribution():
    train, test = gaussian(2, 150, 16)
    result = privacy_loss(train, test, train)
    assert result.details["aa_train"]["value"] == 0
    assert result.details["aa_test"]["value"] == pytest.approx(0.5, abs=0.1)
    assert result.interval[0] > 0.35


@pytest.mark.parametrize("copied", [0.25, 0.5, 0.75])
def test_a_share_of_exact_copies_lies_between_by_its_closed_form(copied):
    # With a share c copied, only a point that is not copied and whose nearest neighbour, of (1 - c) n of its own, (1 - c) n of
    # the other set and c n copied places (ties: not >), is one of its own counts. At c = 1/2 that is 1/6, not 1/4.
    expected, count = (1 - copied) ** 2 / (2 - copied), int(copied * 200)
    results = []
    for seed in range(10):
        train, test, fresh = gaussian(3, 200, 16, seed=seed)
        results.append(privacy_loss(train, test, np.concatenate([train[:count], fresh[count:]])))
    assert np.mean([r.details["aa_train"]["value"] for r in results]) == pytest.approx(expected, abs=0.025)
    assert np.mean([r.details["aa_test"]["value"] for r in results]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([r.value for r in results]) == pytest.approx(0.5 - expected, abs=0.04)
    assert all(r.interval[0] > 0 for r in results)


def test_fresh_images_lose_no_privacy_and_the_interval_says_so():
    result = privacy_loss(*gaussian(3, 200, 16, seed=3))
    assert result.interval[0] < 0 < result.interval[1] and result.interval[1] - result.interval[0] < 0.2
    for name in ("aa_train", "aa_test"):
        low, high = result.details[name]["interval"]
        assert low < 0.5 < high


def test_a_distinguishable_model_cannot_show_copying_and_both_accuracies_show_why():
    train, test = gaussian(2, 60, 8)
    result = privacy_loss(train, test, train + 50)
    assert result.value == 0 and result.details["aa_train"]["value"] == result.details["aa_test"]["value"] == 1
    assert result.interval[1] - result.interval[0] > 0.02


def test_collapse_is_distinguishable_from_the_right_alone():
    real = gaussian(100, 8)
    result = adversarial_accuracy(real, np.repeat(real[:1] + 0.01, 100, axis=0))
    assert result.details["right"] == 1 and result.value > 0.7


def test_exchanging_the_sets_exchanges_left_and_right():
    one, other = gaussian(40, 5), gaussian(40, 5, seed=1) * 1.5
    there, back = adversarial_accuracy(one, other), adversarial_accuracy(other, one)
    assert (there.details["left"], there.details["right"], there.interval) == (
        back.details["right"],
        back.details["left"],
        back.interval,
    )


def test_it_is_blind_to_order_rotation_translation_and_scale():
    real, synthetic = gaussian(50, 6), gaussian(50, 6, seed=1) * 0.7
    expected = adversarial_accuracy(real, synthetic).value
    rotation = np.linalg.qr(gaussian(6, 6, seed=2))[0]
    for one, other in (
        (real[::-1], synthetic[::-1]),
        (real @ rotation, synthetic @ rotation),
        (real + 5, synthetic + 5),
        (real * 9, synthetic * 9),
    ):
        assert adversarial_accuracy(one, other).value == pytest.approx(expected, abs=1e-12)


def test_cosine_distance_ignores_the_length_of_features():
    real, synthetic = gaussian(40, 6), gaussian(40, 6, seed=1)
    longer = synthetic * np.linspace(1, 9, 40)[:, None]
    assert (
        adversarial_accuracy(normalized(real), normalized(longer)).value
        == adversarial_accuracy(normalized(real), normalized(synthetic)).value
    )


def test_unequal_sizes_are_subsampled_to_the_smaller_and_averaged():
    real, synthetic = gaussian(400, 8), gaussian(40, 8, seed=1)
    result = adversarial_accuracy(real, synthetic)
    assert result.details["n"] == 40 and result.details["num_draws"] == 20
    assert (result.details["n_real"], result.details["n_fake"]) == (400, 40)
    assert result.value == pytest.approx(0.5, abs=0.15)
    assert (
        adversarial_accuracy(real, synthetic).value
        == result.value
        != adversarial_accuracy(real, synthetic, seed=1).value
    )
    once = adversarial_accuracy(real, synthetic, num_draws=1)
    rows = np.sort(np.random.default_rng(0).choice(400, 40, replace=False))
    assert once.value == adversarial_accuracy(real[rows], synthetic).value

    # Many synthetic images must not be what tells them apart: with all 400 against 40 the left side alone would be near 0.
    assert adversarial_accuracy(synthetic, real).details["left"] == pytest.approx(0.5, abs=0.15)


def test_privacy_loss_uses_one_size_for_both_accuracies():
    result = privacy_loss(gaussian(300, 8), gaussian(50, 8, seed=1), gaussian(120, 8, seed=2))
    assert result.details["n"] == result.details["aa_train"]["n"] == result.details["aa_test"]["n"] == 50
    assert abs(result.value) < 0.2


def test_equal_sizes_do_not_depend_on_the_seed():
    sets = gaussian(3, 30, 4)
    assert privacy_loss(*sets, seed=0).interval == privacy_loss(*sets, seed=9).interval
    assert privacy_loss(*sets).details["num_draws"] == 1


@pytest.mark.parametrize("broken", ["train", "test"])
def test_a_constant_reference_is_refused_by_name(broken):
    sets = {name: gaussian(9, 2, seed=i) for i, name in enumerate(("train", "test", "synthetic"))}
    sets[broken] = np.ones((9, 2))
    with pytest.raises(ValueError, match=f"`{broken}` must hold at least two different rows"):
        privacy_loss(**sets)


def test_bad_draws_are_refused():
    with pytest.raises(ValueError, match="`num_draws` must be"):
        adversarial_accuracy(gaussian(5, 2), gaussian(6, 2), num_draws=0)
