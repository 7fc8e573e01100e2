"""Datasets, loaders, splits and augmentation: what goes wrong before the model sees anything."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pytest_mltiers.checks.failures import Inapplicable, fail
from pytest_mltiers.checks.failures import hidden as __tracebackhide__  # noqa: F401
from pytest_mltiers.checks.trees import clone, identical, leaves
from pytest_mltiers.randomness import seed_everything

LIMIT = 2000
"""At most this many items of a dataset are read by one check."""


def _size(dataset: Any) -> int:
    try:
        return len(dataset)
    except TypeError as error:
        raise Inapplicable("the dataset has no len(): it is iterable-style") from error


def _items(dataset: Any) -> list[Any]:
    return [clone(dataset[i]) for i in range(min(_size(dataset), LIMIT))]


def _features(items: Sequence[Any]) -> Tensor:
    """The floating-point features of items as (n, columns)."""
    firsts = [next((t for _, t in leaves(_x(item)) if t.is_floating_point()), None) for item in items]
    if any(f is None for f in firsts):
        raise Inapplicable("items have no floating-point features")
    if len({f.shape for f in firsts if f is not None}) != 1:
        raise Inapplicable("items differ in shape")
    return torch.stack([f.flatten() for f in firsts if f is not None]).double()


def _x(item: Any) -> Any:
    return item[0] if isinstance(item, (tuple, list)) and len(item) > 1 else item


def _label(item: Any) -> int | None:
    label = item[-1] if isinstance(item, (tuple, list)) and len(item) > 1 else None
    if isinstance(label, Tensor) and label.numel() == 1:
        label = label.item()
    return label if isinstance(label, int) and not isinstance(label, bool) else None


def _fingerprint(item: Any) -> Any:
    """Something hashable that is equal for equal items."""
    if isinstance(item, Tensor):
        return tuple(item.shape), item.detach().double().flatten().tolist().__repr__()
    if isinstance(item, Mapping):
        return tuple((k, _fingerprint(v)) for k, v in sorted(item.items()))
    if isinstance(item, (tuple, list)):
        return tuple(_fingerprint(v) for v in item)
    if hasattr(item, "tolist"):
        return repr(item.tolist())
    return item


def finite_items(dataset: Any) -> None:
    """No item holds NaN or infinity. Reads up to 2,000 items; fails with the first index."""
    for index, item in enumerate(_items(dataset)):
        for path, tensor in leaves(item):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                fail(
                    f"item {index}{path} holds NaN or infinity",
                    cause="missing values, or a division by a zero standard deviation in preprocessing",
                    fix="impute or drop missing values before normalising",
                )


def normalised(dataset: Any, kind: str = "standard") -> None:
    """Features are on the scale they are said to be.

    ``standard``: every column has |mean| below max(0.2, 4 standard errors) and a standard deviation in [0.7, 1.4], over
    at least 30 items. ``unit``: every value lies in [0, 1] and some exceed 0.05. Items must have one shape.
    """
    x = _features(_items(dataset))
    if kind == "unit":
        low, high = float(x.min()), float(x.max())
        if low < 0 or high > 1 or high < 0.05:
            fail(
                f"features lie in [{low:.4g}, {high:.4g}], expected [0, 1]",
                cause="pixels not divided by 255, divided twice, or standardised already",
                fix="scale once, in one place, for training and serving",
            )
        return
    if kind != "standard":
        raise ValueError(f"normalised={kind!r}: 'standard' or 'unit'")
    if len(x) < 30:
        raise Inapplicable(f"{len(x)} items are too few to judge a standard deviation; 30 are needed")
    mean, deviation = x.mean(0), x.std(0)
    allowed = max(0.2, 4 / len(x) ** 0.5)
    wrong = ((mean.abs() > allowed) | (deviation < 0.7) | (deviation > 1.4)).nonzero()[:, 0].tolist()
    if wrong:
        column = wrong[0]
        fail(
            f"column {column} has mean {float(mean[column]):.3g} and standard deviation {float(deviation[column]):.3g} "
            f"({len(wrong)} of {x.shape[1]} columns are off), expected 0 and 1",
            cause="normalisation forgotten, done over rows instead of columns, or with another data set's statistics",
            fix="(x - mean(0)) / std(0) with the training split's statistics",
        )


def no_constant_columns(dataset: Any) -> None:
    """No feature is the same in all items (at least 8 items of one shape). Fails naming the column."""
    x = _features(_items(dataset))
    if len(x) < 8:
        raise Inapplicable("fewer than 8 items")
    constant = (x == x[0]).all(0).nonzero()[:, 0].tolist()
    if constant:
        fail(
            f"column {constant[0]} is {float(x[0, constant[0]]):g} in all {len(x)} items ({len(constant)} column(s))",
            cause="a column not filled, filled before its source was read, or clipped away",
            fix="fill or drop the column",
        )


def repeatable_items(dataset: Any) -> None:
    """Reading an item twice gives the same, whatever the random state, and whatever was read in between.

    Also fails when an item already handed out changes as another is read (shared storage). Up to 50 items.
    """
    count = min(_size(dataset), 50)
    seed_everything(1)
    handed_out = [dataset[i] for i in range(count)]
    first = [clone(item) for item in handed_out]
    for i in range(count - 1):
        if not identical(handed_out[i], first[i]) or _shares(handed_out[i], handed_out[i + 1]):
            fail(
                f"item {i} changes, or shares its memory, when another item is read",
                cause="one buffer is refilled and returned for every item",
                fix="return a copy",
            )
    seed_everything(2)
    for i in reversed(range(count)):
        if _fingerprint(clone(dataset[i])) != _fingerprint(first[i]):
            fail(
                f"item {i} differs when it is read again",
                cause="random augmentation on data that should be fixed, or reading changes the stored data in place",
                fix="augment the training split only (or say augmented=True); do not write to views of stored data",
            )


def _shares(a: Any, b: Any) -> bool:
    theirs = {t.data_ptr() for _, t in leaves(b) if t.numel()}
    return any(t.data_ptr() in theirs for _, t in leaves(a) if t.numel())


def distinct_items(dataset: Any, *, duplicates: float = 0.0) -> None:
    """At most a share ``duplicates`` of the items (features and label) equals an earlier one. Fails with a pair."""
    seen: dict[Any, int] = {}
    pairs = []
    items = _items(dataset)
    for index, item in enumerate(items):
        earlier = seen.setdefault(_fingerprint(item), index)
        if earlier != index:
            pairs.append((earlier, index))
    if len(pairs) > duplicates * len(items):
        fail(
            f"items {pairs[0][0]} and {pairs[0][1]} are equal ({len(pairs)} of {len(items)} repeat an earlier one)",
            cause="an index computed wrongly in __getitem__, a length one too long, or repeated source rows",
            fix="map each index to its own row; allow known repeats with duplicates=",
        )


def labels_in_range(dataset: Any, classes: int) -> None:
    """Integer labels lie in [0, ``classes``), and more than one occurs (among at least 20 items)."""
    labels = [_label(item) for item in _items(dataset)]
    known = [label for label in labels if label is not None]
    if not known:
        raise Inapplicable("items have no integer label in last place")
    wrong = [i for i, label in enumerate(labels) if label is not None and not 0 <= label < classes]
    if wrong:
        fail(
            f"item {wrong[0]} has label {labels[wrong[0]]}, outside [0, {classes}) ({len(wrong)} such item(s)); "
            f"labels go from {min(known)} to {max(known)}",
            cause="labels counted from 1, an unknown label coded as -1, or a class missing from the mapping",
            fix="map labels to 0..C-1; drop or ignore_index unknown ones",
        )
    if len(known) >= 20 and classes > 1 and len(set(known)) == 1:
        fail(
            f"all {len(known)} labels are {known[0]}",
            cause="labels read before they were filled, or a sorted data set cut to its first class",
            fix="look at the label column; shuffle before cutting",
        )


# --- loaders ---------------------------------------------------------------------------------------------------------


def _epoch(loader: Any) -> list[tuple[Any, Any]]:
    """(features, label) of every row of an epoch, in order."""
    rows = []
    for batch in loader:
        x, y = (batch[0], batch[-1]) if isinstance(batch, (tuple, list)) and len(batch) > 1 else (batch, None)
        first = next(t for _, t in leaves(x))
        rows += [
            (_fingerprint(clone(first[i])), None if y is None else _fingerprint(clone(y[i]))) for i in range(len(first))
        ]
    return rows


def covers_every_item(loader: Any) -> None:
    """One epoch contains every item of the loader's dataset exactly once, each with its own label.

    Needs a deterministic dataset of up to 2,000 items. Fails with how many are missing, repeated or mispaired.
    """
    items = [clone(loader.dataset[i]) for i in range(_size(loader.dataset))]
    if len(items) > LIMIT:
        raise Inapplicable(f"the dataset has more than {LIMIT} items")
    wanted = {_fingerprint(next(t for _, t in leaves(_x(item)))): _label(item) for item in items}
    rows = _epoch(loader)
    seen = [x for x, _ in rows]
    missing = len(set(wanted) - set(seen))
    if missing or len(seen) != len(items):
        fail(
            f"an epoch has {len(seen)} rows for {len(items)} items; {missing} never come",
            cause="drop_last, sampling with replacement, or a sampler of the wrong length",
            fix="drop_last=False where every item counts; a RandomSampler without replacement",
        )
    pairs = {(x, _fingerprint(torch.tensor(y))) for x, y in wanted.items() if y is not None}
    wrong = [x for x, y in rows if y is not None and pairs and (x, y) not in pairs]
    if wrong:
        fail(
            f"{len(wrong)} of {len(rows)} rows come with another item's label",
            cause="features and labels are shuffled or collated separately",
            fix="apply one permutation to both",
        )


def shuffles(loader: Any) -> None:
    """Two epochs come in different orders, and neither in the dataset's own (more than 8 items)."""
    first, second = [x for x, _ in _epoch(loader)], [x for x, _ in _epoch(loader)]
    if len(first) <= 8:
        raise Inapplicable("8 items or fewer")
    own = [_fingerprint(clone(next(t for _, t in leaves(_x(loader.dataset[i]))))) for i in range(len(first))]
    if first in (own, second):
        fail(
            "two epochs come in the same order" if first == second else "an epoch comes in the dataset's own order",
            cause="shuffle=False, or a sampler that is seeded again in every epoch",
            fix="shuffle=True, or set_epoch() on the sampler",
        )


