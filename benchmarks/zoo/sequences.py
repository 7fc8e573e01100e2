"""Attention classifiers, causal language models, recurrent and temporal convolution networks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.zoo import steps
from benchmarks.zoo.entry import Entry, Parts

VOCABULARY, WIDTH, CLASSES, LENGTH = 12, 16, 3, 7
PAD = 0


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=5e-3)


# --- an attention classifier: token ids and a mask (True: a real token) ---------------------------------------------


class Attention(nn.Module):
    """Multi-head self-attention, written out; subclasses get one thing wrong."""

    causal = False

    def __init__(self, width: int = WIDTH, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def split(self, x):
        n, t, _ = x.shape
        return x.view(n, t, self.heads, -1).transpose(1, 2)

    def join(self, x):
        n, _, t, _ = x.shape
        return x.transpose(1, 2).reshape(n, t, -1)

    def allowed(self, t, mask):
        allowed = torch.ones(t, t, dtype=torch.bool)
        if self.causal:
            allowed = allowed.tril()
        allowed = allowed[None, None]
        return allowed if mask is None else allowed & mask[:, None, None, :]

    def weights(self, scores, allowed):
        return scores.masked_fill(~allowed, -1e9).softmax(-1)

    def forward(self, x, mask=None):
        q, k, v = (self.split(part) for part in self.qkv(x).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        return self.out(self.join(self.weights(scores, self.allowed(x.shape[1], mask)) @ v))


class Classifier(nn.Module):
    attention_type: type[nn.Module] = Attention

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(32, WIDTH)
        self.attention = self.attention_type()
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def embed(self, ids):
        return self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))

    def pool(self, x, mask):
        keep = mask[..., None].to(x.dtype)
        return (x * keep).sum(1) / keep.sum(1).clamp(min=1)

    def forward(self, ids, mask):
        x = self.embed(ids)
        x = self.norm(x + self.attention(x, mask))
        return self.head(self.pool(x, mask))


def masked_texts():
    ids = torch.randint(1, VOCABULARY, (6, LENGTH))
    lengths = torch.tensor([7, 7, 5, 4, 6, 3])
    mask = torch.arange(LENGTH) < lengths[:, None]
    return (ids * mask, mask), torch.randint(0, CLASSES, (6,))


def pad_texts(batch, extra):
    (ids, mask), labels = batch
    more = torch.zeros(len(ids), extra, dtype=ids.dtype)
    return (torch.cat([ids, more], 1), torch.cat([mask, more.bool()], 1)), labels


def classifier(**changes) -> Parts:
    return {
        "model": Classifier,
        "batch": masked_texts,
        "loss": F.cross_entropy,
        "optimizer": adam,
        "step": steps.right(F.cross_entropy),
        "task": "classification",
        "classes": CLASSES,
        "output_shape": ("N", CLASSES),
        "padding": lambda inputs: ~inputs[1],
        "pad": pad_texts,
        "ordered": True,
    } | changes


def _with_attention(base, attention):
    return type(f"{base.__name__}With{attention.__name__}", (base,), {"attention_type": attention})


class InvertedMask(Attention):
    def allowed(self, t, mask):
        return super().allowed(t, None if mask is None else ~mask)


class IgnoresMask(Attention):
    def allowed(self, t, mask):
        return super().allowed(t, None)


class MasksQueriesNotKeys(Attention):
    def allowed(self, t, mask):
        allowed = super().allowed(t, None)
        return allowed if mask is None else allowed & mask[:, None, :, None]


class MaskAfterSoftmax(Attention):
    def weights(self, scores, allowed):
        return scores.softmax(-1) * allowed


class MaskAddedAsOnes(Attention):
    def weights(self, scores, allowed):
        return (scores + allowed.to(scores)).softmax(-1)  # 0/1 added where 0/-inf was meant


class MaskTooSmall(Attention):
    def weights(self, scores, allowed):
        return scores.masked_fill(~allowed, -1.0).softmax(-1)


class SoftmaxOverQueries(Attention):
    def weights(self, scores, allowed):
        return scores.masked_fill(~allowed, -1e9).softmax(-2)


class SoftmaxOverRows(Attention):
    def weights(self, scores, allowed):
        return scores.masked_fill(~allowed, -1e9).softmax(0)


class HeadsByView(Attention):
    def split(self, x):
        n, t, _ = x.shape
        return x.reshape(n, self.heads, t, -1)  # mixes positions: the transpose is missing

    def join(self, x):
        n, _, t, _ = x.shape
        return x.reshape(n, t, -1)


class DropoutInEval(Attention):
    def forward(self, x, mask=None):
        q, k, v = (self.split(part) for part in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, self.allowed(x.shape[1], mask), dropout_p=0.1)
        return self.out(self.join(y))


class LibraryAttention(nn.Module):
    def __init__(self, *, batch_first: bool = True) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, 2, batch_first=batch_first)

    def forward(self, x, mask=None):
        return self.inner(x, x, x, key_padding_mask=None if mask is None else ~mask, need_weights=False)[0]


class LibraryAttentionTimeFirst(LibraryAttention):
    def __init__(self) -> None:
        super().__init__(batch_first=False)  # the default, and (N, T, C) goes in

    def forward(self, x, mask=None):
        return self.inner(x, x, x, need_weights=False)[0]


class PoolsPadding(Classifier):
    def pool(self, x, mask):
        return x.mean(1)


class PoolsTheLastColumn(Classifier):
    def pool(self, x, mask):
        return x[:, -1]


class MaxPoolsPadding(Classifier):
    def pool(self, x, mask):
        return (x * mask[..., None]).max(1).values  # zeros of the padding win over negative features


class NoPositions(Classifier):
    def embed(self, ids):
        return self.tokens(ids)


class SamePositionEverywhere(Classifier):
    def embed(self, ids):
        return self.tokens(ids) + self.positions(torch.zeros_like(ids))


class PositionsByRow(Classifier):
    def embed(self, ids):
        return self.tokens(ids) + self.positions(torch.arange(len(ids)))[:, None]


class NormalisesOverTime(Classifier):
    def forward(self, ids, mask):
        x = self.embed(ids)
        x = x + self.attention(x, mask)
        x = (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)  # statistics include the padding
        return self.head(self.pool(x, mask))


class Truncating(Classifier):
    def forward(self, ids, mask):
        return super().forward(ids[:, :32], mask[:, :32])


class TruncatesOnlyTheIds(Classifier):
    """Longer inputs than the position table: keeps the tail, so the first words are lost."""

    def forward(self, ids, mask):
        return super().forward(ids[:, -32:], mask[:, -32:])


# --- a causal language model with tied weights -----------------------------------------------------------------------


class CausalAttention(Attention):
    causal = True


class LanguageModel(nn.Module):
    attention_type: type[nn.Module] = CausalAttention

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(32, WIDTH)
        nn.init.normal_(self.tokens.weight, std=0.1)
        nn.init.normal_(self.positions.weight, std=0.1)
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attention = self.attention_type()
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.norm3 = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.head(self.norm3(x))


def texts():
    ids = torch.randint(1, VOCABULARY, (6, LENGTH))
    for row, length in enumerate((7, 7, 5, 7, 4, 6)):
        ids[row, length:] = PAD
    return ids, ids.clone()


def shifted_texts():
    ids, _ = texts()
    return ids[:, :-1], ids[:, 1:].clone()


def shifted_backwards():
    ids, _ = texts()
    return ids[:, 1:], ids[:, :-1].clone()


def unshifted():
    ids, _ = texts()
    return ids[:, :-1], ids[:, :-1].clone()


def next_token_loss(logits, ids):
    return F.cross_entropy(logits[:, :-1].reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1), ignore_index=PAD)


def plain_token_loss(logits, targets):
    return F.cross_entropy(logits.reshape(-1, VOCABULARY), targets.reshape(-1), ignore_index=PAD)


def own_token_loss(logits, ids):
    return F.cross_entropy(logits.reshape(-1, VOCABULARY), ids.reshape(-1), ignore_index=PAD)


def token_after_next_loss(logits, ids):
    return F.cross_entropy(logits[:, :-2].reshape(-1, VOCABULARY), ids[:, 2:].reshape(-1), ignore_index=PAD)


def previous_token_loss(logits, ids):
    return F.cross_entropy(logits[:, 1:].reshape(-1, VOCABULARY), ids[:, :-1].reshape(-1), ignore_index=PAD)


def padding_counts_loss(logits, ids):
    return F.cross_entropy(logits[:, :-1].reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1))


def padding_in_the_denominator_loss(logits, ids):
    total = F.cross_entropy(
        logits[:, :-1].reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1), ignore_index=PAD, reduction="sum"
    )
    return total / ids[:, 1:].numel()


def pad_language(batch, extra):
    ids, targets = batch
    more = torch.full((len(ids), extra), PAD)
    return torch.cat([ids, more], 1), torch.cat([targets, more], 1)


def language(loss=next_token_loss, **changes) -> Parts:
    return {
        "model": LanguageModel,
        "batch": texts,
        "loss": loss,
        "optimizer": adam,
        "step": steps.right(loss),
        "task": "causal-lm",
        "classes": VOCABULARY,
        "output_shape": ("N", "T", VOCABULARY),
        "causal": True,
        "padding": lambda ids: ids == PAD,
        "pad": pad_language,
        "tied": (("tokens.weight", "head.weight"),),
        "separable": False,  # rows weigh by their number of tokens
        "overfit_fraction": 0.5,
    } | changes


def shifted_language(batch=shifted_texts) -> Parts:
    return language(plain_token_loss, batch=batch)


class NotCausal(Attention):
    causal = False


class SeesTheNextToken(CausalAttention):
    def allowed(self, t, mask):
        return torch.ones(t, t, dtype=torch.bool).tril(1)[None, None]


class CausalTransposed(CausalAttention):
    def allowed(self, t, mask):
        return torch.ones(t, t, dtype=torch.bool).triu()[None, None]


class CausalMaskTooSmall(CausalAttention):
    def weights(self, scores, allowed):
        return scores.masked_fill(~allowed, -1.0).softmax(-1)


class CausalHeadsByView(CausalAttention):
    split = HeadsByView.split
    join = HeadsByView.join


class CausalDropoutInEval(CausalAttention):
    forward = DropoutInEval.forward


class KeepsItsCache(CausalAttention):
    """A key-value cache that is not reset between calls."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = None

    def forward(self, x, mask=None):
        y = super().forward(x, mask)
        if not self.training:
            summary = y.detach().mean((0, 1))
            y = y if self.cache is None else y + self.cache
            self.cache = summary
        return y


