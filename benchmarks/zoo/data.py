"""Datasets, loaders, splits, augmentation, and prediction functions around a model."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from benchmarks.zoo.entry import Entry, Parts

ROWS, FEATURES, CLASSES = 64, 5, 4


class Table(Dataset):
    """Standardised rows with labels 0..C-1, like a feature table read from disk."""

    def __init__(self, rows: int = ROWS) -> None:
        x = 3.0 + 2.0 * torch.randn(rows, FEATURES)
        self.x = (x - x.mean(0)) / x.std(0)
        self.y = torch.arange(rows) % CLASSES

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index].clone(), int(self.y[index])


class NotNormalised(Table):
    def __init__(self, rows: int = ROWS) -> None:
        super().__init__(rows)
        self.x = 3.0 + 2.0 * self.x


class NormalisedAcrossColumns(Table):
    def __init__(self, rows: int = ROWS) -> None:
        super().__init__(rows)
        x = torch.tensor([0.0, 10.0, 20.0, 30.0, 40.0]) + self.x
        self.x = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)  # dim=1: every row, not every column


class ConstantColumn(Table):
    def __init__(self, rows: int = ROWS) -> None:
        super().__init__(rows)
        self.x[:, 2] = 0.0


class MissingValues(Table):
    def __init__(self, rows: int = ROWS) -> None:
        super().__init__(rows)
        self.x[17, 1] = float("nan")


class LabelsFromOne(Table):
    def __init__(self, rows: int = ROWS) -> None:
        super().__init__(rows)
        self.y = self.y + 1


class UnknownLabel(Table):
    def __init__(self, rows: int = ROWS) -> None:
        super().__init__(rows)
        self.y[9] = -1


class OneLabelOnly(Table):
    def __init__(self, rows: int = ROWS) -> None:
        super().__init__(rows)
        self.y = torch.zeros_like(self.y)  # read before it was filled


class RandomCrop(Table):
    """Training-time noise left on in the evaluation set."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.randn(FEATURES), y


class CentresInPlace(Table):
    def __getitem__(self, index):
        row = self.x[index]
        row -= row.mean()  # a view: the stored data change
        row *= 0.9
        return row, int(self.y[index])


class SharesItsStorage(Table):
    """Returns the same tensor object, refilled, for every item."""

    def __init__(self, rows: int = ROWS) -> None:
        super().__init__(rows)
        self.row = torch.zeros(FEATURES)

    def __getitem__(self, index):
        self.row.copy_(self.x[index])
        return self.row, int(self.y[index])


class IgnoresTheIndex(Table):
    def __getitem__(self, index):
        return super().__getitem__(index - index % 8)  # an integer division too many


class LengthTooLong(Table):
    def __len__(self):
        return len(self.x) + 1

    def __getitem__(self, index):
        return super().__getitem__(index % len(self.x))


class Jittered(Dataset):
    """Augmented items: each read of an item is different, in every worker."""

    def __init__(self) -> None:
        self.table = Table()

    def noise(self):
        return torch.randn(FEATURES)

    def __len__(self):
        return len(self.table)

    def __getitem__(self, index):
        x, y = self.table[index]
        return x + 0.1 * self.noise(), y


class WorkersShareASeed(Jittered):
    def __init__(self) -> None:
        super().__init__()
        self.random = random.Random(0)  # copied into each worker: all draw the same numbers

    def noise(self):
        return torch.tensor([self.random.gauss(0.0, 1.0) for _ in range(FEATURES)])


class SeedsItselfPerItem(Jittered):
    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        x, y = self.table[index]
        return x + 0.1 * torch.randn(FEATURES, generator=generator), y  # the same "augmentation" in every epoch


