"""Convolutional networks: classification with batch norm, segmentation, autoencoders, contrastive pairs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.zoo import steps
from benchmarks.zoo.entry import Entry, Parts

CLASSES, SIDE = 3, 8


# --- a CNN with batch norm -------------------------------------------------------------------------------------------


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(16)
        self.head = nn.Linear(16 * 16, CLASSES)

    def features(self, x):
        x = F.max_pool2d(self.norm1(self.conv1(x)).relu(), 2)
        return self.norm2(self.conv2(x)).relu()

    def forward(self, x):
        return self.head(self.features(x).flatten(1))


def images():
    return torch.randn(8, 3, SIDE, SIDE), torch.randint(0, CLASSES, (8,))


def images_with_a_blank_one():
    x, y = images()
    x[3] = 0.0
    return x, y


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=5e-3)


def adam_trainable(model):
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)


def cnn(**changes) -> Parts:
    return {
        "model": Cnn,
        "batch": images,
        "loss": F.cross_entropy,
        "optimizer": adam,
        "step": steps.right(F.cross_entropy),
        "task": "classification",
        "classes": CLASSES,
        "output_shape": ("N", CLASSES),
    } | changes


class AlwaysBatchStatistics(Cnn):
    def features(self, x):
        x = F.max_pool2d(self.norm1(self.conv1(x)).relu(), 2)
        n = self.norm2
        return F.batch_norm(self.conv2(x), n.running_mean, n.running_var, n.weight, n.bias, training=True).relu()


class NoRunningStatistics(Cnn):
    def __init__(self) -> None:
        super().__init__()
        self.norm2 = nn.BatchNorm2d(16, track_running_stats=False)


class HomemadeNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.mean = torch.zeros(channels)  # neither parameter nor buffer: not saved, not moved

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean((0, 2, 3)).detach()
        return (x - self.mean[:, None, None]) * self.weight[:, None, None]


class StatisticsNotSaved(Cnn):
    def __init__(self) -> None:
        super().__init__()
        self.norm2 = HomemadeNorm(16)


class StatisticsNotPersistent(Cnn):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.zeros(16), persistent=False)

    def features(self, x):
        out = super().features(x)
        if self.training:
            self.offset += 0.1 * (out.mean((0, 2, 3)).detach() - self.offset)
        return out - self.offset[:, None, None]


class ReshapesAcrossRows(Cnn):
    def forward(self, x):
        features = self.features(x)
        return self.head(features.permute(1, 2, 3, 0).reshape(len(x), -1))


class FixedBatchSize(Cnn):
    def forward(self, x):
        return self.head(self.features(x).reshape(8, -1))


class ScalesTheInputInPlace(Cnn):
    def forward(self, x):
        x.div_(x.abs().max() + 1e-6)
        return super().forward(x)


class DropoutAlwaysOn(Cnn):
    def forward(self, x):
        return self.head(F.dropout(self.features(x).flatten(1), 0.3))


class DropoutWithMode(Cnn):
    def forward(self, x):
        return self.head(F.dropout(self.features(x).flatten(1), 0.3, training=self.training))


class DropoutHiddenFromEval(Cnn):
    def __init__(self) -> None:
        super().__init__()
        self.regularisers = [nn.Dropout(0.3)]

    def forward(self, x):
        x = self.features(x).flatten(1)
        for regulariser in self.regularisers:
            x = regulariser(x)
        return self.head(x)


class TrainModeIgnored(Cnn):
    def train(self, mode=True):
        return super().train(True)


class DetachedSkip(Cnn):
    def __init__(self) -> None:
        super().__init__()
        self.norm2 = nn.Identity()
        self.mix = nn.Conv2d(16, 16, 1)

    def features(self, x):
        x = super().features(x)
        return x.detach() + self.mix(x)


class Skip(DetachedSkip):
    def features(self, x):
        x = Cnn.features(self, x)
        return x + self.mix(x)


class PerImageNorm(Cnn):
    def forward(self, x):
        x = (x - x.mean((1, 2, 3), keepdim=True)) / (x.std((1, 2, 3), keepdim=True) + 1e-5)
        return super().forward(x)


class PerImageNormWithoutEpsilon(Cnn):
    def forward(self, x):
        x = (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)
        return super().forward(x)


class CachedFeatures(Cnn):
    cache: dict = {}  # noqa: RUF012 - the bug: one cache for all instances and all inputs of a shape

    def features(self, x):
        if not self.training:
            if x.shape not in CachedFeatures.cache:
                CachedFeatures.cache[x.shape] = super().features(x).detach()
            return CachedFeatures.cache[x.shape]
        return super().features(x)


class AveragesOverChannels(Cnn):
    """Meant to average over the image; averages over channels and rows instead: the head sees one value per column."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(self.features(x).mean((1, 2)))


