"""Preprocessing: where most silent bugs of a model live."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from src.data import (
    PAD_ID,
    TOPICS,
    ByteFallbackTokenizer,
    HashingTokenizer,
    TextDataset,
    bag_of_words,
    build_tokenizer,
    drop_words,
    make_negation_corpus,
    make_topic_corpus,
    normalize_features,
    pad_batch,
)

TEXTS = ["the match was won by the team", "butter and garlic in the oven", "the telescope saw a comet"]


# --- normalize_features ---


def sample(scale: float, shift: float) -> list[list[float]]:
    rng = np.random.default_rng(7)
    return (rng.normal(size=(200, 5)) * scale + shift).tolist()


@pytest.mark.parametrize(
    ("dtype", "scale", "shift"),
    [
        (torch.float32, 1.0, 0.0),
        (torch.float32, 50.0, 1e4),
        (torch.float32, 1e-20, 0.0),
        (torch.float32, 1e30, 0.0),
        (torch.float64, 1e-200, 0.0),
        (torch.float64, 1e200, -1e200),
        (torch.float64, 1e-3, 1e6),
        (torch.float64, 1e-9, 1e6),
        (torch.float16, 3.0, 1.0),
    ],
)
def test_columns_end_up_at_mean_0_and_deviation_1(dtype, scale, shift):
    normalized = normalize_features(torch.tensor(sample(scale, shift), dtype=dtype))
    assert normalized.dtype == dtype
    columns = normalized.double()
    assert columns.mean(dim=0).abs().max() < 0.01
    assert (columns.std(dim=0, correction=0) - 1).abs().max() < 0.01


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e30])
def test_a_constant_column_becomes_zero(constant):
    normalized = normalize_features(torch.tensor([[constant, 1.0], [constant, 2.0], [constant, 4.0]]))
    assert (normalized[:, 0] == 0).all()
    assert abs(normalized[:, 1].std(correction=0) - 1) < 0.01


def test_one_row_and_integers_are_normalized_too():
    assert normalize_features(torch.tensor([[3.0, 4.0]])).tolist() == [[0.0, 0.0]]
    assert normalize_features(torch.tensor([[1, 2], [3, 2]])).tolist() == [[-1.0, 0.0], [1.0, 0.0]]


def test_test_data_is_normalized_by_the_training_data():
    train = torch.tensor([[0.0, 7.0], [2.0, 7.0]])
    assert normalize_features(torch.tensor([[4.0, 9.0]]), reference=train).tolist() == [[3.0, 0.0]]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_arrays_give_what_tensors_give(dtype):
    features = np.array(sample(10.0, 3.0)).astype(dtype)
    before = features.copy()
    normalized, reference = normalize_features(features), normalize_features(features[:9], reference=features)
    assert isinstance(normalized, np.ndarray)
    assert normalized.dtype == ("float32" if dtype == "int64" else dtype)
    assert (normalized == normalize_features(torch.from_numpy(features)).numpy()).all()
    assert np.allclose(reference, normalized[:9])
    assert (features == before).all()


def test_gradients_pass_through_normalization():
    features = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    normalize_features(features)[:, 0].square().square().sum().backward()
    assert features.grad is not None
    assert features.grad[:, 0].abs().sum() > 0
    assert features.grad[:, 1:].abs().sum() == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([1.0, 2.0], "matrix"),
        ([], "matrix"),
        (np.zeros((0, 3)), "at least one row"),
        ([[1.0, float("nan")], [1.0, 2.0]], "column 1"),
        ([[float("inf"), 1.0]], "column 0"),
    ],
    ids=["1-D", "empty", "no rows", "NaN", "infinite"],
)
def test_what_cannot_be_normalized_is_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        normalize_features(torch.as_tensor(rows))
    with pytest.raises(ValueError, match=message):
        normalize_features(np.asarray(rows))


def test_a_reference_with_other_columns_is_refused():
    with pytest.raises(ValueError, match="reference has 3 columns, features have 2"):
        normalize_features(torch.zeros(4, 2), reference=torch.zeros(4, 3))


def test_bag_of_words_counts_every_word():
    tokenizer = HashingTokenizer(1000)
    counts = bag_of_words(["goal goal team", ""], tokenizer)
    assert counts.shape == (2, 1000)
    goal, team = tokenizer.encode("goal team")
    assert (counts[0, goal], counts[0, team], counts[0].sum(), counts[1].sum()) == (2, 1, 3, 0)
    assert bag_of_words([], tokenizer).shape == (0, 1000)


# --- tokenizers ---

AWKWARD = [
    "",
    " ",
    "hello world",
    "  two  spaces, and\ttabs\nand lines \r\n",
    "ALL caps, miXed; punctuation!?... (really)",
    "naïve café, Ελληνικά, 日本語, עברית",
    "emoji 👩‍🔬🏽 and \u200b zero width",
    "\x00 nul and \x7f",
    "lone surrogate \ud800",
    "under_score 3.14 1e-5",
]


@pytest.mark.parametrize("text", AWKWARD)
def test_decoding_gives_the_text_back(text):
    for known in ([], TEXTS, AWKWARD):
        tokenizer = build_tokenizer(known)
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(pad_batch([ids], len(ids) + 3)[0]) == text
        assert all(PAD_ID < token < tokenizer.vocab_size for token in ids)


def test_any_text_at_all_survives():
    tokenizer = build_tokenizer(TEXTS)
    rng = random.Random(3)
    for _ in range(300):
        text = "".join(
            chr(rng.choice([rng.randrange(128), rng.randrange(0x3000), rng.randrange(0x110000)])) for _ in range(12)
        )
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_known_words_take_one_id_each():
    tokenizer = build_tokenizer(TEXTS)
    assert len(tokenizer.encode("the match was won by the team")) == 7
    assert len(tokenizer.encode("zzz")) == 3  # spelled in bytes


def test_the_vocabulary_keeps_the_most_frequent_words_in_any_order_of_texts():
    texts = ["apple berry apple", "apple berry cherry"]
    tokenizer = build_tokenizer(texts, vocab_size=259)
    assert tokenizer.vocab_size == 259
    assert tokenizer.pieces == (" berry", "apple")
    assert build_tokenizer(reversed(texts), vocab_size=259).pieces == tokenizer.pieces


def test_a_saved_tokenizer_is_the_same_one(tmp_path):
    tokenizer = build_tokenizer(TEXTS + AWKWARD)
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = ByteFallbackTokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.pieces == tokenizer.pieces
    assert loaded.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])


def test_a_text_cut_inside_a_character_still_decodes():
    assert build_tokenizer().decode(build_tokenizer().encode("aé")[:-1]) == "a\ufffd"


@pytest.mark.parametrize("token", [-1, 257, 10_000])
def test_ids_of_another_vocabulary_are_refused(token):
    with pytest.raises(ValueError, match=f"id {token} is outside"):
        build_tokenizer().decode([token])


def test_a_vocabulary_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="at least 257"):
        build_tokenizer(TEXTS, vocab_size=256)
    with pytest.raises(TypeError, match="not one text"):
        build_tokenizer("one text")
    with pytest.raises(ValueError, match="differ"):
        ByteFallbackTokenizer(["twice", "twice"])
    with pytest.raises(ValueError, match="at least 2"):
        HashingTokenizer(1)


@pytest.mark.parametrize("vocab_size", [2, 10, 512])
def test_hashed_ids_stay_inside_the_vocabulary(vocab_size):
    ids = HashingTokenizer(vocab_size).encode(" ".join(AWKWARD))
    assert ids
    assert all(PAD_ID < token < vocab_size for token in ids)


def test_hashing_knows_words_not_spelling():
    tokenizer = HashingTokenizer()
    assert tokenizer.encode("Good, film!") == tokenizer.encode("good ,film !")
    assert tokenizer.encode("good film") != tokenizer.encode("film good")
    assert tokenizer.encode(" \n") == []


def test_hashed_ids_are_the_same_in_every_process():
    """Python's own ``hash`` would pass every other test here, and break every model that is served elsewhere."""
    assert HashingTokenizer().encode("the team won") == [140, 502, 128]


