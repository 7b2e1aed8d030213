"""LoRA's variants and relatives: measured steps, operator rules against autograd, what PEFT refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from estimator import operators as ops
from estimator.answers.estimate import estimate
from estimator.answers.formulas import compile_plan
from estimator.errors import InputError
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve

from .cases import write_config
from .measured import assert_step
from .test_ops import FLOATS, MIXED, PAIRS, Given, _threads, agree, varied  # noqa: F401  (the fixture runs by itself)

DORA: dict[str, Any] = {"name": "lora", "use_dora": True, "r": 5}
FA: dict[str, Any] = {"name": "lora-fa", "r": 7}
ADALORA: dict[str, Any] = {"name": "adalora", "init_r": 6, "total_step": 10}
IMPORTANCE: dict[str, Any] = {**ADALORA, "update_and_allocate": True, "total_step": 50, "tinit": 20, "tfinal": 5}
ORTHOGONAL: dict[str, Any] = {**ADALORA, "task_type": "CAUSAL_LM"}
VERA: dict[str, Any] = {"name": "vera", "r": 24}
TOKENS: dict[str, Any] = {"name": "trainable_tokens", "token_indices": [1, 5, 7, 9]}
DELORA: dict[str, Any] = {"name": "delora", "r": 6}
HRA: dict[str, Any] = {"name": "hra", "r": 4}
ROAD: dict[str, Any] = {"name": "road", "group_size": 16}
TIED = {"tie_word_embeddings": True}

_ROWS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("dora", {"num_hidden_layers": 5}, {"method": DORA}),
    ("dora-dropout", {"model_type": "qwen3"}, {"method": {**DORA, "lora_dropout": 0.1}, "dtype": "bfloat16"}),
    ("dora-biases", {"model_type": "qwen2"}, {"method": {**DORA, "bias": "lora_only"}, "attention": "eager"}),
    (
        "dora-embeddings",
        TIED,
        {"method": {**DORA, "target_modules": ["embed_tokens", "lm_head", "v_proj"]}, "dtype": "float16"},
    ),
    (
        "dora-checkpointing",
        {"model_type": "mistral", "num_hidden_layers": 5},
        {"method": {**DORA, "target_modules": ["q_proj", "down_proj"], "lora_dropout": 0.1}, "checkpointing": "layer"},
    ),
    ("dora-autocast", {}, {"method": DORA, "autocast": "bfloat16"}),
    ("pissa", {}, {"method": {"name": "lora", "init_lora_weights": "pissa"}, "dtype": "bfloat16"}),
    ("olora", {"model_type": "qwen2"}, {"method": {"name": "lora", "init_lora_weights": "olora"}, "dtype": "float16"}),
    ("mica", {"model_type": "mistral"}, {"method": {"name": "lora", "r": 4, "init_lora_weights": "mica"}}),
    (
        "lora-tokens",
        {"model_type": "qwen3"},
        {"method": {"name": "lora", "trainable_token_indices": [3, 4]}, "dtype": "float16"},
    ),
    (
        "lora-tokens-by-name",
        TIED,
        {"method": {"name": "lora", "trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [3]}}},
    ),
    ("lora-fa", {"num_hidden_layers": 5}, {"method": FA}),
    (
        "lora-fa-all-dropout",
        {"model_type": "qwen3"},
        {"method": {**FA, "target_modules": "all-linear", "lora_dropout": 0.1}, "dtype": "bfloat16"},
    ),
    (
        "lora-fa-embedding",
        {"model_type": "mistral"},
        {"method": {**FA, "target_modules": ["embed_tokens", "v_proj"]}, "dtype": "float16", "checkpointing": "layer"},
    ),
    ("adalora", {"num_hidden_layers": 5}, {"method": ADALORA}),
    ("adalora-16-bit", {"model_type": "qwen2"}, {"method": ADALORA, "dtype": "bfloat16", "attention": "eager"}),
    ("adalora-orthogonal", {"num_hidden_layers": 5}, {"method": ORTHOGONAL}),
    (
        "adalora-orthogonal-dropout",
        {"model_type": "qwen3", "num_hidden_layers": 5},
        {
            "method": {**ORTHOGONAL, "target_modules": ["q_proj", "down_proj"], "lora_dropout": 0.1},
            "dtype": "float16",
            "checkpointing": "layer",
        },
    ),
    (
        "adalora-importance",
        {"num_hidden_layers": 5},
        {"method": IMPORTANCE},
    ),
    (
        "adalora-importance-peak",
        {},
        {"method": {**IMPORTANCE, "init_r": 200}, "batch": 1, "seq": 2, "optimizer": "sgd"},
    ),
    (
        "adalora-importance-16-bit",
        {"model_type": "qwen2"},
        {
            "method": {**IMPORTANCE, "task_type": "CAUSAL_LM"},
            "dtype": "bfloat16",
            "gradient_clipping": True,
        },
    ),
    ("adalora-orthogonal-autocast", {}, {"method": ORTHOGONAL, "autocast": "bfloat16"}),
    ("vera", {"num_hidden_layers": 5}, {"method": VERA}),
    (
        "vera-mixed-sizes",
        {"model_type": "mistral"},
        {
            "method": {**VERA, "target_modules": ["q_proj", "k_proj", "down_proj"], "vera_dropout": 0.1},
            "dtype": "bfloat16",
        },
    ),
    (
        "vera-biases",
        {"model_type": "qwen2"},
        {"method": {**VERA, "bias": "vera_only"}, "dtype": "float16", "checkpointing": "layer"},
    ),
    ("vera-head", {}, {"method": {**VERA, "target_modules": ["lm_head", "v_proj"]}, "autocast": "bfloat16"}),
    ("tokens", {}, {"method": TOKENS, "dtype": "bfloat16"}),
    ("tokens-tied", {"model_type": "qwen3"}, {"method": TOKENS, "checkpointing": "layer"}),
    ("tokens-head", {"model_type": "qwen2"}, {"method": {**TOKENS, "target_modules": ["lm_head"]}, "dtype": "float16"}),
    ("delora", {}, {"method": DELORA, "autocast": "bfloat16"}),
    (
        "delora-dropout",
        {"model_type": "mistral", "num_hidden_layers": 5},
        {"method": {**DELORA, "module_dropout": 0.1}, "dtype": "bfloat16", "checkpointing": "layer"},
    ),
    ("delora-biases", {"model_type": "qwen2"}, {"method": {**DELORA, "bias": "delora_only"}, "dtype": "float16"}),
    ("hra", {"num_hidden_layers": 5}, {"method": HRA}),
    ("hra-odd", {"model_type": "qwen2"}, {"method": {**HRA, "r": 3}, "dtype": "float16", "attention": "eager"}),
    ("hra-orthogonalised", {"model_type": "qwen3"}, {"method": {**HRA, "apply_GS": True}, "dtype": "bfloat16"}),
    ("road-1", {"num_hidden_layers": 5}, {"method": ROAD}),
    ("road-2", {"model_type": "mistral"}, {"method": {**ROAD, "variant": "road_2"}, "dtype": "bfloat16"}),
    (
        "road-4",
        {"model_type": "qwen2"},
        {"method": {**ROAD, "variant": "road_4"}, "dtype": "float16", "checkpointing": "layer"},
    ),
    ("tokens-autocast", TIED, {"method": TOKENS, "autocast": "float16", "attention": "eager"}),
]
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (name, config, {"batch": 2, "seq": 33 + number, "dtype": "float32", **plan})
    for number, (name, config, plan) in enumerate(_ROWS)
]


@pytest.mark.parametrize(("config", "plan"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_step(config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: measurement."""
    assert_step(config, plan, tmp_path)


