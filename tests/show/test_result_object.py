"""The result object and the table of ``estimate``. The witness is the contract: names, keys, sums and exit status."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.methods.default_targets import PEFT
from estimator.show.cli import main
from estimator.text import dumped
from tests.helpers.commands import answer
from tests.helpers.files import write

MODEL = "smollm-135m"
CONTRACT = {
    *("schema", "model", "task", "bytes", "trainable_parameters", "peak_at", "fits", "budget_bytes", "warnings"),
    "assumptions",
    "asked",
    "runtime",
    "transformers",
}
BYTES = {
    "parameters",
    "adapters",
    "buffers",
    "gradients",
    "optimizer",
    "saved",
    "resident",
    "peak_above_resident",
    "peak",
    "process",
}
LORA = {"name": "lora", "r": 16, "target_modules": ["q_proj", "v_proj"]}


def test_the_result_object_is_the_contracts() -> None:
    """Asks the contract: its keys and no others, of its types."""
    result = answer(MODEL, "--batch", 1, "--seq", 64)
    assert set(result) == CONTRACT
    assert set(result["bytes"]) == BYTES
    assert all(type(size) is int and size >= 0 for size in result["bytes"].values())
    assert result["schema"] == 1
    assert result["model"] == MODEL
    assert result["task"] == "train"
    assert type(result["trainable_parameters"]) is int
    assert isinstance(result["peak_at"], str)
    assert result["peak_at"]
    assert result["fits"] is None
    assert result["budget_bytes"] is None
    assert result["warnings"] == []


def test_the_contracts_own_example() -> None:
    """Asks the contract: the command line that the contract writes out."""
    line = "--method lora --r 16 --target-modules q_proj,v_proj --batch 1 --seq 2048 --budget 8GiB"
    result = answer("llama-3.2-1b", *line.split(), status=1)
    assert result == estimate(model="llama-3.2-1b", method=LORA, batch=1, seq=2048, budget="8GiB").to_dict()
    assert result["fits"] is False
    assert result["budget_bytes"] == 8 * 2**30
    assert 0 < result["bytes"]["adapters"] < result["bytes"]["parameters"]
    # 16 layers; rank 16 between 2048 inputs and 2048 (q) or 512 (v) outputs.
    assert result["trainable_parameters"] == 16 * 16 * ((2048 + 2048) + (2048 + 512))


def test_parts_add_up() -> None:
    """Asks the contract: resident and peak are the sums it says they are."""
    sizes = answer(MODEL, "--method", "lora")["bytes"]
    assert sizes["resident"] == sizes["parameters"] + sizes["buffers"] + sizes["optimizer"]
    assert sizes["peak"] == sizes["resident"] + sizes["peak_above_resident"]


@pytest.mark.parametrize(
    ("method", "release"),
    [
        ({"name": "full"}, None),
        ({"name": "freeze", "top_layers": 1}, None),
        ({"name": "lora"}, PEFT),
        ({"name": "lora-fa"}, PEFT),
        ({"name": "mezo", "adapter": {"name": "lora"}}, PEFT),
        ({"name": "adalora", "total_step": 9}, PEFT),
        ({"name": "adalora", "total_step": 9, "peft_version": "0.19.1"}, "0.20"),
    ],
)
def test_the_release_of_peft(
    method: dict[str, Any], release: str | None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Asks the contract: an answer names the release whose adapters run, and names none where none do."""
    plan = write(tmp_path / "plan.json", {"model": MODEL, "method": method})
    assert main(["estimate", "--plan", str(plan), "--json"]) == 0
    assert json.loads(capsys.readouterr().out).get("peft") == release
    assert main(["estimate", "--plan", str(plan)]) == 0
    assert (f"The adapters are PEFT {release}'s." in " ".join(capsys.readouterr().out.split())) is (release is not None)


@pytest.mark.parametrize(("budget", "status"), [("1TiB", 0), ("100MiB", 1), ("8", 2)])
def test_exit_status(budget: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract: 0 it fits, 1 it does not, 2 the input is wrong."""
    assert main(["estimate", MODEL, "--budget", budget]) == status
    out, err = capsys.readouterr()
    assert ("Fits in" in out, "Does not fit in" in out, err != "") == (status == 0, status == 1, status == 2)


def test_a_device_is_a_budget() -> None:
    """Asks the contract: ``device`` or ``budget``; the device's usable bytes are what must hold the step."""
    from estimator.engines.devices import find

    result = answer(MODEL, "--device", "RTX 4090")
    assert result["budget_bytes"] == find("rtx-4090").usable_bytes
    assert result["fits"] is True
    assert answer("llama-3-70b", "--device", "rtx-4090", status=1)["fits"] is False


def test_the_table_has_units_and_bars(capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract: sizes shown to people carry binary units; bytes stand beside them."""
    assert main(["estimate", MODEL, "--method", "lora", "--r", "4", "--budget", "100GiB"]) == 0
    out = capsys.readouterr().out
    result = estimate(model=MODEL, method={"name": "lora", "r": 4}, budget="100GiB")
    for size in result.bytes.values():
        assert f"{size:,}" in out
    assert "GiB" in out
    assert "MiB" in out
    assert "█" in out
    assert result.peak_at in out
    assert f"{result.trainable_parameters:,}" in out
    assert f"{MODEL}, lora r=4, batch 1, seq 2048" in out
    assert "Fits in 100.00 GiB" in out
    assert "\x1b" not in out


def test_a_notebook_sees_an_edited_config(tmp_path: Path) -> None:
    """Asks the contract: a local config.json is read anew for every plan of a long-lived process."""
    from estimator.plans.models import load

    config = dict(load(MODEL).raw)
    file = write(tmp_path / "config.json", config)
    before = estimate(model=str(file)).bytes["parameters"]
    write(file, {**config, "num_hidden_layers": 2})
    assert estimate(model=str(file)).bytes["parameters"] < before


def test_results_render_in_notebooks() -> None:
    """Witness: the contract. A result is an HTML table with units, and says whether it fits."""
    html = estimate(model="llama-3.2-1b", method="ia3", budget="4GiB")._repr_html_()
    assert html.startswith("<table>")
    assert "GiB" in html
    assert "Does not fit" in html
    assert "loss backward" in html


def test_json_that_every_reader_takes() -> None:
    """Witness: a strict encoding of what Python reads back; whole pairs stay."""
    rng = random.Random(1)
    for _ in range(3000):
        value = "".join(rng.choices(["\\", "\ud800", "\udc80", "u", "d8", '"', "\U0001f600", "é"], k=rng.randrange(8)))
        paired = json.loads(json.dumps(value))
        back = json.loads(dumped({value: value}))
        shown = "".join(ascii(c)[1:-1] if "\ud800" <= c <= "\udfff" else c for c in paired)
        assert back == {shown: shown}
        shown.encode()


def test_numbers_that_json_has_not_are_null() -> None:
    """Asks the contract: what is printed is valid JSON."""
    value: Any = {"a": [float("nan"), (float("-inf"), 1.5)], "b": {"c": float("inf"), "d": "NaN"}}
    read = json.loads(dumped(value), parse_constant=pytest.fail)
    assert read == {"a": [None, [None, 1.5]], "b": {"c": None, "d": "NaN"}}
