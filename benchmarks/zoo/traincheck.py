"""The 18 silent errors that TrainCheck (Jiang et al., OSDI '25) detects, as far as one CPU machine can have them.

Cause and symptom follow the reproduction notes in OrderLab/TrainCheck-Evaluation-Workloads; the code is ours. Each
entry says how faithful it is: "original" runs the library code that had the error, "analogue" has the same cause in
a small setting, "stub" injects the symptom because the cause is hardware or a compiler we do not have.
"""

from __future__ import annotations

import random

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from benchmarks.zoo import data, parallel, sequences, steps, tabular, vision
from benchmarks.zoo.entry import Entry, Parts

# --- between ranks ---------------------------------------------------------------------------------------------------


def _lossy_broadcast(model, rank):
    """A peer-to-peer copy that loses its second half, as on boards without working P2P: every rank but 0 is hit."""
    for p in model.parameters():
        dist.broadcast(p.data, 0)
        if rank:
            flat = p.data.view(-1)
            flat[len(flat) // 2 :] = 0.0


def train_broadcasting(rank, world_size):
    torch.manual_seed(rank)
    model = parallel.network()
    for p in model.parameters():
        dist.broadcast(p.data, 0)
    return parallel.one_step(model, rank, between=lambda: parallel.average(model, world_size))


def train_with_lossy_broadcast(rank, world_size):
    torch.manual_seed(rank)
    model = parallel.network()
    _lossy_broadcast(model, rank)
    return parallel.one_step(model, rank, between=lambda: parallel.average(model, world_size))


def train_with_lossy_reduce(rank, world_size):
    torch.manual_seed(0)
    model = parallel.network()

    def reduce():
        parallel.average(model, world_size)
        if rank == world_size - 1:
            next(model.parameters()).grad.view(-1)[::2] = 0.0

    return parallel.one_step(model, rank, between=reduce)


def train_with_stale_reduce(rank, world_size):
    torch.manual_seed(0)
    model = parallel.network()

    def reduce():
        before = [p.grad.clone() for p in model.parameters()]
        parallel.average(model, world_size)
        if rank == 0:
            list(model.parameters())[-1].grad.copy_(before[-1])  # the reply never arrived

    return parallel.one_step(model, rank, between=reduce)


class TensorParallelBlock(nn.Module):
    """A layer norm on every rank, then a column-split linear layer: this rank's columns."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.columns = nn.Linear(4, 4, bias=False)


def _tensor_parallel(rank, world_size, *, clip_replicated_everywhere):
    torch.manual_seed(0)
    block = TensorParallelBlock()
    torch.manual_seed(10 + rank)
    nn.init.normal_(block.columns.weight)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))
    block.columns(block.norm(x)).square().sum().backward()
    for p in block.norm.parameters():
        dist.all_reduce(p.grad)
    square = block.columns.weight.grad.square().sum()
    dist.all_reduce(square)
    norm = (square + sum(p.grad.square().sum() for p in block.norm.parameters())).sqrt()
    scale = min(1.0, 1.0 / norm.item())
    block.columns.weight.grad *= scale
    if clip_replicated_everywhere or rank == 0:  # the indentation of one `if` in bf16_optimizer.py
        for p in block.norm.parameters():
            p.grad *= scale
    optimizer.step()
    return block.norm  # what is replicated; the columns differ by design


def train_tensor_parallel(rank, world_size):
    return _tensor_parallel(rank, world_size, clip_replicated_everywhere=True)


def train_tensor_parallel_clipping_rank_0(rank, world_size):
    return _tensor_parallel(rank, world_size, clip_replicated_everywhere=False)


def _experts(rank, world_size, *, join_always):
    torch.manual_seed(0)
    model = parallel.network()
    tokens = torch.randn(4 if rank == 0 else 0, 4)  # this rank's expert got no tokens
    if join_always or len(tokens):
        count = torch.tensor([float(len(tokens))])
        dist.all_reduce(count)
    dist.barrier()
    return model


def train_experts(rank, world_size):
    return _experts(rank, world_size, join_always=True)


def train_experts_with_an_idle_rank(rank, world_size):
    return _experts(rank, world_size, join_always=False)


def train_moved(rank, world_size):
    torch.manual_seed(0)
    model = parallel.network()
    return parallel.one_step(DistributedDataParallel(model), rank).module


def train_moved_after_wrapping(rank, world_size):
    """Swapping each parameter's storage after wrapping drops the hooks; a move to the CPU and back does the same."""
    torch.manual_seed(0)
    model = DistributedDataParallel(parallel.network())
    model.double()
    model.float()
    return parallel.one_step(model, rank).module


def train_wrapping_sometimes(rank, world_size):
    torch.manual_seed(0)
    model = parallel.network()
    wrapped = DistributedDataParallel(model)
    return parallel.one_step(wrapped.module, rank)  # the trainer unwraps for logging and goes on with that


# --- in one process --------------------------------------------------------------------------------------------------


class Autocasting(tabular.Mlp):
    pass


class LeavesAutocast(tabular.Mlp):
    """A "traced" forward that was recorded without autocast and is replayed as it is."""

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return super().forward(x)


class FreezesInInit(vision.Cnn):
    def __init__(self) -> None:
        super().__init__()
        self.freeze()

    def freeze(self):
        for layer in (self.conv1, self.norm1):
            layer.requires_grad_(False)
        self.norm1.eval()

    def train(self, mode=True):
        super().train(mode)
        self.freeze()
        return self


class FreezesInTrainOnly(FreezesInInit):
    """frozen_stages is honoured by train() only; a fresh model is in training mode without anybody calling it."""

    def __init__(self) -> None:
        vision.Cnn.__init__(self)


def freezing(model=FreezesInInit) -> Parts:
    loss = F.cross_entropy
    return vision.cnn(
        model=model,
        optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=0.05),
        step=tabular.trusting_step(loss),
        frozen=("conv1.*", "norm1.*"),
        overfit_fraction=0.5,
    )


