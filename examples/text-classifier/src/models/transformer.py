"""A transformer encoder for texts, whose whole architecture can be read back from the shapes of its weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from src.data.tokenizer import PAD_ID


class MyTransformerModel(nn.Module):
    """Token ids (batch, length) → logits (batch, ``num_classes``).

    Positions are sinusoids, so any length works, and the number of attention heads follows from ``hidden_size``:
    nothing but the four sizes is needed to build the same model again, see ``from_state_dict``. No step of the
    forward pass waits for the GPU, so it can be captured as a CUDA graph.
    """

    def __init__(
        self, vocab_size: int, hidden_size: int, num_layers: int, num_classes: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        sizes = {
            "vocab_size": vocab_size,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "num_classes": num_classes,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, not {size}")
        self.vocab_size, self.hidden_size, self.num_layers, self.num_classes = sizes.values()
        self.embedding = nn.Embedding(vocab_size, hidden_size)
        nn.init.normal_(self.embedding.weight, std=hidden_size**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(_EncoderLayer(hidden_size, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size)
        self.head = nn.Linear(hidden_size, num_classes)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Logits; ``attention_mask`` (batch, length), 1 for tokens, is "every id but padding" where it is not given."""
        return self.head(self.embed(input_ids, attention_mask))

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """One vector for each text, (batch, ``hidden_size``): the mean over its tokens."""
        visible = input_ids != PAD_ID if attention_mask is None else attention_mask.bool()
        # A text of padding alone sees its padding: a softmax over nothing would be NaN.
        visible = visible | ~visible.any(dim=1, keepdim=True)
        hidden = self.embedding(input_ids)
        hidden = self.dropout(hidden + _positions(input_ids.shape[1], self.hidden_size, hidden))
        for layer in self.layers:
            hidden = layer(hidden, visible)
        weights = visible.unsqueeze(-1).to(hidden.dtype)
        return (self.norm(hidden) * weights).sum(dim=1) / weights.sum(dim=1)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, torch.Tensor]) -> MyTransformerModel:
        """The model these weights belong to, in eval mode. Raises ValueError where they are not ours or not finite."""
        try:
            vocab_size, hidden_size = state["embedding.weight"].shape
            num_classes = state["head.weight"].shape[0]
            num_layers = 1 + max(int(found[1]) for name in state if (found := re.match(r"layers\.(\d+)\.", name)))
            model = cls(vocab_size, hidden_size, num_layers, num_classes)
            model.load_state_dict(state)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ValueError(f"not the state_dict of a MyTransformerModel: {error}") from error
        broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
        if broken:
            raise ValueError(f"the weights are not finite in {', '.join(broken)}")
        return model.eval()


class _EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, each with its norm in front and a residual around."""

    def __init__(self, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.heads = _heads(hidden_size)
        self.attention_dropout = dropout
        self.norm_attention = nn.LayerNorm(hidden_size)
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.norm_feed_forward = nn.LayerNorm(hidden_size)
        self.feed_forward = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size), nn.GELU(), nn.Linear(4 * hidden_size, hidden_size)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.dropout(self._attend(self.norm_attention(hidden), visible))
        return hidden + self.dropout(self.feed_forward(self.norm_feed_forward(hidden)))

    def _attend(self, hidden: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.query_key_value(hidden).chunk(3, dim=-1)
        )
        attended = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=visible[:, None, None, :],
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        return self.output(attended.transpose(1, 2).flatten(-2))


def _heads(hidden_size: int) -> int:
    """The most heads of at least 8 features each that divide ``hidden_size``, up to 8."""
    return next((heads for heads in (8, 4, 2) if hidden_size % heads == 0 and hidden_size // heads >= 8), 1)


def _positions(length: int, hidden_size: int, like: torch.Tensor) -> torch.Tensor:
    """Sines and cosines of every position, (length, hidden_size), with the device and type of ``like``."""
    position = torch.arange(length, device=like.device, dtype=torch.float32).unsqueeze(1)
    pairs = torch.arange(0, hidden_size, 2, device=like.device, dtype=torch.float32)
    angle = position * torch.exp(pairs * (-math.log(10_000.0) / hidden_size))
    waves = torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)[:, :hidden_size]
    # As large as the embeddings start out, or the words would drown in their positions.
    return (waves * hidden_size**-0.5).to(like.dtype)
