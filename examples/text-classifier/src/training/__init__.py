"""Losses and the training loop."""

from src.training.loop import evaluate, set_seed, train
from src.training.losses import ContrastiveLoss, FocalLoss
from src.training.tiny import build_and_train_tiny_model

__all__ = ["ContrastiveLoss", "FocalLoss", "build_and_train_tiny_model", "evaluate", "set_seed", "train"]
