"""LoRA on parameters: experts whose weights are one tensor, and ``target_parameters``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import estimator
from estimator.answers.formulas import compile_plan
from estimator.errors import InputError
from estimator.methods.default_targets import ADAPTED_EXPERTS
from estimator.methods.lora import Lora
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import Resolved, resolve
from estimator.recorder.model_classes import build_model
from estimator.recorder.peft_adapters import RecordedMethod, wrap, wrapped_config
from estimator.steps.step import run
from estimator.witnesses.measure import run_step
from tests.cases.causal_classes import CLASSES
from tests.helpers.figures import assert_figures, figures_of_step
from tests.helpers.processes import LIBRARIES, run_without

ALL = {"name": "lora", "r": 4, "target_modules": "all-linear"}
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
PLANS: dict[str, dict[str, Any]] = {
    "bfloat16": {"dtype": "bfloat16"},
    "float32": {"dtype": "float32"},
    "not scaled": {"method": {**ALL, "lora_alpha": 4}},
    "checkpointed": {"checkpointing": "layer"},
    "GPU": {"runtime": "torch-cuda", "device": "l40s"},
    "autocast": {"dtype": "float32", "autocast": "bfloat16"},
    "adapters in bfloat16": {"method": {**ALL, "adapter_dtype": "bfloat16"}},
}
FAMILIES = [name for name in CLASSES if name in ADAPTED_EXPERTS]
OWN = {
    "gpt_oss": {"target_parameters": ["1.mlp.experts.gate_up_proj", EXPERTS[1]]},
    "qwen2_moe": {"target_modules": [], "target_parameters": EXPERTS},
    "granitemoe": {"target_modules": ["q_proj"], "target_parameters": ["router.weight"]},
}
"""Of families whose experts PEFT adapts where they are named alone."""


def resolved_plan(folder: Path, model_type: str, keys: Mapping[str, Any]) -> Resolved:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, **CLASSES[model_type]}))
    return resolve(parse_plan({"model": str(folder), "batch": 2, "seq": 9, "method": ALL, **keys}))


def assert_as_peft(resolved: Resolved) -> None:
    """Every total, moment and allocation of the rules is that of a recording of PEFT's module."""
    assert isinstance(resolved.method, Lora)
    config = wrapped_config(resolved.spec.raw, "the model", resolved.plan.method.inner, resolved.step.device.type)
    theirs = config.sizes(lambda _: None, resolved.step, 2, 9)
    of_rules = figures_of_step(resolved.step, resolved.sizes(), resolved.method, 2, 9)
    assert of_rules == figures_of_step(resolved.step, theirs, RecordedMethod(config), 2, 9)


@pytest.mark.share(64)
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("model_type", FAMILIES)
def test_all_linear_layers(model_type: str, plan: str, tmp_path: Path) -> None:
    """Witness: PEFT's module."""
    assert_as_peft(resolved_plan(tmp_path, model_type, PLANS[plan]))


@pytest.mark.share(6)
@pytest.mark.parametrize("plan", ["bfloat16", "not scaled", "checkpointed", "GPU"])
@pytest.mark.parametrize("model_type", OWN)
def test_parameters_by_name(model_type: str, plan: str, tmp_path: Path) -> None:
    """Witness: PEFT's module."""
    keys = PLANS[plan]
    assert_as_peft(
        resolved_plan(tmp_path, model_type, {**keys, "method": {**keys.get("method", ALL), **OWN[model_type]}})
    )


@pytest.mark.share(9)
@pytest.mark.parametrize("keys", [{}, {"autocast": "bfloat16"}, {"checkpointing": "layer"}, {"dtype": "nf4"}], ids=str)
@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_a_measured_step(model_type: str, keys: dict[str, Any], tmp_path: Path) -> None:
    """Witness: measurement."""
    method = {**ALL, **OWN.get(model_type, {})}
    resolved = resolved_plan(tmp_path, model_type, {"dtype": "float32", **keys, "method": method})
    totals, measured = run(resolved.step, resolved.sizes(), resolved.method, 2, 9), run_step(resolved)
    figures = {name: getattr(totals, name) for name in ("parameters", "gradients", "optimizer", "saved")}
    figures["peak"] = max(value for peaks in totals.moments.values() for value in peaks)
    witness = {name: measured[name] for name in figures if name != "peak"}
    assert_figures(figures, {**witness, "peak": measured["peak_without_matmul_scratch"]})


