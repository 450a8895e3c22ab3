"""Adam and AdamW whose update of a variable is one pass over the memory."""

import keras
import tensorflow as tf


class _FusedUpdate:
    """The update of Keras' Adam by TensorFlow's own kernel, in place of a dozen operations on arrays of its size.

    The numbers are those of Keras but for rounding, as are names and variables: checkpoints go either way.
    """

    def update_step(self, gradient, variable, learning_rate):
        if self.amsgrad or isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable, learning_rate)
            return
        index = self._get_variable_index(variable)
        dtype = variable.dtype
        count = tf.cast(self.iterations.value + 1, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=_handle(variable),
            m=_handle(self._momentums[index]),
            v=_handle(self._velocities[index]),
            beta1_power=tf.constant(self.beta_1, dtype) ** count,
            beta2_power=tf.constant(self.beta_2, dtype) ** count,
            lr=tf.cast(learning_rate, dtype),
            beta1=tf.constant(self.beta_1, dtype),
            beta2=tf.constant(self.beta_2, dtype),
            epsilon=tf.constant(self.epsilon, dtype),
            grad=tf.cast(gradient, dtype),
        )


def _handle(variable):
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle


@keras.saving.register_keras_serializable(package="zoo")
class Adam(_FusedUpdate, keras.optimizers.Adam):
    """Adam (Kingma and Ba 2015); arguments of `keras.optimizers.Adam`."""


@keras.saving.register_keras_serializable(package="zoo")
class AdamW(_FusedUpdate, keras.optimizers.AdamW):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019); arguments of `keras.optimizers.AdamW`."""
