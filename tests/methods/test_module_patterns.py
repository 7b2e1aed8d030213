"""The regular expressions that name modules: they match what ``re`` matches, and they end."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from estimator.answers.bulk import estimate_lines
from estimator.answers.estimate import estimate
from estimator.errors import InputError, TooLong
from estimator.ledger import MOST_WORK
from estimator.methods import patterns
from estimator.show.cli import main

MODEL = "smollm2-135m"
ENDLESS = [
    "(([a-z._0-9])+)+!",
    "([a-z._0-9]+)+!",
    "(.|..|...)*[!?]",
    "(?:.*?){50}[!?]",
    "(a|a|.)*[A-Z]",
    "((.?){40}){40}!",
]


@pytest.fixture
def tenth(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A tenth of a second for patterns, which have a second."""
    assert patterns.SECONDS == 1
    monkeypatch.setattr(patterns, "SECONDS", 0.1)
    yield
    patterns._patterns.cache_clear()


@pytest.mark.usefixtures("tenth")
@pytest.mark.parametrize("text", ENDLESS)
@pytest.mark.parametrize("key", ["target_modules", "exclude_modules", "rank_pattern", "feedforward_modules"])
def test_patterns_that_never_stop(text: str, key: str) -> None:
    """Asks the contract: a bound of processor time over all modules; ``re`` would take years."""
    method: dict[str, Any] = {"name": "ia3" if key == "feedforward_modules" else "lora"}
    method |= {key: {text: 3} if key == "rank_pattern" else text}
    start = time.process_time()
    answer = next(estimate_lines([json.dumps({"model": "qwen2.5-72b", "seq": 8, "method": method})]))
    assert text[:20] in json.loads(answer).get("error", text)
    assert time.process_time() - start < 1


@pytest.mark.usefixtures("tenth")
def test_many_patterns_share_a_second() -> None:
    """Asks the contract: ten thousand keys of a file take as long as one."""
    values = {f"(.|..|{i})*[!?]": 3 for i in range(10_000)}
    start = time.process_time()
    with pytest.raises(InputError, match="takes more than"):
        estimate(model=MODEL, seq=8, method={"name": "lora", "rank_pattern": values})
    assert time.process_time() - start < 5


def test_names_have_no_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks the contract: a process that answers for long, and collects garbage meanwhile, refuses no name."""
    ticks = iter(range(10_000))
    monkeypatch.setattr("estimator.methods.patterns._clock", lambda: float(next(ticks)))
    monkeypatch.setattr("estimator.methods.patterns._patterns", patterns.Patterns)
    estimate(model=MODEL, seq=8, method={"name": "lora", "layers_to_transform": [1], "layers_pattern": "layers"})


def test_a_rank_for_every_module() -> None:
    """Asks PEFT's own files: AdaLoRA and EVA write a key for each module."""
    modules = [f"model.layers.{i}.self_attn.{m}" for i in range(30) for m in ("q_proj", "v_proj")]
    ranks = {path: 1 + i % 2 for i, path in enumerate(modules)}
    found = estimate(model=MODEL, seq=8, method={"name": "lora", "rank_pattern": ranks})
    one = [estimate(model=MODEL, seq=8, method={"name": "lora", "r": r}).trainable_parameters for r in (1, 2)]
    q, v = one[0] // 30 - (192 + 576), 192 + 576  # parameters of rank 1 at q_proj and v_proj
    assert found.trainable_parameters == 30 * (q + 2 * v)


@pytest.mark.parametrize(
    ("text", "modules"),
    [
        ("^(?!.*visual).*q_proj$", ["q_proj"]),
        (r".*(?<!gate)_proj", ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]),
        (r"model\.layers\.\d+\.self_attn\.(q|v)_proj", ["q_proj", "v_proj"]),
        (r"(?:.*?(?:language|text|model).*?(?:self_attn|mlp).*?(?:k_proj|up_proj).*?)", ["k_proj", "up_proj"]),
        (r"(?=.*mlp)(?>.*)(?<=down_proj)", ["down_proj"]),
    ],
)
def test_patterns_of_real_adapters(text: str, modules: list[str]) -> None:
    """Witness: the same modules by name."""
    by_text, by_name = (
        estimate(model=MODEL, seq=8, method={"name": "lora", "target_modules": names}).to_dict()
        for names in (text, modules)
    )
    assert by_text == by_name


