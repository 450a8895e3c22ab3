"""What every model of the zoo must do, over the whole registry: a new architecture gets these tests by existing.

Models are tiny (smallest side, `TINY` widths) and cached. Where tracing or XLA is not the subject, functions run eagerly.
"""

import contextlib
import functools
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from zoo import checkpoint, randomness
from zoo.generative import GenerativeModel, dtype_policy
from zoo.layers import spectral_layers
from zoo.registry import get_class

# Values of constructor arguments that make a model small, for those architectures that have them.
TINY = {"base_filters": 4, "latent_dim": 8, "discriminator_steps": 1, "reconstruction": "multiscale_l1"}
BATCH = 4
VARIANTS = [(name, variant) for name in zoo.names() for variant in zoo.describe(name).recipes]


def parametrized(variants):
    return pytest.mark.parametrize(("name", "variant"), variants)


# The default suite leaves out the variants that take longest and share most of their code with another.
LONG = {("fastgan", "attention"), ("dcgan", "decoder"), ("sngan", "dense_head")}
every_variant = parametrized(
    [pytest.param(*pair, id="-".join(pair), marks=[pytest.mark.slow] if pair in LONG else []) for pair in VARIANTS]
)
# For the costly tests: the first variant of each architecture, and under `slow` the others.
FIRST = {name: next(iter(zoo.describe(name).recipes)) for name in zoo.names()}
first_variants = parametrized(
    [
        pytest.param(name, variant, id=f"{name}-{variant}", marks=[] if FIRST[name] == variant else [pytest.mark.slow])
        for name, variant in VARIANTS
    ]
)


def hyperparameters(name, variant):
    card = zoo.describe(name)
    return {key: value for key, value in TINY.items() if key in card.parameters} | {"variant": variant}


def with_all_steps(name, variant):
    """Changes that give two discriminator updates a step to a variant whose recipe asks for several."""
    several = zoo.describe(name).recipes[variant].hyperparameters.get("discriminator_steps", 1) > 1
    return {"discriminator_steps": 2} if several else {}


def create(name, variant, channels=3, initial_weights=0, **changes):
    """A tiny model; `initial_weights` seeds Keras' initializers."""
    side = min(zoo.describe(name).recipes[variant].sizes)
    keras.utils.set_random_seed(initial_weights)
    return zoo.create(name, (side, side, channels), **(hyperparameters(name, variant) | changes))


def compiled(*args, jit_compile=False, **kwargs):
    model = create(*args, **kwargs)
    model.compile(steps=100, steps_per_epoch=10, jit_compile=jit_compile)
    return model


