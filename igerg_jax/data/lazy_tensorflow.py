"""TensorFlow and TFDS, imported on first use.

Importing them takes seconds and hundreds of megabytes, and training on synthetic batches must run
where they are not installed. All of `igerg_jax` imports them from here, except
`igerg_jax.data.builders.tfds_builder`, whose classes derive from TFDS's.
"""

from etils import epy

with epy.lazy_imports():
    import tensorflow as tf
    import tensorflow_datasets as tfds

__all__ = ["tf", "tfds"]