class FrozenBackbone(Cnn):
    def __init__(self) -> None:
        super().__init__()
        for layer in (self.conv1, self.norm1, self.conv2, self.norm2):
            layer.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        self.norm1.eval()
        self.norm2.eval()
        return self


class FrozenBackboneStatisticsMove(FrozenBackbone):
    def train(self, mode=True):
        return nn.Module.train(self, mode)


class FrozenBackboneTrains(FrozenBackbone):
    def __init__(self) -> None:
        super().__init__()
        self.conv2.requires_grad_(True)


def fine_tuning(model=FrozenBackbone) -> Parts:
    return cnn(model=model, optimizer=adam_trainable, frozen=("conv*", "norm*"))


# --- segmentation ----------------------------------------------------------------------------------------------------


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 32, 3, padding=1)
        self.up = nn.Conv2d(32, CLASSES, 3, padding=1)

    def forward(self, x):
        return self.up(self.down(x).relu())


def scenes():
    y = torch.randint(0, CLASSES, (4, 6, 6))
    y[:, 0] = 255  # the unlabelled border
    return torch.randn(4, 3, 6, 6), y


def pixel_loss(logits, labels):
    return F.cross_entropy(logits, labels, ignore_index=255)


def scrambled_pixel_loss(logits, labels):
    return F.cross_entropy(logits.reshape(-1, CLASSES), labels.reshape(-1), ignore_index=255)


def border_counts(logits, labels):
    return F.cross_entropy(logits, labels.clamp(max=CLASSES - 1))


def transposed_labels(logits, labels):
    return F.cross_entropy(logits, labels.transpose(1, 2), ignore_index=255)


def right_everywhere(labels):
    known = labels.clamp(max=CLASSES - 1)
    logits = 20.0 * F.one_hot(known, CLASSES).permute(0, 3, 1, 2).float()
    return torch.where((labels == 255)[:, None], -logits, logits)  # what is unlabelled may be anything


def segmentation(loss=pixel_loss, **changes) -> Parts:
    return {
        "model": Segmenter,
        "batch": scenes,
        "loss": loss,
        "optimizer": lambda model: torch.optim.Adam(model.parameters(), lr=2e-2),
        "step": steps.right(loss),
        "perfect": right_everywhere,
        "classes": CLASSES,
        "output_shape": ("N", CLASSES, 6, 6),
        "overfit_fraction": 0.5,
    } | changes


# --- autoencoders ----------------------------------------------------------------------------------------------------


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 8))
        self.decoder = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 12))

    def forward(self, x):
        return self.decoder(self.encoder(x))


class SquashedOutput(Autoencoder):
    def forward(self, x):
        return super().forward(x).sigmoid()  # the data are standardised, not in [0, 1]


class DecoderIgnoresTheCode(Autoencoder):
    def forward(self, x):
        return self.decoder(torch.zeros(len(x), 8).to(x))


def rows_to_rebuild():
    x = torch.randn(8, 12)
    return x, x.clone()


def autoencoder(**changes) -> Parts:
    return {
        "model": Autoencoder,
        "batch": rows_to_rebuild,
        "loss": F.mse_loss,
        "optimizer": lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
        "step": steps.right(F.mse_loss),
        "task": "regression",
        "output_shape": ("N", 12),
    } | changes


class Vae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 12))

    def sample(self, mean, log_variance):
        if not self.training:
            return mean
        return mean + torch.randn_like(mean) * (0.5 * log_variance).exp()

    def forward(self, x):
        mean, log_variance = self.encoder(x).chunk(2, -1)
        return self.decoder(self.sample(mean, log_variance)), mean, log_variance


class SamplesInEval(Vae):
    def sample(self, mean, log_variance):
        return mean + torch.randn_like(mean) * (0.5 * log_variance).exp()