class _OneItem(Dataset[Any]):
    """The same item of a dataset under every index: what differs is the randomness of the reader."""

    def __init__(self, dataset: Any, size: int) -> None:
        self.dataset, self.size = dataset, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        return self.dataset[0]


def workers_differ(loader: Any, *, workers: int = 2, reads: int = 4) -> None:
    """Item 0, read through ``workers`` processes and in two epochs, comes out differently each time.

    For augmented datasets: workers that copy one random state augment alike, and so do items that seed themselves. Uses
    the loader's own ``worker_init_fn`` and ``generator``. Source: T. Pärnamaa, "Using PyTorch + NumPy? You're making a
    mistake" (2021); pytorch 5059.
    """
    reads_by_epoch = []
    one = DataLoader(
        _OneItem(loader.dataset, workers * reads),
        batch_size=1,
        num_workers=workers,
        worker_init_fn=loader.worker_init_fn,
        generator=loader.generator,
        collate_fn=_first,
    )
    for _ in range(2):
        reads_by_epoch.append([_fingerprint(x) for x in one])
    first, second = reads_by_epoch
    by_worker = [first[w::workers] for w in range(workers)]
    if len(set(first)) == 1:
        seen, cause = "every read of an augmented item is the same", "the item seeds its own generator"
    elif by_worker[0] == by_worker[1]:
        seen, cause = (
            "two workers produce the same sequence of augmentations",
            "each worker has a copy of one generator",
        )
    elif first == second:
        seen, cause = "two epochs produce the same augmentations", "workers restart from the same copied state"
    else:
        return
    fail(
        seen,
        cause=f"{cause} (a NumPy or random.Random object kept in the dataset, or seeds set in __getitem__)",
        fix="draw from torch's global generator, or seed in worker_init_fn from torch.initial_seed()",
    )


