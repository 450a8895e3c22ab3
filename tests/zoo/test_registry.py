"""The registry: what is known without TensorFlow, what is refused and how, and a user's own architecture in one file."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import zoo
from zoo import registry
from zoo.recipe import Recipe
from zoo.registry import parse_settings

ROOT = Path(zoo.__file__).parent.parent
NAMES = zoo.names()


def in_a_fresh_process(code, *arguments):
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


# A complete small GAN in one file, as a user writes it.
USER_FILE = '''
"""A user's own."""

from typing import Literal

import keras
from keras import layers

from zoo import Recipe, register
from zoo.adversarial import GAN


@register("mine")
class Mine(GAN):
    """Two dense layers, no more.

    Second paragraph.
    """

    recipes = {
        "default": Recipe(source="nobody", sizes=(4, 8), size=8, batch_size=2, steps=3, hyperparameters={"latent_dim": 5}),
    }

    def __init__(self, image_shape, *, width: int = 16, mood: Literal["good", "bad"] = "good", flag: bool = False, **gan_options):
        super().__init__(image_shape, **gan_options)
        self.width, self.mood, self.flag = width, mood, flag
        self.build_networks()

    def build_generator(self):
        return Generator(self.image_shape, self.width)

    def build_discriminator(self):
        return Discriminator(self.width)


class Generator(keras.Model):
    def __init__(self, image_shape, width):
        super().__init__()
        side, _, channels = image_shape
        self.hidden = layers.Dense(width, "relu")
        self.out = layers.Dense(side * side * channels, "tanh", dtype="float32")
        self.as_image = layers.Reshape(image_shape)

    def call(self, z, training=False):
        return self.as_image(self.out(self.hidden(z)))


class Discriminator(keras.Model):
    def __init__(self, width):
        super().__init__()
        self.flatten = layers.Flatten()
        self.hidden = layers.Dense(width, "leaky_relu")
        self.logit = layers.Dense(1, dtype="float32")

    def call(self, images, training=False):
        return self.logit(self.hidden(self.flatten(images)))[:, 0]