@pytest.mark.parametrize(
    "method", [DORA, FA, ORTHOGONAL, VERA, TOKENS, DELORA, HRA, ROAD], ids=lambda method: method["name"]
)
def test_compiled(method: dict[str, Any], tmp_path: Path) -> None:
    """Witness: none, the formulas against the estimate they are compiled from."""
    model = write_config(tmp_path / "model", {"num_hidden_layers": 5, "tie_word_embeddings": True})
    compiled = compile_plan(parse_plan({"model": model, "batch": 2, "seq": 33, "method": method}))
    for batch, seq in ((2, 33), (5, 64), (2, 3000)):
        plan = parse_plan({"model": model, "batch": batch, "seq": seq, "method": method})
        assert compiled.evaluate(batch, seq)["peak"] == estimate(plan).bytes["peak"]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({**DORA, "lora_bias": True}, "lora_bias is not for DoRA"),
        ({"name": "lora", "lora_bias": True, "init_lora_weights": "gaussian"}, "lora_bias needs init_lora_weights"),
        ({"name": "lora", "r": 3, "init_lora_weights": "orthogonal"}, "even rank"),
        ({**DORA, "init_lora_weights": "mica"}, "mica is not for DoRA"),
        ({"name": "lora", "init_lora_weights": "pisa"}, "init_lora_weights"),
        ({"name": "lora", "trainable_token_indices": [611]}, "token 611"),
        ({"name": "lora", "trainable_token_indices": {"q_proj": [1]}}, "'q_proj' has none"),
        (
            {"name": "lora", "trainable_token_indices": [1], "target_modules": ["embed_tokens"]},
            "trainable_token_indices and be in target_modules",
        ),
        ({"name": "adalora"}, "total_step' is missing"),
        ({**ADALORA, "tinit": 5, "tfinal": 5}, "leave none of the 10 steps"),
        ({**ADALORA, "target_modules": ["embed_tokens"]}, "linear layers only"),
        ({**VERA, "target_modules": ["embed_tokens"]}, "linear layers only"),
        ({"name": "trainable_tokens", "token_indices": []}, "token_indices"),
        ({**TOKENS, "target_modules": ["q_proj"]}, "has none"),
        ({**TOKENS, "target_modules": ["q"]}, "matches nothing"),
        ({"name": "road"}, "does not divide the 96 outputs"),
        ({**ROAD, "group_size": 3}, "is odd"),
        ({**ROAD, "exclude_modules": ["v_proj"]}, "no exclude_modules"),
        ({**HRA, "target_modules": ["embed_tokens"]}, "linear layers only"),
    ],
)
def test_refused(method: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = write_config(tmp_path / "model", {})
    with pytest.raises(InputError, match=message) as refusal:
        resolve(parse_plan({"model": model, "method": method}))
    assert "\n" not in str(refusal.value)


def test_adalora_on_a_gpu_counts_the_importance(tmp_path: Path) -> None:
    """Witness: PEFT's documentation: the loop is to call ``update_and_allocate``. The reference step does not."""
    model = write_config(tmp_path / "model", {})
    plan = {"model": model, "batch": 2, "seq": 40, "method": ADALORA}
    cpu, gpu, without = (
        estimate(parse_plan({**plan, **more}))
        for more in (
            {},
            {"runtime": "torch-cuda"},
            {"runtime": "torch-cuda", "method": {**ADALORA, "update_and_allocate": False}},
        )
    )
    ranknums = 4 * 2 * resolve(parse_plan(plan)).spec.config.num_hidden_layers
    assert gpu.bytes["optimizer"] - without.bytes["optimizer"] == 3 * (gpu.bytes["adapters"] - ranknums)
    assert gpu.bytes["allocated_peak"] - without.bytes["allocated_peak"] >= 3 * (gpu.bytes["adapters"] - ranknums)
    assert any("update_and_allocate: true counts them" in line for line in cpu.warnings)
    assert not any("update_and_allocate" in line for line in (*gpu.warnings, *without.warnings))


def test_adalora_by_release(tmp_path: Path) -> None:
    """Witness: ``requires_grad`` of ``ranknum`` in PEFT 0.10 to 0.21.2: it trains from 0.21 on, on a 16-bit base."""
    model = write_config(tmp_path / "model", {"num_hidden_layers": 2})
    found = {}
    for given in ("0.13.2", "0.20.0", "0.19.2.dev0@d787f51b", "0.21.0", "1.0"):
        plan = parse_plan({"model": model, "seq": 40, "method": {**ADALORA, "peft_version": given}})
        found[given] = estimate(plan)
    trainable = {given: result.trainable_parameters for given, result in found.items()}
    assert trainable["0.21.0"] == trainable["1.0"] == trainable["0.20.0"] + 4
    assert trainable["0.13.2"] == trainable["0.20.0"] == trainable["0.19.2.dev0@d787f51b"]
    assert found["0.20.0"].bytes["saved"] < found["0.21.0"].bytes["saved"]
    for wrong in (0.2, "new", "21"):
        with pytest.raises(InputError, match="peft_version: must be a release of PEFT"):
            parse_plan({"model": model, "method": {**ADALORA, "peft_version": wrong}})


def test_adalora_has_no_defaults_for_mistral(tmp_path: Path) -> None:
    model = write_config(tmp_path / "model", {"model_type": "mistral"})
    with pytest.raises(InputError, match="no default target_modules"):
        resolve(parse_plan({"model": model, "method": ADALORA}))


@pytest.mark.parametrize(
    "saved",
    [
        peft.LoraConfig(use_dora=True, init_lora_weights="pissa", task_type="CAUSAL_LM"),
        peft.LoraConfig(trainable_token_indices=[1, 2]),
        peft.AdaLoraConfig(total_step=10, task_type="CAUSAL_LM"),
        peft.VeraConfig(),
        peft.TrainableTokensConfig(token_indices=[1, 2]),
        peft.DeloraConfig(),
        peft.HRAConfig(),
        peft.RoadConfig(group_size=16),
    ],
    ids=lambda saved: saved.peft_type.value.lower(),
)
def test_adapter_config(saved: Any, tmp_path: Path) -> None:
    """Witness: PEFT, whose configuration file is read with all the keys it writes."""
    saved.save_pretrained(tmp_path / "adapter")
    plan = parse_plan({"model": write_config(tmp_path / "model", {}), "method": str(tmp_path / "adapter")})
    assert plan.method.name == saved.peft_type.value.lower()
    assert resolve(plan)


# ---- operator rules --------------------------------------------------------------------------


@varied([((30, 70),), ((20, 30, 40),)], FLOATS)
def test_vector_norm(given: tuple[Given, ...]) -> None:
    """Witness: autograd's saved tensors and the allocator."""
    agree(lambda x: ops.linalg_vector_norm(x, 1), lambda x: torch.linalg.vector_norm(x, dim=1), *given)


@varied([((30, 70),)], FLOATS)
def test_vector_norm_of_all(given: tuple[Given, ...]) -> None:
    """Witness: autograd's saved tensors and the allocator."""
    agree(ops.linalg_vector_norm, lambda x: torch.norm(x, p="fro"), *given)


@varied([((20, 30, 40), (20, 30, 40)), ((20, 30, 40), (40,))], MIXED)
def test_add_in_place(given: tuple[Given, ...]) -> None:
    """Witness: autograd's saved tensors and the allocator."""

    def add(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a = a.clone(memory_format=torch.contiguous_format)
        a += b
        return a

    agree(lambda a, b: ops.add_(ops.clone(a), b), add, *given)


@varied([((40, 30), (5, 30))], PAIRS)
def test_index_copy(given: tuple[Given, ...]) -> None:
    """Witness: autograd's saved tensors and the allocator."""
    agree(
        lambda x, rows: ops.index_copy(x, x.ledger.empty((5,), "int64"), rows),
        lambda x, rows: x.index_copy(0, torch.tensor([1, 3, 5, 7, 9]), rows),
        *given,
    )


@pytest.mark.parametrize("name", ["cos", "sin"])
@varied([((20, 30),)], FLOATS)
def test_cosine_and_sine(given: tuple[Given, ...], name: str) -> None:
    """Witness: autograd's saved tensors and the allocator."""
    agree(getattr(ops, name), getattr(torch, name), *given)


@varied([((20, 30),)], FLOATS)
def test_clamp(given: tuple[Given, ...]) -> None:
    """Witness: autograd's saved tensors and the allocator."""
    agree(ops.clamp, lambda x: torch.clamp(x, min=1e-4), *given)


@varied([((20, 30), (20, 30))], PAIRS)
def test_stack(given: tuple[Given, ...]) -> None:
    """Witness: autograd's saved tensors and the allocator."""
    agree(lambda a, b: ops.stack((a, b), 1), lambda a, b: torch.stack((a, b), dim=1), *given)
