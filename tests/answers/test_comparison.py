"""The comparison of methods and devices: every number is an estimate's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from estimator.answers import comparison
from estimator.answers.comparison import all_methods, compare, usual_lengths
from estimator.answers.estimate import estimate
from estimator.figures.process_parts import process_parts
from estimator.methods.registry import METHODS
from tests.helpers.commands import output, refusal

MODEL = "smollm2-135m"
LORA = {"name": "lora", "r": 16, "target_modules": ["q_proj", "v_proj"]}


@pytest.mark.consistency
def test_every_number_is_the_estimates():
    methods = "[full, {name: lora, r: 16, target_modules: [q_proj, v_proj]}, ia3]"
    found = json.loads(output("compare", MODEL, "--batch", "2", "--seqs", "64,256", "--methods", methods, "--json"))
    assert found["seqs"] == [64, 256]
    assert found["at"] == 256
    full = estimate(model=MODEL, batch=2, seq=256)
    for row in found["methods"]:
        for seq, result in zip(found["seqs"], row["results"], strict=True):
            assert result == estimate(model=MODEL, batch=2, seq=seq, method=row["method"]).to_dict()
        own = estimate(model=MODEL, batch=2, seq=256, method=row["method"])
        assert row["at"] == own.to_dict()
        assert row["share_of_full"]["saved"] == own.bytes["saved"] / full.bytes["saved"]
        assert row["share_of_full"]["peak"] == own.bytes["peak"] / full.bytes["peak"]
        assert row["share_of_full"]["process"] == own.bytes["process"] / full.bytes["process"]
        assert row["share_of_full"]["trainable"] == own.trainable_parameters / full.trainable_parameters


def test_parameter_efficient_is_not_memory_efficient():
    row = compare({"model": "llama-3.2-1b"}, [LORA], [2048], 2048).rows[0]
    assert row.shares[2048].trainable < 0.01
    assert row.shares[2048].saved > 0.7


def test_fits_follows_the_process_bytes():
    arguments = ["compare", MODEL, "--seqs", "64,8192", "--methods", "full", "--json", "--budget"]
    found = json.loads(output(*arguments, "8GiB"))
    process = [result["bytes"]["process"] for result in found["methods"][0]["results"]]
    assert process[0] <= 8 * 2**30 < process[1]
    assert found["methods"][0]["fits"] == {"budget": [True, False]}
    assert "at no length" in output("compare", MODEL, "--budget", "1MiB")  # nothing fits: still status 0


def test_method_options_go_to_the_methods_that_have_them(tmp_path):
    found = json.loads(output("compare", MODEL, "--seqs", "64", "--r", "4", "--json"))
    assert [row["method"] for row in found["methods"]] == [
        {"name": "full"},
        {"name": "lora", "r": 4},
        {"name": "ia3"},
    ]
    assert found["methods"][1]["label"] == "LoRA r=4"
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        f"model: {MODEL}\nseq: 96\nbudget: 8GiB\nmethod: {{name: lora, r: 2, target_modules: all-linear}}\n"
    )
    found = json.loads(output("compare", "--plan", str(plan), "--seqs", "64", "--json"))
    assert found["methods"][1]["method"] == {"name": "lora", "r": 2, "target_modules": "all-linear"}
    assert found["methods"][2]["method"] == {"name": "ia3"}
    assert found["at"] == 96
    assert found["limits"] == {"budget": 8 * 2**30}


def test_adapter_config_is_a_method(tmp_path):
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "r": 32, "target_modules": ["o_proj"]}))
    found = json.loads(output("compare", MODEL, "--seqs", "64", "--methods", f"full,{path}", "--json"))
    assert found["methods"][1]["label"] == "LoRA r=32 (o_proj)"


@pytest.mark.parametrize("seq", [16, 512, 4096])
@pytest.mark.parametrize("checkpointing", ["none", "layer"])
@pytest.mark.parametrize("method", [{"name": "full"}, LORA])
@pytest.mark.parametrize("steps", [1, 4])
def test_parts_add_up_to_the_process(seq, checkpointing, method, steps):
    plan = {"model": MODEL, "seq": seq, "checkpointing": checkpointing, "gradient_accumulation_steps": steps}
    result = estimate(plan, method=method)
    parts = process_parts(result, gradients_alive=steps > 1)
    assert sum(parts.values()) == result.bytes["process"]
    assert min(parts.values()) >= 0


def test_temporaries_at_the_loss_are_logits_and_their_gradients():
    result = estimate(model="llama-3.2-1b", batch=4, seq=2048, method=LORA)
    assert result.peak_at == "loss backward"
    tokens = 4 * 2048
    logits = tokens * 128256
    # bfloat16 logits and two float32 gradients, to ids, labels and a few numbers
    assert process_parts(result)["temporaries and logits"] == pytest.approx(logits * (2 + 4 + 4), abs=32 * tokens)


TWO = ["compare", "llama-3.2-1b", "--methods", "full,lora", "--seqs", "1024,2048,4608", "--json", "--devices"]


@pytest.mark.share(3)
@pytest.mark.consistency
@pytest.mark.parametrize(
    ("keys", "lengths"),
    [
        ({"model": MODEL}, [512, 1024, 2048, 4096, 8192]),
        ({"model": "gpt2"}, [512, 1024]),
        ({"model": "bert-base"}, [512]),
        ({"model": "llava-1.5-7b", "images": 3}, [2048, 4096, 8192]),  # of 576 tokens each
        ({"model": "llava-1.5-7b", "images": 20}, [11520]),
    ],
)
def test_usual_lengths_are_those_that_the_model_takes(keys: dict[str, Any], lengths: list[int]) -> None:
    assert usual_lengths(keys) == lengths


@pytest.mark.share(9)
def test_each_device_is_asked_itself():
    """Witness: the estimate on that device. A T4 runs the math kernel where an RTX 4090 runs flash, a Mac a CPU's."""
    first = json.loads(output(*TWO, "rtx-4090,t4,apple-64gb"))
    assert first["device"] == "rtx-4090"
    for row in first["methods"]:
        assert len({tuple(sizes) for sizes in row["process"].values()}) == 3
        for name in first["limits"]:
            for i, seq in enumerate(first["seqs"]):
                own = estimate("llama-3.2-1b", method=row["method"], seq=seq, device=name)
                told = [row[key][name][i] for key in ("process", "fits", "verdict")]
                assert told == [own.bytes["process"], own.fits, own.verdict]
                if name == first["device"]:
                    assert row["results"][i] == own.to_dict()
    assert first["methods"][1]["fits"]["t4"] == [True, False, False]
    assert first["methods"][0]["verdict"]["rtx-4090"] == ["fits", "fits", "tight"]
    other = json.loads(output(*TWO, "apple-64gb,t4,rtx-4090"))
    for one, two in zip(first["methods"], other["methods"], strict=True):
        assert all(one[key] == two[key] for key in ("process", "fits", "verdict"))


