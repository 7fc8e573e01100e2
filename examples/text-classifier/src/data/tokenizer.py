"""Two tokenizers with one interface: a learned one that can be undone, and a hashed one that needs no file.

Id 0 is padding in both. Neither uses Python's ``hash``, which differs from process to process.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch

PAD_ID = 0
DEFAULT_VOCAB_SIZE = 512

_FIRST_BYTE_ID = 1
_FIRST_PIECE_ID = _FIRST_BYTE_ID + 256
# A word keeps the space in front of it, so that pieces put side by side are the text again.
_PIECE = re.compile(r" ?\w+| ?[^\w\s]+|\s+")
_WORD = re.compile(r"\w+|[^\w\s]")


class Tokenizer(Protocol):
    """What the dataset, the training loop and the predictor need of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id that ``encode`` returns."""

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``, without padding; empty for an empty text."""


class ByteFallbackTokenizer:
    """Frequent words have an id of their own, every other word is spelled in UTF-8 bytes: no text is unknown.

    Ids: 0 padding, 1-256 the bytes, 257 and up ``pieces`` in order. ``decode(encode(text)) == text`` for every text.
    """

    def __init__(self, pieces: Sequence[str] = ()) -> None:
        self.pieces = tuple(pieces)
        self._ids = {piece: _FIRST_PIECE_ID + index for index, piece in enumerate(self.pieces)}
        if len(self._ids) != len(self.pieces):
            raise ValueError("the pieces of a vocabulary must differ from each other")

    @property
    def vocab_size(self) -> int:
        return _FIRST_PIECE_ID + len(self.pieces)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in _PIECE.findall(text):
            known = self._ids.get(piece)
            if known is not None:
                ids.append(known)
            else:
                ids.extend(_FIRST_BYTE_ID + byte for byte in piece.encode("utf-8", "surrogatepass"))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids`` (a list or a 1-D tensor), without padding; a character cut in two shows as U+FFFD."""
        data = bytearray()
        for raw in ids:
            token = int(raw)
            if token == PAD_ID:
                continue
            if not 0 < token < self.vocab_size:
                raise ValueError(f"id {token} is outside this vocabulary of {self.vocab_size}")
            if token < _FIRST_PIECE_ID:
                data.append(token - _FIRST_BYTE_ID)
            else:
                data.extend(self.pieces[token - _FIRST_PIECE_ID].encode("utf-8", "surrogatepass"))
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return data.decode("utf-8", "replace")

    def save(self, path: str | Path) -> None:
        """Writes the vocabulary as JSON."""
        Path(path).write_text(json.dumps({"version": 1, "pieces": self.pieces}), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> ByteFallbackTokenizer:
        """Reads what ``save`` wrote."""
        return cls(json.loads(Path(path).read_text(encoding="utf-8"))["pieces"])


class HashingTokenizer:
    """Every word, lower-cased, goes to one of ``vocab_size - 1`` buckets by a stable hash.

    It knows its ids from ``vocab_size`` alone, which is why weights without a vocabulary file can still be served
    (``src.inference.Predictor``). The price: words may share a bucket, and ids cannot be turned back into text.
    """

    def __init__(self, vocab_size: int = DEFAULT_VOCAB_SIZE) -> None:
        if vocab_size < 2:
            raise ValueError(f"vocab_size must be at least 2 (padding and one bucket), not {vocab_size}")
        self._vocab_size = vocab_size

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    def encode(self, text: str) -> list[int]:
        return [1 + _stable_hash(word) % (self._vocab_size - 1) for word in _WORD.findall(text.lower())]


def build_tokenizer(texts: Iterable[str] = (), vocab_size: int = 1000) -> ByteFallbackTokenizer:
    """Learns the most frequent words of ``texts``; at most ``vocab_size`` ids in all, bytes and padding included.

    The same texts give the same ids in any order: words of the same frequency are taken alphabetically.
    """
    if isinstance(texts, str):
        raise TypeError("texts must be a list of texts, not one text")
    if vocab_size < _FIRST_PIECE_ID:
        raise ValueError(f"vocab_size must be at least {_FIRST_PIECE_ID} (padding and 256 bytes), not {vocab_size}")
    counts = Counter(piece for text in texts for piece in _PIECE.findall(text))
    # A piece of one byte has an id already.
    longer = [piece for piece in counts if len(piece.encode("utf-8", "surrogatepass")) > 1]
    longer.sort(key=lambda piece: (-counts[piece], piece))
    return ByteFallbackTokenizer(longer[: vocab_size - _FIRST_PIECE_ID])


def pad_batch(sequences: Sequence[Sequence[int]], length: int | None = None) -> torch.Tensor:
    """Stacks id sequences into one (batch, ``length``) tensor: longer ones are cut, shorter ones padded on the right.

    ``length`` is that of the longest sequence where it is not given, and at least 1.
    """
    if length is None:
        length = max((len(sequence) for sequence in sequences), default=1)
    batch = torch.full((len(sequences), max(length, 1)), PAD_ID, dtype=torch.long)
    for row, sequence in zip(batch, sequences, strict=True):
        kept = torch.tensor(list(sequence[:length]), dtype=torch.long)
        row[: len(kept)] = kept
    return batch


def _stable_hash(word: str) -> int:
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