class SamplesAreDetached(Vae):
    def sample(self, mean, log_variance):
        if not self.training:
            return mean.detach()
        return torch.normal(mean, (0.5 * log_variance).exp()).detach()  # not the reparametrised sample


def elbo(outputs, targets):
    rebuilt, mean, log_variance = outputs
    divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).mean()
    return F.mse_loss(rebuilt, targets) + 0.01 * divergence


def elbo_with_the_wrong_sign(outputs, targets):
    rebuilt, mean, log_variance = outputs
    divergence = 0.5 * (1 + log_variance - mean**2 - log_variance.exp()).mean()
    return F.mse_loss(rebuilt, targets) + 0.01 * divergence


def elbo_summed_over_the_batch(outputs, targets):
    rebuilt, mean, log_variance = outputs
    divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()
    return F.mse_loss(rebuilt, targets) + 0.01 * divergence


def vae(loss=elbo, **changes) -> Parts:
    def prior_and_rebuilt(targets):
        return targets, torch.zeros(len(targets), 8), torch.zeros(len(targets), 8)

    return {
        "model": Vae,
        "batch": rows_to_rebuild,
        "loss": loss,
        "optimizer": lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
        "step": steps.right(loss),
        "perfect": prior_and_rebuilt,
        "output_shape": (("N", 12), ("N", 8), ("N", 8)),
        "overfit_fraction": 0.3,
    } | changes


# --- contrastive pairs -----------------------------------------------------------------------------------------------


class TwoTowers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 16))
        self.right = nn.Sequential(nn.Linear(14, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x, y):
        return F.normalize(self.left(x), dim=-1), F.normalize(self.right(y), dim=-1)


class NormalisesOverTheBatch(TwoTowers):
    def forward(self, x, y):
        return F.normalize(self.left(x), dim=0), F.normalize(self.right(y), dim=0)


class OneTowerForgotten(TwoTowers):
    def forward(self, x, y):
        a = F.normalize(self.left(x), dim=-1)
        return a, F.normalize(
            self.right(torch.cat([x, y[:, :4]], -1)), dim=-1
        )  # ten of fourteen columns of y never read


def pairs():
    return (torch.randn(6, 10), torch.randn(6, 14)), torch.arange(6)


def info_nce(outputs, targets):
    a, b = outputs
    logits = a @ b.T / 0.1
    labels = torch.arange(len(a))
    return 0.5 * (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels))


def temperature_multiplied(outputs, targets):
    a, b = outputs
    logits = a @ b.T * 0.1
    labels = torch.arange(len(a))
    return 0.5 * (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels))


def first_is_always_the_partner(outputs, targets):
    a, b = outputs
    labels = torch.zeros(len(a), dtype=torch.long)
    return F.cross_entropy(a @ b.T / 0.1, labels)


def pulls_everything_together(outputs, targets):
    a, b = outputs
    return (1 - a @ b.T).mean()


def compares_with_itself(outputs, targets):
    a, _ = outputs
    return F.cross_entropy(a @ a.T / 0.1, torch.arange(len(a)))


def contrastive(loss=info_nce, **changes) -> Parts:
    def matched(targets):
        eye = torch.eye(len(targets), 16)
        return eye, eye.clone()

    return {
        "model": TwoTowers,
        "batch": pairs,
        "loss": loss,
        "optimizer": lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
        "step": steps.right(loss),
        "perfect": matched,
        "separable": False,
        "reduction": None,
        "output_shape": (("N", 16), ("N", 16)),
    } | changes


def _row(name, bug, mutant, *, kind="cnn", correct=cnn) -> Entry:
    return Entry(name=name, kind=kind, bug=bug, correct=correct, mutant=mutant)