def test_devices_that_need_the_same_share_estimates():
    """Asks the contract: CPUs' bytes are estimated once; limits, verdicts and assumptions are each device's own."""
    done: list[None] = []
    devices = ["apple-64gb", "iphone-15", "galaxy-s24"]
    found = compare({"model": MODEL}, [LORA], [64, 4096], 64, devices, progress=lambda: done.append(None))
    assert len(done) == 4
    for name in devices:
        for seq, result in found.rows[0].on[name].items():
            assert result == estimate(model=MODEL, seq=seq, method=LORA, device=name)
    assert found.groups() == [devices]


@pytest.mark.parametrize("arguments", [["--runtime", "llama.cpp"], ["--dtype", "q4_k_m"]])
def test_a_comparison_is_of_training_in_pytorch(arguments):
    assert "a comparison of training steps does not go with runtime: llama.cpp" in refusal("compare", MODEL, *arguments)


@pytest.mark.share(48)
def test_all_methods_are_those_of_the_device():
    """Checkpoints on the host go with a GPU alone."""
    command = ["compare", MODEL, "--methods", "all", "--seqs", "64", "--at", "64", "--checkpointing", "offloaded"]
    assert "LoRA r=8" in output(*command, "--devices", "rtx-4090")
    assert "checkpointing" in refusal(*command)


def test_methods_that_a_model_does_not_take_are_left_out():
    """With the reason, also where it is only known once the step runs."""
    left_out: dict[str, str] = {}
    names = {block["name"] for block in all_methods({"model": "qwen3-30b-a3b", "seq": 64}, {}, left_out)}
    assert {"full", "lora", "prompt_tuning"} <= names
    assert "TopkBackward" in left_out["forward-mode differentiation"]
    assert "name some" in left_out["IA3"]


def test_methods_take_the_options_that_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank is none of IA3's options, and of LoRA's it is."""
    monkeypatch.setattr(comparison, "METHODS", {name: METHODS[name] for name in ("lora", "ia3")})
    found = all_methods({"model": "smollm-135m", "seq": 8}, {"r": 3})
    assert found == [{"name": "lora", "r": 3}, {"name": "ia3"}]
