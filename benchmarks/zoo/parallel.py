"""Data-parallel training functions: ``train(rank, world_size)`` runs in a process group that already exists.

Each returns the model after one step, so that ranks can be compared. Module-level, because each rank is a process.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.zoo.entry import Entry


def network(*, norm: bool = False) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8) if norm else nn.Tanh(), nn.Linear(8, 2))


def shard(rank: int):
    generator = torch.Generator().manual_seed(100 + rank)
    return torch.randn(6, 4, generator=generator), torch.randint(0, 2, (6,), generator=generator)


def one_step(model, rank, *, lr=0.1, between=lambda: None):
    x, y = shard(rank)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    F.cross_entropy(model(x), y).backward()
    between()
    optimizer.step()
    return model


def average(model, world_size):
    for p in model.parameters():
        dist.all_reduce(p.grad)
        p.grad /= world_size


def train(rank, world_size):
    torch.manual_seed(0)
    return one_step(DistributedDataParallel(network()), rank).module


def train_by_hand(rank, world_size):
    torch.manual_seed(0)
    model = network()
    return one_step(model, rank, between=lambda: average(model, world_size))


def train_without_reduction(rank, world_size):
    torch.manual_seed(0)
    return one_step(network(), rank)


def train_from_different_weights(rank, world_size):
    torch.manual_seed(rank)
    model = network()
    return one_step(model, rank, between=lambda: average(model, world_size))


def train_reducing_all_but_the_last(rank, world_size):
    torch.manual_seed(0)
    model = network()

    def reduce_some():
        for p in list(model.parameters())[:-1]:
            dist.all_reduce(p.grad)
            p.grad /= world_size

    return one_step(model, rank, between=reduce_some)


def train_reducing_after_the_step(rank, world_size):
    torch.manual_seed(0)
    model = one_step(network(), rank)
    average(model, world_size)
    return model


def train_with_local_statistics(rank, world_size):
    torch.manual_seed(0)
    return one_step(DistributedDataParallel(network(norm=True), broadcast_buffers=False), rank).module


def train_with_synchronised_statistics(rank, world_size):
    torch.manual_seed(0)
    model = one_step(DistributedDataParallel(network(norm=True)), rank).module
    for buffer in model.buffers():
        dist.broadcast(buffer, 0)
    return model


def train_without_sync_left_on(rank, world_size):
    torch.manual_seed(0)
    model = DistributedDataParallel(network())
    with model.no_sync():  # meant for all but the last micro-batch
        return one_step(model, rank).module


def train_with_rank_dependent_rate(rank, world_size):
    torch.manual_seed(0)
    return one_step(DistributedDataParallel(network()), rank, lr=0.1 * (1 + rank)).module


def train_calling_the_inner_module(rank, world_size):
    torch.manual_seed(0)
    model = DistributedDataParallel(network())
    return one_step(model.module, rank)  # the wrapper's hooks never run


def train_summing(rank, world_size):
    torch.manual_seed(0)
    model = network()

    def reduce_sum():
        for p in model.parameters():
            dist.all_reduce(p.grad)

    return one_step(model, rank, between=reduce_sum)


def single(world_size):
    """The same step in one process, on all shards together: what data parallelism should equal."""
    torch.manual_seed(0)
    model = network()
    x, y = (torch.cat(parts) for parts in zip(*(shard(r) for r in range(world_size)), strict=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    return model


def _row(name, bug, mutant, correct=train) -> Entry:
    return Entry(
        name=f"ranks-{name}",
        kind="distributed",
        bug=bug,
        correct=lambda: {"distributed": correct},
        mutant=lambda: {"distributed": mutant},
    )


ENTRIES = [
    _row("without-reduction", "gradients are never exchanged", train_without_reduction, train_by_hand),
    _row("different-weights", "each rank starts from its own weights", train_from_different_weights, train_by_hand),
    _row("reduce-some", "the last parameter is left out", train_reducing_all_but_the_last, train_by_hand),
    _row("reduce-too-late", "gradients are exchanged after the step", train_reducing_after_the_step, train_by_hand),
    _row(
        "local-statistics",
        "batch norm buffers differ between ranks",
        train_with_local_statistics,
        train_with_synchronised_statistics,
    ),
    _row("no-sync-left-on", "no_sync() around the last micro-batch", train_without_sync_left_on),
    _row("rank-dependent-rate", "the learning rate depends on the rank", train_with_rank_dependent_rate),
    _row("inner-module-called", "model.module is called instead of the wrapper", train_calling_the_inner_module),
    Entry(
        name="ranks-summed-gradients",
        kind="distributed",
        bug="gradients are summed and not divided by the number of ranks",
        correct=lambda: {"distributed": train_by_hand, "single_process": single},
        mutant=lambda: {"distributed": train_summing, "single_process": single},
    ),
]
