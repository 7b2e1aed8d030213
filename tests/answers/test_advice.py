"""Advice: that it fits, that nothing cheaper does, and that its gains are what the estimates say."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import estimator.answers.advice as advice_module
from estimator.answers.advice import (
    FIDELITY,
    Advice,
    Candidate,
    _candidate,
    _free_axes,
    _lossy_axes,
    _on_cards,
    _on_host,
    _working_axes,
    _worth_trying,
    advise,
)
from estimator.answers.estimate import estimate, to_result
from estimator.answers.file_advice import advise_file
from estimator.answers.result import Result
from estimator.errors import InputError, TooLong
from estimator.plans.margins import Margin
from estimator.plans.plan import Plan, parse_plan
from estimator.plans.resolve import Resolved
from estimator.show.cli import main
from estimator.text import human
from tests.cases.small_models import write_config

KEYS: dict[str, Any] = {"batch": 2, "seq": 512, "dtype": "float32"}
MIB = 1 << 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = {"vocab_size": 4000, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6}
    return write_config(tmp_path_factory.mktemp("advice"), config)


@pytest.fixture(scope="module")
def plain(model: str) -> Advice:
    """Everything fits."""
    (advice,) = advise({"model": model, **KEYS, "budget": "20GiB"})
    return advice


def process(model: str, **keys: Any) -> int:
    return estimate(model=model, **{**KEYS, **keys}).bytes["process"]


@pytest.mark.share(3)
def test_nothing_to_change(plain: Advice) -> None:
    assert plain.fits
    assert plain.steps == ()
    assert plain.best is plain.base


def smallest_exact(advice: Advice) -> int:
    return min(one.bytes for one in advice.candidates if one.lost == (0, 0))


@pytest.mark.share(3)
def test_exact_changes_first(model: str, plain: Advice) -> None:
    budget = (plain.base.bytes + smallest_exact(plain)) // 2
    (advice,) = advise({"model": model, **KEYS, "budget": f"{budget}B"})
    assert advice.fits
    assert advice.best.bytes <= budget
    assert advice.best.lost == (0, 0)
    assert advice.best.result.verdict == "fits"
    assert estimate(advice.best.plan).bytes["process"] == advice.best.bytes


@pytest.mark.share(6)
def test_gains_add_up(model: str, plain: Advice) -> None:
    (advice,) = advise({"model": model, **KEYS, "budget": f"{smallest_exact(plain)}B"}, margin=Margin(nbytes=0))
    assert advice.steps
    assert advice.base.bytes - sum(step.gain for step in advice.steps) == advice.best.bytes
    assert advice.steps[-1].extra_compute == pytest.approx(advice.extra_compute(advice.best))


@pytest.mark.share(11)
def test_fidelity_is_given_up_only_where_it_must_be(model: str, plain: Advice) -> None:
    least = smallest_exact(plain)
    (advice,) = advise({"model": model, **KEYS, "budget": f"{least - MIB}B"})
    assert advice.best.lost > (0, 0)
    assert any(step.fidelity != FIDELITY[0] for step in advice.steps)


@pytest.mark.share(96)
@pytest.mark.parametrize(
    ("keys", "share"),
    [
        *(({"method": method}, share) for method in ("full", "lora") for share in (0.2, 0.5, 0.9)),
        *(({"optimizer": name}, 0.4) for name in ("lomo", "adamw-in-backward")),
        ({"seq": 4, "batch": 4}, 0.3),
        ({"runtime": "torch-cuda"}, 0.5),
    ],
    ids=str,
)
def test_nothing_cheaper_fits(model: str, keys: dict[str, Any], share: float) -> None:
    """Witness: every combination of the exact changes, estimated one by one. The front is theirs, too."""
    plan = parse_plan({"model": model, **KEYS, **keys})
    everything = list(exhaustive(plan))
    sizes = [one.bytes for one in everything]
    budget = round(min(sizes) * (1 - share) + max(sizes) * share)
    (advice,) = advise({**plan.model_dump(exclude_unset=True), "budget": f"{budget}B"}, margin=Margin(nbytes=0))
    fitting = [one for one in everything if one.bytes <= budget]
    assert advice.best.cost == min(one.cost for one in fitting)
    assert advice.best.bytes <= budget
    for one in everything if plan.runtime == "torch-cpu" else ():
        assert any(f.bytes <= one.bytes and f.work <= one.work for f in advice.front)


def exhaustive(plan: Plan) -> Iterator[Candidate]:
    for changes in itertools.product(*_working_axes(plan), *_free_axes(plan)):
        made = tuple(change for change in changes if change.keys)
        if _worth_trying(made) and (one := _candidate(plan, made, lambda: None)) is not None:
            yield one


def test_front(plain: Advice) -> None:
    front = plain.front
    assert front[0].work == min(one.work for one in plain.candidates)
    assert front[-1].bytes == min(one.bytes for one in plain.candidates)
    for one, following in pairwise(front):
        assert one.work <= following.work
        assert one.bytes > following.bytes
    for one in plain.candidates:
        assert any(f.bytes <= one.bytes and f.work <= one.work for f in front)


@pytest.mark.share(13)
def test_recomputation_is_counted(plain: Advice) -> None:
    """Witness: arithmetic. Checkpointing every layer runs every layer's forward again."""
    plan = plain.base.plan
    alone = [one for one in exhaustive(plan) if len(one.changes) == 1]
    extra = {one.plan.checkpointing: plain.extra_compute(one) for one in alone if one.plan.checkpointing != "none"}
    assert 0.1 < extra["layer"] < 0.34
    assert 0 < extra["attention"] < extra["layer"]
    assert extra["matmul"] == 0