class TyingBrokenByCopy(LanguageModel):
    def __init__(self) -> None:
        super().__init__()
        self.head.weight = nn.Parameter(self.tokens.weight.clone())


class TyingBrokenByReset(LanguageModel):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)  # resized after tying
        nn.init.normal_(self.tokens.weight, std=0.1)


class UnscaledEmbeddings(LanguageModel):
    def __init__(self) -> None:
        super().__init__()
        nn.init.normal_(self.tokens.weight, std=3.0)


class NormOverPositions(LanguageModel):
    def forward(self, ids):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        x = x + self.attention(F.layer_norm(x, x.shape[1:]))  # one mean over all positions: the future leaks
        x = x + self.mlp(self.norm2(x))
        return self.head(self.norm3(x) + 0 * self.norm1(x))


class PositionsForgotten(LanguageModel):
    """Without positions the last token alone decides among bags of the past; the table exists and is not used."""

    def forward(self, ids):
        x = self.tokens(ids)
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.head(self.norm3(x))


# --- recurrent networks ----------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """Classifies a padded series; ``lengths`` says how much of each row is real."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 24, batch_first=True)
        self.head = nn.Linear(24, CLASSES)

    def last(self, out, lengths):
        return out[torch.arange(len(out)), lengths - 1]

    def forward(self, x, lengths):
        out, _ = self.gru(x)
        return self.head(self.last(out, lengths))


