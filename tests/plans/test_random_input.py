"""Input at random: every plan, config and adapter gives a result or one line, soon and in little memory."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.answers.bulk import estimate_lines
from estimator.answers.estimate import estimate
from estimator.answers.result import Result
from estimator.errors import InputError
from estimator.plans.plan import Plan, parse_plan, read_plan_mapping
from estimator.plans.recorded_programs import VARIABLE
from tests.cases.hostile_input import RAN, Cases, import_libraries
from tests.cases.small_models import TINY
from tests.helpers.commands import MEGABYTES, run
from tests.helpers.files import ROOT, write
from tests.helpers.refusals import assert_one_line

MODEL = "smollm-135m"
QWEN = {**TINY, "model_type": "qwen2"}
ADAPTER: dict[str, Any] = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "bias": "none", "use_dora": False}
LORA = {"name": "lora"}
IA3 = {"name": "ia3"}
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.integers(-3, 40)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        ["lora", "ia3", "full", "q_proj", "all-linear", "(", ".*", "8GiB", "rtx-4090", "float16", "layers"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
PLAN_BASES: list[dict[str, Any]] = [
    {"model": MODEL, "batch": 2, "seq": 64, "method": {**LORA, "r": 4, "target_modules": ["q_proj"]}, "budget": "8GiB"},
    {"model": MODEL, "method": {**IA3, "feedforward_modules": ["down_proj"]}, "attention": "eager"},
    {"model": MODEL, "method": {**LORA, "layers_to_transform": [1], "rank_pattern": {"q_proj": 2}, "lora_bias": True}},
]
CONFIG_BASES: list[dict[str, Any]] = [
    TINY,
    {**QWEN, "use_sliding_window": True, "sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]},
    {**TINY, "model_type": "mistral", "sliding_window": 8, "head_dim": 12},
    {**TINY, "model_type": "qwen3", "head_dim": 12, "max_window_layers": 1, "attention_dropout": 0.0},
]
ADAPTER_BASES: list[dict[str, Any]] = [
    ADAPTER,
    {"peft_type": "LORA", "rank_pattern": {"q_proj": 2}, "layers_to_transform": [0], "layers_pattern": "layers"},
    {"peft_type": "IA3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
]


@st.composite
def mutated(draw: st.DrawFn, bases: list[dict[str, Any]], more_keys: list[str]) -> dict[str, Any]:
    """One of the bases with up to three values replaced, deleted or added, at the top or one level down."""
    result: dict[str, Any] = json.loads(json.dumps(draw(st.sampled_from(bases))))
    for _ in range(draw(st.integers(0, 3))):
        inner = [value for value in result.values() if isinstance(value, dict)]
        target = draw(st.sampled_from([result, *inner]))
        key = draw(st.sampled_from([*target, *more_keys]) | st.text(max_size=6))
        if draw(st.booleans()):
            target[key] = draw(json_values)
        else:
            target.pop(key, None)
    return result


def answered(ask: Callable[[], Any]) -> None:
    """A result, or an ``InputError`` of one readable line."""
    try:
        result = ask()
    except InputError as error:
        assert_one_line(str(error))
    else:
        assert isinstance(result, Result)
        json.dumps(result.to_dict(), allow_nan=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated")


quick = settings(max_examples=50, deadline=None)
METHOD_KEYS = ["r", "target_modules", "exclude_modules", "modules_to_save", "layers_pattern", "layers_to_transform"]


@pytest.mark.share(3)
@quick
@given(plan=mutated(PLAN_BASES, [*Plan.model_fields, *METHOD_KEYS]))
def test_any_plan(plan: dict[str, Any], folder: Path) -> None:
    """Asks the contract: a mutated plan, as a file, from Python and as a line, is answered or refused."""
    file = write(folder / "plan.json", plan)
    answered(lambda: estimate(parse_plan(read_plan_mapping(file))))
    answered(lambda: estimate(plan))
    (line,) = estimate_lines([json.dumps(plan)])
    assert set(json.loads(line)) >= {"error"} or json.loads(line)["schema"] == 1


@quick
@given(
    config=mutated(CONFIG_BASES, ["head_dim", "hidden_act", "text_config", "attention_bias", "mlp_bias"]),
    method=st.sampled_from(["full", "lora", "ia3"]),
)
def test_any_config(config: dict[str, Any], method: str, folder: Path) -> None:
    """Asks the contract: a mutated config.json is answered or refused."""
    file = write(folder / "config.json", config)
    answered(lambda: estimate(model=str(file), method=method, batch=2, seq=16))


@quick
@given(adapter=mutated(ADAPTER_BASES, [*METHOD_KEYS, "name", "use_dora", "bias", "lora_dropout", "adapter_dtype"]))
def test_any_adapter(adapter: dict[str, Any], folder: Path) -> None:
    """Asks the contract: a mutated adapter_config.json is answered or refused."""
    file = write(folder / "adapter_config.json", adapter)
    answered(lambda: estimate(model=MODEL, method=str(file), seq=16))


@settings(max_examples=25, deadline=None)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes(content: bytes, folder: Path) -> None:
    """Asks the contract: a file of any bytes, as plan, config, adapter and lines of plans."""
    file = write(folder / "any.json", content)
    answered(lambda: estimate(parse_plan(read_plan_mapping(file))))
    answered(lambda: estimate(model=str(file)))
    answered(lambda: estimate(model=MODEL, method=str(file)))
    for line in estimate_lines(content.splitlines(keepends=True)):
        json.loads(line)


@pytest.mark.share(3)
@quick
@given(text=st.text(max_size=40) | st.text(alphabet="{}[]:,&*!<>?|-'\"#~ \nabn01.", max_size=60))
def test_any_text(text: str, folder: Path) -> None:
    """Asks the contract: a text in the letters of YAML as plan; and any text as model, method, device and budget."""
    file = write(folder / "any.yaml", text)
    answered(lambda: estimate(parse_plan(read_plan_mapping(file))))
    answered(lambda: estimate(model=text))
    for key in ("method", "device", "budget"):
        answered(lambda key=key: estimate({"model": MODEL, key: text}))


@pytest.mark.share(8)
@pytest.mark.parametrize("seed", range(4))
def test_anything_ends_in_an_answer_or_a_line(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks the contract of a hundred cases of each seed; ``python -m tests.cases.hostile_input`` runs more."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "programs"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_libraries()
        for arguments, stdin in itertools.islice(Cases(tmp_path, seed), 100):
            seen = run(arguments, stdin)
            assert seen.wrong() == "", (arguments, stdin, seen)
            assert not (tmp_path / RAN).exists(), (arguments, stdin, seen)


@pytest.mark.share(9)
def test_little_memory() -> None:
    """Asks the contract of more cases, in a process that may take little: without PyTorch, which ends itself there."""
    code = (
        "import resource, runpy, sys; sys.argv = ['hostile', '60', '9']; sys.modules['torch'] = None; "
        f"resource.setrlimit(resource.RLIMIT_AS, ({MEGABYTES << 20},) * 2); "
        "runpy.run_module('tests.cases.hostile_input', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "nothing wrong" in done.stdout, done.stdout + done.stderr
