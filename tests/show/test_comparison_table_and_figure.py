"""``estimator compare``: its table, its figure, and what is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from estimator.answers.comparison import compare, label
from estimator.answers.estimate import estimate
from estimator.figures.labels import spread
from estimator.show.cli import main
from estimator.show.commands.compare import _notes
from estimator.text import few_digits
from tests.helpers.commands import output, refusal
from tests.helpers.drawings import pixels

MODEL = "smollm2-135m"
LORA = {"name": "lora", "r": 16, "target_modules": ["q_proj", "v_proj"]}


def test_table_has_units_methods_and_lengths():
    text = output("compare", MODEL, "--seqs", "256,512", "--at", "384", "--devices", "rtx-4090")
    for word in (
        "GiB",
        "bytes",
        "tokens",
        "256",
        "512",
        "At 384",
        "full fine-tuning",
        "LoRA r=8",
        "IA3",
        "rtx-4090",
        "%",
    ):
        assert word in text
    assert "loss backward" in text
    assert "to 512 tokens" in text


@pytest.mark.parametrize(
    ("seqs", "at"), [("64,128", 128), ("1024,4096", 2048), ("128,2048", 2048), ("2049,2050", 2050)]
)
def test_methods_are_broken_down_at_a_length_that_was_asked(seqs, at):
    assert f"At {at} tokens" in output("compare", MODEL, "--seqs", seqs, "--methods", "full")


@pytest.mark.parametrize(
    ("methods", "heading"),
    [
        ("lora,full", "LoRA r=8 trains"),
        ("full,mezo", "Memory of full fine-tuning, MeZO: "),
        ("ia3,lora", "Adapters train"),
    ],
)
def test_a_figure_s_heading_names_the_methods_that_it_is_about(tmp_path, methods, heading):
    path = tmp_path / "figure.svg"
    output("compare", MODEL, "--seqs", "64,128", "--methods", methods, "--output", str(path))
    assert heading in path.read_text(encoding="utf-8")


@pytest.mark.share(4)
@pytest.mark.parametrize("suffix", [".svg", ".pdf"])
def test_figure_is_written(tmp_path, suffix):
    path = tmp_path / f"figure{suffix}"
    text = output("compare", MODEL, "--seqs", "256,512", "--devices", "rtx-4090", "--output", str(path))
    assert str(path) in text
    assert path.stat().st_size > 5000
    if suffix == ".svg":
        drawn = path.read_text(encoding="utf-8")
        for word in ("(GiB", "tokens", MODEL, "bfloat16", "LoRA r=8", "IA3", "rtx-4090", "saved activations"):
            assert word in drawn


@pytest.mark.share(6)
def test_figure_is_not_blank(tmp_path):
    path = tmp_path / "figure.png"
    output("compare", MODEL, "--seqs", "256,512,1024", "--output", str(path))
    drawn = pixels(path)
    height, width, _ = drawn.shape
    assert width >= 1600
    assert height >= 800
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 200
    dark = drawn.min(axis=2) < 200
    for part in (dark[: height // 5], dark[:, : width // 2], dark[:, width // 2 :]):  # heading, curves, bars
        assert part.mean() > 0.01


def test_figure_of_one_method_at_one_length(tmp_path):
    for method in ("full", "ia3"):
        path = tmp_path / f"{method}.png"
        output("compare", MODEL, "--seqs", "64", "--at", "64", "--methods", method, "--output", str(path))
        assert path.stat().st_size > 5000


def test_thesis_figure(tmp_path):
    from estimator.figures.canvas import save
    from estimator.figures.shares_of_full import thesis_figure

    rows = {MODEL: compare({"model": MODEL}, [LORA, {"name": "ia3"}], [64, 256], 64).rows}
    save(thesis_figure(rows, (64, 256), "batch 1"), tmp_path / "thesis.png")
    assert (tmp_path / "thesis.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--devices", "rtx-409"], ["rtx-409", "did you mean rtx-4090", "--budget"]),
        (["--devices", ","], ["empty list", "--devices rtx-4090"]),
        (["--methods", "full,lorra"], ["lorra", "did you mean lora"]),
        (["--methods", ","], ["empty list", "--methods full"]),
        (["--methods", "[full"], ["not a YAML list"]),
        (["--methods", "[3]"], ["'3' is unknown"]),
        (["--methods", "[]"], ["empty list"]),
        (["--methods", "[{name: lora, rank: 3}]"], ["unknown key 'method.rank'"]),
        (["--methods", "full,full"], ["listed twice"]),
        (["--methods", "missing.json"], ["missing.json"]),
        (["--methods", "full", "--r", "4"], ["none of the methods", "--r"]),
        (["--r", "many"], ["method.r", "many"]),
        (["--seqs", "512,long"], ["'long' is not a whole number", "--seqs 512"]),
        (["--seqs", ""], ["empty list"]),
        (["--seqs", ",".join(map(str, range(1, 20_001)))], ["has 20,000 lengths; give 500 at most", "sweep"]),
        (["--seqs", "0"], ["0 is not between 1"]),
        (["--at", "2k"], ["'2k' is not a whole number"]),
        (["--budget", "24"], ["24GiB"]),
        (["--output", "figure.gif"], ["figure.gif", ".png"]),
        (["--output", "no/such/folder/figure.png"], ["cannot write", "no/such/folder"]),
        (["--batch", "0"], ["batch"]),
    ],
)
def test_wrong_input_is_one_line(arguments, words):
    line = refusal("compare", MODEL, *arguments)
    for word in words:
        assert word in line


def test_output_that_cannot_be_written(tmp_path):
    folder = tmp_path / "figure.png"
    folder.mkdir()
    assert "cannot write" in refusal("compare", MODEL, "--seqs", "64", "--output", str(folder))


def test_labels_are_short():
    assert label({"name": "full"}) == "full fine-tuning"
    assert label(LORA) == "LoRA r=16 (q_proj, v_proj)"
    assert label({"name": "lora", "bias": "all"}) == "LoRA r=8 bias=all"
    assert [few_digits(value) for value in (0.00851, 0.138, 1, 9.96, 88.4)] == ["0.0085", "0.14", "1.0", "10", "88"]


def test_spread_keeps_order_and_distance():
    moved = spread([0.1, 0.5, 0.51, 0.52, 0.9], 0.05)
    assert moved == pytest.approx([0.1, 0.46, 0.51, 0.56, 0.9])
    assert spread([0.5], 0.1) == [0.5]


def test_no_row_under_a_devices_line_does_not_fit(capsys):
    """Table, curve and the device's line are of the process, on a GPU as on a CPU."""
    seqs = "512,2048,8192"
    arguments = ["compare", MODEL, "--methods", "full,lora", "--seqs", seqs, "--devices", "rtx-4060", "--json"]
    assert main(arguments) == 0
    answer = json.loads(capsys.readouterr().out)
    (limit,) = answer["limits"].values()
    for row in answer["methods"]:
        sizes = [result["bytes"]["process"] for result in row["results"]]
        assert row["fits"]["rtx-4060"] == [size <= limit for size in sizes]
        assert row["fits"]["rtx-4060"] == [verdict != "does not fit" for verdict in row["verdict"]["rtx-4060"]]
    assert main(arguments[:-1]) == 0
    shown = capsys.readouterr().out
    for row in answer["methods"]:
        for result in row["results"]:
            assert f"{result['bytes']['process'] / 2**30:,.2f}" in shown


