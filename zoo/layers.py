"""Layers that Keras has not, or not in the form that these models need."""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from zoo import randomness


class _SpectralNormalization:
    """Divides the kernel by an estimate of its largest singular value (Miyato et al. 2018, algorithm 1).

    The forward pass uses W / sigma(W) with sigma = u^T W v, and the gradient flows through sigma; the stored kernel is
    never overwritten. `u` and `v` are persistent, and move by one power iteration when `power_iteration` is called,
    which `GAN.train_step` does once a step: every pass of a step, real and fake, sees the same weights. Everything is
    float32 whatever the precision policy.
    """

    kernel_output_axis = -1

    def build(self, input_shape):
        super().build(input_shape)
        # Never autocast: sigma is computed from the float32 kernel.
        self._kernel._autocast = False
        rows, columns = self._matrix(self._kernel).shape

        def unit_vector(shape, dtype=None):
            return ops.normalize(keras.initializers.RandomNormal()(shape, dtype=dtype), axis=-1, epsilon=1e-12)

        def vector(name, size):
            return self.add_weight(
                name=name, shape=(size,), initializer=unit_vector, trainable=False, dtype="float32", autocast=False
            )

        self.u = vector("u", columns)
        self.v = vector("v", rows)
        self.power_iteration()

    def _matrix(self, kernel):
        """Returns the kernel as `[inputs, outputs]`."""
        if self.kernel_output_axis != -1:
            kernel = ops.moveaxis(kernel, self.kernel_output_axis, -1)
        return ops.reshape(kernel, (-1, kernel.shape[-1]))

    def power_iteration(self):
        """Moves `u` and `v` one iteration toward the leading singular vectors of the kernel as it is now."""
        matrix = tf.stop_gradient(self._matrix(ops.convert_to_tensor(self._kernel)))
        v = tf.math.l2_normalize(tf.linalg.matvec(matrix, self.u), epsilon=1e-12)
        u = tf.math.l2_normalize(tf.linalg.matvec(matrix, v, transpose_a=True), epsilon=1e-12)
        self.u.assign(u)
        self.v.assign(v)

    @property
    def sigma(self):
        """The estimate of the kernel's largest singular value, a float32 scalar."""
        matrix = self._matrix(ops.convert_to_tensor(self._kernel))
        return tf.tensordot(tf.linalg.matvec(matrix, self.u), ops.convert_to_tensor(self.v), 1)

    @property
    def kernel(self):
        """The normalized kernel, in the layer's compute dtype."""
        return ops.cast(ops.convert_to_tensor(self._kernel) / self.sigma, self.compute_dtype)

    @kernel.setter
    def kernel(self, value):  # Conv2DTranspose assigns it
        self._kernel = value

    def save_own_variables(self, store):
        # Keras' convolution would store `self.kernel`, which here is the normalized one, and no u or v.
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store):
        keras.layers.Layer.load_own_variables(self, store)


@keras.saving.register_keras_serializable(package="zoo")
class SpectralConv2D(_SpectralNormalization, keras.layers.Conv2D):
    """Convolution whose kernel is divided by its spectral norm; arguments and shapes of `keras.layers.Conv2D`."""


@keras.saving.register_keras_serializable(package="zoo")
class SpectralConv2DTranspose(_SpectralNormalization, keras.layers.Conv2DTranspose):
    """Transposed convolution with spectral norm; arguments and shapes of `keras.layers.Conv2DTranspose`."""

    kernel_output_axis = -2


@keras.saving.register_keras_serializable(package="zoo")
class SpectralDense(_SpectralNormalization, keras.layers.Dense):
    """Dense layer whose kernel is divided by its spectral norm; arguments and shapes of `keras.layers.Dense`."""


# Row t of the 4 taps of a merged kernel holds taps 2 - t and 3 - t of the 3: t = r - 2 i + 1 for what pixel i adds to row r.
_MERGE = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
_MERGE = np.kron(_MERGE, _MERGE)  # of both directions: [16, 9]


