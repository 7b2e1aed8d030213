"""Real optimizers for the measured step, from PyTorch, from bitsandbytes, or written here.

Those written here follow the publication or its authors' code, one parameter at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch.optim.adamw import adamw

from ...steps.optimizers import is_hidden_matrix
from .libraries import require

Parameters = list[torch.nn.Parameter]
LEARNING_RATE = 1e-5


class MasterAdamW(torch.optim.Optimizer):
    """AdamW on a float32 copy of each 16-bit parameter (arXiv 1710.03740, section 3.1)."""

    def __init__(self, params: Parameters) -> None:
        super().__init__(params, {"lr": LEARNING_RATE})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                self._update(p)

    def _update(self, p: torch.nn.Parameter) -> None:
        state = self.state[p]
        if not state:
            if p.dtype != torch.float32:
                state["master"] = p.float()
            state["exp_avg"] = torch.zeros_like(p, dtype=torch.float32)
            state["exp_avg_sq"] = torch.zeros_like(p, dtype=torch.float32)
            state["step"] = torch.tensor(0.0)
        assert p.grad is not None
        master = state.get("master", p)
        adamw(
            [master],
            [p.grad.float()],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            foreach=False,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=LEARNING_RATE,
            weight_decay=1e-2,
            eps=1e-8,
            maximize=False,
        )
        if master is not p:
            p.copy_(master)


class Lion(torch.optim.Optimizer):
    """Lion (arXiv 2302.06675), line by line as its authors' ``lion_pytorch.py``."""

    def __init__(self, params: Parameters) -> None:
        super().__init__(params, {"lr": LEARNING_RATE, "betas": (0.9, 0.99), "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                p.data.mul_(1 - group["lr"] * group["weight_decay"])
                grad = p.grad
                state = self.state[p]
                if len(state) == 0:
                    state["exp_avg"] = torch.zeros_like(p)
                exp_avg = state["exp_avg"]
                update = exp_avg * beta1 + grad * (1 - beta1)
                p.add_(update.sign_(), alpha=-group["lr"])
                exp_avg.mul_(beta2).add_(grad, alpha=1 - beta2)


class GaloreAdamW(torch.optim.Optimizer):
    """AdamW on gradients projected to a low rank (arXiv 2403.03507), after the authors' ``galore_torch``.

    Groups with a ``rank`` are projected. The authors make a new projector every 200 steps. Here every step makes one,
    so that every step takes as much memory as the largest.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": LEARNING_RATE})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                grad, state = p.grad, self.state[p]
                if "rank" in group:
                    _refresh(state, grad, group["rank"])
                    grad = project(grad, state["projector"])
                if "exp_avg" not in state:
                    state["exp_avg"] = torch.zeros_like(grad)
                    state["exp_avg_sq"] = torch.zeros_like(grad)
                exp_avg, exp_avg_sq = state["exp_avg"], state["exp_avg_sq"]
                exp_avg.mul_(0.9).add_(grad, alpha=1.0 - 0.9)
                exp_avg_sq.mul_(0.999).addcmul_(grad, grad, value=1.0 - 0.999)
                denom = exp_avg_sq.sqrt().add_(1e-6)
                norm_grad = exp_avg / denom
                if "rank" in group:
                    norm_grad = project_back(norm_grad, state["projector"])
                p.add_(norm_grad, alpha=-group["lr"])


def _refresh(state: dict[str, Any], grad: torch.Tensor, rank: int) -> None:
    """Make a new projector in place, since the profiler does not see the free of a tensor that existed before."""
    made = projector(grad, rank)
    if "projector" in state:
        state["projector"].copy_(made)
    else:
        state["projector"] = made


def projector(grad: torch.Tensor, rank: int) -> torch.Tensor:
    """The first singular vectors of a gradient [m, n]: [rank, n], or [m, rank] where m < n.

    In float32 it is a slice, which keeps all singular vectors of that side, as the authors' does.
    """
    matrix = grad.float()
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return (vh[:rank] if grad.shape[0] >= grad.shape[1] else u[:, :rank]).to(grad.dtype)


def project(grad: torch.Tensor, ortho: torch.Tensor) -> torch.Tensor:
    """The gradient in the projector's subspace: [m, rank], or [rank, n] where m < n."""
    return grad @ ortho.t() if grad.shape[0] >= grad.shape[1] else ortho.t() @ grad


def project_back(low_rank: torch.Tensor, ortho: torch.Tensor, scale: float = 0.25) -> torch.Tensor:
    """The update [m, n] from an update in the subspace."""
    full = low_rank @ ortho if low_rank.shape[0] >= low_rank.shape[1] else ortho @ low_rank
    return full * scale


class Several:
    """Several optimizers that step one after the other."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimizers = optimizers

    @property
    def state(self) -> dict[Any, Any]:
        """All states, by parameter."""
        return {p: state for optimizer in self.optimizers for p, state in optimizer.state.items()}

    def step(self) -> None:
        """Update every parameter."""
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Free all gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=set_to_none)


class InBackward(Several):
    """An optimizer for each parameter, which steps in backward as soon as the gradient exists.

    After PyTorch's tutorial "How to save memory by fusing the optimizer step into the backward pass".
    """

    def __init__(self, params: Parameters, make: Callable[[Parameters], torch.optim.Optimizer]) -> None:
        by_parameter = {p: make([p]) for p in params}
        super().__init__(list(by_parameter.values()))

        def hook(parameter: torch.Tensor) -> None:
            by_parameter[parameter].step()
            by_parameter[parameter].zero_grad()

        for p in params:
            p.register_post_accumulate_grad_hook(hook)

    def step(self) -> None:
        """Nothing: every parameter was updated in backward."""


class Lomo:
    """LOMO (arXiv 2306.09782) without loss scaling and clipping, after the authors' ``lomo_optim/lomo.py``.

    The hook of a parameter runs before its gradient is stored, so it applies the gradient that was stored before.
    """

    state: ClassVar[dict[Any, Any]] = {}

    def __init__(self, params: Parameters) -> None:
        self.params = params
        for p in params:
            p.register_hook(self._update)

    @torch.no_grad()
    def _update(self, gradient: torch.Tensor | None) -> torch.Tensor | None:
        for p in self.params:
            if p.grad is not None:
                grad_fp32 = p.grad.to(torch.float32)
                p.grad = None
                p_fp32 = p.data.to(torch.float32)
                p_fp32.add_(grad_fp32, alpha=-LEARNING_RATE)
                p.data.copy_(p_fp32)
        return gradient

    def step(self) -> None:
        """Update the parameter whose gradient was stored last."""
        self._update(None)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing: no gradient is left."""


_adamw = partial(torch.optim.AdamW, lr=LEARNING_RATE)


def _bitsandbytes(params: Parameters, optimizer: str) -> torch.optim.Optimizer:
    require("bitsandbytes")
    import bitsandbytes

    bitsandbytes.optim.GlobalOptimManager.get_instance().initialize()  # it keeps what an earlier step registered
    return getattr(bitsandbytes.optim, optimizer)(params, lr=LEARNING_RATE)


_SIMPLE: dict[str, Callable[[Parameters], Any]] = {
    "adamw": _adamw,
    "adamw-foreach": partial(_adamw, foreach=True),
    "adamw-fused": partial(_adamw, fused=True),
    "adamw-master": MasterAdamW,
    "adamw-in-backward": partial(InBackward, make=_adamw),
    "adamw-8bit": partial(_bitsandbytes, optimizer="AdamW8bit"),
    "paged-adamw": partial(_bitsandbytes, optimizer="PagedAdamW"),
    "paged-adamw-8bit": partial(_bitsandbytes, optimizer="PagedAdamW8bit"),
    "adafactor": partial(torch.optim.Adafactor, lr=LEARNING_RATE),
    "lion": Lion,
    "lomo": Lomo,
    "sgd": partial(torch.optim.SGD, lr=LEARNING_RATE),
    "sgd-momentum": partial(torch.optim.SGD, lr=LEARNING_RATE, momentum=0.9),
}
"""Optimizers that treat all parameters alike."""


def make_optimizer(name: str, named: Iterable[tuple[str, torch.nn.Parameter]], rank: int) -> Any:
    """The optimizer with a plan's name, over the trainable parameters."""
    trained = [(key, p) for key, p in named if p.requires_grad]
    if name in _SIMPLE:
        return _SIMPLE[name]([p for _, p in trained])
    hidden = [p for key, p in trained if is_hidden_matrix(key, p.ndim)]
    others = [p for key, p in trained if not is_hidden_matrix(key, p.ndim)]
    if name == "muon":
        made = [(torch.optim.Muon, hidden), (torch.optim.AdamW, others)]
        return Several([make(params, lr=LEARNING_RATE) for make, params in made if params])
    assert name == "galore-adamw"
    groups: list[dict[str, Any]] = [{"params": others}, {"params": hidden, "rank": rank}]
    return GaloreAdamW([group for group in groups if group["params"]])
