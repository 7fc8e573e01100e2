"""No false alarm on correct projects that the checks were not written for: what people build from torch's own parts."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from pytest_mltiers import Subject  # noqa: E402
from pytest_mltiers.contract import examine  # noqa: E402
from torch import nn  # noqa: E402


def adam(lr):
    return lambda model: torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)


def labelled(features, classes, rows=8):
    return lambda: (torch.randn(rows, features), torch.randint(0, classes, (rows,)))


class Encoder(nn.Module):
    """torch's own encoder with its fast path for padded batches; mapping in, mapping out."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(20, 32, padding_idx=0)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 40, 32))
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True), 2)
        self.head = nn.Linear(32, 3)

    def forward(self, input_ids, attention_mask):
        x = self.tokens(input_ids) + self.positions[:, : input_ids.shape[1]]
        x = self.layers(x, src_key_padding_mask=attention_mask == 0)
        keep = attention_mask[..., None].to(x)
        return {"logits": self.head((x * keep).sum(1) / keep.sum(1))}


def encoded():
    mask = torch.arange(9) < torch.tensor([9, 9, 7, 5, 4, 8, 3, 9])[:, None]
    ids = torch.randint(1, 20, (8, 9)) * mask
    return {"input_ids": ids, "attention_mask": mask.long()}, torch.randint(0, 3, (8,))


def pad_encoded(batch, extra):
    return {name: F.pad(value, (0, extra)) for name, value in batch[0].items()}, batch[1]


def loss_of_mapping(output, targets):
    return F.cross_entropy(output["logits"], targets)


class WeightNormAndReZero(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Linear(6, 32))
        self.block = nn.Linear(32, 32)
        self.gate = nn.Parameter(torch.zeros(1))  # ReZero: the block has no gradient at first
        self.head = nn.Linear(32, 2)

    def forward(self, x):
        hidden = self.first(x).tanh()
        return self.head(hidden + self.gate * self.block(hidden))


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 32, 2, batch_first=True, dropout=0.1, bidirectional=True)
        self.head = nn.Linear(64, 1)

    def forward(self, x):
        return self.head(self.lstm(x)[0].mean(1)).squeeze(-1)


class Residual(nn.Module):
    """A bias before batch norm (its gradient is zero), a zero-initialised norm, depthwise and group norm layers."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        nn.init.zeros_(self.norm2.weight)
        self.depthwise, self.norm3 = nn.Conv2d(16, 16, 3, groups=16, padding=1), nn.GroupNorm(4, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.norm1(self.conv1(x)).relu()
        x = (x + self.norm2(self.conv2(x))).relu()
        return self.head(F.gelu(self.norm3(self.depthwise(x))).mean((2, 3)))


class Binary(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 32), nn.LayerNorm(32), nn.SiLU(), nn.Linear(32, 1))

    def forward(self, x):
        return self.net(x)[:, 0]


class Probe(nn.Module):
    """A trained head on a frozen encoder, with statistics in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))
        self.encoder = nn.Linear(6, 32).requires_grad_(False)
        self.head = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 3))

    def forward(self, x):
        return self.head(self.encoder(x - self.mean).relu())


class Unet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 8, 3, 2, 1), nn.ConvTranspose2d(8, 8, 2, 2)
        self.out = nn.Conv2d(9, 2, 1)

    def forward(self, x):
        return self.out(torch.cat([x, self.up(self.down(x).relu())], 1))


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(30, 32), nn.Embedding(16, 32)
        self.norm1, self.qkv, self.out = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.norm2 = nn.LayerNorm(32)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32), nn.Dropout(0.1))
        self.head = nn.Linear(32, 30, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
        self.head.weight = self.tokens.weight

    def forward(self, ids):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        n, t, c = x.shape
        q, k, v = (part.view(n, t, 2, 16).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        rate = 0.1 if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=rate)
        x = x + self.out(attended.transpose(1, 2).reshape(n, t, c))
        return self.head(x + self.mlp(self.norm2(x)))


def next_tokens():
    ids = torch.randint(0, 30, (6, 9))
    return ids[:, :-1], ids[:, 1:].clone()


def token_loss(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


def accumulating_step(model, optimizer, scheduler, batch, index):
    """Two calls to an update, clipped, with a schedule per update."""
    model.train()
    loss = token_loss(model(batch[0]), batch[1]) / 2
    loss.backward()
    if index % 2 == 1:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return 2 * loss.item()


def smoothed(output, targets):
    return F.cross_entropy(output, targets, label_smoothing=0.1)


def classification(model, batch, classes, lr=3e-3, **more):
    fields = {"loss": F.cross_entropy, "optimizer": adam(lr), "task": "classification", "classes": classes}
    return Subject(**{"model": model, "batch": batch, **fields, **more})


SUBJECTS = {
    "encoder": Subject(
        model=Encoder,
        batch=encoded,
        loss=loss_of_mapping,
        optimizer=adam(3e-3),
        perfect=lambda targets: {"logits": 20.0 * F.one_hot(targets, 3)},
        padding=lambda inputs: inputs["attention_mask"] == 0,
        pad=pad_encoded,
        ordered=True,
    ),
    "weight norm and ReZero": classification(WeightNormAndReZero, labelled(6, 2), 2, output_shape=("N", 2)),
    "LSTM": Subject(
        model=Lstm,
        batch=lambda: (torch.randn(8, 5, 4), torch.randn(8)),
        loss=F.smooth_l1_loss,
        optimizer=adam(3e-3),
        task="regression",
        output_shape=("N",),
    ),
    "residual CNN": classification(
        Residual, lambda: (torch.randn(8, 3, 8, 8), torch.randint(0, 5, (8,))), 5, lr=1e-2, output_shape=("N", 5)
    ),
    "label smoothing": Subject(
        model=WeightNormAndReZero, batch=labelled(6, 2), loss=smoothed, optimizer=adam(3e-3), overfit_fraction=0.5
    ),
    "binary": Subject(
        model=Binary,
        batch=lambda: (torch.randn(8, 5), torch.randint(0, 2, (8,)).float()),
        loss=F.binary_cross_entropy_with_logits,
        optimizer=adam(3e-3),
        task="binary",
    ),
    "frozen encoder": classification(Probe, labelled(6, 3), 3, lr=1e-2, frozen=("encoder.*",)),
    "U-net": classification(
        Unet,
        lambda: (torch.randn(4, 1, 6, 6), torch.randint(0, 2, (4, 6, 6))),
        2,
        lr=2e-2,
        overfit_fraction=0.85,
    ),
    "GPT": Subject(
        model=Gpt,
        batch=next_tokens,
        loss=token_loss,
        optimizer=adam(3e-3),
        step=accumulating_step,
        scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400),
        accumulate=2,
        clip_norm=1.0,
        task="causal-lm",
        classes=30,
        causal=True,
        ordered=True,
        tied=(("tokens.weight", "head.weight"),),
        overfit_fraction=0.5,
        overfit_steps=400,
    ),
    "a constant batch": classification(
        lambda: nn.Linear(4, 3), (torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])), 3, lr=0.05, overfit_fraction=0.9
    ),
}


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small wait for threads longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def alarms(name, seed):
    return [(o.name, o.message) for o in examine(SUBJECTS[name], seed=seed) if o.status == "failed"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SUBJECTS)
def test_no_false_alarm(name):
    assert not alarms(name, 0)


@pytest.mark.campaign
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(1, 20))
@pytest.mark.parametrize("name", SUBJECTS)
def test_no_false_alarm_in_20_seeds(name, seed):
    assert not alarms(name, seed)