@pytest.mark.parametrize(
    ("sequences", "length", "expected"),
    [
        ([[1, 2, 3], [4]], None, [[1, 2, 3], [4, 0, 0]]),
        ([[1, 2, 3], [4]], 2, [[1, 2], [4, 0]]),
        ([[1], []], 3, [[1, 0, 0], [0, 0, 0]]),
        ([[]], None, [[0]]),
    ],
)
def test_batches_are_padded_and_cut_on_the_right(sequences, length, expected):
    assert pad_batch(sequences, length).tolist() == expected


# --- TextDataset ---


def test_items_have_ids_a_mask_and_a_label():
    dataset = TextDataset(TEXTS, [0, 1, 2], max_length=10, num_classes=3)
    assert len(dataset) == 3
    item = dataset[1]
    assert set(item) == {"input_ids", "attention_mask", "label"}
    assert item["input_ids"].shape == item["attention_mask"].shape == (10,)
    assert {tensor.dtype for tensor in item.values()} == {torch.int64}
    assert item["label"].shape == ()
    assert item["label"] == 1
    assert item["attention_mask"].tolist() == [1] * 6 + [0] * 4
    assert (item["input_ids"][6:] == PAD_ID).all()


def test_without_labels_there_is_no_label():
    assert set(TextDataset(TEXTS)[0]) == {"input_ids", "attention_mask"}


def test_long_texts_are_cut_and_empty_ones_are_padding():
    dataset = TextDataset(["word " * 1000, ""], max_length=5)
    assert dataset[0]["attention_mask"].tolist() == [1] * 5
    assert dataset[1]["input_ids"].tolist() == [PAD_ID] * 5
    assert dataset[1]["attention_mask"].tolist() == [0] * 5