class _Upsampling:
    """Doubles the side by nearest neighbours, then convolves with a 3x3 kernel.

    In training both are one transposed convolution of stride 2: its 4x4 kernel is the sum of four shifts of the 3x3 one
    (each doubled pixel meets up to two taps a direction), which takes 4 multiplications a pixel where 3x3 takes 9. To
    add the kernels up pays with a batch of images, not with one: inference is the two operations.
    """

    def __init__(self, filters, kernel_size=3, *, padding="same", **kwargs):
        super().__init__(filters, kernel_size, padding=padding, **kwargs)
        form = {"kernel_size": (3, 3), "padding": "same", "strides": (1, 1), "dilation_rate": (1, 1), "groups": 1}
        received = {name: getattr(self, name) for name in form}
        if received != form or self.data_format != "channels_last":
            raise ValueError(f"{type(self).__name__} must have {form}, channels last. Received: {received}")

    def call(self, inputs, training=False):
        if training:
            outputs = ops.conv_transpose(inputs, self._merged_kernel(), strides=2, padding="same")
        else:
            outputs = self.convolution_op(ops.repeat(ops.repeat(inputs, 2, axis=1), 2, axis=2), self.kernel)
        if self.use_bias:
            outputs = ops.add(outputs, self.bias)
        return outputs if self.activation is None else self.activation(outputs)

    def _merged_kernel(self):
        """Returns `[4, 4, outputs, inputs]`."""
        kernel = ops.transpose(self.kernel, (0, 1, 3, 2))  # first: there is less of it
        merged = ops.matmul(ops.cast(_MERGE, kernel.dtype), ops.reshape(kernel, (9, -1)))
        return ops.reshape(merged, (4, 4, *kernel.shape[2:]))

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        doubled = (side and 2 * side for side in (height, width))
        return super().compute_output_shape((batch, *doubled, channels))


@keras.saving.register_keras_serializable(package="zoo")
class UpsamplingConv2D(_Upsampling, keras.layers.Conv2D):
    """Nearest neighbours x2 and a 3x3 convolution, `padding="same"`; other arguments of `keras.layers.Conv2D`.

    Input shape: `[batch, height, width, channels]`.
    Output shape: `[batch, 2 height, 2 width, filters]`.
    """


@keras.saving.register_keras_serializable(package="zoo")
class SpectralUpsamplingConv2D(_Upsampling, SpectralConv2D):
    """`UpsamplingConv2D` whose kernel is divided by its spectral norm."""