def test_a_quantised_base_multiplies_as_much(model: str) -> None:
    """Witness: arithmetic. The products are the same ones, whatever the weights are held in."""
    lora = {"name": "lora", "r": 4, "target_modules": "all-linear"}
    keys = {"model": model, **KEYS, "dtype": "bfloat16", "method": lora, "budget": "10MiB"}
    (advice,) = advise(keys, made=lambda change: change if change.keys() & {"dtype", "checkpointing"} else None)
    quantised = [one for one in advice.candidates if one.plan.dtype in ("nf4", "int8")]
    assert quantised
    assert all(one.work >= advice.base.work for one in quantised)


@pytest.mark.share(9)
def test_nothing_fits(model: str) -> None:
    (advice,) = advise({"model": model, **KEYS, "budget": "10MiB"})
    assert not advice.fits
    assert advice.best.bytes == min(one.bytes for one in advice.candidates)


@pytest.mark.share(3)
def test_any_method(model: str) -> None:
    keys = {"model": model, **KEYS, "method": "any", "budget": f"{process(model) - 30 * MIB}B"}
    found = advise(keys, made=lambda change: change if "checkpointing" in change else None)
    assert {one.base.plan.method.name for one in found} >= {"full", "lora", "ia3"}
    assert [one.fits for one in found] == sorted((one.fits for one in found), reverse=True)


def test_a_method_that_is_refused_is_left_out_of_any(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["advise", "smollm3-3b", "--seq", "64", "--method", "any", "--budget", "200GiB"]
    assert main(asked) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Left out: IA3: PEFT has no default target_modules of IA3 for smollm3; name some" in shown
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["method"] for one in found["left_out"]] == ["IA3"]
    assert len(found["advice"]) == 3
    with pytest.raises(InputError, match="unknown model"):
        advise({"model": "smollm3-4b", "method": "any", "budget": "200GiB"})


