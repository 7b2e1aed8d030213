"""Words that people use for keys and values, and what they are answered with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.engines.executorch.options import ExecuTorchOptions
from estimator.engines.mlx.options import MlxOptions
from estimator.engines.sglang.options import SglangOptions
from estimator.engines.vllm.options import VllmOptions
from estimator.errors import InputError
from estimator.methods.registry import METHODS
from estimator.plans.flat import BLOCKS, nested
from estimator.plans.plan import Plan, _image_size, parse_plan
from estimator.plans.words import KEYS, VALUES, Given, refuse_words
from estimator.show.cli import main
from estimator.steps.sharding.options import NO_RULE_YET

MODEL = "smollm-135m"


def test_what_words_mean_are_plans() -> None:
    """Every key and value that a word is answered with is one that a plan takes, and is itself no such word."""
    meanings = [*KEYS.values(), *(meaning for words in VALUES.values() for meaning in words.values())]
    for meaning in meanings:
        if isinstance(meaning, str):
            continue
        examples = {"N": 2, "LIST": ["q_proj"], "SIZE": "8GiB", "NAME": None, "DTYPE": "bfloat16"}
        keys = {k: examples[str(v)] if isinstance(v, Given) else v for k, v in meaning.items()}
        keys = {k: v for k, v in keys.items() if v is not None and v != "offloaded"}
        if "world_size" in keys:
            keys = {"sharding": "fsdp2", **keys}
        if {keys.get("sharding"), *keys} & {*NO_RULE_YET}:
            continue  # refused for want of rules
        keys |= {"sharding": {}} if "tp" in keys and "sharding" not in keys else {}
        kbit = {"method": "lora"} if keys.get("dtype") in ("nf4", "int8", "float8") else {}
        cuda = {"runtime": "torch-cuda"} if keys.get("attention") == "flash" or "host_memory" in keys else {}
        assert parse_plan(nested({"model": MODEL}, {**kbit, **cuda, **keys}))
        refuse_words(nested({}, keys))


def test_no_word_is_a_key_or_a_value_already() -> None:
    """A word that a plan takes is not refused."""
    keys = {key for block in (Plan, *BLOCKS.values(), *METHODS.values()) for key in block.model_fields}
    engines = (VllmOptions, SglangOptions, MlxOptions, ExecuTorchOptions)  # whose options have words of their own
    assert not (keys - {key for one in engines for key in one.model_fields}) & KEYS.keys()
    for key, words in VALUES.items():
        for word in words:
            with pytest.raises(InputError):
                parse_plan({"model": MODEL, key: word})
    assert not VALUES["method"].keys() & METHODS.keys()


WORDS: list[tuple[dict[str, Any], str]] = [
    ({"method": "DoRA"}, "`method: DoRA` is method: lora with use_dora: true: give --method lora --use-dora"),
    ({"method": {"name": "dora", "r": 8}}, "method: lora with use_dora: true"),
    ({"qlora": True}, "`qlora` is method: qlora: give --method qlora"),
    ({"dtype": "8bit"}, "`dtype: 8bit` is dtype: int8: give --dtype int8"),
    ({"context_parallel_size": 2}, "`context_parallel_size` is cp: context parallelism has no rule, since no run"),
    (
        {"expert_parallel": 2},
        "`expert_parallel` is ep: expert parallelism has no rule, since no run of it was",
    ),
    ({"load_in_4bit": True}, "`load_in_4bit` is dtype: nf4: give --dtype nf4"),
    ({"gradient_checkpointing": True}, "`gradient_checkpointing` is checkpointing: layer: give --checkpointing layer"),
    ({"checkpointing": True}, "`checkpointing: true` is checkpointing: layer"),
    ({"fp16": True}, "`fp16` is autocast: float16"),
    ({"attention": "flash_attention_2"}, "is attention: flash"),
    ({"per_device_train_batch_size": 4}, "`per_device_train_batch_size` is batch: give --batch N"),
    ({"cutoff_len": 512}, "`cutoff_len` is seq: give --seq N"),
    ({"lora_r": 16}, "`lora_r` is r with method: lora: give --r N --method lora"),
    (
        {"deepspeed": "ds.json"},
        "`deepspeed` is sharding with world_size: give --sharding NAME --world-size N; `estimator",
    ),
    (
        {"deepspeed": "zero3"},
        "`deepspeed: zero3` is sharding: zero3 with world_size: give --sharding zero3 --world-size N",
    ),
    ({"zero_stage": 2}, "`zero_stage: 2` is sharding: zero2 with world_size: give --sharding zero2 --world-size N"),
    ({"fsdp": "full_shard"}, "`fsdp` is sharding: fsdp2 with world_size: give --sharding fsdp2 --world-size N"),
    ({"method": "ddp"}, "`method: ddp` is sharding: ddp with world_size: give --sharding ddp --world-size N"),
    ({"num_gpus": 8}, "`num_gpus` is sharding with world_size: give --sharding NAME --world-size N"),
    ({"tensor_parallel_size": 2}, "`tensor_parallel_size` is tp: give --tp N"),
    ({"optimizer": "paged_adamw_32bit"}, "is optimizer: paged-adamw"),
]


@pytest.mark.parametrize(("keys", "says"), WORDS)
def test_words_that_people_use(keys: dict[str, Any], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line with the keys they mean: in a plan, as a keyword and on the command line."""
    means = re.escape(says.partition(": give ")[0])
    with pytest.raises(InputError, match=means):
        estimate({"model": MODEL, **keys})
    with pytest.raises(InputError, match=means):
        estimate(MODEL, **keys)
    ((key, value),) = keys.items()
    if not isinstance(value, dict):
        switch = value is True and key != "checkpointing"
        arguments = [f"--{key.replace('_', '-')}", *([] if switch else [str(value)])]
        assert main(["estimate", MODEL, *arguments]) == 2
        assert says.rpartition("` ")[2].lower() in capsys.readouterr().err.lower()


