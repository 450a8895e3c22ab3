"""Makes addons.npz and generator_keras2.h5 with tensorflow-addons 0.23 and Keras 2 (requirements-addons.txt).

    python tests/reference/make_addons.py

`tfa.image.cutout` at every centre, `tfa.image.translate` by every offset and `tfa.optimizers.MovingAverage` over 15 steps
of SGD; and the 32 px generator of the car-fronts document, narrow, as Keras 2 saves it, with images that Keras 2 makes.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_addons as tfa

HERE = Path(__file__).parent
SIDE = 16
LATENT_DIM, BASE_FILTERS = 20, 4


def image_ops():
    """`cutouts[row, column]` has its centre there; `translations[2 + down, 2 + right]` is shifted by down and right."""
    # All different and none 0, so that a 0 in a result was put there.
    image = (np.random.RandomState(0).permutation(SIDE * SIDE) + 1).astype(np.int32).reshape(SIDE, SIDE)
    centres = np.stack(np.meshgrid(range(SIDE), range(SIDE), indexing="ij"), -1).reshape(-1, 2).astype(np.int32)
    copies = np.repeat(image[None, :, :, None], len(centres), axis=0)
    cutouts = tfa.image.cutout(copies, (SIDE // 2, SIDE // 2), offset=centres).numpy()

    reach = SIDE // 8
    offsets = np.stack(np.meshgrid(*[range(-reach, reach + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    copies = np.repeat(image[None, :, :, None], len(offsets), axis=0)
    rightward_downward = offsets[:, ::-1].astype(np.float32)
    translations = tfa.image.translate(copies, rightward_downward, "nearest", "constant", fill_value=0.0).numpy()
    return {
        "image": image.astype(np.uint16),
        "cutouts": cutouts.reshape(SIDE, SIDE, SIDE, SIDE).astype(np.uint16),
        "translations": translations.reshape(2 * reach + 1, 2 * reach + 1, SIDE, SIDE).astype(np.uint16),
    }


def moving_average(average_decay):
    """Weights after each step of SGD toward a target, and the averages that the optimizer keeps of them."""
    random = np.random.RandomState(1)
    weights, target = tf.Variable(random.normal(size=(2, 3)), dtype=tf.float32), random.normal(size=(2, 3))
    sgd = tf.keras.optimizers.legacy.SGD(0.3)
    optimizer = tfa.optimizers.MovingAverage(sgd, average_decay=average_decay, dynamic_decay=True)
    start, weights_after, averages_after = weights.numpy(), [], []
    for _ in range(15):
        gradient = weights - tf.constant(target, tf.float32) + random.normal(0, 0.3, (2, 3)).astype(np.float32)
        optimizer.apply_gradients([(gradient, weights)])
        weights_after.append(weights.numpy())
        averages_after.append(optimizer.get_slot(weights, "average").numpy())
    return {
        "decay": np.float32(average_decay),
        "start": start,
        "weights": np.stack(weights_after),
        "averages": np.stack(averages_after),
    }


def generator():
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            tf.keras.Input((LATENT_DIM,)),
            layers.Dense(4 * 4 * 4 * BASE_FILTERS),
            layers.LeakyReLU(0.2),
            layers.Reshape((4, 4, 4 * BASE_FILTERS)),
            *(
                layer
                for _ in range(3)
                for layer in (
                    layers.Conv2DTranspose(2 * BASE_FILTERS, 4, strides=2, padding="same"),
                    layers.BatchNormalization(),
                    layers.LeakyReLU(0.2),
                )
            ),
            layers.Conv2D(3, 3, padding="same", activation="tanh"),
        ]
    )


def keras_generator():
    """Writes the model with weights like a trained one's: no bias 0, no statistic at its start."""
    tf.keras.utils.set_random_seed(2)
    random, model = np.random.RandomState(2), generator()
    for variable in model.variables:
        scale = 0.12 if "kernel" in variable.name else 0.2
        change = random.normal(0, scale, variable.shape)
        variable.assign_add(np.abs(change) if "variance" in variable.name else change)
    model.save(HERE / "generator_keras2.h5", include_optimizer=False)
    z = random.standard_normal((3, LATENT_DIM)).astype(np.float32)
    return {"keras_z": z, "keras_images": model(z, training=False).numpy()}


def main():
    arrays = image_ops() | keras_generator()
    for name, decay in {"moving_average": 0.5, "moving_average_long": 0.999}.items():
        arrays |= {f"{name}_{key}": value for key, value in moving_average(decay).items()}
    np.savez_compressed(HERE / "addons.npz", **arrays)
    for name, array in arrays.items():
        print(name, array.dtype, array.shape, array.min(), array.max(), array.std())


if __name__ == "__main__":
    main()
