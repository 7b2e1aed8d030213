"""``estimator explain``: the rows as a table, as JSON, as a page and as a figure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from estimator.answers.estimate import estimate
from estimator.figures.saved_by_module import METHOD_COLOURS
from estimator.text import human
from tests.cases.hostile_input import NAMES
from tests.cases.small_models import TINY
from tests.helpers.commands import ask, output, refusal, run
from tests.helpers.drawings import has_colour

MODEL = "smollm-135m"
LORA = ["--method", "lora", "--r", "4"]


def test_a_table_for_each_kind_of_layer(printed: Callable[..., str]) -> None:
    """Asks the estimate: its saved bytes are the sum that is printed."""
    out = printed("explain", MODEL, *LORA, "--seq", "64", columns=400)
    saved = estimate(MODEL, method={"name": "lora", "r": 4}, seq=64).bytes["saved"]
    assert f"({saved:,} bytes, " in out
    assert "layers 1 to 29 (29 equal layers): " in out
    assert "[batch, num_attention_heads, seq, head_dim] = [1, 9, 64, 64] bfloat16" in out
    assert "bytes each = batch*seq*(" in out
    assert output("explain", MODEL, *LORA, "--seq", "64", "--quiet") == f"{saved:,}\n"


def test_one_kind_of_layer(printed: Callable[..., str]) -> None:
    """``--layer`` leaves the others out."""
    out = printed("explain", MODEL, *LORA, "--layer", "7")
    assert "layers 1 to 29" in out
    assert "LogSoftmaxBackward0" not in out
    assert "layer 0" not in out
    found = ask("explain", MODEL, *LORA, "--layer", "7", "--against", "full", "--json")
    assert [pair["name"] for pair in found["pairs"]] == ["layers 1 to 29"]
    assert all(len(found[one]["parts"]) == 1 for one in ("first", "second"))


def test_two_methods_side_by_side(printed: Callable[..., str]) -> None:
    """What the plan's method drops and adds, in a column for each."""
    out = printed("explain", MODEL, *LORA, "--against", "full", columns=200)
    assert re.search(r"layers 1 to 29 .* bytes per token each; LoRA r=4 drops [\d,]+ and adds [\d,]+", out)
    assert "Saved for backward by full fine-tuning: " in out
    found = ask("explain", MODEL, "--against", "{name: lora, r: 4}", "--json")
    ours, theirs = (found[name]["plan"]["method"]["name"] for name in ("first", "second"))
    assert (ours, theirs) == ("lora", "full")
    for pair in found["pairs"]:
        rows = [sum(row["bytes"] for row in [*pair["both"], *pair[one]]) for one in ("only_first", "only_second")]
        assert rows == pair["bytes"]


def test_json() -> None:
    """Bytes as integers, bytes per token as integers or exact fractions, formulas in the config's names."""
    found = ask("explain", MODEL, "--seq", "60", "--json")
    assert sum(part["bytes"] * part["count"] for part in found["parts"]) == found["saved"]
    inner = next(part for part in found["parts"] if part["count"] == 29)
    assert eval(inner["formula"], {}, found["values"]) == inner["bytes"]
    assert eval(inner["formula_holds_where"].replace("batch >= 2 and ", ""), {}, found["values"])
    amounts = [row["bytes_per_token"] for part in found["parts"] for row in part["rows"]]
    assert all(isinstance(one, int) or re.fullmatch(r"\d+/\d+", one) for one in amounts)


class Page(HTMLParser):
    """A page's tags, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page(tmp_path: Path) -> None:
    """One file that needs neither the network nor a script; its formulas are well-formed MathML."""
    path = tmp_path / "page.html"
    output("explain", MODEL, *LORA, "--against", "full", "--output", path)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert page.addresses
    assert all(address.startswith("#part") for address in page.addresses)
    assert "prefers-color-scheme:dark" in text
    formulas = re.findall(r"<math>.*?</math>", text)
    assert formulas
    names = {mi.text for formula in formulas for mi in ElementTree.fromstring(formula).iter("mi")}
    assert {"batch", "seq", "hidden_size", "intermediate_size", "num_attention_heads", "r"} <= names
    assert "What a step saves for backward: full fine-tuning and LoRA r=4" in page.text
    assert text.count("</strong> by ") == 2
    for section in text.split("<section ")[1:]:
        widths = [float(width) for width in re.findall(r'style="width:([\d.]+)%"', section)]
        assert max(widths) == 100
    for part in ask("explain", MODEL, *LORA, "--json")["parts"]:
        assert all(row["why"] in page.text for row in part["rows"])


@pytest.mark.share(3)
@pytest.mark.parametrize("name", ["<script>alert(1)</script>&amp;", *NAMES], ids=ascii)
def test_names_in_the_page_are_text(name: str, tmp_path: Path) -> None:
    """Asks the contract: a folder's name is escaped, whatever it is."""
    folder = tmp_path / name.replace("/", "∕")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TINY))
    path = tmp_path / "page.html"
    seen = run(["explain", str(folder), "--seq", "8", "--output", str(path)])
    assert (seen.status, seen.err) == (0, "")
    text = path.read_text(encoding="utf-8")
    assert "script" not in Page(text).tags
    assert "</strong> by " not in text  # of the one method there is


@pytest.mark.share(2)
@pytest.mark.parametrize("against", [[], ["--against", "full"]], ids=["one", "two"])
def test_the_figure(against: list[str], tmp_path: Path) -> None:
    """Bars in the colours of the methods."""
    path = tmp_path / "figure.png"
    output("explain", MODEL, *LORA, *against, "--output", path)
    for colour in METHOD_COLOURS[0 if against else 1 :]:
        assert has_colour(path, colour, 5000)


REFUSED = {
    "a layer that is not there": (["--layer", "30"], "'30' is no layer that saves anything; this model's are 0 to 29"),
    "no number": (["--layer", "first"], "'first' is no layer"),
    "no method": (["--against", "lorra"], "lorra"),
    "no block": (["--against", "{name: lora"], "--against: '{name: lora' is not a mapping"),
    "no file": (["--output", "page.txt"], "end it in .png, .pdf, .svg, .html"),
    "nothing saved": (["--task", "infer"], "an explanation does not go with task: infer"),
    "an engine": (["--runtime", "llama.cpp"], "an explanation does not go with runtime: llama.cpp"),
    "the other saves nothing": (["--against", "forward-ad"], "does not go with method: forward-ad"),
}


@pytest.mark.parametrize(("arguments", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(arguments: list[str], says: str) -> None:
    """One line says what is wrong."""
    assert says in refusal("explain", MODEL, *arguments)


def test_what_sharding_takes_and_adds(printed: Callable[..., str], tmp_path: Path) -> None:
    """A table below the rows, also of the page, and a list in the object."""
    arguments = ["explain", MODEL, "--seq", "64", "--sharding", "fsdp2", "--world-size", "4"]
    out = printed(*arguments, columns=120)
    assert "what sharding takes and adds: full fine-tuning" in out
    told = ask(*arguments, "--json")["sharding"]
    peak = next(row for row in told if row["name"] == "peak")
    assert peak["added"] == peak["rank"] - peak["one_process"] < 0
    assert "sharding" not in ask("explain", MODEL, "--seq", "64", "--json")
    output(*arguments, "--output", tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert "What sharding takes and adds: full fine-tuning" in page
    assert f"peak{human(peak['one_process'])}{human(peak['rank'])}-{human(-peak['added'])}" in page
    output("explain", MODEL, "--seq", "64", "--output", tmp_path / "alone.html")
    assert "What sharding" not in (tmp_path / "alone.html").read_text(encoding="utf-8")
