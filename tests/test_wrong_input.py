"""Wrong input. The witness is the contract: exit status 2 and one line that says what and how to mend it,
never a traceback, never an answer to another question than the one that was asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator import estimate
from estimator.answers.many import estimate_lines
from estimator.answers.result import Result
from estimator.errors import InputError
from estimator.plans.plan import Plan, parse_plan, read_plan_mapping
from estimator.show.cli import main

MODEL = "smollm-135m"
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 211,
    "hidden_size": 48,
    "intermediate_size": 104,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
QWEN = {**CONFIG, "model_type": "qwen2"}
ADAPTER: dict[str, Any] = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "bias": "none", "use_dora": False}
LONGEST = 500


@pytest.fixture(autouse=True, scope="module")
def offline() -> Iterator[None]:
    """No test here reaches the hub: ``huggingface_hub`` finds nothing."""
    import huggingface_hub

    def unreachable(*arguments: Any, **options: Any) -> str:
        raise ConnectionError("no network in this test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub, "hf_hub_download", unreachable)
        yield


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs ``estimator estimate ARGUMENTS`` and gives the one line it says."""

    def run(*arguments: object) -> str:
        assert main(["estimate", *map(str, arguments)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        check_line(err.removesuffix("\n"))
        assert err.startswith("estimator: ")
        return err

    return run


def check_line(text: str) -> None:
    assert 0 < len(text) < LONGEST
    assert text.isprintable()  # no line break, no escape sequence


def write(path: Path, content: Any) -> Path:
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(content)
    return path


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
    ({"task": "serve"}, "'train' or 'infer'"),
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
    ({"model": "gemma-3-1b"}, "runtime llama.cpp knows it"),
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
    ({"budget": "-8GiB"}, "write it like 24GiB"),
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
def test_wrong_plan(keys: dict[str, Any], says: str, refused: Callable[..., str], tmp_path: Path) -> None:
    """Asks the contract: from a plan's file, from Python and from a line of plans, the same line."""
    plan = {"model": MODEL, **keys}
    line = refused("--plan", write(tmp_path / "plan.json", plan))
    assert says in line
    with pytest.raises(InputError) as caught:
        estimate(plan)
    assert line == f"estimator: {caught.value}\n"
    assert [json.loads(answer) for answer in estimate_lines([json.dumps(plan)])] == [{"error": str(caught.value)}]


HARD = {
    "digits": 10**5000,
    "negative": -(10**5000),
    "list": [10**5000],
    "text": "x" * 10**6,
    "nested": [[[[[]]]]] * 1000,
}


@pytest.mark.parametrize("value", HARD.values(), ids=HARD)
@pytest.mark.parametrize("key", ["batch", "model", "method", "dtype", "keep_logits", "device", "budget", "no-such-key"])
def test_values_that_are_hard_to_print(key: str, value: Any) -> None:
    """Asks the contract: the line stays readable whatever it quotes."""
    with pytest.raises(InputError) as caught:
        estimate({"model": MODEL, key: value})
    check_line(str(caught.value))


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
def test_wrong_arguments(arguments: list[str], says: str, refused: Callable[..., str]) -> None:
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
    check_line(err.removesuffix("\n"))


@pytest.mark.parametrize("arguments", [["estimat"], ["--bad"], ["a" * 5000]])
def test_wrong_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract: status 2 and one line for a command that does not exist."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    check_line(err.removesuffix("\n"))


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)
MERGE_BOMB = "a: &a {k: v}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)
WRONG_FILES: dict[str, Any] = {
    "truncated.json": '{"model": "smollm-13',
    "truncated.yaml": "model: [smollm",
    "binary.json": bytes(range(256)),
    "empty.json": "",
    "latin.yaml": "model: ä".encode("latin-1"),
    "sixteen.json": json.dumps(CONFIG).encode("utf-16"),
    "list.json": "[]",
    "null.json": "null",
    "number.json": "3",
    "text.json": '"smollm-135m"',
    "deep-lists.json": "[" * 100_000,
    "deep-objects.json": '{"a":' * 16_000 + "1" + "}" * 16_000,
    "digits.json": '{"batch": ' + "9" * 5000 + ', "hidden_size": ' + "9" * 5000 + "}",
    "hexadecimal.yaml": "model: smollm-135m\nbatch: 0x" + "f" * 5000,
    "large.json": b" " * 2_000_000,
    "bomb.yaml": BOMB,
    "merge-bomb.yaml": MERGE_BOMB,
    "python.yaml": 'model: !!python/object/apply:os.system ["true"]',
    "dates.yaml": "model: 2001-01-01",
    "no-date.yaml": "model: 2001-99-99",
    "null-key.yaml": "~: 3\nmodel: smollm-135m",
    "number-key.yaml": "3: 3\nmodel: smollm-135m",
    "list-key.yaml": "? [a, b]\n: 3",
    "documents.yaml": "model: smollm-135m\n---\nbatch: 2",
    "tab.yaml": "model:\n\tsmollm-135m: 3",
}


@pytest.mark.parametrize("name", WRONG_FILES)
@pytest.mark.parametrize("where", ["plan", "config", "adapter"])
def test_wrong_file(name: str, where: str, refused: Callable[..., str], tmp_path: Path) -> None:
    """Asks the contract: a file that is no plan, no config or no adapter is named, whatever it is made of."""
    file = write(tmp_path / name, WRONG_FILES[name])
    arguments = {"plan": ["--plan", file], "config": [file], "adapter": [MODEL, "--method", file]}[where]
    line = refused(*arguments)
    if name not in ("hexadecimal.yaml", "dates.yaml", "null-key.yaml", "number-key.yaml"):
        assert name in line


@pytest.mark.parametrize("arguments", [["--plan", "."], ["."], [MODEL, "--method", "."]])
def test_a_directory(
    arguments: list[str], refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asks the contract: an empty folder is no plan, no model and no adapter."""
    monkeypatch.chdir(tmp_path)
    refused(*arguments)
    for name in ("config.json", "adapter_config.json"):
        (tmp_path / name).mkdir()
    refused(*arguments)


@pytest.mark.parametrize(
    "text", ['{"model": "smollm-135m", "batch": 1, "batch": 2}', "model: smollm-135m\nbatch: 1\nbatch: 2"]
)
def test_a_key_given_twice(text: str, refused: Callable[..., str], tmp_path: Path) -> None:
    """Asks the contract: which of two values is meant is not guessed."""
    assert "twice" in refused("--plan", write(tmp_path / "plan", text))


WRONG_CONFIGS: list[tuple[dict[str, Any], str]] = [
    *(
        ({key: ...}, f"{key} is missing")
        for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    ),
    *(
        ({"hidden_size": value}, "hidden_size is")
        for value in (-1, 0, 1.5, 48.0, True, "48", [], {}, 10**8, 10**4000, "x" * 5000, float("nan"), float("inf"))
    ),
    ({"num_hidden_layers": 10**6}, "between 1 and"),
    ({"model_type": ...}, "no model_type"),
    ({"model_type": "gpt2"}, "model_type 'gpt2'"),
    ({"model_type": "t" * 5000}, "llama, mistral"),
    ({"model_type": ["llama"]}, "model_type"),
    ({"model_type": {}}, "model_type"),
    ({"model_type": 3}, "model_type"),
    ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads 3"),
    ({"num_key_value_heads": 8}, "not a multiple of num_key_value_heads 8"),
    ({"head_dim": 3}, "head_dim is 3"),
    ({"hidden_size": 20}, "head_dim is 5"),
    ({"hidden_size": 50}, "not a multiple of num_attention_heads"),
    ({"hidden_act": "relu6"}, "hidden_act 'relu6'"),
    ({"hidden_act": []}, "hidden_act"),
    ({"hidden_act": None}, "hidden_act"),
    ({"attention_dropout": 0.1}, "eager"),
    ({"attention_dropout": 1}, "attention_dropout"),
    ({"attention_dropout": "0"}, "attention_dropout"),
    ({"attention_dropout": float("nan")}, "attention_dropout"),
    ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
    ({"attention_bias": 1}, "attention_bias"),
    ({"quantization_config": {"bits": 4}}, "quantised"),
    ({"text_config": {}}, "no model_type"),
    ({"model_type": "mistral", "sliding_window": 0}, "sliding_window"),
    ({**QWEN, "layer_types": [1, 2]}, "layer type 1"),
    ({**QWEN, "layer_types": [[], {}]}, "layer type []"),
    ({**QWEN, "layer_types": ["full_attention"]}, "each of the 2 layers"),
    ({**QWEN, "layer_types": "full_attention"}, "each of the 2 layers"),
    ({**QWEN, "layer_types": ["sliding_attention"] * 2}, "use_sliding_window is off"),
    ({**QWEN, "use_sliding_window": 1}, "use_sliding_window"),
    ({**QWEN, "use_sliding_window": True, "sliding_window": "4k"}, "sliding_window"),
    ({**QWEN, "max_window_layers": "x"}, "max_window_layers"),
    ({**QWEN, "num_key_value_heads": ...}, "num_key_value_heads 32"),
]


@pytest.mark.parametrize(("changes", "says"), WRONG_CONFIGS)
def test_wrong_config(changes: dict[str, Any], says: str, refused: Callable[..., str], tmp_path: Path) -> None:
    """Asks the contract: a config.json's mistake is named by its key (``...`` takes the key out)."""
    config = {key: value for key, value in {**CONFIG, **changes}.items() if value is not ...}
    file = write(tmp_path / "config.json", config)
    assert says in refused(file)
    assert says in refused(tmp_path)


WRONG_ADAPTERS: list[tuple[dict[str, Any], str]] = [
    ({"peft_type": ...}, "no peft_type"),
    ({"peft_type": 3}, "no peft_type"),
    ({"peft_type": "VERRA"}, "peft_type 'VERRA' has no rules"),
    ({"peft_type": "FULL"}, "has no rules"),
    ({"peft_type": "P" * 5000}, "has no rules"),
    ({"use_qalora": True}, "use_qalora"),
    ({"layer_replication": [[0, 1]]}, "layer_replication"),
    ({"unheard_of": {"a": [1] * 5000}}, "unheard_of"),
    ({"name": "full"}, "name"),
    ({"name": ["lora"]}, "name"),
    ({"r": "4"}, "method.r"),
    ({"r": -4}, "method.r"),
    ({"target_modules": ["c_attn"]}, "'c_attn' matches nothing"),
    ({"lora_dropout": float("nan")}, "method.lora_dropout"),
]


@pytest.mark.parametrize(("changes", "says"), WRONG_ADAPTERS)
def test_wrong_adapter(changes: dict[str, Any], says: str, refused: Callable[..., str], tmp_path: Path) -> None:
    """Asks the contract: an adapter_config.json that this version cannot answer for is refused."""
    adapter = {key: value for key, value in {**ADAPTER, **changes}.items() if value is not ...}
    assert says in refused(MODEL, "--method", write(tmp_path / "adapter_config.json", adapter))


@pytest.mark.parametrize("model", ["Qwen/Qwen0-0.6B", "a/b", "a b/c", "-/-", "ü/ü", "m" * 3000 + "/x"])
def test_a_hub_id_without_a_hub(model: str, refused: Callable[..., str]) -> None:
    """Asks the contract: offline, a hub id says what to give in its place."""
    assert "config.json" in refused("--batch", "1", "--", model)


def test_a_hub_id_offline() -> None:
    """Asks the contract, with the hub's own offline switch in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "estimator.show.cli", "estimate", "no-such-owner/no-such-model"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "estimator models" in done.stderr
    check_line(done.stderr.removesuffix("\n"))


@pytest.mark.parametrize("error", ["RepositoryNotFoundError", "GatedRepoError", "RemoteEntryNotFoundError"])
def test_what_the_hub_answers(error: str, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]) -> None:
    """Asks the contract: the hub's own refusals are passed on in one line."""
    import huggingface_hub
    from huggingface_hub import errors

    def refuse(*arguments: Any, **options: Any) -> str:
        response = SimpleNamespace(headers={}, request=None, status_code=404)
        raise getattr(errors, error)("a long\ntext", response=response)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr("estimator.plans.models._reach_hub", lambda: None)
    assert "404" in refused(f"owner/{error}")


def test_numpy_integers_are_whole_numbers() -> None:
    """Asks the contract from its other side: a loop over ``np.arange`` is no wrong input."""
    import numpy as np

    assert estimate(model=MODEL, batch=np.int64(2), seq=np.uint16(64)) == estimate(model=MODEL, batch=2, seq=64)
    with pytest.raises(InputError, match="batch"):
        estimate(model=MODEL, batch=np.float64(2.0))


# Arbitrary input: every plan, config and adapter gives a result or one line.

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
    CONFIG,
    {**QWEN, "use_sliding_window": True, "sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]},
    {**CONFIG, "model_type": "mistral", "sliding_window": 8, "head_dim": 12},
    {**CONFIG, "model_type": "qwen3", "head_dim": 12, "max_window_layers": 1, "attention_dropout": 0.0},
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
        check_line(str(error))
    else:
        assert isinstance(result, Result)
        json.dumps(result.to_dict(), allow_nan=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated")


quick = settings(max_examples=200, deadline=None)
METHOD_KEYS = ["r", "target_modules", "exclude_modules", "modules_to_save", "layers_pattern", "layers_to_transform"]


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


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes(content: bytes, folder: Path) -> None:
    """Asks the contract: a file of any bytes, as plan, config, adapter and lines of plans."""
    file = write(folder / "any.json", content)
    answered(lambda: estimate(parse_plan(read_plan_mapping(file))))
    answered(lambda: estimate(model=str(file)))
    answered(lambda: estimate(model=MODEL, method=str(file)))
    for line in estimate_lines(content.splitlines(keepends=True)):
        json.loads(line)


@quick
@given(text=st.text(max_size=40) | st.text(alphabet="{}[]:,&*!<>?|-'\"#~ \nabn01.", max_size=60))
def test_any_text(text: str, folder: Path) -> None:
    """Asks the contract: a text in the letters of YAML as plan; and any text as model, method, device and budget."""
    file = write(folder / "any.yaml", text)
    answered(lambda: estimate(parse_plan(read_plan_mapping(file))))
    answered(lambda: estimate(model=text))
    for key in ("method", "device", "budget"):
        answered(lambda key=key: estimate({"model": MODEL, key: text}))