def series():
    lengths = torch.tensor([6, 3, 5, 6, 4, 2])
    x = torch.randn(6, 6, 4)
    x[torch.arange(6) >= lengths[:, None]] = 0.0
    return (x, lengths), torch.randint(0, CLASSES, (6,))


def series_padding(inputs):
    x, lengths = inputs
    return torch.arange(x.shape[1]) >= lengths[:, None]


def pad_series(batch, extra):
    (x, lengths), labels = batch
    return (torch.cat([x, torch.zeros(len(x), extra, x.shape[2])], 1), lengths), labels


def recurrent(**changes) -> Parts:
    return {
        "model": Recurrent,
        "batch": series,
        "loss": F.cross_entropy,
        "optimizer": lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
        "step": steps.right(F.cross_entropy),
        "task": "classification",
        "classes": CLASSES,
        "output_shape": ("N", CLASSES),
        "padding": series_padding,
        "pad": pad_series,
        "ordered": True,
    } | changes


class CarriesItsState(Recurrent):
    hidden = None

    def forward(self, x, lengths):
        out, hidden = self.gru(x, self.hidden)
        self.hidden = hidden.detach()
        return self.head(self.last(out, lengths))


class LastColumn(Recurrent):
    def last(self, out, lengths):
        return out[:, -1]


class TimeFirst(Recurrent):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 24)


class RandomFirstState(Recurrent):
    def forward(self, x, lengths):
        out, _ = self.gru(x, torch.randn(1, len(x), 24))
        return self.head(self.last(out, lengths))


class Packed(Recurrent):
    def forward(self, x, lengths):
        order = lengths.argsort(descending=True, stable=True)
        packed = nn.utils.rnn.pack_padded_sequence(x[order], lengths[order], batch_first=True)
        _, hidden = self.gru(packed)
        return self.head(hidden[-1][order.argsort()])


