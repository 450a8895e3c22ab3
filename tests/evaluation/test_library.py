"""The library as a user meets it: names, result objects, one set of errors for every metric, no TensorFlow."""

import functools
import json
import subprocess
import sys
import types

import numpy as np
import pytest

import evaluation
from evaluation import frechet
from evaluation import kid as kid_function
from evaluation.result import Result, wilson_interval


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# name: (function, names of its sets of features)
METRICS = {
    "frechet_distance": (evaluation.frechet_distance, ("real", "fake")),
    "kid": (evaluation.kid, ("real", "fake")),
    "precision_recall": (evaluation.precision_recall, ("real", "fake")),
    "density_coverage": (evaluation.density_coverage, ("real", "fake")),
    "adversarial_accuracy": (evaluation.adversarial_accuracy, ("real", "synthetic")),
    "privacy_loss": (evaluation.privacy_loss, ("train", "test", "synthetic")),
    "authenticity": (evaluation.authenticity, ("train", "synthetic")),
    "inception_score": (functools.partial(evaluation.inception_score, splits=2), ("logits",)),
}
every_metric = pytest.mark.parametrize("metric", list(METRICS))
every_argument = pytest.mark.parametrize(
    "metric, argument", [(metric, name) for metric, (_, names) in METRICS.items() for name in names]
)


def score(metric, n=12, dtype=np.float64, **replaced):
    function, names = METRICS[metric]
    sets = {name: gaussian(n, 4, seed=i).astype(dtype) for i, name in enumerate(names)}
    return function(**sets | replaced)


def results(scored):
    return [scored] if isinstance(scored, Result) else list(scored)


@every_metric
def test_results_are_plain_numbers_with_context_that_json_can_write(metric):
    for result in results(score(metric)):
        assert type(result.value) is float and float(result) == result.value and np.isfinite(result.value)
        if result.interval is not None:
            low, high = result.interval
            assert type(result.interval) is tuple and type(low) is float and type(high) is float
            assert low <= result.value <= high
            assert result.details["interval_method"] not in ("", "none")
        assert json.loads(json.dumps(dict(result.details), allow_nan=False))
        assert any(name.startswith("n_") for name in result.details)


def test_every_metric_but_the_frechet_distance_has_an_interval():
    assert [metric for metric in METRICS if any(r.interval is None for r in results(score(metric)))] == [
        "frechet_distance"
    ]


@every_metric
def test_the_same_call_gives_the_same_answer_and_leaves_its_input_alone(metric):
    function, names = METRICS[metric]
    sets = [gaussian(14, 4, seed=i) for i in range(len(names))]
    copies = [features.copy() for features in sets]
    assert results(function(*sets)) == results(function(*sets))
    for features, copy in zip(sets, copies):
        np.testing.assert_array_equal(features, copy)


@every_metric
def test_float32_features_lists_and_strided_views_score_as_float64_arrays_do(metric):
    function, names = METRICS[metric]
    singles = [gaussian(14, 4, seed=i).astype(np.float32) for i in range(len(names))]
    expected = [r.value for r in results(function(*(s.astype(np.float64) for s in singles)))]
    for converted in (
        singles,
        [s.tolist() for s in singles],
        [np.repeat(s, 2, axis=1)[:, ::2] for s in singles],
        [np.asfortranarray(s) for s in singles],
    ):
        assert [r.value for r in results(function(*converted))] == pytest.approx(expected, rel=1e-12)


@every_argument
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_single_nan_or_infinity_is_refused_with_its_row(metric, argument, bad):
    features = gaussian(12, 4)
    features[7, 2] = bad
    with pytest.raises(ValueError, match=f"`{argument}` must be finite.*row 7"):
        score(metric, **{argument: features})


@every_argument
@pytest.mark.parametrize("shape", [(12,), (12, 2, 2), ()])
def test_anything_but_a_matrix_is_refused(metric, argument, shape):
    with pytest.raises(ValueError, match=f"`{argument}` must be a matrix.*Received: shape"):
        score(metric, **{argument: np.ones(shape)})


