"""What a training step is compiled with. Replicas themselves are tested in `tests/training/test_devices.py`."""

import pytest
import tensorflow as tf

import zoo


@pytest.mark.parametrize("arch", ["dcgan", "ae"])
@pytest.mark.parametrize(("gpus", "compiles"), [([], False), (["a GPU"], True)])
def test_xla_compiles_by_default_where_there_is_a_gpu_and_elsewhere_if_asked(monkeypatch, arch, gpus, compiles):
    side = min(min(recipe.sizes) for recipe in zoo.describe(arch).recipes.values())
    model = zoo.create(arch, (side, side, 3), base_filters=2)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: gpus)
    model.compile(steps=10, steps_per_epoch=10)
    assert model.get_compile_config()["jit_compile"] is compiles
    model.compile(steps=10, steps_per_epoch=10, jit_compile=not compiles)
    assert model.get_compile_config()["jit_compile"] is not compiles
