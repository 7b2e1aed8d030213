"""``estimator smallest-cluster``: the object, the lines, the figure and the exit status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from tests.helpers.commands import ask, run
from tests.helpers.drawings import has_colour

MODEL = ["llama-3.2-1b", "--dtype", "float32", "--seq", 256]
CARDS = ["--devices", "raspberry-pi-5-8gb,raspberry-pi-5-16gb"]


def test_the_object(tmp_path: Path) -> None:
    """Asks the contract: the layouts, the status, and that ``plan`` is ready for ``estimate``."""
    path = tmp_path / "cluster.png"
    told = ask("smallest-cluster", *MODEL, *CARDS, "--max-cards", 4, "--output", path, "--json")
    assert told["question"] == "smallest-cluster"
    keys = {"device", "cards", "sharding", "process", "communicated"}
    assert all(keys <= row.keys() for row in told["layouts"])
    first = next(row for row in told["layouts"] if row["verdict"] == "fits")
    assert estimate(told["plan"]).bytes["process"] == first["process"]
    for colour, pixels in (("#B22222", 200), ("#D55E00", 80), ("#56B4E9", 200), ("#8A6D00", 200)):
        assert has_colour(path, colour, pixels)


def test_the_lines() -> None:
    out = ask("smallest-cluster", *MODEL, *CARDS)
    assert "smallest cluster: 2 x raspberry-pi-5-16gb, " in out
    assert "to spare" in out
    assert ask("smallest-cluster", *MODEL, *CARDS, "--quiet").startswith("2 x raspberry-pi-5-16gb, ")


def test_nothing_fits() -> None:
    out = ask("smallest-cluster", *MODEL, *CARDS, "--max-cards", 1, status=1)
    assert "Does not fit on 1 of any of these cards. The nearest is raspberry-pi-5-16gb" in out
    told = ask("smallest-cluster", *MODEL, *CARDS, "--max-cards", 1, "--json", status=1)
    assert told["layouts"] == []
    out = ask("smallest-cluster", "llama-3.1-8b", *CARDS, "--max-cards", 3, status=1)
    assert "Does not fit on 2 of any of these cards. The nearest is 2 x raspberry-pi-5-16gb, tp 2: " in out
    assert "at least" in ask("smallest-cluster", "llama-3.1-8b", "--devices", "t4", "--max-cards", 1, status=1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name them: --devices h100-80gb,rtx-4090"),
        (["--devices", ","], "--devices is an empty list"),
        (["--device", "t4"], "leave device out of the plan, and name them: --devices"),
        (["--budget", "8GiB", *CARDS], "leave budget out of the plan"),
        (["--sharding", "fsdp2", *CARDS], "smallest-cluster looks for sharding; leave sharding out"),
        (["--world-size", 4, *CARDS], "smallest-cluster looks for world_size; leave world_size out"),
        (["--tp", 2, *CARDS], "smallest-cluster looks for tp"),
        (["--max-cards", "many", *CARDS], "invalid int value: 'many'"),
        (["--max-cards", 10**9, *CARDS], "max_cards is 1000000000"),
        (["--output", "x.gif", *CARDS], "no figure format"),
        (["--margin", "lots", *CARDS], "margin 'lots' is no share and no size"),
    ],
)
def test_wrong_arguments(arguments: list[Any], says: str) -> None:
    assert says in ask("smallest-cluster", *MODEL, *arguments, status=2)


@pytest.mark.share(3)
def test_three_cards_take_little_time() -> None:
    """A model of which nearly all layouts fit, and are replayed. The limit is of processor time."""
    cards = "h100-80gb,a100-80gb,rtx-4090"
    assert run(["smallest-cluster", "llama-3.1-8b", "--method", "lora", "--devices", cards, "--json"]).seconds < 8
