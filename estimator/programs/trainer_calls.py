"""What a trainer's step calls that has a rule of its own: its models, and fused functions."""

from __future__ import annotations

from typing import NamedTuple

MODEL = "model"
"""The function of a call of a model. Keywords: ``model``, which one it is; ``gives``, ``hidden`` states before the head
or ``logits``; ``adapter``, whether the method's modules act; ``checkpointing``; ``use_cache`` where it returns a cache,
which is its second result; ``logits_to_keep`` where it makes those of the last tokens alone; ``padded`` where
its rows have padding; and what it is given by name."""
GENERATE = "generate"
"""The function of a call of a model's ``generate``, with ``model``, ``input_ids`` and ``max_new_tokens``, and
``use_cache`` where it is told to make none: ``NEVER``, or ``CHECKPOINTS``, beside those of the step."""
NEVER, CHECKPOINTS = "never", "not beside checkpoints"
DIVERGENCE = "ChunkedDivergenceFunction"
FUNCTIONS = ("ChunkedLogProbFunction", DIVERGENCE)
"""Custom autograd functions with a rule of their own (``steps/trl_loss.py``, ``steps/trl_divergence.py``)."""
OF_LOGITS = ("entropy_from_logits", "selective_log_softmax", "selective_log_softmax_and_entropy")
"""TRL's functions of logits [.., V] with rules of their own (``steps/trl_loss.py``). Each is one call of a program: how
often it loops depends on the batch, and on a GPU it is a kernel."""
REWARD = "reward_model"
"""The name of a model that scores completions. Of several, the later ones have a number behind it."""
TEACHER = "teacher_model"
"""The name of a model whose next tokens another one learns."""
HEAD = "{}:head.{}"
"""The name of the weight or the bias of a model's head among a step's operands."""


class Key(NamedTuple):
    """Which step of a trainer it is."""

    loss_type: str
    reference: str
    """``none``, ``copy``, ``adapter-off`` or ``precomputed``."""
    autocast: bool
    wide: bool | None = None
    """The model's weights are float32. ``None``: it does not matter."""
    compact: bool = False
    """Only tokens with a label go through a fused head, as on a GPU."""
    old: bool = False
    """Completions train more than one update, so the policy scores them first."""
    rewards: int = 0
    """How many models score the completions, by the name ``REWARD``. Files may have ``true`` for one."""
    vllm: bool = False
    """vLLM generates, and its log-probabilities of the completions are compared with the policy's."""
    generates: str = ""
    """The model that generates in a step, where it may be one or another: ``model`` or ``TEACHER``."""
    pooling: str = ""
    """How the tokens of a text become its embedding, in sentence-transformers' words."""
    normalize: bool = False
    """Embeddings have the length 1."""
    negatives: int = 0
    """The texts of a row beside an anchor and one that goes with it."""
    dims: int = 0
    """How many lengths of its embeddings the loss is taken of (``MatryoshkaLoss``)."""
