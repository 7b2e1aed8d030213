"""Writes ``model_specs/programs``: the programs of families that are answered without PyTorch. Needs the trace extra.

A file has the programs of one structure of a config: that of a built-in model, of a class's defaults, or one of the
switches of Llama, Mistral, Qwen2 and Qwen3, where none of the earlier files of the family fits. Give names of files to
write those alone: ``python model_specs/make_programs.py gpt2.default``.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from typing import Any

from estimator.errors import InputError
from estimator.plans import models, recorded_programs
from estimator.programs import families_recorder
from estimator.programs.family import Family
from estimator.programs.files import written_together
from estimator.programs.releases import NEWEST, installed_release
from estimator.steps.recording import record

release = installed_release()
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Families of which all structures are recorded, whether a built-in model has them or not."""

CLASSES: dict[str, dict[str, Any]] = {
    name: {"model_type": name.partition(".")[0]}
    for name in (
        "gemma.default", "gemma2.default", "gemma3_text.default", "phi.default", "phi3.default", "gpt2.default",
        "gpt_neox.default", "opt.default", "falcon.default", "bloom.default", "starcoder2.default",
        "stablelm.default", "olmo2.default", "olmo3.default", "granite.default", "smollm3.default", "cohere.default",
        "cohere2.default", "mixtral.default", "qwen3_moe.default", "deepseek_v3.default", "gpt_oss.default",
        "glm.default", "glm4.default", "exaone4.default", "seed_oss.default", "hunyuan_v1_dense.default",
    )
}  # fmt: skip
"""Configs of the classes' defaults."""
CLASSES["falcon.new"] = {
    "model_type": "falcon", "new_decoder_architecture": True, "hidden_size": 8192, "num_attention_heads": 128,
    "num_kv_heads": 8,
}  # fmt: skip


def structures() -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of each file, and the config that it is recorded from: the built-in models' first."""
    for name in models.builtin_names():
        raw = dict(models.load(name).raw)
        if raw["model_type"] not in FAMILIES or release != NEWEST:
            yield f"{raw['model_type']}.{name}", raw
    yield from CLASSES.items()
    yield from (
        switches() if release == NEWEST else ((f"{family}.default", {"model_type": family}) for family in FAMILIES)
    )


def switches() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every structure of the families that most models are of, by its switches: tied or not, biases, windows."""
    for tied, window, attention_bias, mlp_bias in itertools.product((False, True), repeat=4):
        words = {"tied": tied, "attention-bias": attention_bias, "mlp-bias": mlp_bias, "window": window}
        word = "-".join(word for word, is_on in words.items() if is_on) or "default"
        bias, ties = {"attention_bias": attention_bias}, {"tie_word_embeddings": tied}
        layers = {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 4, "num_hidden_layers": 8}
        if not window:
            yield f"llama.{word}", {"model_type": "llama", **ties, **bias, "mlp_bias": mlp_bias}
        if not mlp_bias:
            yield f"qwen3.{word}", {"model_type": "qwen3", **ties, **bias, **(layers if window else {})}
        if not (attention_bias or mlp_bias):
            yield f"qwen2.{word}", {"model_type": "qwen2", **ties, **(layers if window else {})}
    for tied, window in itertools.product((False, True), repeat=2):
        word = "-".join(word for word, is_on in {"tied": tied, "no-window": not window}.items() if is_on) or "default"
        size = 4096 if window else None
        yield f"mistral.{word}", {"model_type": "mistral", "tie_word_embeddings": tied, "sliding_window": size}


def settings_of(raw: dict[str, Any]) -> list[families_recorder.Setting]:
    """The settings to record. Of an earlier release, sequences of one token are left out."""
    return [one for one in families_recorder.settings_of(raw) if release == NEWEST or "S" not in one.fixed]


def fits(raw: dict[str, Any], families: list[Family]) -> bool:
    """Whether a program that was written before is for this config."""
    for family in families:
        try:
            family.check_config(raw)
        except InputError:
            continue
        return True
    return False


def _good(name: str, found: dict[families_recorder.Setting, Family | InputError]) -> list[Family]:
    """The programs. Why there are no others is printed."""
    for setting, error in found.items():
        if isinstance(error, InputError):
            print(f"{name}: {setting}: {error}")
    return [one for one in found.values() if isinstance(one, Family)]


def main(only: list[str]) -> None:
    """Record and write."""
    written: dict[str, list[Family]] = {}
    for name, raw in structures():
        model_type, _, word = name.partition(".")
        if (only and name not in only) or fits(raw, written.get(model_type, [])):
            continue
        started = time.monotonic()
        try:
            found = record(raw, settings_of(raw))
        except InputError as error:
            print(f"{name}: {error}")
            continue
        good = _good(name, found)
        if good:
            path = recorded_programs.of_release(recorded_programs.shipped_folder(), release) / f"{name}.json"
            recorded_programs.write(written_together(good), model_type, word, path)
            written.setdefault(model_type, []).append(good[0])
            print(f"{name}: {len(good)} programs, {path.stat().st_size:,} bytes, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
