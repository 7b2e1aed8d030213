"""Files that are no plan, no config, no adapter, or no file at all.

The witness is the contract: exit status 2 and one line.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from estimator.errors import InputError
from estimator.io.files import parse_json
from tests.cases.small_models import TINY, write_config
from tests.helpers.commands import child, refused
from tests.helpers.files import write

MODEL = "smollm-135m"
QWEN = {**TINY, "model_type": "qwen2"}
ADAPTER: dict[str, Any] = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "bias": "none", "use_dora": False}
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
    "sixteen.json": json.dumps(TINY).encode("utf-16"),
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
def test_wrong_file(name: str, where: str, tmp_path: Path) -> None:
    """Asks the contract: a file that is no plan, no config or no adapter is named, whatever it is made of."""
    file = write(tmp_path / name, WRONG_FILES[name])
    arguments = {"plan": ["--plan", file], "config": [file], "adapter": [MODEL, "--method", file]}[where]
    line = refused(*arguments)
    if name not in ("hexadecimal.yaml", "dates.yaml", "null-key.yaml", "number-key.yaml"):
        assert name in line


@pytest.mark.parametrize("arguments", [["--plan", "."], ["."], [MODEL, "--method", "."]])
def test_a_directory(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks the contract: an empty folder is no plan, no model and no adapter."""
    monkeypatch.chdir(tmp_path)
    refused(*arguments)
    for name in ("config.json", "adapter_config.json"):
        (tmp_path / name).mkdir()
    refused(*arguments)


@pytest.mark.parametrize(
    "text", ['{"model": "smollm-135m", "batch": 1, "batch": 2}', "model: smollm-135m\nbatch: 1\nbatch: 2"]
)
def test_a_key_given_twice(text: str, tmp_path: Path) -> None:
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
    ({"model_type": "t5", "is_encoder_decoder": True}, "an encoder beside its decoder"),
    ({"model_type": "t" * 5000}, "transformers refuses the config"),
    ({"model_type": ["llama"]}, "model_type"),
    ({"model_type": {}}, "model_type"),
    ({"model_type": 3}, "model_type"),
    ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads 3"),
    ({**QWEN, "num_key_value_heads": [0]}, "num_key_value_heads"),
    ({"hidden_size": 0, "head_dim": 12, "unheard_of": 1}, "hidden_size is 0"),
    ({"num_key_value_heads": 8}, "not a multiple of num_key_value_heads 8"),
    ({"head_dim": 3}, "head_dim is 3; rotary embeddings need an even one"),
    ({"hidden_size": 20}, "is 5; rotary embeddings need an even one"),
    ({"hidden_size": 50}, "not a multiple of the number of attention heads"),
    ({"hidden_act": []}, "hidden_act"),
    ({"hidden_act": None}, "hidden_act"),
    ({"attention_dropout": 1}, "attention_dropout"),
    ({"attention_dropout": "0"}, "attention_dropout"),
    ({"attention_dropout": float("nan")}, "attention_dropout"),
    ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
    ({"attention_bias": 1}, "attention_bias"),
    ({"quantization_config": {"bits": 4}}, "no quant_method"),
    ({"text_config": {}}, "no model_type"),
    ({"model_type": "gpt_neo"}, "`len(config.attention_layers)` is 24 and `config.num_layers` 2"),
    ({"model_type": "gpt_neo", "attention_types": [[["global"], 3]]}, "so give attention_types for 2 layers"),
    ({"model_type": "mistral", "sliding_window": 0}, "sliding_window"),
    ({**QWEN, "layer_types": [1, 2]}, "layer_types must list one type"),
    ({**QWEN, "layer_types": [[], {}]}, "layer_types must list one type"),
    ({**QWEN, "layer_types": ["full_attention"]}, "each of the 2 layers"),
    ({**QWEN, "layer_types": "full_attention"}, "each of the 2 layers"),
    ({**QWEN, "layer_types": ["sliding_attention"] * 2}, "`sliding_window` argument"),
    ({**QWEN, "use_sliding_window": 1}, "use_sliding_window"),
    ({**QWEN, "use_sliding_window": True, "sliding_window": "4k"}, "sliding_window"),
    ({**QWEN, "max_window_layers": "x"}, "max_window_layers"),
    ({**QWEN, "num_key_value_heads": ...}, "num_key_value_heads 32"),
]


@pytest.mark.parametrize(("changes", "says"), WRONG_CONFIGS)
def test_wrong_config(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    """Asks the contract: a config.json's mistake is named by its key (``...`` takes the key out)."""
    config = {key: value for key, value in {**TINY, **changes}.items() if value is not ...}
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
def test_wrong_adapter(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    """Asks the contract: an adapter_config.json that this version cannot answer for is refused."""
    adapter = {key: value for key, value in {**ADAPTER, **changes}.items() if value is not ...}
    assert says in refused(MODEL, "--method", write(tmp_path / "adapter_config.json", adapter))


SMOLLM2 = "smollm2-135m"
WHERE = [["--plan"], [], [SMOLLM2, "--method"], ["--plans"], [SMOLLM2, "--lengths"]]


@pytest.mark.share(2)
@pytest.mark.parametrize("where", WHERE, ids=["plan", "model", "method", "plans", "lengths"])
def test_what_is_no_file(where: list[str], tmp_path: Path) -> None:
    """Asks the contract: a named pipe, which would never answer, a device, which would never end, and a folder."""
    os.mkfifo(tmp_path / "pipe")
    done = child("estimate", *where, str(tmp_path / "pipe"), stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "is a named pipe" in done.stderr
    assert "is a device" in refused(*where, "/dev/zero")
    refused(*where, tmp_path)


def test_a_header_from_a_pipe(tmp_path: Path) -> None:
    """Asks the contract."""
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "is a named pipe" in refused(tmp_path / "pipe.gguf")


def test_keys_given_twice(tmp_path: Path) -> None:
    """Asks the contract: which of two values is meant is not guessed, in no file; the check takes linear time."""
    folder = Path(write_config(tmp_path / "twice", {}))
    write(folder / "config.json", (folder / "config.json").read_text()[:-1] + ', "vocab_size": 7}')
    assert "'vocab_size' is given twice" in refused(folder)
    adapter = write(tmp_path / "adapter.json", '{"peft_type": "LORA", "r": 4, "r": 8}')
    assert "'r' is given twice" in refused(SMOLLM2, "--method", adapter)
    start = time.process_time()
    with pytest.raises(InputError, match="twice"):
        parse_json("{" + ",".join(f'"k{i}":1' for i in range(60_000)) + ',"k59999":1}')
    assert time.process_time() - start < 1