class SpectralNorm(nn.Module):
    wrap = staticmethod(nn.utils.parametrizations.spectral_norm)

    def __init__(self) -> None:
        super().__init__()
        self.body = self.wrap(nn.Linear(6, 32))
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.body(x).relu())


class LegacySpectralNorm(SpectralNorm):
    wrap = staticmethod(nn.utils.spectral_norm)  # unnormalised until a forward pass in training mode


def unguarded(loss):
    """A step "compiled" on its first call for the parameters that had gradients then, and never compiled again."""
    compiled: dict[int, list] = {}

    def step(model, optimizer, batch):
        inputs, targets = batch
        model.train()
        optimizer.zero_grad(set_to_none=True)
        value = loss(model(inputs), targets)
        first = id(optimizer) not in compiled
        parameters = list(model.parameters())
        value.backward(inputs=parameters[:2] if first else parameters)
        kernel = compiled.setdefault(id(optimizer), [p for p in parameters if p.grad is not None])
        for p in parameters:
            if not any(p is k for k in kernel):
                p.grad = None
        optimizer.step()
        return value.item()

    return step


class OnlyNormsTrain(vision.Cnn):
    def __init__(self) -> None:
        super().__init__()
        for name, p in self.named_parameters():
            p.requires_grad = "norm" in name


class LegacyWorkerNoise(data.Jittered):
    def __init__(self) -> None:
        super().__init__()
        self.random = random.Random(0)  # one global generator, forked: what numpy's was before torch 1.9 seeded it

    def noise(self):
        return torch.tensor([self.random.gauss(0.0, 1.0) for _ in range(data.FEATURES)])


class InitialisesOnce(tabular.Mlp):
    def __init__(self) -> None:
        super().__init__()
        self.apply(self.initialise)

    def initialise(self, module):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.2)


class InitialisesAgainAndAgain(InitialisesOnce):
    """Each parent initialises all its descendants once more: the same distribution, many times the work."""

    def initialise(self, module):
        for child in module.modules():
            super().initialise(child)


CONTEXT = 32


def generates(model, ids, max_new_tokens):
    ids = ids[:, -(CONTEXT - max_new_tokens) :]
    limit = ids.shape[1] + max_new_tokens
    start = ids.shape[1]
    while ids.shape[1] < limit:
        ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], 1)
    return ids[:, start:]


def generates_by_the_untrimmed_length(model, ids, max_new_tokens):
    limit = min(ids.shape[1] + max_new_tokens, CONTEXT)  # computed before the prompt is trimmed
    ids = ids[:, -(CONTEXT - 2 * max_new_tokens) :]
    start = ids.shape[1]
    while ids.shape[1] < limit:
        ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], 1)
    return ids[:, start:]


def generation(generate=generates) -> Parts:
    def prompts():
        return [torch.randint(1, sequences.VOCABULARY, (1, n)) for n in (1, 5, 20, 31)]

    return sequences.language(generate=generate, prompts=prompts)


def processes(texts):
    return torch.tensor([[float(len(t)), float(sum(map(ord, t)))] for t in texts])


def processes_into_one_row(texts):
    joined = "".join(texts)  # the list is flattened into one sample
    return torch.tensor([[float(len(joined)), float(sum(map(ord, joined)))]])


