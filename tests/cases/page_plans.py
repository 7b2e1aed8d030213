"""Plans that the page is asked, in two browsers: ``python -m tests.cases.page_plans`` asks all and writes what came.

The witness is the command line of this machine. Firefox is driven by puppeteer-core, which npm fetches.
"""

from __future__ import annotations

import json
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
from unittest.mock import patch

from estimator.plans.models import builtin_names
from estimator.show.captured import captured
from estimator.show.page import build, serve
from tests.cases.method_examples import EXAMPLES
from tests.cases.random_plans import CHOICES

RECORD = Path(__file__).parents[2] / "docs" / "measured" / "page.json"
BROWSERS = {"chrome": ("chromium",), "firefox": ("firefox-esr", "firefox")}
WIDTHS = (360, 768, 1280)
PUPPETEER = "puppeteer-core@25"


def _plans() -> Iterator[dict[str, Any]]:
    """200 plans at random: of built-in models, with methods, devices and sharding."""
    chance = random.Random(28)
    devices = (None, None, "rtx-4090", "h100-80gb", "apple-48gb")
    for _ in range(200):
        name = chance.choice(builtin_names())
        if chance.random() < 0.2:
            dtype = chance.choice(["q4_k_m", "q8_0"])
            yield {"model": name, "runtime": "llama.cpp", "dtype": dtype, "device": "iphone-15-pro", "seq": 4096}
            continue
        keys = {key: chance.choice(values) for key, values in CHOICES.items() if chance.random() < 0.3}
        method = chance.choice(EXAMPLES[chance.choice(["full", "lora", "lora", "ia3", "vera", "oft", "ln_tuning"])])
        plan = {"model": name, "method": method, "seq": chance.choice([1, 100, 1000, 5000]), **keys}
        if (device := chance.choice(devices)) is not None:
            plan["device"] = device
        if chance.random() < 0.1:
            plan["sharding"] = {"name": chance.choice(["fsdp2", "ddp"]), "world_size": 4}
        yield plan


PLANS = list(_plans())


def on_this_machine(plan: dict[str, Any]) -> dict[str, Any]:
    """What the command line prints for a plan without PyTorch, or its refusal."""
    absent = patch.dict(sys.modules, dict.fromkeys(("torch", "transformers", "peft")))
    with absent:
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
                    "first_answer_ms": found["times"][0],
                    "median_of_others_ms": round(statistics.median(found["times"][1:])),
                }
            server.shutdown()
    RECORD.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
