"""A model trained in a second, for tests, demos and the regression baseline."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader

from src.data.dataset import TextDataset
from src.data.tokenizer import DEFAULT_VOCAB_SIZE
from src.data.toy import TOPICS, make_topic_corpus
from src.models.transformer import MyTransformerModel
from src.training.loop import train


def build_and_train_tiny_model(seed: int = 0, *, size: int = 1024, epochs: int = 5) -> MyTransformerModel:
    """Trains on the toy topics and returns the model on the CPU, in eval mode.

    It reads the ids of ``HashingTokenizer``, so its bare ``state_dict`` is all that ``Predictor`` needs. The caller's
    random numbers are left as they were.
    """
    texts, labels = make_topic_corpus(size, seed)
    dataset = TextDataset(texts, labels, max_length=16, num_classes=len(TOPICS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MyTransformerModel(DEFAULT_VOCAB_SIZE, hidden_size=32, num_layers=1, num_classes=len(TOPICS))
        train(model, DataLoader(dataset, batch_size=32, shuffle=True), epochs=epochs, learning_rate=3e-3)
    return model.eval()