@keras.saving.register_keras_serializable(package="zoo")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch norm of images by TensorFlow's fused kernels in training; arguments and numbers of Keras' own.

    That of Keras 3 consists of a dozen operations, each of which goes through the memory: of a step of `dcgan` at 64 px
    on a CPU they took 115 ms of 847, the fused ones take 36. Everything else (inference, other ranks, statistics
    synchronized over replicas) is Keras'.
    """

    def build(self, input_shape):
        super().build(input_shape)
        for variable in self.variables:
            variable._autocast = False  # the kernels take float32 scales with images of any type

    def call(self, inputs, training=None, mask=None):
        images = len(inputs.shape) == 4 and self.axis in (-1, 3) and mask is None
        if not (images and training and self.trainable) or self.synchronized or self.renorm:
            return super().call(inputs, training=training, mask=mask)
        channels = inputs.shape[-1]
        inputs = ops.cast(inputs, self.compute_dtype)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=ops.convert_to_tensor(self.gamma) if self.scale else tf.ones([channels]),
            offset=ops.convert_to_tensor(self.beta) if self.center else tf.zeros([channels]),
            mean=[],
            variance=[],
            epsilon=self.epsilon,
            is_training=True,
        )
        # The kernel's variance is unbiased (over n - 1), that which Keras keeps is not.
        count = tf.cast(tf.size(inputs) // channels, tf.float32)
        variance *= (count - 1) / count
        for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign(average * self.momentum + value * (1.0 - self.momentum))
        return outputs


@keras.saving.register_keras_serializable(package="zoo")
class ConditionalBatchNormalization(BatchNormalization):
    """Batch norm with a scale and an offset for each class (Dumoulin et al. 2017, eq. 3).

    Args:
        num_classes: Number of classes.
        gamma_initializer: Of the scales.

    Input shape: `[batch, ..., channels]`, and labels, integers `[batch]`.
    """

    def __init__(self, num_classes, gamma_initializer="ones", **kwargs):
        super().__init__(center=False, scale=False, **kwargs)
        self.num_classes = num_classes
        self.class_gamma_initializer = keras.initializers.get(gamma_initializer)

    def build(self, input_shape):
        super().build(input_shape)
        shape = (self.num_classes, input_shape[-1])
        self.class_gamma = self.add_weight(name="class_gamma", shape=shape, initializer=self.class_gamma_initializer)
        self.class_beta = self.add_weight(name="class_beta", shape=shape, initializer="zeros")

    def call(self, x, labels, training=None):
        x = super().call(x, training=training)
        # A product, not a gather, whose gradient would be sparse.
        chosen = ops.one_hot(labels, self.num_classes, dtype=x.dtype)
        shape = (-1, *[1] * (len(x.shape) - 2), x.shape[-1])
        gamma = ops.reshape(ops.matmul(chosen, ops.cast(self.class_gamma, x.dtype)), shape)
        return x * gamma + ops.reshape(ops.matmul(chosen, ops.cast(self.class_beta, x.dtype)), shape)

    def get_config(self):
        config = super().get_config()
        del config["center"], config["scale"]
        gamma_initializer = keras.initializers.serialize(self.class_gamma_initializer)
        return {**config, "num_classes": self.num_classes, "gamma_initializer": gamma_initializer}


def batch_norm(num_classes=None, **arguments):
    """Returns a batch norm, conditional on the class where there are classes."""
    if num_classes is None:
        return BatchNormalization(**arguments)
    return ConditionalBatchNormalization(num_classes, **arguments)


class Stack(keras.layers.Layer):
    """Layers in a row, like `keras.Sequential`, that hands the labels to those that take them."""

    def __init__(self, rows, **kwargs):
        super().__init__(**kwargs)
        self.rows = list(rows)

    def call(self, x, labels=None, training=False):
        for layer in self.rows:
            takes_labels = isinstance(layer, ConditionalBatchNormalization)
            x = layer(x, labels=labels) if takes_labels else layer(x)
        return x


class LabelProjection(keras.layers.Layer):
    """The inner product of features and an embedding of the label (Miyato and Koyama 2018, eq. 3), for a logit.

    Args:
        num_classes: Number of classes.
        spectral_norm: Whether the embedding has spectral norm.

    Input shape: features `[batch, channels]` or `[batch, height, width, channels]`, and labels, integers `[batch]`. Of
        maps the sum over places is taken (the paper), divided by the root of their number: an embedding of norm 1 is
        then as sensitive to the map as a dense logit of norm 1 on all of it.
    Output shape: `[batch]`, float32.

    Reference:
        https://arxiv.org/abs/1802.05637
    """

    def __init__(self, num_classes, spectral_norm=True, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.num_classes = num_classes
        self.spectral_norm = spectral_norm

    def build(self, input_shape):
        kind = SpectralDense if self.spectral_norm else keras.layers.Dense
        self.embedding = kind(input_shape[-1], use_bias=False, dtype="float32")
        self.embedding.build((None, self.num_classes))

    def call(self, features, labels):
        if len(features.shape) == 4:
            num_places = features.shape[1] * features.shape[2]
            features = ops.sum(ops.cast(features, "float32"), axis=(1, 2)) / num_places**0.5
        embedded = self.embedding(ops.one_hot(labels, self.num_classes, dtype="float32"))
        return ops.sum(features * embedded, axis=-1)


def spectral_layers(model):
    """Returns the layers of `model`, at any depth, that carry a spectral norm."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, _SpectralNormalization)]


def batch_norms(*networks):
    """Returns the batch norms of networks or layers, at any depth."""
    layers = (layer for network in networks for layer in network._flatten_layers())
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]


def moving_statistics(layers):
    """Returns the variables of batch norms that training moves without a gradient."""
    return [variable for layer in layers for variable in (layer.moving_mean, layer.moving_variance)]


@keras.saving.register_keras_serializable(package="zoo")
class Dropout(keras.layers.Layer):
    """Sets a `rate` of its inputs to 0 in training and scales the others by 1 / (1 - rate).

    Unlike `keras.layers.Dropout` its draws come from `zoo.randomness`, so that they are a function of the step.

    Args:
        rate: Share of the inputs to drop, in [0, 1).
    """

    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"`rate` must be in [0, 1). Received: {rate}")
        self.rate = rate

    def call(self, inputs, training=False):
        if not training or self.rate == 0:
            return inputs
        keep = randomness.uniform(inputs.shape) >= self.rate
        return tf.where(keep, inputs / tf.cast(1 - self.rate, inputs.dtype), tf.zeros([], inputs.dtype))

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}
