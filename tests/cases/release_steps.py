"""Steps of small models under earlier releases of transformers, measured where such a release is installed.

``python -m tests.cases.release_steps`` measures the installed release's steps anew, and prints how far estimates are
from them; ``make witness`` runs it with each release. Names of files of programs as arguments: only theirs.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from estimator.answers.estimate import estimate
from estimator.plans import models, recorded_programs
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.programs.config_values import CONVOLUTIONS, SHARING
from estimator.programs.heads import HEADS
from estimator.programs.program_files import load_together
from estimator.programs.releases import installed_release
from tests.helpers.files import DATA

LORA = {"name": "lora", "r": 4, "target_modules": "all-linear"}
STEPS: dict[str, dict[str, Any]] = {
    "full": {"batch": 2, "seq": 24, "dtype": "float32"},
    "LoRA": {"batch": 3, "seq": 17, "dtype": "float32", "method": LORA},
    "checkpointed": {"batch": 2, "seq": 33, "dtype": "float32", "checkpointing": "layer"},
    "cached, checkpointed": {
        "batch": 2,
        "seq": 33,
        "dtype": "float32",
        "checkpointing": "layer",
        "use_cache": True,
    },
    "cached, reentrant": {
        "batch": 3,
        "seq": 17,
        "dtype": "float32",
        "checkpointing": "layer",
        "use_reentrant": True,
        "use_cache": True,
    },
    "bfloat16": {"batch": 1, "seq": 40, "dtype": "bfloat16"},
    "autocast": {"batch": 2, "seq": 24, "dtype": "float32", "autocast": "bfloat16"},
    "LoRA, beyond the window": {"batch": 2, "seq": 70, "dtype": "float32", "method": LORA},
    "FSDP1": {"batch": 1, "seq": 8, "dtype": "float32", "sharding": {"name": "fsdp1", "world_size": 3}},
    "FSDP1, LoRA, checkpointed": {
        "batch": 2,
        "seq": 8,
        "dtype": "float32",
        "method": LORA,
        "checkpointing": "layer",
        "sharding": {"name": "fsdp1", "world_size": 2, "groups": "transformers"},
    },
}
SHARED = ("4.45", "4.48"), ("gemma2", "gpt2", "gpt_bigcode", "granite", "llama", "mistral")
"""The releases and families of which steps that processes share are measured: checkpoints are around the layers."""
QUANTITIES = ("parameters", "buffers", "saved", "peak_above_resident", "peak_without_matmul_scratch")
TOLERANCE = 64
"""Bytes of the peak. PyTorch's allocator rounds a block up to so many."""


STRUCTURES: dict[str, dict[str, Any]] = yaml.safe_load(
    (recorded_programs.shipped_folder() / "structures.yaml").read_text(encoding="utf-8")
)


