"""``estimator devices`` and ``estimator models``: what they list and how they filter."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from estimator.engines.devices import MIB, catalogue, context_bytes, find
from estimator.show.cli import main
from tests.helpers.commands import output


def test_devices():
    text = output("devices")
    for word in ("rtx-4090", "raspberry-pi-5-8gb", "iphone-15-pro", "GiB", "usable", "assumed"):
        assert word in text
    assert "iphone" not in output("devices", "RTX")
    assert "no device matches" in output("devices", "abacus")
    found = json.loads(output("devices", "--json"))
    assert len(found) == len(catalogue())
    for device in found:
        assert device["source"]
        assert device["confidence"]
        assert device["name"] == device["name"].lower().replace(" ", "-")
        assert 0 < device["usable_bytes"] < device["total_bytes"]


def test_models():
    start = time.process_time()
    text = output("models")
    assert time.process_time() - start < 2  # half a second on a machine of 2026
    for word in ("llama-3.2-1b", "1,235,814,400", "meta-llama/Llama-3.2-1B", "KV heads", "128,256"):
        assert word in text
    assert "llama-3.2-1b" not in output("models", "qwen3")
    assert "no built-in model matches" in output("models", "abacus")
    found = json.loads(output("models", "llama-3.2-1b", "--json"))
    assert found[0]["layers"] == 16
    assert found[0]["tied"] is True
    assert found[0]["source"].startswith("https://")
    assert "vllm" in found[0]["runtimes"]
    encoder, *_ = json.loads(output("models", "bert-base", "--json"))
    assert encoder["runtimes"] == "torch-cpu, torch-cuda"


def listed(capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, Any]]:
    """What ``estimator devices --json`` prints."""
    assert main(["devices", *options, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_command_filters(capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the catalogue: the options keep what they say, least memory first, and work together."""
    everything = listed(capsys)
    assert len(everything) == len(catalogue())
    sizes = [one["usable_bytes"] for one in everything]
    assert sizes == sorted(sizes)
    assert {one["kind"] for one in listed(capsys, "--kind", "GPU, laptop")} == {"GPU, laptop"}
    some = listed(capsys, "--kind", "GPU", "--min-memory", "20GiB", "--max-memory", "40 GiB", "--capability", "8.0")
    names = {one["name"] for one in some}
    assert {"rtx-4090", "rtx-5090", "a100-40gb", "l4"} <= names
    assert not names & {"rtx-4080", "a100-80gb", "v100-32gb", "rx-7900-xtx", "apple-32gb"}
    assert {one["name"] for one in listed(capsys, "rtx-509")} == {"rtx-5090", "rtx-5090-laptop"}
    size = f"{sizes[len(sizes) // 2]}B"
    assert {one["usable_bytes"] for one in listed(capsys, "--min-memory", size, "--max-memory", size)} == {
        int(size[:-1])
    }


def test_command_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract: everything known of a device, the context with the device it was taken from."""
    card, *_ = listed(capsys, "a100-40gb")
    assert card["capability"] == [8, 0]
    assert card["usable_bytes"] < card["total_bytes"] == 40960 * MIB
    assert (card["context_bytes"], card["context_source"]) == context_bytes(find("a100-40gb"))
    assert all((card["source"], card["confidence"]))
    assert card["kind"] == "GPU, data centre"
    phone, *_ = listed(capsys, "pixel-8")
    assert phone["capability"] is phone["context_bytes"] is None


def test_command_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the table: names, kinds, capabilities and sizes, and a line where nothing is left."""
    assert main(["devices", "4090"]) == 0
    text = capsys.readouterr().out
    for word in ("2 devices", "rtx-4090", "rtx-4090-laptop", "8.9", "23.99", "23.51", "usable (GiB)"):
        assert word in text
    assert main(["devices", "--min-memory", "9TiB"]) == 0
    assert "no device matches these options" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--capability", "ampere"], "no compute capability; write it like 8.0"),
        (["--min-memory", "24"], "24GiB"),
        (["--kind", "toaster"], "GPU, laptop"),
    ],
)
def test_command_wrong_options(capsys: pytest.CaptureFixture[str], options: list[str], words: str) -> None:
    """Asks the contract for wrong input: status 2 and one line on standard error."""
    assert main(["devices", *options]) == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert "\n" not in error


@pytest.mark.share(2)
@pytest.mark.parametrize("command", [["models"], ["devices"], ["record", "--list"]])
def test_a_list_fits_a_terminal_and_is_whole_in_a_pipe(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 80 x 24: how many there are of each family or kind, unless a text or --all asks for them."""
    piped = output(*command)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setattr("estimator.show.commands.tables.sys.stdout.isatty", lambda: True, raising=False)

    def on_terminal(*more: str) -> list[str]:
        assert main([*command, *more]) == 0
        return capsys.readouterr().out.splitlines()

    short = on_terminal()
    assert len(short) <= 22
    assert any("; " in line and line.count("(") > 2 for line in short)
    if command == ["devices"]:
        makers = on_terminal("android")
        assert len(makers) <= 22
        assert "Samsung (" in " ".join(makers)
    assert len(on_terminal("--all")) > 150 < len(piped.splitlines())
    if command != ["devices"]:
        found = on_terminal("qwen3-4b" if command == ["models"] else "qwen2_moe")
        assert 3 < len(found) <= 22