'''


@pytest.fixture
def user_file(tmp_path):
    def write(text=USER_FILE, name="mine.py"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    yield write
    for name, cls in list(registry._CLASSES.items()):
        if str(getattr(sys.modules.get(cls.__module__), "__file__", "")).startswith(str(tmp_path)):
            del registry._CLASSES[name]


# Without TensorFlow.


def test_names_cards_settings_and_selection_need_no_tensorflow(tmp_path):
    (tmp_path / "mine.py").write_text(USER_FILE)
    code = """
import sys
import zoo
from zoo.registry import parse_settings
for name in zoo.names():
    card = zoo.describe(name)
    for variant, recipe in card.recipes.items():
        side = min(recipe.sizes)
        chosen, resolved = card.select((side, side, 3), {"variant": variant} if "variant" in card.parameters else {})
        assert chosen is recipe
    parse_settings(card, ["seed=3", "beta_1=0.25"])
    for bad in (lambda: card.select((7, 7, 3), {}), lambda: parse_settings(card, ["sed=3"])):
        try:
            bad()
        except ValueError:
            continue
        raise SystemExit("not refused")
card = zoo.describe(sys.argv[1] + ":Mine")
assert card.summary == "Two dense layers, no more.", card.summary
assert card.select((8, 8, 3), {})[1]["latent_dim"] == 5
heavy = [name for name in ("tensorflow", "keras", "numpy") if name in sys.modules]
assert not heavy, heavy
print(*zoo.names())
"""
    assert in_a_fresh_process(code, str(tmp_path / "mine.py")).split() == NAMES
    assert NAMES == sorted(NAMES) and {"dcgan", "sngan"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_from_the_source_is_what_the_class_has(name):
    card, cls = zoo.describe(name), registry.get_class(name)
    assert cls.architecture == name and card.class_name == cls.__name__
    assert card.summary == inspect.getdoc(cls).splitlines()[0]
    assert dict(card.recipes) == cls.recipes
    seen = {}
    for base in reversed(
        [base for base in cls.__mro__ if base.__module__.startswith("zoo.") and "__init__" in vars(base)]
    ):
        for parameter in list(inspect.signature(base.__init__).parameters.values())[2:]:
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                seen[parameter.name] = parameter
    assert set(card.parameters) == set(seen)
    for key, parameter in seen.items():
        assert card.parameters[key].default == parameter.default, key
        assert card.parameters[key].annotation == parameter.annotation, key


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_names_its_source_and_arguments_that_exist(name):
    card = zoo.describe(name)
    assert card.recipes and card.summary
    for variant, recipe in card.recipes.items():
        assert recipe.source and recipe.source != Recipe(source="none stated").source, variant
        assert recipe.size in recipe.sizes
        assert set(recipe.hyperparameters) <= set(card.parameters)
        assert (recipe.steps is None) != (recipe.epochs is None), f"{variant} must say how long to train, once"
        for key in recipe.hyperparameters:
            assert card.parameters[key].default is None, f"{key} of {variant}: only arguments left open are filled in"


# Suggestions and wrong types.


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(ValueError, match="Unknown architecture: 'dcgann'. Did you mean 'dcgan'.*Known: .*sngan"):
        zoo.describe("dcgann")
    with pytest.raises(ValueError, match="Unknown architecture: 'zzzzzz'. Known:"):
        zoo.create("zzzzzz", (32, 32, 3))


def test_an_unknown_argument_gets_the_nearest_one():
    with pytest.raises(ValueError, match="Unknown argument of dcgan: 'base_filter'. Did you mean 'base_filters'"):
        zoo.create("dcgan", (32, 32, 3), base_filter=4)
    with pytest.raises(ValueError, match="Did you mean 'beta_1'"):
        parse_settings(zoo.describe("dcgan"), ["beta1=0.5"])


def test_settings_are_split_and_typed():
    arguments, fields = parse_settings(
        zoo.describe("sngan"),
        ["base_filters=32", "dropout=1e-1", "head_pooling=flatten", " loss = hinge ", "variant=none", "g_learning_rate=1e-4", "learning_rate_decay=linear", "augment=color,cutout"],
    )  # fmt: skip
    assert arguments == {
        "base_filters": 32,
        "dropout": 0.1,
        "head_pooling": "flatten",
        "loss": "hinge",
        "variant": None,
        "augment": "color,cutout",
    }
    assert type(arguments["base_filters"]) is int
    assert fields == {"g_learning_rate": 1e-4, "learning_rate_decay": "linear"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base_filters=3.5", "`base_filters` must be a whole number. Received: '3.5'"),
        ("base_filters=", "`base_filters` must be a whole number"),
        ("base_filters=none", "`base_filters` must be a whole number"),
        ("dropout=much", "`dropout` must be a number. Received: 'much'"),
        ("dropout=nan", "`dropout` must be a finite number"),
        ("ema_decay=inf", "`ema_decay` must be a finite number"),
        ("loss=hing", "`loss`.*Did you mean 'hinge'"),
        ("head_pooling=None", "`head_pooling`.*Known: average, flatten"),
        ("learning_rate_decay=cosine", "`learning_rate_decay`"),
        ("base_filters", "NAME=VALUE. Received: 'base_filters'"),
        ("=3", "NAME=VALUE"),
        ("", "NAME=VALUE"),
    ],
)
def test_a_setting_of_the_wrong_type_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_settings(zoo.describe("sngan"), [text])


def test_booleans_are_read_as_words(user_file):
    card = zoo.describe(f"{user_file()}:Mine")
    for text, value in (("true", True), ("Yes", True), ("1", True), ("False", False), ("no", False), ("0", False)):
        assert parse_settings(card, [f"flag={text}"])[0] == {"flag": value}
    with pytest.raises(ValueError, match="`flag` must be true or false"):
        parse_settings(card, ["flag=maybe"])


# Sizes and values.


@pytest.mark.parametrize(
    ("name", "side", "arguments", "message"),
    [
        ("dcgan", 48, {}, "dcgan cannot make images of side 48. .*: 32 and 64"),
        ("dcgan", 4, {}, "side 4. .*: 8 "),
        ("dcgan", 2048, {}, "side 2048. .*: 1024 "),
        ("dcgan", 64, {"variant": "keras32"}, r"dcgan \(keras32\) .* side 64. .*: 32 "),
        ("sngan", 33, {}, "side 33. .*: 32 and 40"),
        ("sngan", 96, {"variant": "resnet"}, "side 96. .*: 64 and 128"),
    ],
)
def test_a_side_that_cannot_be_names_the_nearest_two(name, side, arguments, message):
    with pytest.raises(ValueError, match=message):
        zoo.create(name, (side, side, 3), **arguments)


@pytest.mark.parametrize(
    ("image_shape", "message"),
    [
        ((32, 64, 3), "images here are square"),
        ((32, 32), "images here are square"),
        ((32, 32, 2), "1, 3 or 4 channels"),
        ((32, 32, 0), "1, 3 or 4"),
    ],
)
def test_a_shape_that_is_no_image_is_refused(image_shape, message):
    with pytest.raises(ValueError, match=message):
        zoo.create("dcgan", image_shape)
    with pytest.raises(ValueError, match=message):
        registry.get_class("dcgan")(image_shape)  # without `create`


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dim": 0}, "`latent_dim` must be at least 1. Received: 0"),
        ({"latent_dim": -1}, "`latent_dim` must be at least 1. Received: -1"),
        ({"discriminator_steps": 0}, "`discriminator_steps` must be at least 1. Received: 0"),
        ({"ema_decay": 1.0}, "`ema_decay` must be in"),
        ({"ema_decay": -0.1}, "`ema_decay` must be in"),
        ({"loss": ""}, "`loss` must be one of"),
        ({"augment": "colour"}, "`augment` takes"),
        ({"variant": "keras64"}, "`variant` of dcgan must be one of keras32, torch64"),
        ({"dropout": 1.0}, "`rate` must be in|`dropout` must be in"),
    ],
)
def test_a_value_out_of_range_is_refused_with_what_it_must_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        zoo.create("dcgan", (8, 8, 3), **({"base_filters": 2} | arguments))


def test_an_explicit_argument_outdoes_the_recipe():
    card = zoo.describe("sngan")
    recipe, resolved = card.select((32, 32, 3), {"variant": "resnet"})
    assert resolved["discriminator_steps"] == 5 and resolved["loss"] == "hinge" and recipe is card.recipes["resnet"]
    _, resolved = card.select((32, 32, 3), {"variant": "resnet", "discriminator_steps": 1, "loss": None})
    assert resolved["discriminator_steps"] == 1 and resolved["loss"] == "hinge"
    assert card.select((128, 128, 3), {})[1]["variant"] == "cnn"
    assert zoo.describe("dcgan").select((64, 64, 3), {})[1]["variant"] == "torch64"


# A user's own file.


def test_a_users_file_trains_a_step_samples_and_is_known_by_its_name(user_file):
    import tensorflow as tf

    path = user_file()
    model = zoo.create(f"{path}:Mine", (8, 8, 3), width=4)
    assert model.latent_dim == 5 and model.architecture == "mine"
    model.compile(jit_compile=False)
    before = model.generator.out.kernel.numpy().copy()
    images = np.random.default_rng(0).uniform(-1, 1, (3, 2, 8, 8, 3)).astype(np.float32)
    model.fit(tf.data.Dataset.from_tensor_slices(images), verbose=0, shuffle=False)
    assert int(model.step) == 3 and not np.array_equal(before, model.generator.out.kernel.numpy())
    assert model.sample(2).shape == (2, 8, 8, 3)
    # By the file alone, by its name now that it is loaded, and a second time.
    for again in (str(path), "mine", f"{path}:Mine"):
        assert type(zoo.create(again, (4, 4, 1), width=2)) is type(model)
    assert "mine" in zoo.names()


def test_a_users_model_comes_back_from_a_keras_file(user_file, tmp_path):
    import keras

    model = zoo.create(f"{user_file()}:Mine", (4, 4, 3), width=4, mood="bad")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.mood == "bad" and loaded.get_config() == model.get_config()
    assert loaded.sample(2).tobytes() == model.sample(2).tobytes()


def test_a_users_class_may_settle_an_inherited_argument_itself(user_file):
    settled = USER_FILE.replace(
        "super().__init__(image_shape, **gan_options)", 'super().__init__(image_shape, augment="color", **gan_options)'
    )
    model = zoo.create(f"{user_file(settled)}:Mine", (4, 4, 3), width=2)
    assert model.augment_policy == ["color"]
    assert type(model).from_config(model.get_config()).augment_policy == ["color"]


def test_a_users_class_need_not_be_registered(user_file):
    path = user_file(USER_FILE.replace('@register("mine")\n', ""))
    assert zoo.create(f"{path}:Mine", (4, 4, 3), width=2).sample(1).shape == (1, 4, 4, 3)
    with pytest.raises(ValueError, match="Say which class"):
        zoo.describe(str(path))


def test_a_users_class_may_extend_an_architecture_of_the_zoo(user_file):
    path = user_file(
        '''
