"""Mixtures of experts, LoRA adapters and graph networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.zoo import steps
from benchmarks.zoo.entry import Entry, Parts

FEATURES, CLASSES, EXPERTS = 6, 4, 3


def adam(model):
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)


def rows():
    return torch.randn(16, FEATURES), torch.randint(0, CLASSES, (16,))


def classification(model, **changes) -> Parts:
    return {
        "model": model,
        "batch": rows,
        "loss": F.cross_entropy,
        "optimizer": adam,
        "step": steps.right(F.cross_entropy),
        "task": "classification",
        "classes": CLASSES,
        "output_shape": ("N", CLASSES),
    } | changes


# --- a mixture of experts: each row goes to one expert ---------------------------------------------------------------


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(FEATURES, EXPERTS)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(FEATURES, 24), nn.ReLU(), nn.Linear(24, CLASSES)) for _ in range(EXPERTS)
        )

    def route(self, x):
        gate, index = self.router(x).softmax(-1).max(-1)
        return gate, index

    def forward(self, x):
        gate, index = self.route(x)
        out = x.new_zeros(len(x), CLASSES)
        for i, expert in enumerate(self.experts):
            chosen = (index == i).nonzero()[:, 0]
            out = out.index_add(0, chosen, expert(x[chosen]) * gate[chosen, None])
        return out


class GateForgotten(Mixture):
    def route(self, x):
        _, index = super().route(x)
        return torch.ones(len(x)), index  # a hard choice: no gradient reaches the router


class RouterDetached(Mixture):
    def route(self, x):
        gate, index = super().route(x)
        return gate.detach(), index


class LastExpertNeverChosen(Mixture):
    def route(self, x):
        gate, index = self.router(x)[:, : EXPERTS - 1].softmax(-1).max(-1)
        return gate, index


class GatesOverRows(Mixture):
    def route(self, x):
        gates = self.router(x).softmax(0)
        return gates.max(-1)


class ResultsInRoutingOrder(Mixture):
    def forward(self, x):
        gate, index = self.route(x)
        parts = []
        for i, expert in enumerate(self.experts):
            chosen = (index == i).nonzero()[:, 0]
            parts.append(expert(x[chosen]) * gate[chosen, None])
        return torch.cat(parts)  # grouped by expert, never put back


class CapacityDropsRows(Mixture):
    """An expert takes at most five rows; later rows of the batch get nothing."""

    def forward(self, x):
        gate, index = self.route(x)
        out = x.new_zeros(len(x), CLASSES)
        for i, expert in enumerate(self.experts):
            chosen = (index == i).nonzero()[:, 0][:5]
            out = out.index_add(0, chosen, expert(x[chosen]) * gate[chosen, None])
        return out


# --- LoRA ------------------------------------------------------------------------------------------------------------


class LoraLinear(nn.Module):
    frozen_base = True

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base
        if self.frozen_base:
            base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + x @ self.a.T @ self.b.T


class BothZero(LoraLinear):
    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__(base, rank)
        nn.init.zeros_(self.a)


class BaseNotFrozen(LoraLinear):
    frozen_base = False


class AdapterOnDetachedInput(LoraLinear):
    def forward(self, x):
        return self.base(x) + x.detach() @ self.a.T @ self.b.T


class AdapterNotAdded(LoraLinear):
    def forward(self, x):
        return self.base(x)


class MergesForEval(LoraLinear):
    """Merges the adapter into the base weight for fast inference, and takes it out again for training."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__(base, rank)
        nn.init.normal_(self.b, std=0.1)
        self.merged = False

    def unmerge(self):
        self.base.weight.data -= self.b.data @ self.a.data

    def train(self, mode=True):
        if mode and self.merged:
            self.unmerge()
            self.merged = False
        elif not mode and not self.merged:
            self.base.weight.data += self.b.data @ self.a.data
            self.merged = True
        return super().train(mode)

    def forward(self, x):
        return self.base(x) if self.merged else super().forward(x)


class NeverUnmerged(MergesForEval):
    def unmerge(self):
        pass


def lora(layer=LoraLinear, last=None, **changes) -> Parts:
    def build():
        return nn.Sequential(layer(nn.Linear(FEATURES, 48)), nn.ReLU(), (last or layer)(nn.Linear(48, CLASSES)))

    return classification(build, frozen=("*.base.*",), overfit_fraction=0.3, **changes)


