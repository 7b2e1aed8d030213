"""What is printed for people: the numbers that ``--json`` gives, in lines no wider than the terminal."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from estimator.engines.devices import catalogue
from estimator.plans.models import builtin_names
from estimator.show.commands import tables
from estimator.show.commands.tables import Table, table, wrapped
from estimator.show.topics import COMMANDS
from tests.cases.small_models import TINY

MODEL = "smollm-135m"


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d[\d,]*", text))


GPU = ["--device", "rtx-4060"]
LONG = ["--method", "lora", "--autocast", "bfloat16", "--checkpointing", "every-2", "--loss", "chunked"]
PROSE: dict[str, tuple[list[str], int]] = {
    "estimate": (["estimate", "llama-3.2-1b", *LONG, *GPU], 0),
    "estimate-engine": (["estimate", "deepseek-r1-distill-llama-70b", "--runtime", "llama.cpp"], 0),
    "estimate-lengths": (["estimate", MODEL, "--lengths", "{histogram: {64: 9, 700: 1}}", "--budget", "2GiB"], 1),
    "check": (["check", "trl sft --model_name_or_path Qwen/Qwen3-0.6B --use_peft --load_in_4bit", "--all", *GPU], 0),
    "compare": (
        ["compare", MODEL, "--methods", "full,lora,ia3", "--seqs", "64,128", "--devices", "rtx-4090,iphone-15"],
        0,
    ),
    "advise": (["advise", MODEL, "--method", "lora", "--budget", "2GiB"], 0),
    "timeline": (["timeline", MODEL, "--seq", "64", *GPU], 0),
    "explain": (["explain", MODEL, "--method", "lora", "--against", "full"], 0),
    "max-context": (["max-context", "qwen3-0.6b,gemma-3-270m", "--caches", "f16,q8_0/f16", "--budget", "2GiB"], 0),
    "max-gpu-layers": (["max-gpu-layers", "llama-3.3-70b", "--devices", "rtx-3090,rtx-3060", "--n-ctx", "8192"], 0),
    "largest-quant": (["largest-quant", "qwen2.5-32b", "--devices", "rtx-3090,rtx-3060", "--n-ctx", "8192"], 0),
    "serving": (["serving", "deepseek-r1-distill-qwen-7b", "--device", "a100-80gb"], 0),
    "max-seq": (["max-seq", MODEL, "--method", "lora", "--budget", "2GiB"], 0),
    "max-rank": (["max-rank", MODEL, "--method", "lora", "--seq", "8", "--budget", "1MiB"], 1),
    "smallest-device": (["smallest-device", MODEL, "--method", "lora", "--kind", "laptop"], 0),
    "smallest-cluster": (["smallest-cluster", MODEL, "--seq", "64", "--devices", "rtx-4090,apple-96gb"], 0),
    "models": (["models"], 0),
    "devices": (["devices"], 0),
    "no models": (["models", "no-such-model-has-a-name-as-long-as-this-one-here"], 0),
    "overview": (["--help"], 0),
}


@pytest.mark.share(24)
@pytest.mark.parametrize("name", PROSE)
def test_no_line_is_wider_than_the_terminal(name: str, printed: Callable[..., str]) -> None:
    """Every command that prints for people; its numbers and names are those of a terminal without end, whole."""
    arguments, status = PROSE[name]
    wide, *narrow = (printed(*arguments, columns=n, status=status) for n in (1000, 120, 80, 60))
    for out in narrow:
        assert numbers(wide) <= numbers(out)
        if name in ("models", "devices"):
            for one in builtin_names() if name == "models" else [device.name for device in catalogue()]:
                assert one in out.split()


def test_the_commands_are_all_asked() -> None:
    """The list above is complete but for what runs PyTorch, needs a recorded file, or prints no prose."""
    asked = {arguments[0] for arguments, _ in PROSE.values()}
    others = {"max-batch", "formula", "export", "sweep", "validate", "measure", "completion", "record", "page", "mcp"}
    others |= {"max-target-seq", "max-images", "max-image-size"}  # of models that no program is shipped for
    assert set(COMMANDS) - asked == {*others, "compare-snapshot", "report"}


def test_the_width_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 columns where output is piped and COLUMNS not set."""
    monkeypatch.delenv("COLUMNS")
    done = subprocess.run([sys.executable, "-m", "estimator", "models", "llama"], capture_output=True, text=True)
    assert done.returncode == 0
    assert 70 < max(map(len, done.stdout.splitlines())) <= 80


