"""From raw texts and features to tensors."""

from src.data.augment import drop_words
from src.data.dataset import TextDataset
from src.data.features import bag_of_words, normalize_features
from src.data.tokenizer import (
    DEFAULT_VOCAB_SIZE,
    PAD_ID,
    ByteFallbackTokenizer,
    HashingTokenizer,
    Tokenizer,
    build_tokenizer,
    pad_batch,
)
from src.data.toy import TOPICS, make_negation_corpus, make_topic_corpus

__all__ = [
    "DEFAULT_VOCAB_SIZE",
    "PAD_ID",
    "TOPICS",
    "ByteFallbackTokenizer",
    "HashingTokenizer",
    "TextDataset",
    "Tokenizer",
    "bag_of_words",
    "build_tokenizer",
    "drop_words",
    "make_negation_corpus",
    "make_topic_corpus",
    "normalize_features",
    "pad_batch",
]
