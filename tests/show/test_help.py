"""Help: on one screen, by topic, with every key."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from estimator import __version__
from estimator.answers.inverse import QUESTIONS
from estimator.methods.registry import METHODS
from estimator.plans.flat import BLOCKS, own_keys
from estimator.plans.plan import Plan
from estimator.show.cli import main
from estimator.show.topics import COMMANDS, COMMON, TOPIC_OF, TOPICS

MODEL = "smollm-135m"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], *([name, "--help"] for name in COMMANDS)])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract: every command explains itself."""
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"usage: estimator {arguments[0] if len(arguments) == 2 else ''}".rstrip())
    if len(arguments) < 2:
        assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["help"], ["--help"]),
        (["help", "max-seq"], ["max-seq", "--help"]),
        (["help", "estimate", "--help-gpu"], ["estimate", "--help-gpu"]),
    ],
)
def test_help_as_a_word(words: list[str], options: list[str], printed: Callable[..., str]) -> None:
    assert printed(*words) == printed(*options)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["estimate", MODEL, "--budget", "-5GiB"], "size '-5GiB' is not positive; write it like 24GiB"),
        (["max-seq", MODEL, "--budget", "4GiB", "--margin", "-5%"], "margin '-5%' is no share and no size"),
        (["estimate", MODEL, "--seq", "-5"], "seq: input should be greater than or equal to 1, not -5"),
    ],
)
def test_a_negative_value_is_no_option(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"estimator: {line}")


def test_the_version(printed: Callable[..., str]) -> None:
    assert printed("-V") == printed("--version") == f"estimator {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_one_screen(command: str, printed: Callable[..., str]) -> None:
    """40 lines of 80 columns, each option in one of them, and where the rest is."""
    out = printed(command, "--help")
    assert len(out.splitlines()) <= 40
    assert out == printed(command, "-h")
    printed(command, "--help", columns=60)
    if "--method " in out:
        assert "--help-all" in out
    assert "--json" in out or command in ("formula", "export", "sweep", "completion", "page", "mcp")


def options_in(text: str) -> set[str]:
    return {f"--{name}" for name in re.findall(r"^  --(?:\[no-\])?([A-Za-z0-9-]+)", text, re.MULTILINE)}


def test_help_shows_twenty_options_and_topics_the_rest(printed: Callable[..., str]) -> None:
    """Every key of the plan, of its blocks and of every method is in its topic, and all are in --help-all."""
    short = options_in(printed("estimate", "--help"))
    assert 20 <= len(short) <= 26
    everything = options_in(printed("estimate", "--help-all"))
    assert short <= everything
    of_topics = set()
    for topic in TOPICS:
        of_topics |= options_in(printed("estimate", f"--help-{topic}"))
    for name, method in METHODS.items():
        own = options_in(printed("estimate", "--help-method", name))
        shared = {"name", *(key for block in BLOCKS for key in own_keys(block))}  # ``num_layers``, in the block's topic
        assert own == {f"--{key.replace('_', '-')}" for key in method.model_fields if key not in shared}
        of_topics |= own
    assert everything - of_topics == {"--plan", "--plans", "--phases", "--json", "--quiet"}
    blocks = [key for block in BLOCKS for key in own_keys(block)]
    keys = [key for key in (*Plan.model_fields, *blocks) if key not in ("model", *BLOCKS)]
    assert {f"--{key.replace('_', '-')}" for key in keys} <= everything
    assert printed("estimate", "--help-lora") == printed("estimate", "--help-method", "lora")


@pytest.mark.parametrize(("question", "key"), QUESTIONS.items())
def test_a_question_does_not_offer_the_key_that_it_looks_for(
    question: str, key: str, printed: Callable[..., str]
) -> None:
    """Neither on the first screen nor among all. A rank is a method's, and no option has this name."""
    asked, others = f"--{key.replace('_', '-')}", {"--batch", "--budget"} - {f"--{key}"}
    for topic in ("--help", "--help-all"):
        offered = options_in(printed(question, topic))
        assert asked not in offered
        assert others <= offered
    if key == "rank":
        assert main([question, MODEL, asked, "8"]) == 2


def test_every_key_has_one_topic() -> None:
    """A new key of the plan needs a topic; the short list names keys that there are."""
    assert set(TOPIC_OF) == set(Plan.model_fields)
    assert set(TOPIC_OF.values()) == set(TOPICS)
    known = {key for block in (Plan, *BLOCKS.values(), METHODS["lora"]) for key in block.model_fields} | {"plan"}
    assert {key for keys in COMMON.values() for key in keys} <= known


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--help-lorra"], "no help on 'lorra'"),
        (["--help-method", "lorra"], "did you mean lora"),
        (["--helpp"], "unrecognized arguments: --helpp"),
        (["--bacth", "3"], "did you mean --batch"),
    ],
)
def test_help_that_there_is_not(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, and status 2."""
    assert main(["estimate", MODEL, *arguments]) == 2
    assert says in capsys.readouterr().err
