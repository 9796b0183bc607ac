"""Datasets, tokenizers, data order and input pipelines: the only home of TensorFlow."""
