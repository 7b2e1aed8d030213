"""The package flash-attn in a recording, which need not be installed: calls of its kernel are noted. Needs PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch

from ..programs.releases import is_before


def flash_attn_func(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """``flash_attn_func`` of [B, S, heads, D], which the recorder notes. Options change no memory."""
    return torch.overrides.handle_torch_function(flash_attn_func, (q, k, v), q, k, v)


def _varlen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """``flash_attn_varlen_func`` of a packed row [S, heads, D]. Its rule asks the ledger for the row's sequences."""
    return flash_attn_func(*(x.view(1, *x.shape) for x in (q, k, v))).view(q.shape)


def _imported(*_: Any, **__: Any) -> Any:
    """What ``lazy_import_flash_attention`` gives: functions, and what makes their options."""
    if is_before("5"):
        return (flash_attn_func, _varlen, None, None), _no_options
    return (flash_attn_func, _varlen, None, None, None), (_no_options, None)


def _no_options(**_: Any) -> dict[str, Any]:
    return {}


@contextmanager
def with_flash_attn(model: torch.nn.Module | None = None) -> Iterator[None]:
    """Within it transformers takes the package for installed, and calls the function here.

    ``model`` is the one that runs. In transformers 4.48 some modelling files import what calls the kernel themselves.
    """
    from transformers import PreTrainedModel, modeling_utils  # after hugging_face.py has silenced what they import
    from transformers import modeling_flash_attention_utils as utils

    changed: list[tuple[Any, str, Any]] = []
    if is_before("5"):
        changed.append((modeling_utils, "is_flash_attn_2_available", lambda: True))
    else:
        changed.append((PreTrainedModel, "_flash_attn_import_error", lambda *_, **__: None))
    if is_before("4.57"):
        changed += [(utils, "flash_attn_func", flash_attn_func), (utils, "_flash_supports_window_size", True)]
        if model is not None:
            own = sys.modules[type(model).__module__]
            changed.append((own, "_flash_attention_forward", utils._flash_attention_forward))
    else:
        changed += [(module, "lazy_import_flash_attention", _imported) for module in (utils, modeling_utils)]
    with ExitStack() as stack:
        for where, name, value in changed:
            stack.enter_context(mock.patch.object(where, name, value, create=True))
        yield