def _first(items: list[Any]) -> Any:
    return items[0]


# --- splits and augmentation -----------------------------------------------------------------------------------------


def splits_disjoint(splits: Mapping[str, Sequence[Any]], *, tolerance: float = 1e-3) -> None:
    """No split is empty and no sample is in two of them, not even a near copy.

    Numbers count as equal within about ``tolerance`` standard deviations of all values, texts up to case and white
    space. Fails with two positions and how many there are.
    """
    for name, split in splits.items():
        if len(split) == 0:
            fail(
                f"split {name!r} is empty",
                cause="the sizes of the other splits use up all samples",
                fix="compute split sizes from the number of samples, and assert their sum",
            )
    grid = _grid(splits, tolerance)
    keys = {name: _split_keys(split, grid) for name, split in splits.items()}
    for one, other in combinations(splits, 2):
        found: dict[Any, int] = {key: i for i, both in reversed(list(enumerate(keys[one]))) for key in both}
        common = [(i, found[k]) for i, both in enumerate(keys[other]) for k in both if k in found]
        if common:
            fail(
                f"{one}[{common[0][1]}] and {other}[{common[0][0]}] are the same sample "
                f"({len({i for i, _ in common})} of {len(splits[other])} in {other!r})",
                cause="splits drawn independently, an off-by-one slice, oversampling or augmenting before splitting, "
                "or texts cleaned after splitting",
                fix="clean, deduplicate, split once by a permutation, then oversample and augment the training part",
            )


