"""From a file of weights to labels."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from src.data.tokenizer import HashingTokenizer, Tokenizer, pad_batch
from src.models.transformer import MyTransformerModel


class Predictor:
    """Classifies texts with the weights that ``torch.save(model.state_dict(), model_path)`` wrote.

    The architecture is read from the shapes of the weights. ``tokenizer`` is the one of the training; without one,
    ``HashingTokenizer`` with the vocabulary size of the weights is used, which is ``TextDataset``'s own default for
    models of ``DEFAULT_VOCAB_SIZE``. ``labels`` names the classes; without it a label is the class's number.
    Texts are cut at ``max_length`` tokens. Raises FileNotFoundError, or ValueError for a file, tokenizer or labels
    that do not fit.
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        tokenizer: Tokenizer | None = None,
        labels: Sequence[str] | None = None,
        max_length: int = 256,
        batch_size: int = 32,
        device: str | torch.device = "cpu",
    ) -> None:
        try:
            # weights_only: a pickle may run any code, and a model file often comes from elsewhere.
            state = torch.load(model_path, map_location=device, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(f"{model_path} is not a file of weights: {error}") from error
        try:
            self.model = MyTransformerModel.from_state_dict(state).to(device)
        except ValueError as error:
            raise ValueError(f"{model_path}: {error}") from error
        self.tokenizer = tokenizer or HashingTokenizer(self.model.vocab_size)
        if self.tokenizer.vocab_size > self.model.vocab_size:
            raise ValueError(
                f"the tokenizer has {self.tokenizer.vocab_size} ids, "
                f"the model in {model_path} only {self.model.vocab_size}"
            )
        if labels is not None and len(labels) != self.model.num_classes:
            raise ValueError(f"{len(labels)} labels for the {self.model.num_classes} classes of {model_path}")
        self.labels = labels
        self.max_length = max_length
        self.batch_size = batch_size
        self.device = torch.device(device)

    def predict(self, text: str) -> dict[str, Any]:
        """``{"label": class number or name, "confidence": its probability in [0, 1]}`` of one text."""
        return self.predict_batch([text])[0]

    @torch.no_grad()
    def predict_batch(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """One prediction for each text, in order. Raises ValueError where there is no text, or one says nothing."""
        if isinstance(texts, str):
            raise TypeError("predict_batch takes a list of texts; predict takes one text")
        encoded = [self.tokenizer.encode(text) for text in texts]
        if not encoded:
            raise ValueError("Input cannot be empty: the list has no texts")
        for index, ids in enumerate(encoded):
            if not ids or not texts[index].strip():
                raise ValueError(f"Input cannot be empty: text {index} is {texts[index]!r}")
        predictions = []
        for start in range(0, len(encoded), self.batch_size):
            batch = [ids[: self.max_length] for ids in encoded[start : start + self.batch_size]]
            probabilities = self.model(pad_batch(batch).to(self.device)).softmax(dim=-1).cpu()
            for confidence, number in zip(*(column.tolist() for column in probabilities.max(dim=-1)), strict=True):
                label = number if self.labels is None else self.labels[number]
                predictions.append({"label": label, "confidence": confidence})
        return predictions