def test_text_breaks_between_words() -> None:
    """Sentences break at spaces, not between a number and its unit; an address stands alone and whole."""
    address = "https://huggingface.co/meta-llama/Llama-3.1-8B/blob/main/config.json"
    text = f"It needs 16.00 GiB; see ({address}), which says more."
    assert wrapped(text, 12) == ["It needs", "16.00 GiB;", "see", address, "which says", "more."]
    assert wrapped(f"see {address}.", 80) == ["see", address]
    assert wrapped(f"(see {address})", 80) == ["(see", address, ")"]
    assert wrapped("lmkd (source.android.com/docs/core/perf/lmkd) kills", 20) == [
        "lmkd",
        "source.android.com/docs/core/perf/lmkd",
        "kills",
    ]
    assert wrapped("  two words", 6) == ["  two", "  word", "  s"]
    assert "".join(wrapped("a/path/of/one-long-word", 9)) == "a/path/of/one-long-word"
    assert wrapped("", 10) == []


def test_a_table_splits_into_columns_and_repeats_its_keys() -> None:
    """Numbers stay whole, names too where there is room, and every row is found again in each part."""
    rows = [["a-long-name", "1,234,567,890", "9,876,543,210", "some words to wrap in here"]]
    one: Table = table(("name", "first", "second number", "words"), rows, left=(0, 3))
    for width in (30, 40, 60, 80):
        lines = one.lines(width)
        assert max(map(len, lines)) <= width
        text = "\n".join(lines)
        parts = [part.split("\n") for part in text.split("\n\n")]
        assert all("name" in part[-3] + part[0] and "a-long-name" in "".join(part) for part in parts)
        assert "1,234,567,890" in text
        assert "9,876,543,210" in text
    assert table(("name", "bar"), [["x" * 20, "#" * 20]], left=(0, 1), optional=(1,)).lines(30)[-1] == "x" * 20


def test_an_address_in_a_table_stands_below_its_row() -> None:
    """Whole, and the columns keep their places."""
    address = "example.org/a/path/that/is/longer/than/the/column/that/it/is/in"
    lines = table(("name", "source"), [["one", f"as in ({address}); more"], ["two", "x"]], left=(0, 1)).lines(40)
    assert lines[2:] == ["one   as in", "      more", address, "two   x"]


def test_wide_characters_count_twice() -> None:
    """A terminal gives an ideograph two columns."""
    assert wrapped("模型模型", 4) == ["模型", "模型"]


def test_what_would_steer_a_terminal_is_shown(tmp_path: Path, printed: Callable[..., str]) -> None:
    """A folder's name with an escape sequence and markup is printed as text."""
    folder = tmp_path / "a\x1b[31m[bold]b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY))
    out = printed("estimate", str(folder), "--seq", "8", columns=500)
    assert r"a\x1b[31m[bold]b" in out
    assert "\x1b" not in out


