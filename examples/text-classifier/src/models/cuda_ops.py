"""What runs on CUDA alone. The CPU tiers cannot reach this file: it is a known gap of coverage in ml-tiers.yml."""

from __future__ import annotations

import torch
from torch import nn


class CapturedForward:
    """The forward pass of ``model`` for one shape of input, as a CUDA graph: one launch instead of dozens.

    A small model in serving spends its time launching kernels; replaying a graph saves that. The model must be in
    eval mode and on a CUDA device, and its weights are read anew at each call (updated in place, never replaced).
    """

    def __init__(self, model: nn.Module, example_ids: torch.Tensor) -> None:
        if not example_ids.is_cuda:
            raise ValueError("a CUDA graph needs its example input on a CUDA device")
        if model.training:
            raise ValueError("put the model in eval mode before capturing it: a graph would freeze its dropout masks")
        self._ids = example_ids.clone()
        # Kernels and workspaces are set up on a side stream first: a capture may not allocate them.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(side):
            for _ in range(3):
                model(self._ids)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self._graph):
            self._logits = model(self._ids)

    def __call__(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits of ``input_ids``, which must have the shape of the example."""
        if input_ids.shape != self._ids.shape:
            raise ValueError(f"captured for inputs of shape {tuple(self._ids.shape)}, got {tuple(input_ids.shape)}")
        self._ids.copy_(input_ids)
        self._graph.replay()
        return self._logits.clone()
