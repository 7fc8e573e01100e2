"""Whether the model can learn what it is for. Too slow for every push: nightly, on a CUDA runner, or by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from src.data import HashingTokenizer, TextDataset, bag_of_words, make_negation_corpus, make_topic_corpus
from src.models import FeatureClassifier, MyTransformerModel
from src.training import FocalLoss, evaluate, set_seed, train

pytestmark = [pytest.mark.convergence, pytest.mark.slow]


def test_the_transformer_learns_what_order_means(device, fixed_seed):
    """Chance is 0.5, and no counting of words beats it (next test); the worst of 40 seeds was 0.988."""
    texts, labels = make_negation_corpus(2048, seed=1)
    loader = DataLoader(TextDataset(texts, labels, max_length=16, num_classes=2), batch_size=32, shuffle=True)
    model = MyTransformerModel(512, hidden_size=64, num_layers=2, num_classes=2).to(device)
    train(model, loader, epochs=8, learning_rate=2e-3)
    unseen = DataLoader(TextDataset(*make_negation_corpus(512, seed=910), max_length=16), batch_size=64)
    assert evaluate(model, unseen)["accuracy"] > 0.95


def test_counting_words_does_not_learn_what_order_means(device, fixed_seed):
    """Or the test above would prove nothing. Chance is 0.5; the best of 40 seeds was 0.57."""
    tokenizer = HashingTokenizer()
    (texts, labels), (unseen, expected) = make_negation_corpus(2048, seed=1), make_negation_corpus(512, seed=910)
    features, targets = bag_of_words(texts, tokenizer).to(device), torch.tensor(labels, device=device)
    model = FeatureClassifier(tokenizer.vocab_size, 2, hidden_size=64).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(features), targets).backward()
        optimizer.step()
    predicted = model(bag_of_words(unseen, tokenizer).to(device)).argmax(dim=-1).cpu()
    assert (predicted == torch.tensor(expected)).float().mean() < 0.65


@pytest.mark.parametrize("loss_fn", [None, FocalLoss(2.0)], ids=["cross entropy", "focal"])
def test_two_layers_learn_the_topics(device, fixed_seed, loss_fn):
    """Chance is 0.25; the worst of 40 seeds was 0.95."""
    set_seed(7)
    loader = DataLoader(TextDataset(*make_topic_corpus(2048, seed=1), max_length=16), batch_size=32, shuffle=True)
    model = MyTransformerModel(512, hidden_size=64, num_layers=2, num_classes=4).to(device)
    history = train(model, loader, epochs=4, learning_rate=1e-3, loss_fn=loss_fn)
    assert history[-1] < 0.5 * history[0]
    unseen = DataLoader(TextDataset(*make_topic_corpus(512, seed=911), max_length=16), batch_size=64)
    assert evaluate(model, unseen)["accuracy"] > 0.9
