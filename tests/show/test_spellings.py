"""Names of options: in the singular one value of the plan, in the plural a list; what was said before is accepted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from estimator.show.cli import main
from estimator.show.topics import COMMANDS
from tests.helpers.commands import output

MODEL = "smollm2-135m"
SAME: dict[str, tuple[list[str], list[str]]] = {
    "one of each": (
        ["compare", MODEL, "--method", "ia3", "--seq", "64", "--device", "t4"],
        ["compare", MODEL, "--methods", "ia3", "--seqs", "64", "--devices", "t4"],
    ),
    "requests": (
        ["serving", MODEL, "--device", "a100-80gb", "--contexts", "512,64"],
        ["serving", MODEL, "--device", "a100-80gb", "--seqs", "512,64"],
    ),
    "one request": (
        ["serving", MODEL, "--device", "a100-80gb", "--seq", "512"],
        ["serving", MODEL, "--device", "a100-80gb", "--seqs", "512"],
    ),
    "a recipe": (
        ["max-context", "qwen3-0.6b", "--budget", "2GiB", "--dtype", "q8_0", "--cache", "q8_0"],
        ["max-context", "qwen3-0.6b", "--budget", "2GiB", "--dtypes", "q8_0", "--caches", "q8_0"],
    ),
    "the plan's cache": (
        ["max-context", "qwen3-0.6b", "--budget", "2GiB", "--type-k", "q8_0", "--type-v", "q4_0"],
        ["max-context", "qwen3-0.6b", "--budget", "2GiB", "--caches", "q8_0/q4_0"],
    ),
}


@pytest.mark.share(2)
@pytest.mark.parametrize("name", SAME)
def test_spellings_ask_the_same(name: str) -> None:
    """The other spelling has no line in the help."""
    other, shown = SAME[name]
    assert output(*other) == output(*shown)


def test_spellings_of_a_table(tmp_path: Path) -> None:
    """Where every key takes a list under its own name."""
    tables = []
    for plural in ("", "s"):
        tables.append(tmp_path / f"table{plural}.csv")
        lists = {"method": "full,lora", "seq": "8,16", "dtype": "bf16,fp32", "device": "t4,rtx-4090"}
        options = [word for key, text in lists.items() for word in (f"--{key}{plural}", text)]
        assert main(["sweep", MODEL, *options, "--r", "4", "--only", "peak", "--output", str(tables[-1])]) == 0
    assert tables[0].read_text() == tables[1].read_text()


@pytest.mark.parametrize(("command", "option"), [("serving", "--device"), ("export", "--to")])
def test_an_option_that_must_be_given_is_named(command: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, MODEL]) == 2
    assert f"the following arguments are required: {option}; see" in capsys.readouterr().err


def test_help_shows_one_spelling() -> None:
    for command, hidden in (("serving", "--contexts"), ("compare", "--device "), ("sweep", "--seqs")):
        assert hidden not in output(command, "--help-all")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_list_has_a_plural_name(command: str) -> None:
    """Of what a plan has keys for; keys of methods and vLLM's are their own."""
    text = output(command, "--help-all")
    for name in ("seq", "method", "dtype", "device", "cache"):
        assert f"--{name} LIST" not in text
        assert f"--{name}s {name.upper()}" not in text


def test_candidates(capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["smallest-device", MODEL, "--method", "lora", "--seq", "64"]
    assert output(*ask, "--devices", "rtx-4090,t4", "--quiet") == "t4\n"
    for wrong, line in (
        (["--device", "t4"], "or name candidates with --devices"),
        (["--devices", ","], "--devices is an empty list"),
    ):
        assert main([*ask, *wrong]) == 2
        assert line in capsys.readouterr().err


@pytest.mark.parametrize(("requests", "status"), [(0.99, 1), (1, 0)])
def test_one_request_is_enough(requests: float, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks the contract: 1 where no request of the shortest length fits."""
    answer = SimpleNamespace(contexts=[SimpleNamespace(requests=requests)], to_dict=dict, fits=True, unknown=())
    monkeypatch.setattr("estimator.show.commands.serving.serving", lambda *_: answer)
    assert output("serving", MODEL, "--device", "t4", "--json", status=status) == "{}\n"