class ConstantShuffle(Sampler):
    """Shuffles with a seed of its own, so every epoch has the same order."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self):
        return self.size

    def __iter__(self):
        return iter(torch.randperm(self.size, generator=torch.Generator().manual_seed(0)).tolist())


class WithReplacement(Sampler):
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self):
        return self.size

    def __iter__(self):
        return iter(torch.randint(0, self.size, (self.size,)).tolist())


def _collate_misaligned(items):
    x = torch.stack([item[0] for item in items])
    y = torch.tensor([item[1] for item in items])
    return x[torch.randperm(len(x))], y


def table(dataset=Table, **changes) -> Parts:
    return {"dataset": dataset, "classes": CLASSES, "normalised": "standard"} | changes


def loading(make_loader=None, dataset=Table, **changes) -> Parts:
    def shuffled():
        return DataLoader(dataset(), batch_size=10, shuffle=True)

    return table(dataset, loader=make_loader or shuffled, shuffled=True) | changes


def augmented(dataset=Jittered, **changes) -> Parts:
    def loader():
        return DataLoader(dataset(), batch_size=8, num_workers=2)

    return {"dataset": dataset, "loader": loader, "augmented": True, "classes": CLASSES} | changes


# --- splits ----------------------------------------------------------------------------------------------------------


def clean_splits():
    x = torch.randn(60, FEATURES)
    order = torch.randperm(60)
    return {"train": x[order[:40]], "validation": x[order[40:50]], "test": x[order[50:]]}


def splits_drawn_apart():
    x = torch.randn(60, FEATURES)
    return {"train": x[torch.randperm(60)[:45]], "test": x[torch.randperm(60)[:15]]}


def splits_off_by_one():
    x = torch.randn(60, FEATURES)
    return {"train": x[:41], "test": x[40:]}


def splits_after_oversampling():
    x = torch.randn(30, FEATURES)
    x = torch.cat([x, x[:20]])  # the rare class doubled, then split
    order = torch.randperm(50)
    return {"train": x[order[:35]], "test": x[order[35:]]}


def splits_of_augmented_copies():
    x = torch.randn(30, FEATURES)
    copies = x + 1e-7 * torch.randn_like(x)
    order = torch.randperm(60)
    both = torch.cat([x, copies])[order]
    return {"train": both[:40], "test": both[40:]}


def texts_cleaned_before_splitting():
    words = [f"review number {i} says {w}" for i, w in enumerate(["good", "bad", "fine"] * 10)]
    return {"train": words[:20], "test": words[20:]}


def texts_split_before_cleaning():
    words = [f"Review number {i} says {w}" for i, w in enumerate(["good", "bad", "fine"] * 10)]
    return {"train": words[:20], "test": [w.lower() for w in words[18:]]}


def no_splits_left():
    x = torch.randn(30, FEATURES)
    return {"train": x[:30], "test": x[30:]}


# --- augmentation ----------------------------------------------------------------------------------------------------


def flips(image):
    return image.flip(-1) if torch.rand(()) < 0.5 else image.clone()


def never_flips(image):
    return image.flip(-1) if torch.rand(()) < 0.0 else image.clone()


def always_the_same_crop(image):
    generator = torch.Generator().manual_seed(7)
    shift = int(torch.randint(0, 3, (), generator=generator))
    return image.roll(shift, -1)


def flips_in_place(image):
    if torch.rand(()) < 0.5:
        image.copy_(image.flip(-1))
    return image


def changes_the_range(image):
    return (image * 255).round() if torch.rand(()) < 0.5 else image.clone()


def augmentation(augment=flips) -> Parts:
    return {"augment": augment, "sample": lambda: torch.rand(3, 6, 6)}


# --- prediction and serving ------------------------------------------------------------------------------------------


class Scorer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, CLASSES))

    def forward(self, x):
        return self.net(x)


def predicts(model, x):
    if x.ndim != 2 or len(x) == 0:
        raise ValueError(f"expected (N, {FEATURES}) with N >= 1, got {tuple(x.shape)}")
    model.eval()
    with torch.no_grad():
        return model(x).softmax(-1)


def predicts_in_training_mode(model, x):
    if x.ndim != 2 or len(x) == 0:
        raise ValueError("empty")
    model.train()
    with torch.no_grad():
        return model(x).softmax(-1)


def predicts_logits(model, x):
    if x.ndim != 2 or len(x) == 0:
        raise ValueError("empty")
    model.eval()
    with torch.no_grad():
        return model(x)


def predicts_over_rows(model, x):
    if x.ndim != 2 or len(x) == 0:
        raise ValueError("empty")
    model.eval()
    with torch.no_grad():
        return model(x).softmax(0)


def predicts_whole_chunks(model, x):
    if x.ndim != 2 or len(x) == 0:
        raise ValueError("empty")
    model.eval()
    with torch.no_grad():
        parts = [model(x[i : i + 4]).softmax(-1) for i in range(0, len(x) - len(x) % 4, 4)]
        return torch.cat(parts) if parts else torch.zeros(0, CLASSES)


def predicts_anything_for_nothing(model, x):
    model.eval()
    with torch.no_grad():
        return model(x).softmax(-1) if len(x) else torch.zeros(1, CLASSES)


def predicts_scaled_by_the_request(model, x):
    if x.ndim != 2 or len(x) == 0:
        raise ValueError("empty")
    model.eval()
    with torch.no_grad():
        return model((x - x.mean(0)) / (x.std(0, correction=0) + 1e-6)).softmax(-1)


def predicts_sorted(model, x):
    if x.ndim != 2 or len(x) == 0:
        raise ValueError("empty")
    model.eval()
    with torch.no_grad():
        return model(x[x.sum(-1).argsort()]).softmax(-1)


def serving(predict=predicts, **changes) -> Parts:
    return {
        "model": Scorer,
        "batch": lambda: (torch.randn(7, FEATURES), torch.randint(0, CLASSES, (7,))),
        "loss": F.cross_entropy,
        "predict": predict,
        "probabilities": -1,
        "empty": (torch.zeros(0, FEATURES), ValueError),
    } | changes


SAMPLES = ("A good film.", "  bad\tfilm ", "Fine, I suppose!", "GREAT")


def train_tokens(text):
    return [sum(map(ord, word)) % 97 for word in text.lower().split()]


def serve_tokens(text):
    return [sum(map(ord, word)) % 97 for word in text.lower().split()]


def serve_tokens_without_lower(text):
    return [sum(map(ord, word)) % 97 for word in text.split()]


def serve_tokens_split_on_spaces(text):
    return [sum(map(ord, word)) % 97 for word in text.lower().split(" ")]


def train_pixels(image):
    return (image.float() / 255 - 0.5) / 0.25


def serve_pixels(image):
    return (image.to(torch.float32).div(255).sub(0.5)).div(0.25)


def serve_pixels_bgr(image):
    return train_pixels(image.flip(0))


def serve_pixels_unscaled(image):
    return (image.float() - 0.5) / 0.25


def preprocessing(serve=serve_tokens) -> Parts:
    return {"train_preprocess": train_tokens, "serve_preprocess": serve, "samples": SAMPLES}


def pixels(serve=serve_pixels) -> Parts:
    samples = tuple(torch.randint(0, 256, (3, 4, 4), dtype=torch.uint8) for _ in range(3))
    return {"train_preprocess": train_pixels, "serve_preprocess": serve, "samples": samples}


def _row(name, bug, mutant, correct, kind="data") -> Entry:
    return Entry(name=f"data-{name}" if kind == "data" else name, kind=kind, bug=bug, correct=correct, mutant=mutant)


ENTRIES = [
    *(
        _row(name, bug, lambda dataset=dataset: table(dataset), table)
        for name, dataset, bug in [
            ("not-normalised", NotNormalised, "mean 3, standard deviation 2 where 0 and 1 were meant"),
            ("normalised-across-columns", NormalisedAcrossColumns, "statistics over the wrong axis"),
            ("constant-column", ConstantColumn, "a column is constant"),
            ("missing-values", MissingValues, "a NaN in the features"),
            ("labels-from-one", LabelsFromOne, "labels 1..C instead of 0..C-1"),
            ("unknown-label", UnknownLabel, "a label of -1"),
            ("one-label-only", OneLabelOnly, "all labels are the same"),
            ("random-evaluation", RandomCrop, "the evaluation set changes with each read"),
            ("centres-in-place", CentresInPlace, "reading an item changes the stored data"),
            ("shares-its-storage", SharesItsStorage, "all items are one tensor"),
            ("ignores-the-index", IgnoresTheIndex, "eight indices give the same item"),
            ("length-too-long", LengthTooLong, "len() is one too many: an item comes twice"),
        ]
    ),
    *(
        _row(name, bug, lambda make=make: loading(make), loading)
        for name, make, bug in [
            ("not-shuffled", lambda: DataLoader(Table(), batch_size=10), "shuffle=False while training"),
            (
                "same-order-every-epoch",
                lambda: DataLoader(Table(), batch_size=10, sampler=ConstantShuffle(ROWS)),
                "the sampler reseeds in every epoch",
            ),
            (
                "drops-the-last-batch",
                lambda: DataLoader(Table(), batch_size=10, shuffle=True, drop_last=True),
                "the last four rows are never seen in an epoch",
            ),
            (
                "sampled-with-replacement",
                lambda: DataLoader(Table(), batch_size=10, sampler=WithReplacement(ROWS)),
                "a third of the rows is missing from each epoch",
            ),
            (
                "features-shuffled-without-labels",
                lambda: DataLoader(Table(), batch_size=10, shuffle=True, collate_fn=_collate_misaligned),
                "the collate function permutes features and forgets the labels",
            ),
        ]
    ),
    _row("workers-share-a-seed", "each worker draws the same noise", lambda: augmented(WorkersShareASeed), augmented),
    _row("same-noise-every-epoch", "items seed their own noise", lambda: augmented(SeedsItselfPerItem), augmented),
    *(
        _row(name, bug, lambda splits=splits: {"splits": splits}, lambda correct=correct: {"splits": correct})
        for name, splits, correct, bug in [
            ("splits-drawn-apart", splits_drawn_apart, clean_splits, "train and test drawn independently"),
            ("splits-off-by-one", splits_off_by_one, clean_splits, "one row in both"),
            ("splits-after-oversampling", splits_after_oversampling, clean_splits, "oversampled before splitting"),
            ("splits-of-augmented-copies", splits_of_augmented_copies, clean_splits, "near copies on both sides"),
            (
                "splits-before-cleaning",
                texts_split_before_cleaning,
                texts_cleaned_before_splitting,
                "the same text in another case",
            ),
            ("splits-empty", no_splits_left, clean_splits, "the test split is empty"),
        ]
    ),
    *(
        _row(name, bug, lambda augment=augment: augmentation(augment), augmentation)
        for name, augment, bug in [
            ("augmentation-never", never_flips, "the probability is zero"),
            ("augmentation-same-crop", always_the_same_crop, "a generator seeded inside"),
            ("augmentation-in-place", flips_in_place, "the stored sample changes"),
            ("augmentation-changes-the-range", changes_the_range, "some samples leave [0, 1]"),
        ]
    ),
    *(
        _row(f"serving-{name}", bug, lambda predict=predict: serving(predict), serving, kind="serving")
        for name, predict, bug in [
            ("in-training-mode", predicts_in_training_mode, "dropout is active in predictions"),
            ("logits", predicts_logits, "returns logits where probabilities are promised"),
            ("over-rows", predicts_over_rows, "softmax over the rows of the request"),
            ("whole-chunks", predicts_whole_chunks, "the last incomplete chunk is lost"),
            ("anything-for-nothing", predicts_anything_for_nothing, "an empty request gets a made-up answer"),
            ("scaled-by-the-request", predicts_scaled_by_the_request, "standardised with the request's own statistics"),
            ("sorted", predicts_sorted, "answers come back in another order"),
        ]
    ),
    *(
        _row(f"serving-{name}", bug, mutant, correct, kind="serving")
        for name, bug, mutant, correct in [
            ("case", "no lower-casing", lambda: preprocessing(serve_tokens_without_lower), preprocessing),
            ("spaces", "splits on single spaces", lambda: preprocessing(serve_tokens_split_on_spaces), preprocessing),
            ("channel-order", "BGR instead of RGB", lambda: pixels(serve_pixels_bgr), pixels),
            ("unscaled", "pixels not divided by 255", lambda: pixels(serve_pixels_unscaled), pixels),
        ]
    ),
]