def processing(processor=processes) -> Parts:
    return {"processor": processor, "samples": data.SAMPLES}


def _row(name, bug, fidelity, mutant, correct, *, kind="published") -> Entry:
    return Entry(
        name=name,
        kind=kind,
        bug=bug,
        correct=correct,
        mutant=mutant,
        fidelity=fidelity,
        source="OrderLab/TrainCheck-Evaluation-Workloads",
    )


def _ranks(name, bug, fidelity, mutant, correct) -> Entry:
    return _row(name, bug, fidelity, lambda: {"distributed": mutant}, lambda: {"distributed": correct})


def _augmented(dataset) -> Parts:
    return data.augmented(dataset, loader=lambda: DataLoader(dataset(), batch_size=8, num_workers=2))


ENTRIES = [
    _ranks(
        "baichuan2-86",
        "broken GPU peer-to-peer copies lose data",
        "stub",
        train_with_lossy_broadcast,
        train_broadcasting,
    ),
    _ranks(
        "deepspeed-1801",
        "replicated layer norms are clipped on rank 0 only",
        "analogue",
        train_tensor_parallel_clipping_rank_0,
        train_tensor_parallel,
    ),
    _ranks(
        "deepspeed-5794",
        "ranks without tokens skip a collective: the others wait",
        "analogue",
        train_experts_with_an_idle_rank,
        train_experts,
    ),
    _row(
        "lightning-thunder-725",
        "autocast is not applied to traced operations",
        "analogue",
        lambda: tabular.mlp(model=LeavesAutocast, autocast=torch.bfloat16),
        lambda: tabular.mlp(model=Autocasting, autocast=torch.bfloat16),
    ),
    _row(
        "mmpretrain-702",
        "stages are frozen by train() only, which nobody calls on a fresh model",
        "analogue",
        lambda: freezing(FreezesInTrainOnly),
        freezing,
    ),
    _row(
        "pytorch-51800",
        "spectral_norm is not normalised before the first forward pass in training mode",
        "original",
        lambda: tabular.mlp(model=LegacySpectralNorm),
        lambda: tabular.mlp(model=SpectralNorm),
    ),
    _ranks(
        "pytorch-84803",
        "an all-reduce loses data on one device",
        "stub",
        train_with_lossy_reduce,
        parallel.train_by_hand,
    ),
    _ranks(
        "pytorch-96600",
        "an all-reduce leaves a stale value on one device",
        "stub",
        train_with_stale_reduce,
        parallel.train_by_hand,
    ),
    _ranks(
        "pytorch-104336",
        "moving a wrapped model drops the hooks that exchange gradients",
        "analogue",
        train_moved_after_wrapping,
        train_moved,
    ),
    _row(
        "pytorch-115607",
        "a missing guard: a compiled step keeps skipping parameters that had no gradient once",
        "analogue",
        lambda: tabular.mlp_with(unguarded),
        tabular.mlp,
    ),
    _row(
        "pytorch-forum-84911",
        "every layer but the batch norms is frozen",
        "analogue",
        lambda: vision.cnn(model=OnlyNormsTrain),
        vision.cnn,
    ),
    _row(
        "stackoverflow-60335387",
        "zero_grad is never called",
        "analogue",
        lambda: tabular.mlp_with(steps.missing_zero_grad),
        tabular.mlp,
    ),
    _row(
        "stackoverflow-67180955",
        "loader workers share their random state",
        "analogue",
        lambda: _augmented(LegacyWorkerNoise),
        lambda: _augmented(data.Jittered),
    ),
    _row(
        "transformers-17877",
        "weights are initialised over and over",
        "analogue",
        lambda: tabular.mlp(model=InitialisesAgainAndAgain),
        lambda: tabular.mlp(model=InitialisesOnce),
    ),
    _row(
        "transformers-23723",
        "max_new_tokens does not hold for long prompts",
        "analogue",
        lambda: generation(generates_by_the_untrimmed_length),
        generation,
    ),
    _row(
        "transformers-33844",
        "attention dropout stays on in eval mode",
        "analogue",
        lambda: sequences.language(
            model=type("Dropping", (sequences.LanguageModel,), {"attention_type": sequences.CausalDropoutInEval})
        ),
        sequences.language,
    ),
    _row(
        "transformers-34204",
        "a processor folds a batch into one row",
        "analogue",
        lambda: processing(processes_into_one_row),
        processing,
    ),
    _ranks(
        "x-jxmnop-ddp-out-of-sync",
        "the trainer hands out the unwrapped module",
        "analogue",
        train_wrapping_sometimes,
        parallel.train,
    ),
]