# --- graphs: (N, V, F) nodes and (N, V, V) adjacency -----------------------------------------------------------------


class GraphNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(3, 32)
        self.neighbours = nn.Linear(3, 32)
        self.head = nn.Linear(32, CLASSES)

    def gather(self, nodes, edges):
        return edges @ nodes / edges.sum(-1, keepdim=True).clamp(min=1)

    def forward(self, nodes, edges):
        hidden = (self.own(nodes) + self.neighbours(self.gather(nodes, edges))).relu()
        return self.head(hidden.mean(1))


class NodeIdsNotOffset(GraphNet):
    """Flattens the batch into one graph and forgets to add each graph's offset: all edges land in the first."""

    def gather(self, nodes, edges):
        _, source, target = edges.nonzero(as_tuple=True)
        flat = nodes.flatten(0, 1)
        out = torch.zeros_like(flat)
        out.index_add_(0, source, flat[target])
        return out.view_as(nodes)


class DividesByZeroNeighbours(GraphNet):
    def gather(self, nodes, edges):
        return edges @ nodes / edges.sum(-1, keepdim=True)


class EdgesIgnored(GraphNet):
    def gather(self, nodes, edges):
        return nodes


class PoolsOverGraphs(GraphNet):
    def forward(self, nodes, edges):
        hidden = (self.own(nodes) + self.neighbours(self.gather(nodes, edges))).relu()
        return self.head(hidden.mean(1) - hidden.mean((0, 1)))


def graphs():
    edges = (torch.rand(6, 5, 5) < 0.4).float()
    edges[0, 2] = 0.0  # an isolated node
    return (torch.randn(6, 5, 3), edges), torch.randint(0, CLASSES, (6,))


def graph(model=GraphNet) -> Parts:
    return classification(model, batch=graphs)


def mixture(model=Mixture) -> Parts:
    return classification(model, overfit_fraction=0.5)


def _row(name, kind, bug, mutant, correct) -> Entry:
    return Entry(name=name, kind=kind, bug=bug, correct=correct, mutant=mutant)


ENTRIES = [
    *(
        _row(f"moe-{name}", "mixture of experts", bug, lambda model=model: mixture(model), mixture)
        for name, model, bug in [
            ("gate-forgotten", GateForgotten, "the gate is not multiplied in: the router never learns"),
            ("router-detached", RouterDetached, "the gate is detached"),
            ("last-expert-never-chosen", LastExpertNeverChosen, "an off-by-one leaves an expert unused"),
            ("gates-over-rows", GatesOverRows, "softmax over the batch"),
            ("results-in-routing-order", ResultsInRoutingOrder, "outputs are returned in routing order"),
            ("capacity-drops-rows", CapacityDropsRows, "rows are dropped depending on their neighbours"),
        ]
    ),
    *(
        _row(f"lora-{name}", "LoRA", bug, lambda pair=pair: lora(*pair), lora)
        for name, pair, bug in [
            ("both-zero", (BothZero, LoraLinear), "A and B start at zero: nothing ever learns"),
            ("base-not-frozen", (BaseNotFrozen, LoraLinear), "the base weights train"),
            ("detached-input", (LoraLinear, AdapterOnDetachedInput), "the adapter's input is detached"),
            ("adapter-not-added", (AdapterNotAdded, LoraLinear), "the adapter is never applied"),
        ]
    ),
    _row(
        "lora-never-unmerged",
        "LoRA",
        "eval() merges the adapter, train() does not take it out",
        lambda: lora(NeverUnmerged),
        lambda: lora(MergesForEval),
    ),
    *(
        _row(f"graph-{name}", "graph network", bug, lambda model=model: graph(model), graph)
        for name, model, bug in [
            ("node-ids-not-offset", NodeIdsNotOffset, "graphs of a batch share node ids"),
            ("isolated-node-is-nan", DividesByZeroNeighbours, "divides by zero neighbours"),
            ("edges-ignored", EdgesIgnored, "the adjacency is not used"),
            ("pools-over-graphs", PoolsOverGraphs, "pools over the batch as well"),
        ]
    ),
]
