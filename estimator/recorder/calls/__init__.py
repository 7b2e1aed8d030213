"""Records what a real module's forward pass calls, as a program. Needs PyTorch.

``assembling`` runs the module and makes the program. ``mode`` notes the calls; ``names`` and ``special`` say which
functions it treats in a way of their own, ``functions`` does so for custom ``torch.autograd.Function`` classes.
``marks`` hang on the tensors, and ``data`` says what is known of their data.
"""

from .assembling import (
    Wrapped,
    checkpoints_itself,
    input_embeddings,
    is_attention,
    layers_as_checkpointed,
    modules_of,
    named_tensors,
    plain_paths,
    record,
    recording,
    stacks_among,
)
from .data import Routing
from .marks import dtype_name
from .mode import Recorder

__all__ = [
    "Recorder",
    "Routing",
    "Wrapped",
    "checkpoints_itself",
    "dtype_name",
    "input_embeddings",
    "is_attention",
    "layers_as_checkpointed",
    "modules_of",
    "named_tensors",
    "plain_paths",
    "record",
    "recording",
    "stacks_among",
]