@every_argument
@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_images_are_refused(metric, argument, rows):
    if (metric, argument, rows) == ("authenticity", "synthetic", 1):
        assert score(metric, synthetic=gaussian(1, 4)).value in (0, 1)  # one image can be asked about
        return
    with pytest.raises(ValueError, match=rf"`{argument}` must have at least [12] rows.*\({rows}, 4\)"):
        score(metric, **{argument: np.ones((rows, 4))})


@every_argument
def test_features_of_no_width_are_refused(metric, argument):
    with pytest.raises(ValueError, match=f"`{argument}` must have at least one column"):
        score(metric, **{argument: np.ones((12, 0))})


@every_argument
@pytest.mark.parametrize(
    "bad", [[["a", "b"]] * 12, gaussian(12, 4) * 1j, np.full((12, 4), None), [[1, 2], [3]], np.ones((12, 4), bool)]
)
def test_anything_but_real_numbers_is_refused(metric, argument, bad):
    with pytest.raises(ValueError, match=f"`{argument}` must be (real numbers|one array)"):
        score(metric, **{argument: bad})


@every_metric
def test_features_of_two_networks_are_refused(metric):
    names = METRICS[metric][1]
    for name in names:
        if len(names) > 1:
            with pytest.raises(ValueError, match=rf"`{names[0]}` and .*same number of features.*{name} \(12, 5\)"):
                score(metric, **{name: gaussian(12, 5)})


@every_metric
def test_a_collapsed_model_is_scored_not_refused(metric):
    names = METRICS[metric][1]
    for result in results(score(metric, **{names[-1]: np.full((12, 4), 0.3)})):
        assert np.isfinite(result.value)


@pytest.mark.parametrize(
    "metric",
    [
        "frechet_distance",
        "precision_recall",
        "density_coverage",
        "adversarial_accuracy",
        "privacy_loss",
        "authenticity",
    ],
)
def test_a_constant_reference_is_refused(metric):
    name = METRICS[metric][1][0]
    with pytest.raises(ValueError, match=f"`{name}` must hold at least two different rows.*12 identical rows"):
        score(metric, **{name: np.full((12, 4), 0.3)})


def test_importing_the_library_imports_neither_tensorflow_nor_keras_nor_scipy():
    script = "import sys, evaluation; evaluation.kid([[0.0], [1.0]], [[0.0], [2.0]]); print([m for m in ('tensorflow', 'keras', 'scipy', 'sklearn') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
        == "[]"
    )


def test_names_stay_functions_after_their_modules_are_imported():
    script = "import evaluation.kid, evaluation.precision_recall, evaluation; from evaluation.kid import real_vs_real_floor; assert callable(evaluation.kid) and callable(evaluation.precision_recall)"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert kid_function is evaluation.kid and isinstance(frechet, types.ModuleType)


def test_extract_features_asks_the_features_module_only_when_it_is_called(monkeypatch):
    module = types.ModuleType("evaluation.features")
    module.extract_features = lambda images, network, **options: (images, network, options)
    monkeypatch.setitem(sys.modules, "evaluation.features", module)
    monkeypatch.setattr(evaluation, "features", module, raising=False)
    assert evaluation.extract_features("images", resize="clean") == (
        "images",
        "efficientnet-lite0",
        {"resize": "clean"},
    )
    assert evaluation.extract_features("images", "resnet50")[1] == "resnet50"


def test_everything_promised_is_there():
    for name in evaluation.__all__:
        assert hasattr(evaluation, name)


def test_results_cannot_be_changed():
    with pytest.raises(AttributeError):
        Result(1.0).value = 2.0
    assert Result(1.0).interval is None and dict(Result(1.0).details) == {}


def test_wilson_intervals_equal_published_ones():
    np.testing.assert_allclose(wilson_interval(0.0, 10), (0, 0.2775), atol=5e-5)
    np.testing.assert_allclose(wilson_interval(81 / 263, 263), (0.2553, 0.3662), atol=5e-5)  # Newcombe 1998, table I
    np.testing.assert_allclose(wilson_interval(15 / 148, 148), (0.0624, 0.1605), atol=5e-5)
