"""A small text classifier: data, models, training and inference, each with its tests under ``tests/``."""