def test_changes_with_which_an_estimate_takes_too_long_are_left_out(
    model: str, plain: Advice, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They hide no other advice, and are tried once, not once more with whatever else is changed."""
    asked: list[Plan] = []
    budget = f"{smallest_exact(plain) // 2}B"

    def result(resolved: Resolved, *given: Any, **options: Any) -> Result:
        asked.append(resolved.plan)
        if resolved.plan.mlp_chunks > 1:
            raise TooLong("this plan makes too many tensors")
        return to_result(resolved, *given, **options)

    monkeypatch.setattr(advice_module, "to_result", result)
    (advice,) = advise({"model": model, **KEYS, "budget": budget})
    assert advice.front
    assert advice.too_long > 1
    assert all(not one.is_answered or one.plan.mlp_chunks == 1 for one in advice.candidates)
    assert advice.best.plan.mlp_chunks == 1
    long = [plan for plan in asked if plan.mlp_chunks > 1]
    assert 0 < len(long) < advice.too_long
    main(["advise", model, "--dtype", "float32", "--batch", "2", "--seq", "512", "--budget", budget])
    assert "Left out, because their estimates take too long:" in capsys.readouterr().out
    with pytest.raises(TooLong):
        advise({"model": model, **KEYS, "budget": budget, "mlp_chunks": 2})


def test_a_loss_that_a_trainer_does_not_take_does_not_hide_fewer_bits() -> None:
    """DPO's step has a loss of its own. So the change of the loss is refused, alone and in every set."""
    keys = {"model": "qwen3-8b", "trainer": "trl-dpo", "method": "lora", "seq": 512, "device": "rtx-4060-ti-16gb"}
    (advice,) = advise(keys)
    assert advice.verdict == "fits"
    assert advice.best.plan.dtype == "nf4"
    assert estimate(advice.best.plan).bytes["process"] == advice.best.bytes


def test_fewer_bits_whose_rest_has_a_rule_in_bfloat16_alone() -> None:
    """With autocast, whose dtype the outputs of this model's layers do not have."""
    keys = {"model": "qwen3.5-0.8b", "trainer": "trl-sft", "method": "lora", "seq": 64, "device": "rtx-4060-ti-16gb"}
    plan = parse_plan({**keys, "dtype": "float32"})
    *_, eight, four = next(axis for axis in advice_module._lossy_axes(plan) if "dtype" in axis[-1].keys)
    assert "rest_dtype: bfloat16" in four.text
    assert eight.keys == {"dtype": "int8", "rest_dtype": "float32"}
    assert four.keys == {"dtype": "nf4", "rest_dtype": "bfloat16", "compute_dtype": "bfloat16"}
    assert estimate({**keys, **four.keys}).fits


@pytest.mark.share(7)
def test_command(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    figure = tmp_path / "front.png"
    options = ["--dtype", "float32", "--batch", "2", "--seq", "512"]
    budget = f"{process(model) - 30 * MIB}B"
    assert main(["advise", model, *options, "--budget", budget, "--output", str(figure)]) == 0
    shown = capsys.readouterr().out
    assert "Fits in" in shown
    assert "extra compute" in shown
    assert figure.stat().st_size > 20_000
    assert main(["advise", model, *options, "--budget", budget, "--json"]) == 0
    (advice,) = json.loads(capsys.readouterr().out)["advice"]
    assert advice["fits"]
    assert estimate(advice["plan"]).bytes["process"] == advice["after_bytes"]
    assert advice["before_bytes"] - sum(step["gain_bytes"] for step in advice["steps"]) == advice["after_bytes"]


def test_wrong_input(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="give a budget"):
        advise({"model": model})
    assert main(["advise", model, "--method", "any", "--r", "8", "--budget", "1GiB"]) == 2
    assert "takes no options" in capsys.readouterr().err


def test_nothing_to_change_and_too_much(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """MeZO has few changes left: that none is made does not mean that it fits."""
    assert main(["advise", model, "--method", "mezo", "--seq", "4", "--budget", "1MiB"]) == 1
    shown = capsys.readouterr().out
    assert "Does not fit in" in shown
    assert "even one token needs" in shown


def test_a_file_gets_the_changes_that_the_advice_has(tmp_path: Path) -> None:
    """As the file's tool spells them; ``trainers/test_patches.py`` asks each tool."""
    path = tmp_path / "sft.json"
    keys = {"model_name_or_path": "HuggingFaceTB/SmolLM2-135M", "max_length": 128, "per_device_train_batch_size": 8}
    path.write_text(json.dumps({**keys, "use_peft": True, "dtype": "bfloat16"}))
    found = advise_file(str(path), {"budget": "0.9GiB"})
    assert found.advice.best.fits
    assert len(found.edits) >= len(found.advice.steps) > 0
    assert all(f'"{key}"' in found.patch for key in found.edits)
    assert found.patched.result is not None
    assert found.patched.result.bytes["process"] <= found.advice.limit.budget


@pytest.mark.parametrize(
    ("sharding", "changed"),
    [
        ({"name": "fsdp2", "reshard_after_forward": False}, {"name": "fsdp2"}),
        ({"name": "zero1"}, {"name": "zero2"}),
    ],
    ids=("freed", "stage"),
)
def test_as_many_processes_share_more(model: str, sharding: dict[str, Any], changed: dict[str, Any]) -> None:
    """Where nothing else is changed, it is the step of the other block; it trains as before."""
    keys = {"model": model, **KEYS, "seq": 4, "batch": 1, "keep_logits": False}
    before, after = ({"sharding": {**block, "world_size": 8}} for block in (sharding, changed))
    budget = estimate(keys, **after).bytes["process"]
    assert budget < estimate(keys, **before).bytes["process"]
    (advice,) = advise({**keys, **before, "budget": f"{budget}B"}, margin=Margin(nbytes=0))
    assert advice.fits
    assert [step.keys for step in advice.steps] == [after]
    assert advice.steps[0].fidelity == FIDELITY[0]
    assert advice.best.bytes == budget


def test_cards_are_the_last_change_of_a_step_on_one() -> None:
    """Of a GPU alone: a budget on a CPU is of one machine. They cost more than any other change."""
    plan = parse_plan({"model": "llama-3.2-1b", "device": "rtx-4090"})
    cards = _on_cards(plan)
    assert [one.keys["sharding"]["world_size"] for one in cards] == [2, 4, 8]
    assert {one.fidelity for one in cards} == {len(FIDELITY) - 1}
    assert max(one.fidelity for axis in _lossy_axes(plan) for one in axis) < len(FIDELITY) - 1
    assert _on_cards(parse_plan({"model": "llama-3.2-1b"})) == []


def test_inference_in_fewer_bits_then_on_more_cards() -> None:
    """What belongs to training is not tried. Cards share each product first, where the model has a plan for it."""
    keys = {"model": "llama-3.1-8b", "task": "infer", "seq": 64, "device": "rtx-3060"}
    (advice,) = advise(keys)
    assert [step.keys["dtype"] for step in advice.steps] == ["int8"]
    tried = {key for one in advice.candidates for change in one.changes for key in change.keys}
    assert tried == {"dtype", "rest_dtype"}
    (advice,) = advise(keys, made=lambda changed: None if "dtype" in changed else changed)
    assert [step.keys for step in advice.steps] == [{"sharding": {"tp": 2}}]
    assert advice.fits


def test_resting_on_the_host_is_tried_before_more_cards() -> None:
    """Of a GPU's step alone, by FSDP2. It changes no training, so only more cards cost more."""
    keys = {"model": "llama-3.2-1b", "device": "rtx-4090"}
    (alone,) = _on_host(parse_plan(keys))
    assert alone.keys == {"sharding": {"name": "fsdp2", "world_size": 1, "cpu_offload": True}}
    shared = {"name": "fsdp2", "world_size": 8, "param_dtype": "bfloat16"}
    (kept,) = _on_host(parse_plan({**keys, "sharding": shared}))
    assert kept.keys == {"sharding": {**shared, "cpu_offload": True}}
    (states,) = _on_host(parse_plan({**keys, "sharding": {"name": "zero2", "world_size": 2}}))
    assert states.text == "gradients and states on the host (sharding: zero2, offload_optimizer: cpu)"
    (more,) = _on_host(parse_plan({**keys, "sharding": {"name": "zero3", "world_size": 2, "offload_optimizer": "cpu"}}))
    assert more.keys["sharding"]["offload_param"] == "cpu"
    assert {alone.fidelity, kept.fidelity} == {len(FIDELITY) - 2}
    for other in ({"sharding": {"name": "ddp", "world_size": 2}}, {"sharding": {**shared, "cpu_offload": True}}):
        assert _on_host(parse_plan({**keys, **other})) == []
    assert _on_host(parse_plan({"model": "llama-3.2-1b"})) == []


@pytest.mark.share(6)
def test_advice_says_how_much_rests_on_the_host() -> None:
    """Nothing else fits in the budget; the host's bytes are those of the advised plan."""
    keys = {"model": "smollm2-135m", "dtype": "float32", "seq": 8, "runtime": "torch-cuda", "budget": "1.3GiB"}
    (found,) = advise(keys, margin=Margin(nbytes=0))
    rests = estimate(found.best.plan).bytes
    assert found.fits
    (step,) = (step for step in found.steps if step.fidelity == FIDELITY[-2])
    assert step.text.endswith(f"; {human(rests['host_all'])} of host RAM")
    assert rests["parameters"] == 0


def test_a_reference_may_be_asked_before_the_training() -> None:
    """DPO's copy of the model, in full fine-tuning, is gone then: the parameters' bytes once less."""
    keys = {"model": "smollm-135m", "trainer": "trl-dpo", "batch": 1, "seq": 128, "runtime": "torch-cpu"}
    before = estimate(parse_plan(keys)).bytes["process"]
    (advice,) = advise({**keys, "budget": f"{before - 400 * MIB}B"}, margin=Margin(nbytes=0))
    assert any("precompute_ref_log_probs" in change.text for change in advice.best.changes)


def test_the_work_of_a_generation_is_counted_once() -> None:
    """However an update's completions are divided, the same matrices are multiplied; a token more is one pass more."""
    keys = {"model": "smollm-135m", "trainer": "trl-grpo", "seq": 64, "autocast": None}

    def work(**more: Any) -> int:
        candidate = _candidate(parse_plan({**keys, **more}), (), lambda: None)
        assert candidate is not None
        return candidate.work

    whole = work(batch=32)
    divided = {"batch": 8, "gradient_accumulation_steps": 4}
    assert work(batch=16, gradient_accumulation_steps=2) == whole
    assert [work(**divided, steps_per_generation=n) for n in (1, 2, 4)] == [whole] * 3
    assert work(batch=32, prompt_seq=4) > whole > work(batch=32, prompt_seq=60)


def test_a_generation_of_several_updates_is_shared_between_them() -> None:
    """An update's own share of it is asked. RLOO scores with the policy whether one update or several follow."""
    keys = {"model": "smollm-135m", "trainer": "trl-rloo", "seq": 64, "autocast": None, "batch": 8}

    def work(**more: int) -> int:
        candidate = _candidate(parse_plan({**keys, **more}), (), lambda: None)
        assert candidate is not None
        return candidate.work

    two = work(gradient_accumulation_steps=2)
    assert work(steps_per_generation=2) * 2 == work(gradient_accumulation_steps=2, steps_per_generation=4) == two
    assert work(num_iterations=2) < work()


@pytest.mark.parametrize(
    ("keys", "change", "share"),
    [
        ({"trainer": "trl-dpo", "batch": 1, "reference": "copy"}, {"reference": "adapter-off"}, 0.9),
        (
            {"trainer": "trl-grpo", "batch": 8, "gradient_accumulation_steps": 8, "seq": 700, "prompt_seq": 600},
            {"steps_per_generation": 1},
            0.9,
        ),
    ],
)
def test_changes_of_a_trainer(keys: dict[str, Any], change: dict[str, Any], share: float) -> None:
    """What a change saves is what a plan with it takes less; the step is the same."""
    lora = {"name": "lora", "r": 4, "target_modules": ["q_proj"]}
    asked = {"model": "smollm-135m", "seq": 128, "runtime": "torch-cpu", "method": lora, **keys}
    before, after = (estimate(parse_plan({**asked, **more})).bytes["process"] for more in ({}, change))
    budget = int(before - share * (before - after))

    def made(keys: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return keys if keys == change else None

    (advice,) = advise({**asked, "budget": f"{budget}B"}, margin=Margin(nbytes=0), made=made)
    assert [step.keys for step in advice.steps] == [change]
    assert [step.gain for step in advice.steps] == [before - after]
    assert advice.steps[0].bytes == after


def test_a_packed_row_takes_the_work_of_its_sequences() -> None:
    """Witness: ``flash_attn_varlen_func`` attends within sequences, so packing and accumulation take equal work.

    Without a varlen kernel every token of the row is multiplied by every other one.
    """
    keys = {"model": "smollm2-135m", "seq": 64, "runtime": "torch-cuda", "device": "rtx-4090", "packing": True}

    def work(**more: Any) -> int:
        candidate = _candidate(parse_plan({**keys, **more}), (), lambda: None)
        assert candidate is not None
        return candidate.work

    flash = {"attention": "flash"}
    rows, accumulated = work(batch=4, **flash), work(batch=1, gradient_accumulation_steps=4, **flash)
    assert rows == accumulated == work(batch=4, packing=False, **flash)
    assert work(batch=4) > rows


@pytest.mark.parametrize(("attention", "says"), [("flash", "within each of the 4 sequences"), ("sdpa", "a mask hides")])
def test_what_a_packed_row_attends_to_is_stated(attention: str, says: str) -> None:
    result = estimate("smollm2-135m", seq=64, device="rtx-4090", packing=True, batch=4, attention=attention)
    assert any(says in warning for warning in result.warnings)


@pytest.mark.parametrize("kind", ["none", "layer"])
def test_reports_state_gradient_checkpointing(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract: every report of a training step states whether gradient checkpointing is on."""
    says = "without gradient checkpointing" if kind == "none" else "with gradient checkpointing (layer)"
    step = ["smollm2-135m", "--checkpointing", kind, "--method", "lora", "--device", "rtx-4090"]
    for command in ("estimate", "max-batch", "advise", "compare", "smallest-device", "explain"):
        main([command, *(step if command != "smallest-device" else step[:-2])])
        assert says in " ".join(capsys.readouterr().out.split()), command
    assert says in estimate("smollm2-135m", checkpointing=kind).asked