ENTRIES = [
    *(
        _row(f"cnn-{name}", bug, lambda model=model: cnn(model=model))
        for name, model, bug in [
            ("always-batch-statistics", AlwaysBatchStatistics, "batch norm uses the batch in eval mode"),
            (
                "no-running-statistics",
                NoRunningStatistics,
                "track_running_stats=False: predictions depend on neighbours",
            ),
            ("statistics-not-saved", StatisticsNotSaved, "running statistics in a plain attribute"),
            ("statistics-not-persistent", StatisticsNotPersistent, "persistent=False: lost in the checkpoint"),
            ("reshapes-across-rows", ReshapesAcrossRows, "permute puts the batch last before reshape"),
            ("fixed-batch-size", FixedBatchSize, "reshape with a hard-coded batch size"),
            ("scales-the-input-in-place", ScalesTheInputInPlace, "changes the caller's tensor, by the batch's maximum"),
            ("train-mode-ignored", TrainModeIgnored, "eval() never reaches the layers"),
            ("cached-features", CachedFeatures, "a class-level cache keyed by shape"),
            ("averages-over-channels", AveragesOverChannels, "pools over channels and rows: shapes fit by luck"),
        ]
    ),
    *(
        _row(f"cnn-{name}", bug, lambda model=model: cnn(model=model), correct=lambda: cnn(model=DropoutWithMode))
        for name, model, bug in [
            ("dropout-always-on", DropoutAlwaysOn, "F.dropout without training="),
            (
                "dropout-hidden-from-eval",
                DropoutHiddenFromEval,
                "a dropout layer in a plain list stays in training mode",
            ),
        ]
    ),
    _row(
        "cnn-detached-skip",
        "the skip connection is detached",
        lambda: cnn(model=DetachedSkip),
        correct=lambda: cnn(model=Skip),
    ),
    _row(
        "cnn-blank-image-is-nan",
        "dividing by the standard deviation of a constant image",
        lambda: cnn(model=PerImageNormWithoutEpsilon, batch=images_with_a_blank_one),
        correct=lambda: cnn(model=PerImageNorm, batch=images_with_a_blank_one),
    ),
    _row(
        "cnn-frozen-statistics-move",
        "the frozen backbone's batch statistics keep moving",
        lambda: fine_tuning(FrozenBackboneStatisticsMove),
        kind="fine-tuning",
        correct=fine_tuning,
    ),
    _row(
        "cnn-frozen-layer-trains",
        "a layer that should be frozen is trained",
        lambda: fine_tuning(FrozenBackboneTrains),
        kind="fine-tuning",
        correct=fine_tuning,
    ),
    *(
        _row(
            f"segmentation-{name}", bug, lambda loss=loss: segmentation(loss), kind="segmentation", correct=segmentation
        )
        for name, loss, bug in [
            ("scrambled", scrambled_pixel_loss, "reshape(-1, C) without moving the class dimension last"),
            ("border-counts", border_counts, "the ignored label is trained as a class"),
            ("transposed-labels", transposed_labels, "height and width swapped in the labels"),
        ]
    ),
    *(
        _row(f"autoencoder-{name}", bug, mutant, kind="autoencoder", correct=correct)
        for name, bug, mutant, correct in [
            ("squashed", "sigmoid on standardised data", lambda: autoencoder(model=SquashedOutput), autoencoder),
            (
                "ignores-the-code",
                "the decoder never sees the input",
                lambda: autoencoder(model=DecoderIgnoresTheCode),
                autoencoder,
            ),
            ("vae-samples-in-eval", "the latent is sampled in eval mode", lambda: vae(model=SamplesInEval), vae),
            ("vae-samples-detached", "sampling blocks the gradient", lambda: vae(model=SamplesAreDetached), vae),
            ("vae-wrong-sign", "the divergence is subtracted", lambda: vae(elbo_with_the_wrong_sign), vae),
            ("vae-summed", "the divergence is summed over the batch", lambda: vae(elbo_summed_over_the_batch), vae),
        ]
    ),
    *(
        _row(f"contrastive-{name}", bug, mutant, kind="contrastive", correct=contrastive)
        for name, bug, mutant in [
            ("normalised-over-the-batch", "normalize(dim=0)", lambda: contrastive(model=NormalisesOverTheBatch)),
            (
                "one-tower-forgotten",
                "the second tower reads the first input",
                lambda: contrastive(model=OneTowerForgotten),
            ),
            ("temperature-multiplied", "multiplies by the temperature", lambda: contrastive(temperature_multiplied)),
            (
                "first-is-the-partner",
                "labels are zeros instead of arange",
                lambda: contrastive(first_is_always_the_partner),
            ),
            (
                "pulls-together",
                "negatives are pulled in as well: collapse",
                lambda: contrastive(pulls_everything_together),
            ),
            ("compares-with-itself", "the second view is never used", lambda: contrastive(compares_with_itself)),
        ]
    ),
]
