"""A trainable LARS layer (arXiv 2604.22783), rebuilt from the paper's steps and parameter shares.

It pools as the paper's default: the mean over positions plus the last position. Like the published script it ignores
the mask, so the last position of a padded sequence is padding.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.utils import ModulesToSaveWrapper
from torch import nn

from ...plans.resolve import Resolved


class LarsLinear(nn.Module):  # type: ignore[misc]
    """[B, S, n_in] -> [B, S, n_out]: the frozen layer's result plus one vector per sequence."""

    def __init__(self, base_layer: nn.Linear, r: int, dropout: float, dtype: torch.dtype) -> None:
        super().__init__()
        n_in, n_out = base_layer.in_features, base_layer.out_features
        new = {"device": base_layer.weight.device, "dtype": dtype}
        self.base_layer = base_layer
        self.lars_A = nn.Linear(n_in, r, bias=False, **new)
        self.norm = nn.LayerNorm(r, **new)
        self.gate_x = nn.Linear(n_in, r, bias=False, **new)
        self.gate_h = nn.Linear(r, r, bias=False, **new)
        self.memory = nn.Linear(r, r, bias=False, **new)
        self.dropout = nn.Dropout(dropout)
        self.up, self.down = nn.Linear(r, 4 * r, **new), nn.Linear(4 * r, r, **new)
        self.lars_B = nn.Linear(r, n_out, bias=False, **new)
        nn.init.zeros_(self.lars_B.weight)
        self.t_x, self.t_h, self.alpha = (nn.Parameter(torch.ones((), **new)) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The adapted layer."""
        result = self.base_layer(x)
        pooled = (x.mean(1) + x.select(1, -1)).to(self.lars_A.weight.dtype)
        h = self.norm(self.lars_A(pooled))
        gate = torch.sigmoid(self.t_x * self.gate_x(pooled) + self.t_h * self.gate_h(h))
        h = self.dropout(h + self.memory(gate))
        h = h + self.down(nn.functional.gelu(self.up(h)))
        update = self.alpha * self.lars_B(h)
        return result + update.to(result.dtype).unsqueeze(1)


def apply(model: Any, resolved: Resolved) -> Any:
    """Freeze a model and replace the targets of the plan's method by LARS layers."""
    method: Any = resolved.method
    model.requires_grad_(False)
    dtype = getattr(torch, method.adapter_dtype)
    for path, module in list(model.named_modules()):
        parent, _, name = path.rpartition(".")
        if method.saves(path):
            copy = ModulesToSaveWrapper(module, "default")
            copy.modules_to_save.requires_grad_(True)
            setattr(model.get_submodule(parent), name, copy)
        elif isinstance(module, nn.Linear) and path in method.targets:
            lars = LarsLinear(module, method.options.r, method.options.lars_dropout, dtype)
            setattr(model.get_submodule(parent), name, lars)
    return model
