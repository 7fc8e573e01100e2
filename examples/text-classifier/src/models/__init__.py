"""The transformer, and the baseline it has to beat."""

from src.models.baseline import FeatureClassifier
from src.models.transformer import MyTransformerModel

__all__ = ["FeatureClassifier", "MyTransformerModel"]