def config_of(path: Path) -> dict[str, Any]:
    """A small config of a file's structure, at sizes that are drawn from its name."""
    model_type, word = path.stem.split(".", 1)
    head = load_together(path)[-1]
    raw: dict[str, Any] = {"model_type": model_type}
    if word in models.builtin_names():
        raw = dict(models.load(word).raw)
    else:
        of_class = {
            k: x for k, x in head.structure.items() if k.isidentifier() and isinstance(x, (bool, int, str, list))
        }
        raw |= STRUCTURES.get(path.stem, of_class if path.parent.name in HEADS else {})
    raw = {head.aliases.get(key, key): value for key, value in raw.items()}
    n = random.Random(path.stem).randint
    kv, groups, size = 2 ** n(1, 2), 2 if "G" in head.symbols else 1, 8 * n(2, 4)
    kv = 1 if "K" in head.fixed else kv
    given = [key.rpartition(" = ") for key in head.structure if key.startswith(("hidden_size / ", "head_dim = "))]
    size = next((int(value) for _, _, value in given if value.isdecimal()), size)
    heads, _, kv_key = head.symbols.get("G", head.symbols["K"]).partition(" / ")
    values = {heads: kv * groups, kv_key or heads: kv if kv_key else kv * groups, head.symbols["H"]: kv * groups * size}
    for key in ("num_key_value_heads", "num_kv_heads"):
        if head.structure.get(f"{heads} = {key}"):
            values[key] = kv * groups
    if head.symbols.get("D", "").isidentifier() or any(key.startswith("head_dim = ") for key in head.structure):
        values["head_dim"] = size
    values |= {head.symbols[x]: y for x, y in (("I", 8 * n(9, 40)), ("V", n(100, 400))) if x in head.symbols}
    values |= {key: size // 2 for key in ("rotary_dim",) if key in head.symbols}
    hidden = head.symbols["H"]
    values |= {key: 2 * n(4, 10) for key in ("local_attention", "position_buckets") if key in head.symbols}
    if "mamba_expand" in (*head.symbols, *head.harmless):
        values |= {"mamba_expand": 2, "mamba_n_heads": 2 * kv * groups, "mamba_d_head": size, "mamba_chunk_size": 16}
    if "mrope_section" in head.structure and "R" in head.symbols:  # sections are of that part of a head
        values["head_dim"] = 4 * sum(head.structure["mrope_section"])
        values["rope_parameters"] = {**raw["rope_parameters"], "partial_rotary_factor": 0.5}
    for key, equal in head.structure.items():
        if key.endswith(f" = {hidden}") and key.partition(" = ")[0] not in CONVOLUTIONS:
            values[key.partition(" = ")[0]] = values[hidden] // (1 if equal else 2)
    values |= {key: 2 for key in head.symbols.values() if key.endswith("_global_key_value_heads") and " " not in key}
    fewer = "swa_num_key_value_heads"
    if head.structure.get(f"{fewer} = {heads}") is False:
        values[fewer] = values[heads] // 2
    layers = 10 if "indexer_types" in head.lists else 7  # the last layers share an indexer
    if SHARING in head.structure:  # what a layer does with keys and values follows from all that come after it
        layers = raw[head.layers]
    if (rule := head.lists.get(head.layers)) is not None:
        kinds = "".join(dict.fromkeys(raw[rule["text"]]))
        values[rule["text"]] = (kinds * layers)[:layers]
    else:
        values[head.layers] = layers
    values |= {"pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 1}
    if head.window is not None:
        values[head.window] = 64
    for key in (
        rule["runs"] for rule in head.lists.values() if rule and "runs" in rule and raw.get(rule["runs"]) is not None
    ):
        written_out = [kind for kinds, count in raw[key] for _ in range(count) for kind in kinds]
        values[key] = [[[kind], 1] for kind in written_out[:layers]]
    lists = {key: raw[key][:layers] for key in head.lists if raw.get(key) is not None}
    return {**raw, **values, **lists}


def cases(path: Path) -> dict[str, dict[str, Any]]:
    """The steps that are measured for the programs of a file."""
    programs = load_together(path)
    window = programs[0].window is not None
    autocasts = {autocast for program in programs for one in program.settings for autocast in one["autocast"]}
    checkpoints = programs[0].recorded.get("checkpointing", True)
    steps = {name: step for name, step in STEPS.items() if step.get("autocast") in autocasts}
    steps = {name: step for name, step in steps.items() if checkpoints or "checkpointing" not in step}
    cached = programs[0].recorded.get("caches_in_checkpoints", False)
    steps = {name: step for name, step in steps.items() if cached or "use_cache" not in step}
    shared = path.parent.name in SHARED[0] and path.stem.partition(".")[0] in SHARED[1]
    steps = {name: step for name, step in steps.items() if shared or "sharding" not in step}
    return {name: step for name, step in steps.items() if window or "window" not in name}


def estimated(row: dict[str, Any], folder: Path) -> dict[str, int]:
    """The bytes that are answered for a row's question."""
    config = folder / "config.json"
    config.write_text(json.dumps(row["config"]), encoding="utf-8")
    return dict(estimate(model=str(config), transformers=row["release"], **STEPS[row["step"]]).bytes)


def apart(answer: dict[str, int], row: dict[str, Any]) -> dict[str, int]:
    """What differs from the measurement: parameters, buffers and saved bytes by any byte, the peak by more than 64.

    Where the peak is a 16-bit product, oneDNN's scratch is left out: it depends on the processor.
    """
    found = {key: answer[key] - row["measured"][key] for key in QUANTITIES[:3]}
    peaks = [answer["peak_above_resident"] - row["measured"][key] for key in QUANTITIES[3:]]
    peak = min(peaks, key=abs)
    return {key: n for key, n in (*found.items(), ("peak", peak)) if abs(n) > (TOLERANCE if key == "peak" else 0)}


def record_of(release: str) -> Path:
    """The file of the committed measurements of a release."""
    return DATA / f"measured_under_{release}.json"


def rows(release: str) -> list[dict[str, Any]]:
    """The committed measurements of a release."""
    path = record_of(release)
    return list(json.loads(path.read_text(encoding="utf-8"))["rows"]) if path.is_file() else []


def measure(only: list[str]) -> None:
    """Measure the installed release's steps, by default those of all files of its programs."""
    from estimator.witnesses.machine import versions
    from estimator.witnesses.measure import run_step

    release = installed_release()
    known = {(row["file"], row["step"]): row for row in rows(release)}
    head = {"date": date.today().isoformat(), "versions": versions("torch", "transformers", "peft")}
    with tempfile.TemporaryDirectory() as name:
        for path in recorded_programs.program_files(release=release):
            if only and path.stem not in only:
                continue
            config = config_of(path)
            (Path(name) / "config.json").write_text(json.dumps(config), encoding="utf-8")
            for step, keys in cases(path).items():
                plan = parse_plan({"model": name, "transformers": release, **keys})
                measured = run_step(resolve(plan))
                row = {"release": release, "file": path.stem, "step": step, "config": config}
                row["measured"] = {key: measured[key] for key in QUANTITIES}
                known[path.stem, step] = row
                print(release, path.stem, step, apart(estimated(row, Path(name)), row) or "equal", flush=True)
            lines = ",\n".join(json.dumps(known[key]) for key in sorted(known))
            record_of(release).write_text(f'{json.dumps(head)[:-1]}, "rows": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    measure(sys.argv[1:])