def _numbers(split: Sequence[Any]) -> list[Tensor] | None:
    """Each sample's first floating-point tensor, flat; None if some sample has none."""
    firsts = [next((t for _, t in leaves(_x(split[i])) if t.is_floating_point()), None) for i in range(len(split))]
    known = [t.detach().double().flatten() for t in firsts if t is not None]
    return known if len(known) == len(firsts) else None


def _grid(splits: Mapping[str, Sequence[Any]], tolerance: float) -> float:
    """``tolerance`` standard deviations of all numbers of all splits."""
    flat = [t for split in splits.values() for t in _numbers(split) or []]
    everything = torch.cat(flat) if flat else torch.zeros(2)
    return tolerance * max(float(everything.std()) if everything.numel() > 1 else 1.0, 1e-12)


def _split_keys(split: Sequence[Any], grid: float) -> list[tuple[Any, ...]]:
    """Per sample the keys under which it may meet a twin: two shifted grids for numbers, folded text for strings."""
    numbers = _numbers(split)
    if numbers is not None:
        return [
            tuple((shift, tuple(torch.floor(f / grid + shift).long().tolist())) for shift in (0.0, 0.5))
            for f in numbers
        ]
    return [(_folded(split[i]),) for i in range(len(split))]


def _folded(sample: Any) -> Any:
    if isinstance(sample, str):
        return re.sub(r"\s+", " ", sample).strip().casefold()
    if isinstance(sample, (tuple, list)) and sample and isinstance(sample[0], str):
        return _folded(sample[0])
    return _fingerprint(sample)


def augmentation_varies(augment: Callable[[Any], Any], sample: Any, *, draws: int = 64) -> None:
    """``augment`` gives different results, leaves its argument alone, and keeps shape, dtype and scale.

    ``draws`` calls under one random state; all equal fails (for a flip with probability 1/2 that happens by chance once
    in 2**63). Scales may differ by a factor of 20 between draws, no more.
    """
    before = clone(sample)
    seed_everything(0)
    results = [clone(augment(sample)) for _ in range(draws)]
    if not identical(before, sample) or _fingerprint(before) != _fingerprint(sample):
        fail(
            "augment() changes the sample it is given",
            cause="an in-place operation on the stored sample: augmentations pile up over epochs",
            fix="use the out-of-place form, or clone first",
        )
    if len({_fingerprint(r) for r in results}) == 1:
        fail(
            f"{draws} augmentations of one sample are all the same",
            cause="probability zero, or a generator seeded inside augment()",
            fix="draw from the global generator; check the probability",
        )
    for (path, old), outcomes in zip(
        leaves(before), zip(*(list(leaves(r)) for r in results), strict=True), strict=False
    ):
        tensors = [t for _, t in outcomes]
        if any(t.dtype != old.dtype or t.ndim != old.ndim for t in tensors):
            fail(
                f"augment() changes the dtype or rank of sample{path}",
                cause="a conversion inside the augmentation",
                fix="convert before or after augmenting, for all samples alike",
            )
        sizes = sorted(float(t.double().abs().max()) for t in tensors if t.numel())
        if sizes and sizes[-1] > 20 * max(sizes[len(sizes) // 8], 1e-12) and sizes[-1] > 0:
            fail(
                f"augmented samples reach {sizes[-1]:.4g} at times and {sizes[0]:.4g} at others",
                cause="one branch scales (to 0..255, say) and another does not",
                fix="keep one scale in all branches",
            )
