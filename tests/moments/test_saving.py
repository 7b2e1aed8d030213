"""Saving: the files of a real ``Trainer``'s checkpoint, and what it allocates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estimator.moments.checkpoint import ADDED, _natural, checkpoint_of, model_files, unknown
from estimator.moments.options import RunOptions
from estimator.moments.run import moments_of
from estimator.moments.saving import saving
from estimator.moments.weights import weights_of
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import Resolved, resolve
from tests.cases.method_examples import EXAMPLES
from tests.cases.small_models import TINY, write_config
from tests.helpers.figures import assert_figures

METHODS = [block for name in ADDED for block in EXAMPLES[name] if block.get("target_modules") != "none"]
PLANS: dict[str, dict[str, Any]] = {
    "full": {},
    "full-bfloat16": {"dtype": "bfloat16", "optimizer": "sgd"},
    "tied": {"model": {"tie_word_embeddings": True}},
    "lora": {"method": "lora", "dtype": "bfloat16"},
    "lora-all": {"method": {"name": "lora", "r": 3, "target_modules": "all-linear", "modules_to_save": ["lm_head"]}},
}


def resolved_of(keys: dict[str, Any], folder: Path) -> Resolved:
    model = write_config(folder, {**TINY, "num_hidden_layers": 12, **keys.get("model", {})})
    return resolve(parse_plan({"batch": 1, "seq": 8, "dtype": "float32", **keys, "model": model}))


@pytest.mark.share(3)
@pytest.mark.extra("trace")
@pytest.mark.parametrize("case", PLANS)
def test_checkpoint_of_trainer(case: str, tmp_path: Path) -> None:
    """Witness: measurement. Model files to the byte, the optimizer's within 1 %, no tensor is copied on a CPU."""
    import torch
    from transformers import Trainer, TrainingArguments

    from estimator.witnesses.measure import allocator_events, peak_of
    from estimator.witnesses.reference.model import build_model, build_optimizer

    resolved = resolved_of(PLANS[case], tmp_path / "model")
    predicted = checkpoint_of(resolved, weights_of(resolved))
    model = build_model(resolved)
    row = {"input_ids": torch.arange(8), "labels": torch.arange(8)}
    trainer = Trainer(
        model,
        TrainingArguments(
            str(tmp_path / "out"), max_steps=1, save_strategy="no", use_cpu=True, report_to=[], disable_tqdm=True
        ),
        train_dataset=[row],
        optimizers=(build_optimizer(resolved, model), None),
    )
    trainer.train()
    peak, _ = peak_of(allocator_events(lambda: trainer._save_checkpoint(model, None)))
    assert peak < 8192  # the state of the random generator
    written = {file.name: file.stat().st_size for file in (tmp_path / "out" / "checkpoint-1").iterdir()}
    assert_figures(predicted.files, {name: size for name, size in written.items() if "safetensors" in name})
    assert abs(predicted.optimizer - written["optimizer.pt"]) < 0.002 * written["optimizer.pt"] + 700
    _, disk = saving(resolved, RunOptions(save_total_limit=2), predicted, 0)
    assert abs(disk.bytes - 3 * sum(written.values())) < 0.01 * disk.bytes + 3 * 16384


@pytest.mark.share(2)
@pytest.mark.extra("trace")
@pytest.mark.parametrize("block", METHODS, ids=lambda block: str(block["name"]))
def test_files_of_methods(block: dict[str, Any], tmp_path: Path) -> None:
    """Witness: PEFT's own file, to the byte."""
    from estimator.witnesses.reference.model import build_model

    resolved = resolved_of({"method": block}, tmp_path / "model")
    build_model(resolved).save_pretrained(tmp_path / "out")
    written = (tmp_path / "out" / "adapter_model.safetensors").stat().st_size
    assert checkpoint_of(resolved, weights_of(resolved)).files == {"adapter_model.safetensors": written}


@pytest.mark.extra("trace")
def test_parts_and_their_index(tmp_path: Path) -> None:
    """Witness: transformers' files of a loaded model in parts, to the byte."""
    from transformers import AutoModelForCausalLM

    from estimator.witnesses.reference.model import build_model

    resolved = resolved_of({}, tmp_path / "model")
    build_model(resolved).save_pretrained(tmp_path / "one")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    loaded.save_pretrained(tmp_path / "parts", max_shard_size=100_000)
    written = {file.name: file.stat().st_size for file in (tmp_path / "parts").glob("*safetensors*")}
    assert len(written) > 5
    weights = checkpoint_of(resolved, weights_of(resolved)).tensors
    assert_figures(model_files(weights, 100_000), written)


def test_a_gpus_host_holds_the_largest_file_or_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By hand: each file's tensors are copied to the host together, and each state by itself."""
    resolved = resolved_of({"runtime": "torch-cuda"}, tmp_path / "model")
    found = checkpoint_of(resolved, weights_of(resolved))
    sizes = [weight.nbytes for weight in found.tensors]
    assert saving(resolved, RunOptions(), found, 7)[0].bytes == sum(sizes) > max(found.states)
    alone = [[weight] for weight in found.tensors]
    monkeypatch.setattr("estimator.moments.saving.split", lambda tensors: alone)
    assert saving(resolved, RunOptions(save_only_model=True), found, 7)[0].bytes == max(sizes) > min(sizes)
    assert saving(resolved, RunOptions(), found, 7)[0].bytes == max(*sizes, *found.states)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"method": {"name": "vera", "r": 4}}, "saving has no rule with method: vera"),
        (
            {"method": {"name": "lora", "target_modules": ["lm_head"]}},
            "saving has no rule with adapters on an embedding",
        ),
        ({"run": {"merge_and_unload": True}}, "merging has no rule with method: full"),
    ],
)
def test_what_has_no_rule(keys: dict[str, Any], says: str, tmp_path: Path) -> None:
    """It is left out with a sentence."""
    resolved = resolved_of(keys, tmp_path)
    _, missing = moments_of(resolved, resolved.plan.run or RunOptions(), 0, 0)
    assert says in " ".join(missing)


@pytest.mark.parametrize("keys", [{}, *({"method": block} for block in METHODS)], ids=str)
def test_what_has_a_rule(keys: dict[str, Any], tmp_path: Path) -> None:
    """Nothing is left out of a run with the methods whose files are known, above."""
    resolved = resolved_of(keys, tmp_path)
    assert unknown(resolved, weights_of(resolved)) == ""


@pytest.mark.extra("trace")
def test_a_run_s_defaults_are_transformers() -> None:
    """Witness: ``TrainingArguments``. What it has no key for is off."""
    from dataclasses import fields

    from transformers import TrainingArguments

    theirs = {one.name: one.default for one in fields(TrainingArguments)}
    ours = {key: field.default for key, field in RunOptions.model_fields.items()}
    shared = theirs.keys() & ours
    assert len(shared) == 10
    assert {key: ours[key] for key in shared} == {key: theirs[key] for key in shared}
    own = {"max_shard_size": "50GB", "device_map": "none", "preprocess_logits_for_metrics": "none"}
    assert {key: value for key, value in ours.items() if key not in shared and value} == own


def test_weights_are_saved_in_the_order_of_their_numbers() -> None:
    """By hand, as transformers' ``dot_natural_key`` orders them: a number alone comes before words, 2 before 10, and a
    word before the same one with a number."""
    names = ["b.x", "b.10.w", "b.2.w", "b.layer10", "b.layer2", "b.layer", "a.z"]
    assert sorted(names, key=_natural) == ["a.z", "b.2.w", "b.10.w", "b.layer", "b.layer2", "b.layer10", "b.x"]