QUIET: dict[str, str] = {
    "estimate": r"(Fits|Does not fit) in [^\n]+(\n[^\n]+)?",
    "compare": r"(full fine-tuning|LoRA r=8|IA3)( on rtx-4090| on iphone-15)?: [^\n]+(\n[^\n]+){8}",
    "advise": r"[^\n]+: [^\n]+",
    "timeline": r"Allocated peak [^\n]+",
    "max-context": r"(qwen3|gemma-3)[^\n]+: [\d,]+(\n[^\n]+: [\d,]+){3}",
    "max-gpu-layers": r"\d+",
    "largest-quant": r"Q\d_\w+",
    "serving": r"2,048 tokens: [\d,]+(\n[^\n]+){3}",
    "max-seq": r"\d+",
    "max-rank": r"none",
    "smallest-device": r"[a-z0-9-]+",
    "smallest-cluster": r"[a-z0-9-]+",
    "models": r"[a-z0-9.-]+(\n[a-z0-9.-]+){100,}",
    "devices": r"[a-z0-9.-]+(\n[a-z0-9.-]+){200,}",
}


@pytest.mark.share(3)
@pytest.mark.parametrize("name", QUIET)
def test_quiet_prints_the_answer_alone(name: str, printed: Callable[..., str]) -> None:
    """No table, no notes; without a budget an estimate is its process."""
    arguments, status = PROSE[name]
    assert re.fullmatch(QUIET[name] + "\n", printed(*arguments, "--quiet", status=status))
    if name == "estimate":
        assert re.fullmatch(r"\d+\.\d\d [GM]iB\n", printed("estimate", MODEL, "--quiet"))


def test_assumptions_are_part_of_the_whole_answer_alone(printed: Callable[..., str]) -> None:
    """Beside the verdict of a phone, whose limit nobody published: in sentences and in JSON, but not with --quiet."""
    ask = ("estimate", "qwen3-0.6b", "--dtype", "q4_0", "--n-ctx", "256", "--device", "pixel-8")
    assert "Assumed limit of one application" in printed(*ask)
    assert json.loads(printed(*ask, "--json", columns=3000))["assumptions"]
    assert re.fullmatch(r"Fits in [^\n]+(\n[^\n]+)?\n", printed(*ask, "--quiet"))


def test_a_terminal_shows_the_verdict_in_colour(monkeypatch: pytest.MonkeyPatch, printed: Callable[..., str]) -> None:
    """Where there are colours, and none were switched off."""
    monkeypatch.setattr(tables.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1;32mFits" in printed("estimate", MODEL, "--budget", "99GiB", columns=300)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in printed("estimate", MODEL, "--budget", "99GiB")


def test_what_is_just_as_wide_as_the_terminal_is_left_as_it_is() -> None:
    """By hand: with its spaces, and one column less."""
    line = "  as wide  as the terminal is"
    assert wrapped(line, len(line)) == [line]
    assert wrapped(line, len(line) - 2) == ["  as wide as the terminal", "  is"]


def test_a_table_is_split_where_its_numbers_are_wider_than_the_terminal() -> None:
    """By hand: three columns of four, and two between each."""
    rows = Table(["name", "1111", "2222"], [["a", "1", "2"]])
    assert rows.lines(16) == ["name  1111  2222", "────  ────  ────", "a        1     2"]
    assert rows.lines(15) == ["name  1111", "────  ────", "a        1", "", "name  2222", "────  ────", "a        2"]


def test_a_table_that_is_one_column_too_wide_shrinks() -> None:
    """By hand: 32 columns of text, two between, and one of numbers."""
    rows = Table(["text", "n"], [["one two three four five six seven", "1"]])
    assert max(map(len, rows.lines(36))) == 36
    assert len(rows.lines(36)) + 1 == len(rows.lines(35))
    assert max(map(len, rows.lines(35))) <= 35


@pytest.mark.parametrize("character", ["x", "中", "e\u0301", "x-"])
def test_a_very_long_word_takes_time_by_its_length(character: str) -> None:
    """No line is wider than the terminal, nothing of the word is lost, and its length does not count twice."""
    word = character * 100_000
    start = time.process_time()
    lines = wrapped(word, 80)
    assert time.process_time() - start < 2
    assert "".join(lines) == word
    assert max(map(tables._columns, lines)) <= 80
