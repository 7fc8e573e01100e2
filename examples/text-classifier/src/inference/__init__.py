"""Serving a trained model."""

from src.inference.predictor import Predictor

__all__ = ["Predictor"]
