"""Plans that the page is asked, in two browsers: ``python -m tests.cases.page_plans`` asks all and writes what came.

The witness is the command line of this machine. Firefox is driven by puppeteer-core, which npm fetches.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from estimator.plans.models import builtin_names
from estimator.show.captured import captured
from estimator.show.page import build, serve
from tests.cases.method_examples import EXAMPLES
from tests.cases.random_plans import CHOICES

RECORD = Path(__file__).parents[2] / "docs" / "measured" / "page.json"
BROWSERS = {"chrome": ("chromium",), "firefox": ("firefox-esr", "firefox")}
WIDTHS = (360, 768, 1280)
PUPPETEER = "puppeteer-core@25"


BESIDE: dict[str, tuple[dict[str, Any], ...]] = {
    "llama.cpp": tuple(
        {"runtime": "llama.cpp", "dtype": dtype, "seq": 4096, **where}
        for dtype in ("q4_k_m", "q8_0")
        for where in (
            {"device": "iphone-15-pro"},
            {"device": "galaxy-s24", "llama_cpp": {"type_k": "q8_0", "type_v": "q8_0"}},
            {"devices": ["rtx-3090", "rtx-3060"], "llama_cpp": {"tensor_split": [2, 1], "split_mode": "layer"}},
            {"device": "rtx-4090", "llama_cpp": {"n_gpu_layers": 12}},
        )
    ),
    "engines": (
        {"runtime": "vllm", "task": "serve", "device": "h100-80gb", "vllm": {"max_model_len": 4096}},
        {"runtime": "vllm", "task": "serve", "device": "h100-80gb", "vllm": {"tensor_parallel_size": 4}},
        {"runtime": "mlx", "method": "lora", "dtype": "mlx-4bit", "device": "apple-48gb", "mlx": {"num_layers": -1}},
        {"runtime": "mlx", "task": "infer", "device": "apple-m4-max-64gb"},
        {"runtime": "executorch", "task": "infer", "device": "pixel-8", "executorch": {"max_seq_length": 512}},
    ),
    "trainers": (
        *({"trainer": f"trl-{name}", "method": "lora"} for name in ("dpo", "kto", "reward", "orpo", "cpo")),
        {"trainer": "trl-dpo", "reference": "copy", "batch": 2},
        *({"trainer": f"trl-{name}", "batch": 8, "prompt_seq": 128, "seq": 512} for name in ("grpo", "rloo")),
        *({"trainer": name} for name in ("trl-sft", "hf-trainer", "axolotl", "llama-factory", "torchtune")),
    ),
    "heads": (
        {"head": "sequence-classification", "method": "lora"},
        {"head": "token-classification"},
        {"images": 2, "image_size": "640x480"},
        {"freeze": ["vision"], "images": 1},
        {"target_seq": 64},
    ),
    "sharding": tuple(
        {"sharding": block, "device": "h100-80gb"}
        for block in (
            *({"name": name, "world_size": 4} for name in ("ddp", "fsdp1", "fsdp2", "zero1", "zero2", "zero3")),
            {"name": "hsdp", "world_size": 8, "replicate": 2},
            {"name": "fsdp2", "world_size": 4, "cpu_offload": True},
            {"tp": 2},
        )
    ),
}
"""What random plans have beside a model, by subject."""


def _plans() -> Iterator[dict[str, Any]]:
    """200 plans at random, half of them of the subjects in ``BESIDE``."""
    chance = random.Random(28)
    devices = (None, None, "rtx-4090", "h100-80gb", "apple-48gb")
    for number in range(200):
        plan: dict[str, Any] = {"model": chance.choice(builtin_names())}
        if number % 2:
            yield plan | chance.choice(BESIDE[chance.choice(list(BESIDE))])
            continue
        keys = {key: chance.choice(values) for key, values in CHOICES.items() if chance.random() < 0.3}
        method = chance.choice(EXAMPLES[chance.choice(["full", "lora", "lora", "ia3", "vera", "oft", "ln_tuning"])])
        plan |= {"method": method, "seq": chance.choice([1, 100, 1000, 5000]), **keys}
        if (device := chance.choice(devices)) is not None:
            plan["device"] = device
        yield plan


PLANS = list(_plans())


def on_this_machine(plan: dict[str, Any]) -> dict[str, Any]:
    """What the command line prints for a plan without PyTorch, or its refusal."""
    with pytest.MonkeyPatch.context() as patch:  # which leaves the modules that are imported meanwhile
        for name in ("torch", "transformers", "peft"):
            patch.setitem(sys.modules, name, None)
        printed = captured(["estimate", "--json"], json.dumps(plan))
    return json.loads(printed.output) if printed.status < 2 else {"error": printed.error}


def _asked(browser: str, address: str, folder: Path) -> dict[str, Any]:
    """The version of a browser, its answers, and the milliseconds that each took, the first from a cold cache."""
    program = next(filter(None, map(shutil.which, BROWSERS[browser])))
    script = Path(__file__).with_name("page_plans.mjs")
    shutil.copy(script, folder)
    (folder / "plans.json").write_text(json.dumps(PLANS))
    command = ["node", script.name, browser, str(program), address, "plans.json", json.dumps(WIDTHS)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Ask all plans in both browsers, and write how many answers are equal."""
    here = [on_this_machine(plan) for plan in PLANS]
    record: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "estimator": version("llm-memory-estimator"),
        "plans": len(PLANS),
        "refused": sum("error" in one for one in here),
        "other_processes_waiting": round(os.getloadavg()[0]),  # times are long where there are more than cores
        "browsers": {},
    }
    with tempfile.TemporaryDirectory() as name:
        site, folder = Path(name) / "site", Path(name) / "driver"
        build.write(site)
        record["compressed"] = build.compressed(site)
        folder.mkdir()
        subprocess.run(["npm", "install", "--no-save", "--silent", PUPPETEER], cwd=folder, check=True)
        with serve.server(site) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            for browser in BROWSERS:
                found = _asked(browser, f"http://127.0.0.1:{server.server_port}/", folder)
                pairs = zip(found["answers"], here, strict=True)
                apart = [i for i, (one, other) in enumerate(pairs) if one != other]
                record["browsers"][found["version"]] = {
                    "equal": len(PLANS) - len(apart),
                    "apart": [PLANS[i] for i in apart],
                    "asked_of_other_hosts": len(found["elsewhere"]),
                    "first_answer_ms": found["times"][0],
                    "median_of_others_ms": round(statistics.median(found["times"][1:])),
                }
            server.shutdown()
    RECORD.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