from zoo.architectures.dcgan import DCGAN
from zoo import register


@register("my_dcgan")
class MyDCGAN(DCGAN):
    """DCGAN with another width."""

    def __init__(self, image_shape, *, base_filters: int = 2, **options):
        super().__init__(image_shape, base_filters=base_filters, **options)
'''
    )
    card = zoo.describe(f"{path}:MyDCGAN")
    assert set(card.parameters) == set(zoo.describe("dcgan").parameters)
    assert card.parameters["base_filters"].default == 2
    assert dict(card.recipes) == dict(zoo.describe("dcgan").recipes)
    model = zoo.create(f"{path}:MyDCGAN", (8, 8, 3), latent_dim=3)
    assert model.base_filters == 2 and model.get_config()["base_filters"] == 2


@pytest.mark.parametrize(
    ("change", "class_name", "message"),
    [
        (lambda text: text + "\ndef broken(:\n", "Mine", "mine.py is not a Python file that can be read: .*line"),
        (lambda text: text + "\0", "Mine", "mine.py is not a Python file that can be read"),
        (lambda text: text, "Mina", "Unknown class in .*: 'Mina'. Did you mean 'Mine'"),
        (lambda text: text.replace("width: int = 16", "width: int = 4 * len('four')"), "Mine", r"the default of `width` of Mine must be a literal.*Received: 4 \* len"),
        (lambda text: text.replace("sizes=(4, 8)", "sizes=sorted([4])"), "Mine", "`recipes` of Mine must be a dict of .*literal"),
        (lambda text: text.replace('    recipes = {\n        "default": Recipe(', "    recipes = dict(\n        default=Recipe(").replace('"latent_dim": 5}),\n    }', '"latent_dim": 5}),\n    )'), "Mine", "`recipes` of Mine must be a dict"),
        (lambda text: text.replace('@register("mine")', "@register(NAME)"), "Mine", "mine.py.*`register`.*literal"),
        (lambda text: text.replace('@register("mine")', "@register()"), "Mine", "mine.py.*`register`.*literal"),
        (lambda text: text.replace("batch_size=2", "batchsize=2"), "Mine", "`recipes` of Mine.*batchsize"),
    ],
    ids=["syntax", "null byte", "class", "default", "sizes", "recipes", "name", "no name", "field"],
)  # fmt: skip
def test_a_users_file_that_cannot_be_read_is_refused_with_the_reason(user_file, change, class_name, message):
    text = change(USER_FILE)
    path = user_file(text)
    with pytest.raises(ValueError, match=message):
        zoo.create(f"{path}:{class_name}", (8, 8, 3))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="No file .*nothing.py"):
        zoo.describe(f"{tmp_path}/nothing.py:Mine")
    with pytest.raises(ValueError, match="No file"):
        zoo.describe(str(tmp_path) + ":Mine")


def test_a_file_with_two_registered_classes_asks_which(user_file):
    path = user_file(USER_FILE + '\n\n@register("yours")\nclass Yours(Mine):\n    """Another."""\n')
    with pytest.raises(ValueError, match="Say which class .*Mine, Yours"):
        zoo.describe(str(path))
    assert zoo.describe(f"{path}:Yours").parameters["width"].default == 16


def test_reading_a_users_card_runs_none_of_it(user_file, tmp_path):
    path = user_file(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n" + USER_FILE)
    zoo.describe(f"{path}:Mine")
    assert not (tmp_path / "ran").exists()
    registry.get_class(f"{path}:Mine")
    assert (tmp_path / "ran").exists()


# Names taken twice.


def test_a_name_that_another_class_has_is_refused(user_file):
    zoo.create(f"{user_file()}:Mine", (4, 4, 3), width=2)
    second = user_file(name="second.py")
    with pytest.raises(ValueError, match="The name 'mine' is taken by .*Mine. Register Mine under another one"):
        registry.get_class(f"{second}:Mine")


def test_a_name_of_the_zoo_is_refused_whether_or_not_its_file_was_imported(tmp_path):
    (tmp_path / "thief.py").write_text(USER_FILE.replace('"mine"', '"dcgan"'))
    code = """
import os, sys, warnings
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
warnings.simplefilter("ignore")
from zoo.registry import get_class
for _ in range(2):
    try:
        get_class(sys.argv[1] + ":Mine")
    except ValueError as error:
        assert "'dcgan' is taken by zoo.architectures.dcgan.DCGAN" in str(error), error
    else:
        raise SystemExit("not refused")
    assert get_class("dcgan").__module__ == "zoo.architectures.dcgan"
"""
    in_a_fresh_process(code, str(tmp_path / "thief.py"))


def test_a_class_made_in_a_notebook_is_described_like_any_other():
    # No file to read: what the class itself says.
    code = f"""
import os, warnings
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
warnings.simplefilter("ignore")
import zoo
exec({USER_FILE!r})
assert "mine" in zoo.names()
card = zoo.describe("mine")
assert card.parameters["width"].default == 16 and card.parameters["seed"].annotation is int, card
assert card.summary == "Two dense layers, no more."
model = zoo.create("mine", (4, 4, 3), width=2)
assert model.sample(1).shape == (1, 4, 4, 3)
"""
    in_a_fresh_process(code)