PATHS = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.11.mlp.down_proj",
    "lm_head",
    "visual.blocks.3.qkv",
    "x{2}y",
    "a{e}",
]
PIECES = [
    "q_proj", "model", r"\.", r"\d", r"\w+", ".", "[a-z]", "[^.]*", "_", "1", r"\b", "^", "$", ".*", "(?:", "(", ")",
    "|", "+", "?", "*?", "{2}", "{,2}", "{,}", "{", "}", "{e}", "{e<=1}", "(?!", "(?=", "(?<=q", "(?<!q", "(?>", "++",
    "[a|b]", r"\1", "(?i:Q)", "visual", "[", "[:alpha:]", "&&", "(?x)", r"\Z", r"\p{L}", r"\X", "(?|", "(?R)", "é", "]",
    r"\x41", "(?P<n>x)", "(?V1)", "*",
]  # fmt: skip


@pytest.mark.parametrize("form", [patterns.WHOLE, patterns.SUFFIX, patterns.BELOW, patterns.LAYERS])
def test_patterns_match_what_re_matches(form: str) -> None:
    """Witness: ``re``, for patterns put together at random; what it refuses is refused."""
    rng, compared = random.Random(5), 0
    for _ in range(4000):
        text = "".join(rng.choices(PIECES, k=rng.randrange(1, 6)))
        try:
            patterns.check(text)
        except ValueError:
            continue
        compiled = re.compile(text)  # whatever is taken, re takes
        try:
            compiled = re.compile(form.replace("{}", text))
        except re.error:
            with pytest.raises(InputError):
                patterns.groups(text, form, PATHS[0])
            continue
        for path in PATHS:
            match = compiled.fullmatch(path) if form == patterns.WHOLE else compiled.match(path)
            assert patterns.groups(text, form, path) == (None if match is None else match.groups()), (text, path)
        compared += 1
    assert compared > 500


@pytest.mark.usefixtures("tenth")
def test_peft_is_given_no_pattern() -> None:
    """Asks the contract of the witnesses, in which PEFT would match with ``re``."""
    options = {"target_modules": ".*q_proj", "rank_pattern": {"(lm|x)_head": 3}, "r": 4, "exclude_modules": ["a"]}
    assert patterns.spelt_out(options, PATHS) == {
        "target_modules": [PATHS[0]], "rank_pattern": {"lm_head": 3}, "r": 4, "exclude_modules": ["a"],
    }  # fmt: skip
    for wrong in ({"target_modules": "(.|..|...)*[!?]"}, {"layers_pattern": ".*"}, {"modules_to_save": [".*"]}):
        with pytest.raises(InputError):
            patterns.spelt_out(wrong, PATHS)


def test_an_engine_is_imported_for_patterns_only() -> None:
    """Asks the contract: names need none."""
    code = (
        "import sys, estimator; estimator.estimate(model='smollm2-135m', method={'name': 'lora', "
        "'rank_pattern': {'model.layers.0.self_attn.q_proj': 3}}); assert 'regex' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.share(6)
def test_plans_that_would_take_minutes() -> None:
    """Asks the contract: the bound is in the line."""
    start = time.process_time()
    with pytest.raises(TooLong, match=f"{MOST_WORK:,} tensors"):
        estimate(model=MODEL, seq=8, method={"name": "hra", "r": 100, "apply_GS": True})
    assert time.process_time() - start < 10


def test_a_module_list_of_a_whole_file() -> None:
    """Asks the contract: names of a list are looked up, not compared one by one."""
    names = [f"model.layers.{i}.self_attn.q_proj" for i in range(30)] * 3000
    start = time.process_time()
    estimate(model=MODEL, seq=8, method={"name": "lora", "target_modules": names})
    with pytest.raises(InputError, match="at most 1000"):
        estimate(model=MODEL, seq=8, method={"name": "lora", "modules_to_save": ["lm_head"] * 5000})
    assert time.process_time() - start < 3


def test_no_loss_to_learn_from() -> None:
    """Witness: PyTorch, whose backward refuses a loss that depends on nothing that trains."""
    assert main(["estimate", MODEL, "--method", "oft", "--num-cayley-neumann-terms", "1"]) == 2
