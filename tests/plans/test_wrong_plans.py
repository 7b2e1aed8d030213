"""Wrong plans and arguments. The witness is the contract: exit status 2 and one line that says what and how to mend it,
never a traceback, never an answer to another question than the one that was asked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.bulk import estimate_lines
from estimator.answers.estimate import estimate
from estimator.errors import InputError, asked_in_a_shell
from estimator.show.cli import main
from tests.helpers.commands import refused
from tests.helpers.files import write
from tests.helpers.refusals import assert_one_line

MODEL = "smollm-135m"
LORA = {"name": "lora"}
IA3 = {"name": "ia3"}
WRONG_KEYS: list[tuple[dict[str, Any], str]] = [
    ({"bacth": 2}, "'bacth' (did you mean batch?)"),
    ({"lora": 3}, "'lora'"),
    ({"": 3}, "unknown key"),
    ({"ключ\u2028\x1b[31m": 3}, "ключ"),
    ({"batch": -1}, "batch"),
    ({"batch": 0}, "batch"),
    ({"batch": 10**30}, "batch"),
    ({"batch": 1.5}, "batch"),
    ({"batch": 2.0}, "batch"),
    ({"batch": True}, "batch"),
    ({"batch": "4"}, "batch"),
    ({"batch": None}, "batch"),
    ({"batch": [1]}, "batch"),
    ({"batch": {"a": 1}}, "batch"),
    ({"seq": float("nan")}, "seq"),
    ({"seq": float("inf")}, "seq"),
    ({"seq": 10**9}, "seq"),
    ({"seq": -(10**400)}, "seq"),
    ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps"),
    ({"dtype": "int9"}, "'float32', 'bfloat16', 'float16', 'nf4'"),
    ({"autocast": "float32"}, "autocast"),
    ({"attention": "flash"}, "attention: sdpa"),
    ({"attention": "flash", "runtime": "torch-cuda", "device": "t4"}, "8.0 or higher"),
    ({"sdpa_kernel": "math"}, "runtime: torch-cuda"),
    ({"sdpa_kernel": "math", "runtime": "torch-cuda", "attention": "eager"}, "belongs to attention: sdpa"),
    ({"sdpa_kernel": "flash", "runtime": "torch-cuda", "dtype": "float32"}, "does not take this attention"),
    ({"expandable_segments": True}, "runtime: torch-cuda"),
    ({"previous_seq": 8}, "runtime: torch-cuda"),
    ({"empty_cache": True, "runtime": "torch-cuda"}, "belongs to lengths"),
    ({"runtime": "torch-cuda", "device": "apple-16gb"}, "runs no CUDA"),
    ({"lengths": {"histogram": {64: 3}}, "seq": 32}, "does not go with lengths, whose longest is 64"),
    ({"lengths": {"histogram": {64: 3}}, "previous_seq": 8, "runtime": "torch-cuda"}, "leave it out"),
    ({"lengths": {"histogram": {64: 3}}, "batch": 4}, "more than the 3 samples"),
    ({"lengths": "no/such.jsonl"}, "no/such.jsonl"),
    ({"lengths": 0}, "lengths"),
    ({"lengths": {"histogram": {}}}, "lengths.histogram"),
    ({"lengths": {"file": "x.jsonl", "histogram": {1: 1}}}, "one of file, histogram and length"),
    ({"lengths": {"trunkate": 8}}, "did you mean truncate"),
    ({"attention": "x" * 5000}, "attention"),
    ({"checkpointing": "every-0"}, "checkpointing"),
    ({"optimizer": "adam"}, "optimizer"),
    ({"task": "deploy"}, "'train', 'infer' or 'serve'"),
    ({"task": "infer", "optimizer": "sgd"}, "optimizer belongs to task: train"),
    ({"runtime": "torch-cude"}, "runtime"),
    ({"runtime": "llama.cpp", "task": "train"}, "take runtime: torch-cpu or torch-cuda"),
    ({"runtime": "llama.cpp", "attention": "eager"}, "attention belongs to runtime: torch-cpu"),
    ({"runtime": "llama.cpp", "dtype": "nf4"}, "recipe"),
    ({"runtime": "torch-cpu", "dtype": "Q4_K_M"}, "recipe of llama.cpp"),
    ({"runtime": "torch-cpu", "llama_cpp": {"n_ctx": 512}}, "belongs to runtime: llama.cpp"),
    ({"llama_cpp": 512}, "must be a block"),
    ({"llama_cpp": {"n_ctxx": 512}}, "did you mean n_ctx"),
    ({"llama_cpp": {"n_ctx": 0}}, "llama_cpp.n_ctx"),
    ({"llama_cpp": {"type_k": "q6_k"}}, "llama_cpp.type_k"),
    ({"llama_cpp": {"flash_attn": 3}}, "llama_cpp.flash_attn"),
    ({"llama_cpp": {"type_v": "q8_0", "flash_attn": False}}, "needs flash attention"),
    ({"llama_cpp": {"backend": "tpu"}}, "llama_cpp.backend"),
    ({"llama_cpp": {}, "device": "pixel-8", "ios_increased_memory_limit": True}, "runs no iOS"),
    ({"ios_increased_memory_limit": True}, "an iPhone or iPad as device"),
    ({"device": "iphone-15", "ios_increased_memory_limit": 1}, "ios_increased_memory_limit"),
    ({"model": "deepseek-v2-lite", "llama_cpp": {"type_k": "q8_0"}}, "MLA"),
    ({"drop_output_before_step": True, "previous_output": True}, "leave one of them out"),
    ({"keep_logits": 1}, "keep_logits"),
    ({"keep_logits": "yes"}, "keep_logits"),
    ({"model": 3}, "model"),
    ({"model": None}, "model"),
    ({"model": ""}, "model is empty"),
    ({"model": "llama-3.2-1bb"}, "did you mean llama-3.2-1b"),
    ({"model": "Llama-3.2 1B"}, "did you mean llama-3.2-1b"),
    ({"model": "модель"}, "модель"),
    ({"model": "m" * 5000}, "unknown model"),
    ({"model": "swift sft --model a/b"}, "'swift sft' and its options are a command line"),
    ({"model": "a\x00b"}, "unknown model"),
    ({"model": "~no-such-user/x"}, "~no-such-user/x"),
    ({"model": "no/such/folder"}, "unknown model"),
    ({"model": "missing/config.json"}, "no file"),
    ({"model": "/dev/null"}, "is a device"),
    ({"device": "rtx 409"}, "did you mean rtx-4090"),
    ({"device": ""}, "`estimator devices`"),
    ({"device": 3}, "device"),
    ({"device": "d" * 5000}, "unknown device"),
    ({"device": "rtx-4090", "budget": "8GiB"}, "budget does not go with device: rtx-4090"),
    ({"budget": "8"}, "write it like 24GiB"),
    ({"budget": "-8GiB"}, "size '-8GiB' is not positive"),
    ({"budget": "0GiB"}, "not positive"),
    ({"budget": "0.1B"}, "not positive"),
    ({"budget": "much"}, "write it like 24GiB"),
    ({"budget": ""}, "write it like 24GiB"),
    ({"budget": "1e9GB"}, "write it like 24GiB"),
    ({"budget": "٣GiB"}, "write it like 24GiB"),
    ({"budget": "9" * 400 + "GiB"}, "write it like 24GiB"),
    ({"budget": "9" * 5000 + "GiB"}, "write it like 24GiB"),
    ({"budget": 8}, "budget"),
    ({"budget": True}, "budget"),
    ({"method": 3}, "method must be"),
    ({"method": ["lora"]}, "method must be"),
    ({"method": None}, "method must be"),
    ({"method": {}}, "method has no name"),
    ({"method": "loraa"}, "did you mean lora"),
    ({"method": {"name": "LoRAA"}}, "did you mean lora"),
    ({"method": "m" * 5000}, "adapter_config.json"),
    ({"method": "a\x00b"}, "adapter_config.json"),
    ({"method": "~no-such-user/x"}, "adapter_config.json"),
    ({"method": {"name": ["lora"]}}, "unknown"),
    ({"method": {"name": "full", "r": 3}}, "of method full"),
    ({"method": {**LORA, "rr": 3}}, "'method.rr' of method lora (did you mean r?)"),
    ({"method": {**LORA, "r": 0}}, "method.r"),
    ({"method": {**LORA, "r": 8.0}}, "method.r"),
    ({"method": {**LORA, "r": True}}, "method.r"),
    ({"method": {**LORA, "r": "8"}}, "method.r"),
    ({"method": {**LORA, "r": 10**7}}, "method.r"),
    ({"method": {**LORA, "lora_alpha": float("inf")}}, "method.lora_alpha"),
    ({"method": {**LORA, "lora_alpha": "16"}}, "method.lora_alpha"),
    ({"method": {**LORA, "lora_dropout": 1}}, "method.lora_dropout"),
    ({"method": {**LORA, "lora_dropout": -0.1}}, "method.lora_dropout"),
    ({"method": {**LORA, "lora_dropout": float("nan")}}, "method.lora_dropout"),
    ({"method": {**LORA, "bias": "lora"}}, "method.bias"),
    ({"method": {**LORA, "lora_bias": "true"}}, "method.lora_bias"),
    ({"method": {**LORA, "lora_bias": True, "target_modules": ["embed_tokens"]}}, "lora_bias"),
    ({"method": {**LORA, "target_modules": ["q_porj"]}}, "'q_porj' matches nothing"),
    ({"method": {**LORA, "target_modules": ["q_proj", "mlp"]}}, "take mlp out of target_modules"),
    ({"method": {**LORA, "target_modules": "q_proj"}}, "matches nothing"),
    ({"method": {**LORA, "target_modules": []}}, "target_modules is empty"),
    ({"method": {**LORA, "target_modules": [""]}}, "matches nothing"),
    ({"method": {**LORA, "target_modules": ["w" * 5000]}}, "down_proj, lm_head"),
    ({"method": {**LORA, "target_modules": [1]}}, "method.target_modules"),
    ({"method": {**LORA, "target_modules": 1}}, "method.target_modules"),
    ({"method": {**LORA, "target_modules": "("}}, "method.target_modules: must be a name or a regular expression"),
    ({"method": {**LORA, "target_modules": "a{999999999999999999999}"}}, "regular expression"),
    ({"method": {**LORA, "target_modules": "(" * 20_000}}, "regular expression"),
    ({"method": {**LORA, "exclude_modules": "["}}, "method.exclude_modules"),
    ({"method": {**LORA, "exclude_modules": ["q_proj", "v_proj"]}}, "exclude_modules"),
    ({"method": {**LORA, "rank_pattern": {"(": 3}}}, "method.rank_pattern"),
    ({"method": {**LORA, "rank_pattern": {"q_proj": 0}}}, "method.rank_pattern"),
    ({"method": {**LORA, "rank_pattern": [3]}}, "method.rank_pattern"),
    ({"method": {**LORA, "modules_to_save": ["nrom"]}}, "'nrom' matches nothing"),
    ({"method": {**LORA, "modules_to_save": [""]}}, "method.modules_to_save"),
    ({"method": {**LORA, "modules_to_save": "norm"}}, "method.modules_to_save"),
    ({"method": {**LORA, "modules_to_save": ["q_proj"]}}, "keep one of them"),
    ({"method": {**LORA, "layers_to_transform": [30], "target_modules": ["q_proj"]}}, "0 to 29"),
    ({"method": {**LORA, "layers_to_transform": -1, "target_modules": ["q_proj"]}}, "0 to 29"),
    ({"method": {**LORA, "layers_to_transform": [True]}}, "method.layers_to_transform"),
    ({"method": {**LORA, "layers_to_transform": "0"}}, "method.layers_to_transform"),
    ({"method": {**LORA, "layers_to_transform": [0], "target_modules": "all-linear"}}, "list of names"),
    ({"method": {**LORA, "layers_pattern": "layers"}}, "needs layers_to_transform"),
    ({"method": {**LORA, "layers_to_transform": [0], "layers_pattern": "h"}}, "layers_to_transform"),
    ({"method": {**LORA, "layers_to_transform": [0], "layers_pattern": "(layers)"}}, "method.layers_pattern"),
    ({"method": {**LORA, "layers_to_transform": [0], "layers_pattern": ["a|b"]}}, "method.layers_pattern"),
    ({"method": {**LORA, "adapter_dtype": "float16"}}, "adapter_dtype float16"),
    ({"method": {**LORA, "adapter_dtype": "int8"}}, "method.adapter_dtype"),
    ({"method": {**IA3, "r": 3}}, "of method ia3"),
    ({"method": {**IA3, "target_modules": ["q_proj"], "feedforward_modules": ["down_proj"]}}, "feedforward_modules"),
    ({"method": {**IA3, "target_modules": ["embed_tokens"]}}, "embed_tokens"),
    ({"method": {**IA3, "feedforward_modules": "("}}, "method.feedforward_modules"),
]


@pytest.mark.parametrize(("keys", "says"), WRONG_KEYS)
def test_wrong_plan(keys: dict[str, Any], says: str, tmp_path: Path) -> None:
    """Asks the contract: from a plan's file, from Python and from a line of plans, the same line.

    Only keys and questions are named as they are written there.
    """
    plan = {"model": MODEL, **keys}
    line = refused("--plan", write(tmp_path / "plan.json", plan))
    assert says in line
    with asked_in_a_shell(), pytest.raises(InputError) as caught:
        estimate(plan)
    assert line == f"estimator: {caught.value}\n"
    with pytest.raises(InputError) as caught:
        estimate(plan)
    assert not re.search(r"`estimator (models|devices|max-|estimate)|(?<!-)--[a-z]", str(caught.value))
    assert [json.loads(answer) for answer in estimate_lines([json.dumps(plan)])] == [{"error": str(caught.value)}]


HARD = {
    "digits": 10**5000,
    "negative": -(10**5000),
    "list": [10**5000],
    "text": "x" * 10**6,
    "nested": [[[[[]]]]] * 1000,
}


@pytest.mark.share(2)
@pytest.mark.parametrize("value", HARD.values(), ids=HARD)
@pytest.mark.parametrize("key", ["batch", "model", "method", "dtype", "keep_logits", "device", "budget", "no-such-key"])
def test_values_that_are_hard_to_print(key: str, value: Any) -> None:
    """Asks the contract: the line stays readable whatever it quotes."""
    with pytest.raises(InputError) as caught:
        estimate({"model": MODEL, key: value})
    assert_one_line(str(caught.value))


WRONG_ARGUMENTS: list[tuple[list[str], str]] = [
    ([], "no model given"),
    ([MODEL, "another"], "unrecognized arguments"),
    ([MODEL, "--no-such-option"], "--help"),
    ([MODEL, "--batch"], "expected one argument"),
    ([MODEL, "--batch", "two"], "batch"),
    ([MODEL, "--batch", "1.0"], "batch"),
    ([MODEL, "--batch", "-1"], "batch"),
    ([MODEL, "--batch", "9" * 5000], "batch"),
    ([MODEL, "--autocast", "null"], "autocast"),
    ([MODEL, "--r", "4"], "of method full"),
    ([MODEL, "--method", "lora", "--r", "0x10"], "method.r"),
    ([MODEL, "--method", "lora", "--lora-alpha", "nan"], "method.lora_alpha"),
    ([MODEL, "--method", "lora", "--target-modules", ""], "target_modules is empty"),
    ([MODEL, "--method", "lora", "--target-modules", "("], "method.target_modules"),
    ([MODEL, "--method", "lora", "--layers-to-transform", "a,b"], "method.layers_to_transform"),
    ([MODEL, "--method", "lora", "--modules-to-save", "[norm]"], "method.modules_to_save"),
    ([MODEL, "--method", "lora", "--rank-pattern", "["], "--rank-pattern"),
    ([MODEL, "--method", "lora", "--rank-pattern", "3"], "method.rank_pattern"),
    ([MODEL, "--method", "lora", "--rank-pattern", "{a: &x 1, b: *x}"], "alias"),
    (["--plan", "no-such-file.yaml"], "No such file"),
    (["--plan", "a\x00b"], "cannot read"),
    (["--plan", "p" * 5000], "cannot read"),
    (["--plans", "no-such-file.jsonl"], "No such file"),
    (["--plans", "."], "is a folder"),
    (["--plans", "a\x00b"], "cannot read"),
    ([MODEL, "--plans", "-"], "leave MODEL"),
    (["--plans", "-", "--batch", "3"], "leave MODEL"),
]


@pytest.mark.parametrize(("arguments", "says"), WRONG_ARGUMENTS)
def test_wrong_arguments(arguments: list[str], says: str) -> None:
    """Asks the contract: the command line's own mistakes give one line too."""
    assert says in refused(*arguments)


@pytest.mark.parametrize("method", ["{r: 3}", "3", "[lora]", "lroa"])
@pytest.mark.parametrize("command", ["compare", "formula"])
def test_the_other_commands_read_plans_alike(
    command: str, method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asks the contract: a wrong plan is one line whichever command reads it."""
    file = write(tmp_path / "plan.yaml", f"model: {MODEL}\nmethod: {method}")
    assert main([command, "--plan", str(file)]) == 2
    out, err = capsys.readouterr()
    assert (out, "method" in err) == ("", True)
    assert_one_line(err.removesuffix("\n"))


@pytest.mark.parametrize("arguments", [["estimat"], ["--bad"], ["a" * 5000]])
def test_wrong_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract: status 2 and one line for a command that does not exist."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert_one_line(err.removesuffix("\n"))


def test_numpy_integers_are_whole_numbers() -> None:
    """Asks the contract from its other side: a loop over ``np.arange`` is no wrong input."""
    import numpy as np

    assert estimate(model=MODEL, batch=np.int64(2), seq=np.uint16(64)) == estimate(model=MODEL, batch=2, seq=64)
    with pytest.raises(InputError, match="batch"):
        estimate(model=MODEL, batch=np.float64(2.0))