def test_the_table_says_what_is_tight():
    """Witness: the estimate's verdict, for a budget just above what 256 tokens need."""
    seqs = (64, 256, 512)
    sizes = [estimate(model=MODEL, seq=seq, method="lora").bytes["process"] for seq in seqs]
    command = ["compare", MODEL, "--methods", "lora", "--seqs", "64,256,512", "--budget"]
    budget = sizes[1] + 2**20
    verdicts = [estimate(model=MODEL, seq=seq, method="lora").held_against(budget).verdict for seq in seqs]
    assert verdicts == ["fits", "tight", "does not fit"]
    text = output(*command, f"{budget}B")
    assert "to 64, tight to 256 tokens" in " ".join(text.split())
    assert "Tight means" in text
    assert "tight to 64 tokens" in output(*command, f"{sizes[0] + 2**10}B")
    text = output(*command, "64GiB")
    assert "to 512 tokens" in text
    assert "ight" not in text


@pytest.mark.share(6)
def test_other_bytes_have_a_table_and_notes_say_whose_they_are():
    command = ["compare", "llama-3.2-1b", "--methods", "lora,ia3", "--seqs", "1024,2048", "--devices", "rtx-4090,t4"]
    text = " ".join(output(*command).split())
    assert "largest memory on rtx-4090" in text
    assert "other bytes on t4" in text
    for name in ("rtx-4090", "t4"):
        own = estimate("llama-3.2-1b", method="lora", seq=1024, device=name)
        assert f"{own.bytes['process'] / 2**30:.2f}" in text
    assert "Note on LoRA r=8 and IA3 on t4 at 2048 tokens: attention runs PyTorch's math kernel" in text
    assert "out of memory" not in text
    assert output(*command, "--quiet").splitlines()[:3] == [
        "LoRA r=8: 9.19 GiB",
        "LoRA r=8 on rtx-4090: to 2048 tokens",
        "LoRA r=8 on t4: to 1024 tokens",
    ]


def test_a_note_on_everything_names_nothing():
    def results(*warnings):
        return {64: SimpleNamespace(warnings=warnings), 32: SimpleNamespace(warnings=("a shorter one",))}

    here, there = results("of all", "of one", "out of memory in a step"), results("of all", "of all")
    rows = [
        SimpleNamespace(label="LoRA", results=here, on={"t4": here, "l4": there}),
        SimpleNamespace(label="IA3", results=there, on={"t4": there, "l4": there}),
    ]
    comparison = SimpleNamespace(rows=rows, at=64, limits=("t4", "l4"))
    assert _notes(comparison) == ["Note: of all", "Note on LoRA on t4 at 64 tokens: of one"]
    comparison = SimpleNamespace(rows=[SimpleNamespace(label="LoRA", results=here, on={})], at=64, limits=())
    assert _notes(comparison) == ["Note: of all", "Note: of one"]


@pytest.mark.share(3)
def test_lines_are_of_devices_whose_bytes_are_drawn(tmp_path):
    """The T4's line has no place beside the RTX 4090's curves; a note has its answers."""
    path = tmp_path / "figure.svg"
    command = ["compare", "llama-3.2-1b", "--methods", "lora", "--seqs", "1024,2048", "--output", str(path)]
    output(*command, "--devices", "rtx-4090,t4")
    drawn = path.read_text(encoding="utf-8")
    assert "rtx-4090: 23.5 GiB usable" in drawn
    assert "t4: 14.6 GiB usable" not in drawn
    assert "t4 (14.6 GiB usable): LoRA r=8 to 1024 tokens" in drawn
    output(*command, "--devices", "iphone-15,galaxy-s24")
    drawn = path.read_text(encoding="utf-8")
    assert "iphone-15: 3.0 GiB usable" in drawn
    assert "Not drawn" not in drawn
