"""A model as transformers loads it for tensor parallelism, on a CPU and for the first process."""

from __future__ import annotations

import tempfile
from typing import Any

from transformers.distributed import DistributedConfig


def split(model: Any, tp: int) -> Any:
    """The model as ``from_pretrained`` loads it for one of ``tp`` processes (``tp_plan``).

    On a CPU that maps the file, of which weights are views. They are copied, as a device has them.
    """
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = type(model).from_pretrained(
            folder,
            config=model.config,
            dtype=model.dtype,
            attn_implementation=model.config._attn_implementation,
            distributed_config=DistributedConfig(tp_size=tp),
        )
        for parameter in loaded.parameters():
            if hasattr(parameter, "_local_tensor"):
                parameter._local_tensor = parameter._local_tensor.detach().clone()
            else:
                parameter.data = parameter.data.clone()
    return loaded
