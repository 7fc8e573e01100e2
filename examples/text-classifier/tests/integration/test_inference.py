"""From a text to a label, through the file that training leaves behind."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from src.data import TOPICS, TextDataset, build_tokenizer, make_topic_corpus
from src.inference import Predictor
from src.models import MyTransformerModel
from src.training import evaluate, train

TEXTS = ["the team scored a late goal in the final match", "garlic and butter in a hot oven", "a comet", "chord"]


@pytest.fixture
def predictor(trained_weights: Path) -> Predictor:
    return Predictor(trained_weights)


def test_one_prediction_has_a_label_and_a_confidence(predictor):
    prediction = predictor.predict(TEXTS[0])
    assert set(prediction) == {"label", "confidence"}
    assert prediction["label"] in range(4)
    assert isinstance(prediction["confidence"], float)
    assert 0.25 <= prediction["confidence"] <= 1.0


def test_bare_weights_predict_as_well_as_the_model_they_came_from(predictor, trained_weights):
    texts, labels = make_topic_corpus(200, seed=904)
    model = MyTransformerModel.from_state_dict(torch.load(trained_weights, weights_only=True))
    expected = evaluate(model, DataLoader(TextDataset(texts, labels), batch_size=50))["accuracy"]
    predicted = [prediction["label"] for prediction in predictor.predict_batch(texts)]
    assert sum(map(int.__eq__, predicted, labels)) / 200 == pytest.approx(expected)
    assert expected > 0.85


def test_the_confidence_is_the_probability_of_the_label(predictor):
    for text, prediction in zip(TEXTS, predictor.predict_batch(TEXTS), strict=True):
        with torch.no_grad():
            odds = predictor.model(torch.tensor([predictor.tokenizer.encode(text)]))[0].exp()
        assert prediction["label"] == odds.argmax().item()
        assert prediction["confidence"] == pytest.approx((odds.max() / odds.sum()).item(), rel=1e-4)


def test_labels_can_be_named(trained_weights):
    predictor = Predictor(trained_weights, labels=list(TOPICS))
    named = [predictor.predict(f"{first} {second}")["label"] for first, second, *_ in TOPICS.values()]
    assert named == ["sports", "cooking", "space", "music"]


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_batch_and_single_predictions_agree(trained_weights, batch_size):
    predictor = Predictor(trained_weights, batch_size=batch_size)
    texts = [*TEXTS, "word " * 50, *make_topic_corpus(20, seed=905)[0]]
    batch = predictor.predict_batch(texts)
    assert len(batch) == len(texts)
    for text, prediction in zip(texts, batch, strict=True):
        alone = predictor.predict(text)
        assert alone["label"] == prediction["label"]
        assert alone["confidence"] == pytest.approx(prediction["confidence"], abs=1e-5)


def test_predictions_do_not_change_between_calls_or_loads(predictor, trained_weights):
    assert (
        predictor.predict_batch(TEXTS)
        == predictor.predict_batch(TEXTS)
        == Predictor(trained_weights).predict_batch(TEXTS)
    )


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_empty_input_is_refused(predictor, text):
    with pytest.raises(ValueError, match=r"^Input cannot be empty"):
        predictor.predict(text)
    with pytest.raises(ValueError, match=r"^Input cannot be empty: text 1 is"):
        predictor.predict_batch(["fine", text])


def test_an_empty_batch_and_a_bare_text_are_refused(predictor):
    with pytest.raises(ValueError, match=r"^Input cannot be empty"):
        predictor.predict_batch([])
    with pytest.raises(TypeError, match="takes a list of texts"):
        predictor.predict_batch("one text")


def test_long_input_is_cut_at_the_maximum(trained_weights):
    predictor = Predictor(trained_weights, max_length=20)
    start = "goal team match " * 7  # 21 words
    assert predictor.predict(start + "oven " * 100_000) == predictor.predict(start)
    assert predictor.predict("oven " * 5 + start) != predictor.predict(start)


@pytest.mark.parametrize("text", ["👩‍🔬", "日本語のテキスト", "\x00", "a" * 100_000, "!?", "\u200b"])
def test_strange_input_gets_a_prediction(predictor, text):
    assert 0.0 <= predictor.predict(text)["confidence"] <= 1.0


def test_a_learned_tokenizer_travels_beside_the_weights(tmp_path, fixed_seed):
    """The whole way: vocabulary, training, two files, predictions. Chance is 0.25; the worst of 40 seeds was 0.90."""
    texts, labels = make_topic_corpus(512, seed=1)
    tokenizer = build_tokenizer(texts, vocab_size=500)
    loader = DataLoader(TextDataset(texts, labels, max_length=48, tokenizer=tokenizer), batch_size=32, shuffle=True)
    model = MyTransformerModel(tokenizer.vocab_size, hidden_size=32, num_layers=1, num_classes=4)
    train(model, loader, epochs=5, learning_rate=3e-3)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    tokenizer.save(tmp_path / "tokenizer.json")

    predictor = Predictor(tmp_path / "model.pt", tokenizer=type(tokenizer).load(tmp_path / "tokenizer.json"))
    unseen, expected = make_topic_corpus(128, seed=906)
    correct = sum(p["label"] == label for p, label in zip(predictor.predict_batch(unseen), expected, strict=True))
    assert correct / 128 > 0.75


@pytest.mark.parametrize("sizes", [(2, 8, 1, 2), (100, 16, 3, 9), (5000, 64, 2, 3)])
def test_weights_of_any_size_are_served(tmp_path, sizes):
    torch.save(MyTransformerModel(*sizes).state_dict(), tmp_path / "model.pt")
    prediction = Predictor(tmp_path / "model.pt").predict("an untrained model has no opinion")
    assert prediction["label"] in range(sizes[-1])


def test_a_file_that_is_not_weights_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    with pytest.raises(FileNotFoundError):
        Predictor(path)
    for content in (b"", b"not a model"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.pt is not a file of weights"):
            Predictor(path)
    torch.save(OrderedDict(other=torch.zeros(1)), path)
    with pytest.raises(ValueError, match=r"model\.pt: not the state_dict"):
        Predictor(path)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Attack:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "touched",))

    torch.save(Attack(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="is not a file of weights"):
        Predictor(tmp_path / "model.pt")
    assert not (tmp_path / "touched").exists()


def test_a_tokenizer_or_labels_that_do_not_fit_are_refused(trained_weights):
    with pytest.raises(ValueError, match=r"the tokenizer has \d+ ids, the model in .* only 512"):
        Predictor(trained_weights, tokenizer=build_tokenizer(f"word{i}" for i in range(600)))
    with pytest.raises(ValueError, match="2 labels for the 4 classes"):
        Predictor(trained_weights, labels=["yes", "no"])
