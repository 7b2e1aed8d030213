"""Optimizers, by their names in a plan."""

from __future__ import annotations

from collections.abc import Iterable

from ...ledger import Tensor
from ...programs import Step
from .adafactor import Adafactor
from .adamw import AdamW, DeepSpeedCPUAdam, ForeachAdamW, FusedAdamW, InBackwardAdamW, MasterAdamW
from .base import Optimizer
from .base import is_hidden_matrix as is_hidden_matrix
from .eight_bit import AdamW8bit, PagedAdamW, PagedAdamW8bit
from .galore import GaloreAdamW
from .lion import Lion
from .lomo import Lomo
from .muon import Muon
from .sgd import SGD, MomentumSGD

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adamw": AdamW,
    "adamw-foreach": ForeachAdamW,
    "adamw-fused": FusedAdamW,
    "adamw-master": MasterAdamW,
    "adamw-in-backward": InBackwardAdamW,
    "adamw-8bit": AdamW8bit,
    "paged-adamw": PagedAdamW,
    "paged-adamw-8bit": PagedAdamW8bit,
    "adafactor": Adafactor,
    "galore-adamw": GaloreAdamW,
    "lion": Lion,
    "lomo": Lomo,
    "muon": Muon,
    "sgd": SGD,
    "sgd-momentum": MomentumSGD,
}


def optimizer_of(step: Step) -> Optimizer:
    """The optimizer of a step."""
    on_host = step.sharding is not None and step.sharding.has_cpu_adam
    optimizer = DeepSpeedCPUAdam() if on_host else OPTIMIZERS[step.optimizer](step.optimizer_rank)
    optimizer.wide = step.wide_states
    optimizer.one_by_one = step.mixes_dtensors
    return optimizer


def updated(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Of a model's parameters those that its optimizer updates."""
    return [p for p in parameters if p.requires_grad and not p.unreached]
