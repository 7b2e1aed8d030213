"""Optimizers, by their names in a plan."""

from __future__ import annotations

from .adafactor import Adafactor
from .adamw import AdamW, ForeachAdamW, FusedAdamW, InBackwardAdamW, MasterAdamW
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


def made(name: str, rank: int, wide: frozenset[str]) -> Optimizer:
    """The optimizer of a name. ``rank`` is of GaLore's projection; ``wide``: see ``Optimizer.wide``."""
    optimizer = OPTIMIZERS[name](rank)
    optimizer.wide = wide
    return optimizer