def batch_at(model, step):
    """The data of one step, a pure function of it; smooth, like pictures."""
    count = BATCH * getattr(model, "discriminator_steps", 1)
    generator = np.random.default_rng([17, step])
    side, _, channels = model.image_shape
    coarse = generator.uniform(-1, 1, (count, side // 4, side // 4, channels)).astype(np.float32)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


def fit(model, first, last):
    """Trains with `fit` on the data of the steps in [first, last); returns the logs of each."""
    logs_of_steps = []
    record = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: logs_of_steps.append(dict(logs)))
    batches = np.stack([batch_at(model, step) for step in range(first, last)])
    model.fit(tf.data.Dataset.from_tensor_slices(batches), verbose=0, shuffle=False, callbacks=[record])
    return logs_of_steps


@contextlib.contextmanager
def eagerly():
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def eager_step(model):
    with eagerly():
        return {
            name: float(value)
            for name, value in model.train_step(tf.constant(batch_at(model, int(model.step)))).items()
        }


def array(variable):
    """A copy of a variable's value."""
    return np.array(keras.ops.convert_to_numpy(variable))


@contextlib.contextmanager
def counted_draws():
    """Yields a list that grows with every random draw of the training inside."""
    draws = []
    draw = randomness._draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(randomness, "_draw", lambda *args, **kwargs: draws.append(1) or draw(*args, **kwargs))
        yield draws


def values(model):
    """Every variable there is: of the model as Keras counts them, of each network, of each optimizer."""
    owners = {"model": model, **model.networks, **model.optimizers_by_name}
    return {
        f"{owner}/{index}/{variable.path}": array(variable)
        for owner, holder in owners.items()
        for index, variable in enumerate(holder.variables)
    }


def differing(first, second):
    """Keys whose arrays are not bit for bit the same; paths may carry another counter, so order tells."""
    assert len(first) == len(second)
    return [
        key
        for (key, one), two in zip(first.items(), second.values(), strict=True)
        if one.dtype != two.dtype or one.shape != two.shape or one.tobytes() != two.tobytes()
    ]


class Run:
    """Four steps from fresh weights, with what there was after each, and what was saved after two."""

    def __init__(self, name, variant, directory):
        self.model = compiled(name, variant, **with_all_steps(name, variant))
        self.values = [values(self.model)]
        self.logs = []
        for step in range(4):
            self.logs.append(eager_step(self.model))
            self.values.append(values(self.model))
            if step == 1:
                self.checkpoint = checkpoint.save(self.model, directory)
                self.keras_file = directory / "model.keras"
                self.model.save(self.keras_file)


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    @functools.cache
    def run(name, variant):
        try:
            return Run(name, variant, tmp_path_factory.mktemp(f"{name}-{variant}"))
        except Exception as error:  # so that a broken model costs one run, not one a test
            return error

    def run_or_fail(name, variant):
        result = run(name, variant)
        if isinstance(result, Exception):
            raise result
        return result

    return run_or_fail


@pytest.fixture(autouse=True)
def float32_policy():
    yield
    assert keras.config.dtype_policy().name == "float32", "a test left another policy behind"


# Shape of the contract.


@every_variant
def test_the_model_is_a_subclassed_keras_model(run_of, name, variant):
    model = run_of(name, variant).model
    assert type(model) is get_class(name)
    assert isinstance(model, GenerativeModel) and isinstance(model, keras.Model)
    assert type(model).train_step is not keras.Model.train_step
    for network in model.networks.values():
        assert isinstance(network, keras.Model)
        assert not isinstance(network, keras.Sequential) and not hasattr(network, "_functional"), "not subclassed"


@every_variant
def test_every_constructor_argument_is_in_the_config_and_nothing_else(run_of, name, variant):
    config = run_of(name, variant).model.get_config()
    assert set(config) == {"image_shape", *zoo.describe(name).parameters}
    assert config["variant"] == variant


@first_variants
def test_the_config_survives_json_and_makes_the_same_model(run_of, name, variant):
    model = run_of(name, variant).model
    config = json.loads(json.dumps(model.get_config()))
    assert config == model.get_config()
    other = type(model).from_config(config)
    assert other.get_config() == model.get_config()
    assert list(other.networks) == list(model.networks)
    for network, twin in zip(model.networks.values(), other.networks.values(), strict=True):
        assert [tuple(variable.shape) for variable in twin.variables] == [
            tuple(variable.shape) for variable in network.variables
        ]


@every_variant
def test_the_recipe_fills_only_the_arguments_left_open(name, variant):
    card = zoo.describe(name)
    recipe = card.recipes[variant]
    if not recipe.hyperparameters:
        pytest.skip("its recipe sets no arguments")
    side = min(recipe.sizes)
    narrow = {key: value for key, value in TINY.items() if key in card.parameters and key not in recipe.hyperparameters}
    _, resolved = card.select((side, side, 3), {"variant": variant} | narrow)
    model = get_class(name)((side, side, 3), variant=variant, **narrow)
    for key, value in recipe.hyperparameters.items():
        assert resolved[key] == value
        assert getattr(model, {"loss": "loss_name"}.get(key, key)) == value, (
            f"{key} of the recipe did not reach the model"
        )
        assert model.get_config()[key] is None, "what the recipe fills in is not an argument of the caller"


@every_variant
def test_the_summary_counts_every_trainable_parameter(run_of, name, variant):
    model = run_of(name, variant).model
    lines = []
    model.summary(print_fn=lines.append)
    text = "\n".join(lines)
    for network_name, network in model.networks.items():
        if network_name.startswith("ema_"):
            continue
        count = sum(int(np.prod(variable.shape)) for variable in network.trainable_variables)
        start = next(
            index for index, line in enumerate(lines) if line == f"\n{network_name}: {count:,} trainable parameters"
        )
        rows = []
        for line in lines[start + 1 :]:
            if line.startswith("\n"):
                break
            rows.append(int(line.split()[-1].replace(",", "")))
        assert sum(rows) == count, text


# Sampling.


@every_variant
def test_samples_are_finite_float32_images_in_range(run_of, name, variant):
    model = run_of(name, variant).model
    images = model.sample(3, seed=1)
    assert images.dtype == np.float32 and images.shape == (3, *model.image_shape)
    assert np.isfinite(images).all() and images.min() >= -1 and images.max() <= 1
    assert model.sample(0).shape == (0, *model.image_shape)
    with pytest.raises(ValueError, match="count"):
        model.sample(-1)


@every_variant
def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_image(run_of, name, variant):
    model = run_of(name, variant).model
    first = model.sample(3, seed=5)
    assert first.tobytes() == model.sample(3, seed=5).tobytes()
    for one in range(3):
        for two in range(one):
            assert np.abs(first[one] - first[two]).max() > 1e-6
    np.testing.assert_allclose(model.sample(1, seed=7)[0], first[2], atol=1e-5)


@every_variant
def test_a_longer_sample_begins_with_the_shorter_one(run_of, name, variant):
    model = run_of(name, variant).model
    longer = model.sample(70, seed=3)  # two batches of the sampler
    np.testing.assert_allclose(model.sample(2, seed=3), longer[:2], atol=1e-5)
    np.testing.assert_allclose(model.sample(4, seed=3 + 66), longer[66:], atol=1e-5)


@every_variant
def test_truncation_scales_the_latents(run_of, name, variant):
    model = run_of(name, variant).model
    typical = model.sample(3, seed=0, truncation=0.0)
    np.testing.assert_allclose(typical, np.repeat(typical[:1], 3, axis=0), atol=1e-6)
    seeds = tf.range(3, dtype=tf.int64)
    centre, half, whole = (model.latents(seeds, tf.fill([3], factor)).numpy() for factor in (0.0, 0.5, 1.0))
    np.testing.assert_allclose(half - centre, 0.5 * (whole - centre), atol=1e-6)
    np.testing.assert_allclose(centre, np.repeat(centre[:1], 3, axis=0), atol=1e-6)
    np.testing.assert_array_equal(whole, model.latents(seeds))
    np.testing.assert_allclose(model.sample(3, seed=0, truncation=0.5), model.generate(tf.constant(half)), atol=1e-5)
    assert np.abs(model.sample(3, seed=0, truncation=0.5) - model.sample(3, seed=0)).max() > 1e-6


@every_variant
def test_calling_the_model_generates_from_latents(run_of, name, variant):
    model = run_of(name, variant).model
    z = model.latents(tf.constant([4, 5], tf.int64))
    assert z.shape == (2, model.latent_dim)
    np.testing.assert_allclose(model(z), model.sample(2, seed=4), atol=1e-5)


@every_variant
def test_discriminate_gives_one_float32_logit_an_image_whatever_the_company(run_of, name, variant):
    model = run_of(name, variant).model
    if not hasattr(model, "discriminate"):
        pytest.skip("no discriminator")
    images = tf.constant(batch_at(model, 0)[:3])
    logits = model.discriminate(images)
    assert logits.dtype == tf.float32 and logits.shape == (3,)
    np.testing.assert_allclose(model.discriminate(images[1:2])[0], logits[1], rtol=1e-4, atol=1e-5)


# Training.


@every_variant
def test_training_moves_every_trainable_weight_and_logs_finite_numbers(run_of, name, variant):
    run = run_of(name, variant)
    trainable = {id(variable) for network in run.model.networks.values() for variable in network.trainable_variables}
    assert trainable
    still = []
    for network_name, network in run.model.networks.items():
        for index, variable in enumerate(network.variables):
            key = f"{network_name}/{index}/{variable.path}"
            if id(variable) in trainable and np.array_equal(run.values[0][key], run.values[4][key]):
                still.append(key)
    assert not still
    assert len(run.logs) == 4
    for logs in run.logs:
        assert logs and all(np.isfinite(float(value)) for value in logs.values()), logs
    assert int(run.model.step) == 4


@every_variant
def test_averaged_weights_and_statistics_follow_the_closed_form(run_of, name, variant):
    run = run_of(name, variant)
    networks = run.model.networks
    averages = {key: key.removeprefix("ema_") for key in networks if key.startswith("ema_")}
    assert averages
    for key, source_name in averages.items():
        assert not networks[key].trainable_variables
        spectral = {id(vector) for layer in spectral_layers(networks[key]) for vector in (layer.u, layer.v)}
        pairs = [
            (f"{key}/{index}/{average.path}", f"{source_name}/{index}/{source.path}")
            for index, (average, source) in enumerate(
                zip(networks[key].variables, networks[source_name].variables, strict=True)
            )
            if id(average) not in spectral  # those follow the averaged kernel
        ]
        for average, source in pairs:
            np.testing.assert_array_equal(run.values[0][average], run.values[0][source], err_msg="starts elsewhere")
        for step in range(4):
            decay = np.float32(min(run.model.ema_decay, (1 + step) / (10 + step)))
            for average, source in pairs:
                expected = decay * run.values[step][average] + (1 - decay) * run.values[step + 1][source]
                np.testing.assert_allclose(
                    run.values[step + 1][average], expected, rtol=1e-5, atol=1e-7, err_msg=average
                )
        moved = [pair for pair in pairs if not np.array_equal(run.values[0][pair[1]], run.values[4][pair[1]])]
        still = [average for average, _ in moved if np.array_equal(run.values[0][average], run.values[4][average])]
        assert moved and not still, "not everything is averaged, batch-norm statistics included"


@every_variant
def test_spectral_vectors_of_an_averaged_network_are_unit_vectors_of_its_own_kernels(run_of, name, variant):
    layers = [
        layer
        for key, network in run_of(name, variant).model.networks.items()
        if key.startswith("ema_")
        for layer in spectral_layers(network)
    ]
    if not layers:
        pytest.skip("no spectral norm in what is averaged")
    for layer in layers:
        # The mean of two unit vectors is shorter than one: sigma would be too small and the images too strong.
        u, v = array(layer.u).astype(np.float64), array(layer.v).astype(np.float64)
        np.testing.assert_allclose([np.linalg.norm(u), np.linalg.norm(v)], 1.0, atol=1e-5)
        expected = array(layer._matrix(layer._kernel)).astype(np.float64).T @ v
        np.testing.assert_allclose(u, expected / np.linalg.norm(expected), atol=1e-4)


@every_variant
def test_samples_come_from_the_averaged_weights(run_of, name, variant):
    model = run_of(name, variant).model
    before = model.sample(2)
    kept = values(model)
    trained = [
        variable
        for key, network in model.networks.items()
        if not key.startswith("ema_")
        for variable in network.trainable_variables
    ]
    saved = [array(variable) for variable in trained]
    try:
        for variable in trained:
            variable.assign(variable + 1.0)
        assert model.sample(2).tobytes() == before.tobytes()
    finally:
        for variable, value in zip(trained, saved, strict=True):
            variable.assign(value)
    assert not differing(values(model), kept)


@first_variants
def test_a_discriminator_update_leaves_the_generator_and_the_reverse(name, variant):
    model = compiled(name, variant)
    if not hasattr(model, "discriminator_gradients"):
        pytest.skip("no discriminator")

    def weights(network):
        return [array(variable) for variable in network.trainable_variables]

    def same(first, second):
        return [np.array_equal(one, two) for one, two in zip(first, second, strict=True)]

    def moved_as_the_gradients_say(before, after, gradients):
        # Behind a learned factor that starts at 0, such as an attention's, there is no gradient yet.
        still = same(before, after)
        return still == [not np.any(gradient) for gradient in gradients] and np.mean(still) < 0.5

    with eagerly():
        images = tf.constant(batch_at(model, 0)[:BATCH])
        generator, discriminator = weights(model.generator), weights(model.discriminator)
        gradients, _ = model.discriminator_gradients(images, tf.constant(0, tf.int64))
        model.d_optimizer.apply(gradients, model.discriminator.trainable_variables)
        assert all(same(generator, weights(model.generator)))
        assert moved_as_the_gradients_say(discriminator, weights(model.discriminator), gradients)

        discriminator = weights(model.discriminator)
        gradients, _ = model.generator_gradients(BATCH)
        model.g_optimizer.apply(gradients, model.generator.trainable_variables)
        assert all(same(discriminator, weights(model.discriminator)))
        assert moved_as_the_gradients_say(generator, weights(model.generator), gradients)


@first_variants
def test_the_same_run_twice_is_bit_identical_and_the_seed_is_part_of_it(run_of, name, variant):
    run = run_of(name, variant)
    twin, other = (compiled(name, variant, seed=seed, **with_all_steps(name, variant)) for seed in (0, 1))
    for model in (twin, other):
        assert not differing(values(model), run.values[0])
    assert eager_step(twin) == run.logs[0]
    assert not differing(values(twin), run.values[1])
    with counted_draws() as draws:
        eager_step(other)
    assert draws or not hasattr(other, "discriminate"), "a GAN without noise"
    if draws:  # a plain autoencoder needs none
        assert differing(values(other), run.values[1]), "the run's seed changes nothing"


@first_variants
def test_fit_in_a_graph_does_what_the_steps_do(run_of, name, variant):
    run = run_of(name, variant)
    model = compiled(name, variant, **with_all_steps(name, variant))
    (logs,) = fit(model, 0, 1)
    assert int(model.step) == 1 and logs.keys() == run.logs[0].keys()
    for key, value in logs.items():
        np.testing.assert_allclose(value, run.logs[0][key], rtol=1e-3, atol=1e-4)
    # Adam's first step is as large for a gradient of rounding errors as for any other: the averages say enough.
    for (key, one), two in zip(values(model).items(), run.values[1].values(), strict=True):
        if "moving" in key and np.issubdtype(one.dtype, np.floating):
            np.testing.assert_allclose(one, two, rtol=1e-2, atol=1e-3, err_msg=key)


@first_variants
def test_losses_are_finite_with_one_and_four_channels(name, variant):
    for channels in (1, 4):
        model = compiled(name, variant, channels=channels)
        logs = eager_step(model)
        assert logs and all(np.isfinite(value) for value in logs.values()), (channels, logs)
        assert model.generate(tf.zeros([2, model.latent_dim])).shape == (2, *model.image_shape[:2], channels)


@first_variants
def test_every_augmentation_trains(run_of, name, variant):
    card = zoo.describe(name)
    changes = {}
    if "augment" in card.parameters:
        changes["augment"] = "color,translation,cutout"
    if not changes:
        pytest.skip("no augmentation")
    logs = eager_step(compiled(name, variant, **with_all_steps(name, variant), **changes))
    assert all(np.isfinite(value) for value in logs.values()), logs
    assert logs != run_of(name, variant).logs[0], "the augmentation changes nothing"


@every_variant
def test_a_batch_that_cannot_be_divided_is_refused(run_of, name, variant):
    model = run_of(name, variant).model
    steps = getattr(model, "discriminator_steps", 1)
    if steps == 1:
        pytest.skip("takes any batch")
    with pytest.raises(ValueError, match=f"discriminator_steps={steps}"):
        model.train_step(tf.constant(batch_at(model, 0)[1:]))


@first_variants
def test_a_batch_of_unknown_size_is_refused_with_what_to_do(run_of, name, variant):
    model = run_of(name, variant).model
    if not hasattr(model, "discriminate"):
        pytest.skip("takes any batch")
    function = tf.function(model.train_step, input_signature=[tf.TensorSpec([None, *model.image_shape])])
    with pytest.raises(ValueError, match="drop_remainder"):
        function.get_concrete_function()


# Saving.


@every_variant
def test_a_checkpoint_holds_every_variable_of_the_model_and_of_its_optimizers(run_of, name, variant):
    model = run_of(name, variant).model
    everything = {id(variable) for variable in model.variables}
    for optimizer in model.optimizers_by_name.values():
        everything |= {id(variable) for variable in optimizer.variables}
    assert model.optimizers_by_name
    assert {id(variable) for variable in checkpoint.variables(model).values()} == everything
    assert set(checkpoint.read(run_of(name, variant).checkpoint)) == set(checkpoint.variables(model))
    assert any(variable is model.step for variable in checkpoint.variables(model, networks_only=True).values())


@every_variant
def test_resumed_equals_uninterrupted_bit_for_bit(run_of, name, variant):
    run = run_of(name, variant)
    model = compiled(name, variant, initial_weights=99, **with_all_steps(name, variant))
    assert differing(values(model), run.values[2])
    checkpoint.load(model, run.checkpoint)
    assert not differing(values(model), run.values[2])
    assert [eager_step(model), eager_step(model)] == run.logs[2:]
    assert not differing(values(model), run.values[4])
    moments = [key for key in run.values[4] if "optimizer/" in key and np.any(run.values[4][key])]
    assert len(moments) > len(model.optimizers_by_name), "the optimizers' moments are all zero"


@every_variant
def test_a_keras_file_brings_back_model_and_optimizers_and_training_goes_on(run_of, name, variant):
    run = run_of(name, variant)
    keras.utils.set_random_seed(99)
    loaded = keras.models.load_model(run.keras_file)
    assert type(loaded) is type(run.model) and loaded.get_config() == run.model.get_config()
    assert not differing(values(loaded), run.values[2])
    for key, optimizer in loaded.optimizers_by_name.items():
        assert optimizer.get_config() == run.model.optimizers_by_name[key].get_config()
    assert eager_step(loaded) == run.logs[2]
    assert not differing(values(loaded), run.values[3])


@first_variants
def test_a_keras_file_of_a_model_that_was_never_compiled_samples_the_same(tmp_path, name, variant):
    model = create(name, variant)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    z = model.latents(tf.range(2, dtype=tf.int64))
    assert loaded(z).numpy().tobytes() == model(z).numpy().tobytes()


# Precision and compilation.


@first_variants
def test_bfloat16_gives_float32_samples_and_variables_and_finite_losses(tmp_path, name, variant):
    check_mixed_precision(tmp_path, name, variant, "mixed_bfloat16")


@first_variants
def test_float16_gives_float32_samples_and_variables_finite_losses_and_a_saved_loss_scale(tmp_path, name, variant):
    check_mixed_precision(tmp_path, name, variant, "mixed_float16")


def check_mixed_precision(tmp_path, name, variant, policy):
    with dtype_policy(policy):
        model = compiled(name, variant)
        used = {layer.compute_dtype for network in model.networks.values() for layer in network._flatten_layers()}
        assert policy.removeprefix("mixed_") in used, "nothing computes in the policy's dtype"
        trained = values(model)
        logs = eager_step(model)
        assert logs and all(np.isfinite(value) for value in logs.values()), logs
        assert differing(trained, values(model))
        for variable in model.variables:
            assert variable.dtype in ("float32", "int64", "int32", "uint32"), variable.path
        if policy == "mixed_float16":
            for optimizer in model.optimizers_by_name.values():
                assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        images = model.sample(2)
        assert images.dtype == np.float32 and np.isfinite(images).all()
        if hasattr(model, "discriminate"):
            assert model.discriminate(tf.constant(images)).dtype == tf.float32
        path = checkpoint.save(model, tmp_path)
        if policy == "mixed_bfloat16":
            return
        other = compiled(name, variant, initial_weights=99)
        checkpoint.load(other, path)
        assert not differing(values(model), values(other)), "the loss scale or something else is not in the checkpoint"
    # The averaged networks are float32 whatever the training was.
    plain = create(name, variant, initial_weights=98)
    checkpoint.load(plain, path, networks_only=True)
    np.testing.assert_allclose(plain.sample(2), images, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_bfloat16", 0.05), ("mixed_float16", 0.01)])
@every_variant
def test_with_and_without_jit_mixed_precision_trains_alike(name, variant, policy, tolerance):
    found = {}
    for jit_compile in (True, False):
        with dtype_policy(policy):
            model = compiled(name, variant, jit_compile=jit_compile)
            for optimizer in model.optimizers_by_name.values() if policy == "mixed_float16" else ():
                optimizer.dynamic_scale.assign(256.0)  # from 2^15 on it would first have to find its way down
            before = values(model)
            found[jit_compile] = {
                key: float(value) for key, value in model.train_step(tf.constant(batch_at(model, 0))).items()
            }
        moved = differing(before, values(model))
        assert len(moved) > len(before) / 3, "the update was skipped"
        assert all(np.isfinite(value).all() for value in values(model).values())
    for key in found[False]:
        if key.endswith("loss"):
            np.testing.assert_allclose(found[True][key], found[False][key], rtol=tolerance, atol=tolerance, err_msg=key)


def losses_of_the_first_step(name, variant, jit_compile):
    model = compiled(name, variant, jit_compile=jit_compile)
    return {key: float(value) for key, value in model.train_step(tf.constant(batch_at(model, 0))).items()}


def check_that_jit_draws_the_same(name, variant):
    with_jit, without = (losses_of_the_first_step(name, variant, jit) for jit in (True, False))
    assert with_jit.keys() == without.keys()
    for key in without:
        np.testing.assert_allclose(with_jit[key], without[key], rtol=1e-3, atol=1e-4)
    other_noise = compiled(name, variant, seed=1)
    with counted_draws() as draws:
        changed = eager_step(other_noise)
    assert not draws or any(
        abs(changed[key] - without[key]) > 10 * abs(with_jit[key] - without[key]) for key in without
    )


def test_with_and_without_jit_a_gan_draws_the_same_noise():
    gan = next(pair for pair in VARIANTS if "discriminator_steps" in zoo.describe(pair[0]).parameters)
    check_that_jit_draws_the_same(*gan)


@pytest.mark.slow
@every_variant
def test_with_and_without_jit_every_variant_draws_the_same_noise(name, variant):
    check_that_jit_draws_the_same(name, variant)