class PackedAndNotUnsorted(Recurrent):
    def forward(self, x, lengths):
        order = lengths.argsort(descending=True, stable=True)
        packed = nn.utils.rnn.pack_padded_sequence(x[order], lengths[order], batch_first=True)
        _, hidden = self.gru(packed)
        return self.head(hidden[-1])


class StepByStep(Recurrent):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRUCell(4, 24)

    def between(self, hidden):
        return hidden

    def forward(self, x, lengths):
        hidden = x.new_zeros(len(x), 24)
        for t in range(x.shape[1]):
            fresh = self.gru(x[:, t], self.between(hidden))
            hidden = torch.where((t < lengths)[:, None], fresh, hidden)
        return self.head(hidden)


class DetachedBetweenSteps(StepByStep):
    def between(self, hidden):
        return hidden.detach()


class ForgetsBetweenSteps(StepByStep):
    def between(self, hidden):
        return torch.zeros_like(hidden)


# --- a temporal convolution that forecasts the next value ------------------------------------------------------------


class Forecaster(nn.Module):
    left = True

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(1, 32, 3)
        self.conv2 = nn.Conv1d(32, 32, 3, dilation=2)
        self.head = nn.Conv1d(32, 1, 1)

    def pad(self, x, amount):
        return F.pad(x, (amount, 0))

    def forward(self, x):
        x = x[:, None]
        x = self.conv1(self.pad(x, 2)).tanh()
        x = self.conv2(self.pad(x, 4)).tanh()
        return self.head(x)[:, 0]