def test_a_key_of_sharding_beside_the_block_is_sent_there() -> None:
    """In a plan's file, which has no place for it beside the plan's keys."""
    for key, value, written in (("tp", 2, "tp: 2"), ("world_size", 8, "world_size: 8"), ("static_graph", True, "true")):
        with pytest.raises(InputError, match=f"`{key}` is a key of the block sharding: write sharding: .*{written}"):
            parse_plan({"model": MODEL, key: value})


def test_python_is_answered_in_pythons_words(capsys: pytest.CaptureFixture[str]) -> None:
    """Keys and questions as they are written there; a shell is told of options and commands."""
    lines = {
        "give r=N, method='lora'": {"lora_r": 16},
        "give method='lora', use_dora=True": {"method": "dora"},
        "see help(estimator.estimate)": {"nope": 1},
        "estimator.devices() lists them, or give budget='24GiB' in its place": {"device": "nope"},
        "estimator.models() lists": {"model": "smollm-136m"},
    }
    for line, keys in lines.items():
        with pytest.raises(InputError, match=re.escape(line)):
            estimate(**{"model": MODEL, **keys})
    assert main(["estimate", MODEL, "--device", "nope"]) == 2
    assert "`estimator devices` lists them, or give --budget 24GiB" in capsys.readouterr().err
    with pytest.raises(InputError, match="give r=N"):  # after a command in the same process
        estimate(MODEL, lora_r=16)


def test_an_adapters_folder_may_have_such_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder ``dora`` that holds an adapter is that adapter."""
    monkeypatch.chdir(tmp_path)
    Path("dora").mkdir()
    Path("dora/adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    assert estimate(MODEL, method="dora").bytes == estimate(MODEL, method="lora", r=4).bytes


def test_words_are_of_plans_only(capsys: pytest.CaptureFixture[str]) -> None:
    """A command without a plan does not send its user to the keys of one."""
    assert main(["devices", "--memory", "8GiB"]) == 2
    assert "did you mean --min-memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "sizes"),
    [
        ("64x48", (64, 48)),
        (" 64 X 48 ", (64, 48)),
        ([64, 48], (64, 48)),
        ("64x48,32x16", ((64, 48), (32, 16))),
        (["64x48", [32, 16]], ((64, 48), (32, 16))),
        ("99999x1", (99999, 1)),
    ],
    ids=str,
)
def test_sizes_of_images(written: Any, sizes: Any) -> None:
    """Height and width, of each image or of all."""
    assert _image_size(written) == sizes


@pytest.mark.parametrize(
    "written", ["64", "64x", "0x64", "100000x1", [0, 64], [10**5, 1], [64, 48, 3], [True, 64], 64, None]
)
def test_what_is_no_size_of_an_image(written: Any) -> None:
    with pytest.raises(ValueError, match="must be height x width in pixels"):
        _image_size(written)
