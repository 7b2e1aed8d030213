"""What a trainer's step calls that has a rule of its own: its models, and fused functions."""

from __future__ import annotations

from typing import NamedTuple

MODEL = "model"
"""The function of a call of a model. Keywords: ``model``, which one it is; ``gives``, ``hidden`` states before the head
or ``logits``; ``adapter``, whether the method's modules act; ``checkpointing``; ``use_cache`` where it returns a cache,
which is its second result; and what it is given by name."""
GENERATE = "generate"
"""The function of a call of a model's ``generate``, with ``model``, ``input_ids`` and ``max_new_tokens``."""
FUNCTIONS = ("ChunkedLogProbFunction",)
"""Custom autograd functions with a rule of their own (``steps/trl_loss.py``)."""
ENTROPY = "entropy_from_logits"
"""TRL's ``entropy_from_logits`` of logits [.., V], which takes so many tokens at a time. It is one call of a program,
since the number of its chunks is no expression of the step's sizes."""
REWARD = "reward_model"
"""The name of a model that scores completions. Of several, the later ones have a number behind it."""
HEAD = "{}:head.{}"
"""The name of the weight or the bias of a model's head among a step's operands."""


class Key(NamedTuple):
    """Which step of a trainer it is."""

    loss_type: str
    reference: str
    """``none``, ``copy``, ``adapter-off`` or ``precomputed``."""
    autocast: bool
    wide: bool | None
    """The model's weights are float32. ``None``: it does not matter."""
    compact: bool
    """Only tokens with a label go through a fused head, as on a GPU."""
    old: bool = False
    """Completions train more than one update, so the policy scores them first."""
    rewards: bool = False
    """A model scores the completions, by the name ``REWARD``."""