def adapted_by_peft(model_type: str, block: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters that PEFT trains."""
    with torch.device("meta"):
        model = build_model(
            "causal-lm", transformers.AutoConfig.for_model(model_type, **CLASSES[model_type]), torch.bfloat16
        )
    wrapped = wrap(model, "LORA", {key: value for key, value in block.items() if key != "name"})
    found: dict[str, tuple[int, ...]] = {}
    for name, p in wrapped.named_parameters():
        if p.requires_grad:
            plain = name.removeprefix("base_model.model.").replace(".default", "")
            found[plain.replace("base_layer.bias", "bias")] = tuple(p.shape)
    return found


LAYERS = ["gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    ("model_type", "options"),
    [
        ("qwen3_moe", {"target_modules": ["q_proj", *LAYERS]}),
        ("qwen3_moe", {"target_modules": ["down_proj"], "rank_pattern": {"down_proj": 7}}),
        ("qwen3_moe", {"target_modules": ["q_proj", "mlp.down_proj"], "layers_to_transform": [1]}),
        ("qwen3_moe", {"target_modules": r".*\.(q_proj|gate_proj|up_proj)"}),
        ("qwen3_moe", {"target_modules": ["gate", "q_proj"], "target_parameters": ["experts.down_proj"]}),
        ("qwen3_moe", {"target_modules": ["q_proj"], "target_parameters": EXPERTS}),
        ("mixtral", {"target_modules": ["w1", "w2", "w3"]}),
        ("mixtral", {"target_modules": ["v_proj"], "rank_pattern": {"experts.gate_up_proj": 3}}),
        ("deepseek_v3", {"target_modules": ["q_a_proj", *LAYERS]}),
        ("deepseek_v3", {"target_modules": r".*(q_a_proj|gate_proj|up_proj|down_proj)"}),
        ("deepseek_v3", {"target_modules": "all-linear", "exclude_modules": ["q_a_proj", "gate_up_proj"]}),
        ("gpt_oss", {"target_modules": "all-linear", "target_parameters": ["0.mlp.experts.down_proj"]}),
        ("gpt_oss", {"target_parameters": EXPERTS, "rank_pattern": {"down_proj": 2}}),
        ("gpt_oss", {"target_modules": ["q_proj"], "target_parameters": ["router.weight"], "bias": "lora_only"}),
        ("qwen3_moe", {"target_parameters": EXPERTS}),
        ("qwen3_moe", {"target_modules": "All-Linear"}),
        ("aria_text", {"target_modules": ["q_proj"], "target_parameters": ["experts.down_proj"]}),
    ],
)  # fmt: skip
def test_what_is_adapted(model_type: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Witness: PEFT. Names and shapes of the adapters."""
    block = {"name": "lora", "r": 4, **options}
    resolved = resolved_plan(tmp_path, model_type, {"method": block})
    ledger = resolved.step.ledger(unrolled=True)
    run(resolved.step, resolved.sizes(), resolved.method, 2, 9, ledger=ledger)
    ours = {p.name: tuple(p.shape) for p in ledger.parameters if p.requires_grad}
    assert ours == adapted_by_peft(model_type, block)


@pytest.mark.parametrize(
    ("model_type", "options", "message"),
    [
        ("qwen3_moe", {"target_modules": ["gate_proj"]}, "add up_proj to target_modules"),
        ("qwen3_moe", {"target_modules": ["q_proj", "down_proj"], "lora_dropout": 0.1}, "lora_dropout is not for"),
        ("qwen3_moe", {"target_modules": "all-linear", "use_dora": True}, "use_dora is not for parameters"),
        ("qwen3_moe", {"target_modules": "all-linear", "init_lora_weights": "pissa"}, "init_lora_weights pissa is not"),
        ("qwen3_moe", {"target_modules": "all-linear", "lora_bias": True}, "lora_bias is not for parameters"),
        ("qwen3_moe", {"target_modules": "all-linear", "layers_to_transform": [1]}, "needs target_modules as a list"),
        ("qwen3_moe", {"target_modules": r".*\.mlp"}, "LoRA adapts linear layers and embeddings only; take "),
        ("llama", {"target_modules": ["q_proj"], "target_parameters": ["q_proj.weight"]}, "keep one of them"),
        ("llama", {"target_parameters": ["lm_head.weight"], "modules_to_save": ["lm_head"]}, "keep one of them"),
    ],
)  # fmt: skip
def test_what_peft_refuses(model_type: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Witness: PEFT, which refuses it as well."""
    block = {"name": "lora", "r": 4, **options}
    with pytest.raises(InputError, match=message):
        resolved_plan(tmp_path, model_type, {"method": block})
    with pytest.raises(InputError, match="PEFT refuses method lora"):
        adapted_by_peft(model_type, block)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_parameters": ["down"]}, "'down' matches nothing in this model; its parameters of three dimensions "
         "are gate_up_proj, down_proj"),
        ({"target_parameters": ["input_layernorm.weight"]}, r"input_layernorm.weight has 1 dimension\(s\)"),
    ],
)  # fmt: skip
def test_names_of_no_such_parameter(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        resolved_plan(tmp_path, "gpt_oss", {"method": {**ALL, **options}})


@pytest.mark.consistency
def test_formulas_in_symbols() -> None:
    plan: dict[str, Any] = {
        "model": "qwen3-30b-a3b",
        "batch": 4,
        "method": {**ALL, "target_modules": ["q_proj", *LAYERS]},
    }
    formula = compile_plan(parse_plan(plan), symbolic=True)
    for batch, seq in ((2, 64), (3, 200)):
        peak = estimator.estimate({**plan, "batch": batch, "seq": seq}).bytes["peak"]
        assert formula.evaluate(batch, seq)["peak"] == peak


def test_the_scale_that_a_pattern_sets(tmp_path: Path) -> None:
    """Witness: PEFT's module, whose products are not multiplied where the scale is one."""
    options = {"rank_pattern": {"down_proj": 2}, "alpha_pattern": {"down_proj": 2}, "lora_alpha": 4}
    resolved = resolved_plan(tmp_path, "qwen3_moe", {"method": {**ALL, "target_modules": ["down_proj"], **options}})
    assert_as_peft(resolved)


def test_it_needs_no_torch() -> None:
    script = (
        "import estimator\n"
        "for model in ('qwen3-30b-a3b', 'mixtral-8x7b', 'deepseek-v3'):\n"
        "    estimator.estimate(model, method={'name': 'lora', 'target_modules': 'all-linear'}, seq=512)\n"
    )
    done = run_without(LIBRARIES, script)
    assert (done.returncode, done.stderr) == (0, "")


def test_earlier_releases_have_layers() -> None:
    """There all linear layers are the experts' too, so that nothing is converted."""
    with pytest.raises(InputError, match="no program"):
        estimator.estimate("mixtral-8x7b", method="lora", transformers="4.57")