class CentredPadding(Forecaster):
    def pad(self, x, amount):
        return F.pad(x, (amount // 2, amount // 2))


class NormalisedByTheWholeSeries(Forecaster):
    def forward(self, x):
        return super().forward((x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5))


class RepeatsTheInput(Forecaster):
    """A skip connection around everything, reading one step ahead."""

    def forward(self, x):
        return super().forward(x) + F.pad(x[:, 1:], (0, 1))


def curves():
    x = torch.randn(6, 9)
    return x[:, :-1], x[:, 1:].clone()


def forecaster(**changes) -> Parts:
    return {
        "model": Forecaster,
        "batch": curves,
        "loss": F.mse_loss,
        "optimizer": lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
        "step": steps.right(F.mse_loss),
        "task": "regression",
        "output_shape": ("N", "T"),
        "causal": True,
        "overfit_fraction": 0.3,
    } | changes


def _row(name, bug, mutant, *, kind="attention classifier", correct=classifier) -> Entry:
    return Entry(name=name, kind=kind, bug=bug, correct=correct, mutant=mutant)


def _attention_row(name, attention, bug) -> Entry:
    return _row(f"attention-{name}", bug, lambda: classifier(model=_with_attention(Classifier, attention)))


ENTRIES = [
    _attention_row("inverted-mask", InvertedMask, "attends to the padding and to nothing else"),
    _attention_row("ignores-mask", IgnoresMask, "the mask argument is not used"),
    _attention_row("masks-queries", MasksQueriesNotKeys, "the mask is applied to queries instead of keys"),
    _attention_row("mask-added-as-ones", MaskAddedAsOnes, "adds 0/1 instead of 0/-inf"),
    _attention_row("mask-too-small", MaskTooSmall, "masks with -1 instead of -inf"),
    _attention_row("mask-after-softmax", MaskAfterSoftmax, "weights no longer sum to one: padding dilutes"),
    _attention_row("softmax-over-queries", SoftmaxOverQueries, "softmax over the wrong axis"),
    _attention_row("softmax-over-rows", SoftmaxOverRows, "softmax over the batch"),
    _attention_row("dropout-in-eval", DropoutInEval, "scaled_dot_product_attention(dropout_p=0.1) in eval mode"),
    _row(
        "attention-time-first",
        "nn.MultiheadAttention without batch_first attends across rows",
        lambda: classifier(model=_with_attention(Classifier, LibraryAttentionTimeFirst)),
        correct=lambda: classifier(model=_with_attention(Classifier, LibraryAttention)),
    ),
    *(
        _row(f"attention-{name}", bug, lambda model=model: classifier(model=model))
        for name, model, bug in [
            ("pools-padding", PoolsPadding, "mean over padded positions"),
            ("pools-the-last-column", PoolsTheLastColumn, "reads the last column, which is padding"),
            ("max-pools-padding", MaxPoolsPadding, "the maximum sees the zeros of the padding"),
            ("no-positions", NoPositions, "a bag of words: the position table is not used"),
            ("same-position", SamePositionEverywhere, "all tokens get position 0"),
            ("positions-by-row", PositionsByRow, "positions are indexed by row"),
            ("normalises-over-time", NormalisesOverTime, "normalises over time, padding included"),
        ]
    ),
    _row(
        "attention-keeps-the-tail",
        "long inputs lose their beginning",
        lambda: classifier(model=TruncatesOnlyTheIds, max_length=32),
        correct=lambda: classifier(model=Truncating, max_length=32),
    ),
    _row(
        "attention-long-input-crashes",
        "longer inputs than the position table crash",
        lambda: classifier(max_length=32),
        correct=lambda: classifier(model=Truncating, max_length=32),
    ),
    *(
        _row(
            f"lm-{name}",
            bug,
            lambda attention=attention: language(model=_with_attention(LanguageModel, attention)),
            kind="causal language model",
            correct=language,
        )
        for name, attention, bug in [
            ("not-causal", NotCausal, "no causal mask"),
            ("sees-the-next-token", SeesTheNextToken, "the causal mask is off by one"),
            ("causal-transposed", CausalTransposed, "the causal mask is transposed"),
            ("causal-mask-too-small", CausalMaskTooSmall, "the future is masked with -1"),
            ("heads-by-view", CausalHeadsByView, "heads split by view: positions mix"),
            ("dropout-in-eval", CausalDropoutInEval, "attention dropout in eval mode"),
            ("keeps-its-cache", KeepsItsCache, "the cache survives the call"),
        ]
    ),
    *(
        _row(
            f"lm-{loss.__name__.removesuffix('_loss').replace('_', '-')}",
            bug,
            lambda loss=loss: language(loss),
            kind="causal language model",
            correct=language,
        )
        for loss, bug in [
            (own_token_loss, "targets not shifted: learns to copy"),
            (token_after_next_loss, "targets shifted twice"),
            (previous_token_loss, "targets shifted the wrong way"),
            (padding_counts_loss, "padding is trained as a token"),
            (padding_in_the_denominator_loss, "averages over padding: short texts weigh less"),
        ]
    ),
    *(
        _row(
            f"lm-{name}",
            bug,
            lambda batch=batch: shifted_language(batch),
            kind="causal language model",
            correct=shifted_language,
        )
        for name, batch, bug in [
            ("data-shifted-backwards", shifted_backwards, "the dataset pairs each token with the one before"),
            ("data-unshifted", unshifted, "the dataset pairs each token with itself"),
        ]
    ),
    *(
        _row(
            f"lm-{name}",
            bug,
            lambda model=model: language(model=model),
            kind="causal language model",
            correct=language,
        )
        for name, model, bug in [
            ("tying-broken-by-copy", TyingBrokenByCopy, "tied weights are cloned"),
            ("tying-broken-by-reset", TyingBrokenByReset, "the embedding is replaced after tying"),
            ("unscaled-embeddings", UnscaledEmbeddings, "initial loss far above ln V"),
            ("norm-over-positions", NormOverPositions, "layer norm over time leaks the future"),
            ("positions-forgotten", PositionsForgotten, "the position table is not used"),
        ]
    ),
    *(
        _row(
            f"rnn-{name}",
            bug,
            lambda model=model: recurrent(model=model),
            kind="recurrent",
            correct=lambda c=c: recurrent(model=c),
        )
        for name, model, c, bug in [
            ("carries-its-state", CarriesItsState, Recurrent, "the hidden state survives the batch"),
            ("last-column", LastColumn, Recurrent, "reads the state after the padding"),
            ("time-first", TimeFirst, Recurrent, "batch_first forgotten: recurs over rows"),
            ("random-first-state", RandomFirstState, Recurrent, "a random initial state, in eval mode too"),
            ("not-unsorted", PackedAndNotUnsorted, Packed, "rows sorted by length and not put back"),
            ("detached-between-steps", DetachedBetweenSteps, StepByStep, "the state is detached at every step"),
            ("forgets-between-steps", ForgetsBetweenSteps, StepByStep, "only the last element counts"),
        ]
    ),
    *(
        _row(
            f"forecast-{name}",
            bug,
            lambda model=model: forecaster(model=model),
            kind="temporal convolution",
            correct=forecaster,
        )
        for name, model, bug in [
            ("centred-padding", CentredPadding, "symmetric padding: the filter sees the future"),
            ("whole-series-statistics", NormalisedByTheWholeSeries, "normalised with statistics of the future"),
            ("repeats-the-input", RepeatsTheInput, "a skip connection reads one step ahead"),
        ]
    ),
]