def test_a_learned_tokenizer_can_be_used():
    tokenizer = build_tokenizer(TEXTS)
    item = TextDataset(TEXTS, max_length=12, tokenizer=tokenizer)[0]
    assert tokenizer.decode(item["input_ids"]) == TEXTS[0]


def test_the_transform_is_applied_at_every_read():
    seen = []
    dataset = TextDataset(["some text"], transform=lambda text: seen.append(text) or "other words")
    assert dataset[0]["input_ids"].tolist() == TextDataset(["other words"])[0]["input_ids"].tolist()
    assert dataset[0]["input_ids"].shape == (64,)
    assert seen == ["some text", "some text"]


@pytest.mark.parametrize(
    "labels", [np.array([0, 1, 2]), torch.tensor([0, 1, 2]), (0, 1, 2)], ids=["numpy", "torch", "tuple"]
)
def test_labels_of_every_kind_are_taken(labels):
    assert [int(item["label"]) for item in TextDataset(TEXTS, labels)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], "3 texts but 2 labels"),
        ([0, 1, 3], r"label 2 is 3, expected a class in \[0, 3\)"),
        ([0, -1, 2], "label 1 is -1"),
        ([0, 1, 1.5], "label 2 must be an integer, not 1.5"),
        (["a", 1, 2], "label 0 must be an integer"),
        ([0, None, 2], "label 1 must be an integer"),
    ],
)
def test_labels_that_cannot_be_trained_on_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        TextDataset(TEXTS, labels, num_classes=3)


def test_texts_that_cannot_be_read_are_refused():
    with pytest.raises(TypeError, match="not one text"):
        TextDataset("one text")
    with pytest.raises(TypeError, match="text 1 must be a str, not NoneType"):
        TextDataset(["fine", None])
    with pytest.raises(ValueError, match="max_length must be at least 1"):
        TextDataset(TEXTS, max_length=0)


def test_an_unknown_number_of_classes_still_refuses_negative_labels():
    with pytest.raises(ValueError, match="label 0 is -1, expected a class 0 or more"):
        TextDataset(TEXTS, [-1, 0, 1])


def test_a_loader_sees_every_item_once():
    texts, labels = make_topic_corpus(50, seed=0)
    loader = DataLoader(TextDataset(texts, labels, max_length=16), batch_size=8, shuffle=True)
    seen = Counter(int(label) for batch in loader for label in batch["label"])
    assert seen == Counter(labels)


# --- augmentation and corpora ---


def test_dropping_words_keeps_their_order_and_at_least_one():
    rng = random.Random(0)
    words = TEXTS[0].split()
    for _ in range(200):
        kept = drop_words(TEXTS[0], 0.9, rng).split()
        assert kept
        remaining = iter(words)
        assert all(word in remaining for word in kept)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_the_rate_is_the_share_of_dropped_words(rate):
    """10,000 draws: six standard deviations are at most 0.03, so this fails once in 500 million seeds."""
    text = " ".join(["word"] * 10_000)
    dropped = 1 - len(drop_words(text, rate, random.Random(5)).split()) / 10_000
    assert abs(dropped - rate) < 0.03


def test_a_seed_gives_the_same_augmentation():
    assert drop_words(TEXTS[0], 0.5, random.Random(1)) == drop_words(TEXTS[0], 0.5, random.Random(1))
    assert drop_words(TEXTS[0], 0.0, random.Random(1)) == TEXTS[0]
    assert drop_words("", 0.5, random.Random(1)) == ""


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_that_leaves_nothing_is_refused(rate):
    with pytest.raises(ValueError, match="rate must be in"):
        drop_words(TEXTS[0], rate, random.Random(0))


@pytest.mark.parametrize(("make", "classes"), [(make_topic_corpus, 4), (make_negation_corpus, 2)])
def test_corpora_are_reproducible_and_balanced(make, classes):
    """2,000 labels: six standard deviations of a class's share are at most 0.07."""
    texts, labels = make(2000, seed=1)
    assert (texts, labels) == make(2000, seed=1)
    assert texts != make(2000, seed=2)[0]
    shares = [labels.count(label) / 2000 for label in range(classes)]
    assert sum(shares) == 1
    assert max(abs(share - 1 / classes) for share in shares) < 0.07


def test_every_text_has_most_words_of_its_own_topic():
    for text, label in zip(*make_topic_corpus(300, seed=0), strict=True):
        counts = [sum(word in words for word in text.split()) for words in TOPICS.values()]
        assert counts.index(max(counts)) == label
        assert sorted(counts)[-1] > sorted(counts)[-2]


def test_every_negation_says_what_its_label_says():
    meaning = dict.fromkeys(["good", "great", "lovely", "superb"], 1) | dict.fromkeys(
        ["bad", "awful", "boring", "weak"], 0
    )
    for text, label in zip(*make_negation_corpus(300, seed=0), strict=True):
        words = text.split()
        said = [meaning[word] for before, word in itertools.pairwise(words) if word in meaning and before != "not"]
        denied = [meaning[word] for before, word in itertools.pairwise(words) if word in meaning and before == "not"]
        assert (said, denied) == ([label], [1 - label])
