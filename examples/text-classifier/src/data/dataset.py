"""Texts and their labels as tensors of one length."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import torch
from torch.utils.data import Dataset

from src.data.tokenizer import PAD_ID, HashingTokenizer, Tokenizer, pad_batch


class TextDataset(Dataset):
    """Items are ``input_ids`` (max_length,), ``attention_mask`` (max_length,; 1 = token, 0 = padding) and ``label`` ().

    ``label`` is there only where labels were given. Texts are cut at ``max_length`` tokens; an empty text is all
    padding. ``transform`` (an augmentation) is applied to the text each time it is read. Raises TypeError and
    ValueError for texts or labels that cannot be trained on, naming the first bad one.
    """

    def __init__(
        self,
        texts: Sequence[str],
        labels: Sequence[int] | torch.Tensor | None = None,
        max_length: int = 64,
        num_classes: int | None = None,
        tokenizer: Tokenizer | None = None,
        transform: Callable[[str], str] | None = None,
    ) -> None:
        if isinstance(texts, str):
            raise TypeError("texts must be a list of texts, not one text")
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, not {max_length}")
        self.texts = list(texts)
        for index, text in enumerate(self.texts):
            if not isinstance(text, str):
                raise TypeError(f"text {index} must be a str, not {type(text).__name__}")
        self.labels = None if labels is None else _checked(labels, len(self.texts), num_classes)
        self.num_classes = num_classes
        self.max_length = max_length
        self.tokenizer = tokenizer or HashingTokenizer()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        text = self.texts[index]
        if self.transform is not None:
            text = self.transform(text)
        input_ids = pad_batch([self.tokenizer.encode(text)], self.max_length)[0]
        item = {"input_ids": input_ids, "attention_mask": (input_ids != PAD_ID).long()}
        if self.labels is not None:
            item["label"] = torch.tensor(self.labels[index], dtype=torch.long)
        return item


def _checked(labels: Sequence[int] | torch.Tensor, texts: int, num_classes: int | None) -> list[int]:
    if len(labels) != texts:
        raise ValueError(f"there are {texts} texts but {len(labels)} labels")
    checked = []
    for index, raw in enumerate(labels):
        try:
            label = operator.index(raw)  # also takes NumPy's and torch's integers; a float would be cut silently
        except TypeError:
            raise ValueError(f"label {index} must be an integer, not {raw!r}") from None
        if label < 0 or (num_classes is not None and label >= num_classes):
            expected = "0 or more" if num_classes is None else f"in [0, {num_classes})"
            raise ValueError(f"label {index} is {label}, expected a class {expected}")
        checked.append(label)
    return checked
