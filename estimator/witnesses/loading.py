"""Loading, measured: ``from_pretrained`` in a fresh process, whose resident set is read while it runs.

``measured`` runs ``python -m estimator.witnesses.loading``. Linux only: ``/proc/self/status`` tells the process's own
pages (``RssAnon``) from pages of files (``RssFile``).
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..io import fresh
from .machine import reset_peak_rss, status
from .measure import MMAP_THRESHOLD_BYTES

INTERVAL = 0.0005
"""Seconds between two readings."""


def measured(folder: Path, dtype: str, base: str = "", disable_mmap: bool = False) -> dict[str, int]:
    """Bytes of loading the model in ``folder`` on a CPU, above those before: ``peak``, ``peak_anonymous``, ``after``.

    ``base``: the format of bitsandbytes that the model is quantised to. Raises ``InputError`` where it is not loaded.
    """
    question = {"folder": str(folder), "dtype": dtype, "base": base, "disable_mmap": disable_mmap}
    process = fresh.run("witnesses.loading", question, {"MALLOC_MMAP_THRESHOLD_": str(MMAP_THRESHOLD_BYTES)}, 600)
    if process.returncode:
        raise InputError(f"the model was not loaded: {fresh.reason(process)}")
    found: dict[str, int] = json.loads(process.stdout.splitlines()[-1])
    return found


def _load(folder: str, dtype: str, base: str, disable_mmap: bool) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    keys: dict[str, Any] = {"dtype": getattr(torch, dtype), "disable_mmap": disable_mmap}
    if base == "int8":
        keys["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    elif base:
        keys["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=base)
    if base:
        keys["device_map"] = {"": "cpu"}
    return AutoModelForCausalLM.from_pretrained(folder, **keys)


def _measure(folder: str, **keys: Any) -> dict[str, int]:
    """The bytes of ``measured``. A tiny model is loaded first, so that nothing is imported while it is measured."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 16}
    with tempfile.TemporaryDirectory() as tiny:
        LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, **sizes)).save_pretrained(tiny)
        _load(tiny, **keys)
    gc.collect()
    reset_peak_rss()
    before = status()
    readings, done = [before], threading.Event()

    def read() -> None:
        while not done.wait(INTERVAL):
            readings.append(status())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        model = _load(folder, **keys)
        after = status()
    finally:
        done.set()
        reader.join()
    del model
    return {
        "peak": after["VmHWM"] - before["VmRSS"],
        "peak_anonymous": max(one["RssAnon"] for one in readings) - before["RssAnon"],
        "after": after["VmRSS"] - before["VmRSS"],
    }


if __name__ == "__main__":
    print(json.dumps(_measure(**json.load(sys.stdin))))
