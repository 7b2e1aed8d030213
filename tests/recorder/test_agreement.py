"""Which settings a recording finds that programs serve, from the steps in which they agree with the module."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from estimator.plans import recorded_programs
from estimator.programs.program_files import load_together
from estimator.programs.setting import Setting, Settings, merged
from estimator.programs.step import Step
from estimator.recorder import agreement
from estimator.steps.generate import Generate
from estimator.steps.generate_options import GenerateOptions
from estimator.steps.train import Train
from tests.cases.release_steps import config_of

PATH = recorded_programs.shipped_folder() / "mixtral.default.json"
GENERATE = Setting(trains=False, use_cache=True, cache="dynamic")


def served(base: Setting, monkeypatch: pytest.MonkeyPatch, agrees: Callable[[Step], bool]) -> tuple[Settings, ...]:
    raw: dict[str, Any] = config_of(PATH)
    families = [x for x in load_together(PATH) if x.interfaces and any(shares(base, one) for one in x.settings)]
    monkeypatch.setattr(agreement, "agrees", lambda programs, live, batch, seq, step: agrees(step))
    return agreement.settings_served(families, base, lambda beyond_window, one_row: (raw, 3, 21))


def shares(base: Setting, settings: Settings) -> bool:
    names = ("trains", "packing", "attention_mask", "cache", "experts_implementation")
    return all(getattr(base, name) in settings[name] for name in names)


@pytest.mark.parametrize("base", [Setting(), GENERATE], ids=lambda base: base.task)
def test_where_all_steps_agree_a_file_has_all_settings(base: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Witness: the file, in whose recording all steps of this model did, but for padding with flash attention.

    Its programs differ between the devices.
    """
    rows = [one for program in load_together(PATH) for one in program.settings if program.interfaces]
    found = served(base, monkeypatch, lambda step: step.attention != "flash" or not step.attention_mask)
    assert found == merged(one for one in rows if shares(base, one))


@pytest.mark.parametrize("base", [Setting(), GENERATE], ids=lambda base: base.task)
def test_what_does_not_agree_is_left_out(base: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an attention that is wrong without a mask, a cache and autocast, nothing is served on that device."""
    found = served(base, monkeypatch, lambda step: step.autocast is None or step.device.type == "cpu")
    under = base._replace(dtype="float32", autocast="bfloat16")
    assert under.is_of(found)
    assert base._replace(device="cuda").is_of(found)
    assert not under._replace(device="cuda").is_of(found)
    found = served(base, monkeypatch, lambda step: (step.attention, step.device.type) != ("eager", "cuda"))
    assert under._replace(device="cuda").is_of(found)
    assert under._replace(attention="eager").is_of(found)
    assert not base._replace(attention="eager", device="cuda").is_of(found)
    assert not under._replace(attention="eager", device="cuda").is_of(found)


def test_a_step_agrees_at_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the draws at which it does not is enough to leave it out."""
    asked: list[Step] = []

    def agrees(step: Step) -> bool:
        asked.append(step)
        return step.attention != "eager" or asked.count(step) == 1

    found = served(Setting(), monkeypatch, agrees)
    assert max(map(asked.count, asked)) == 2
    assert Setting(attention="sdpa").is_of(found)
    assert not Setting(attention="eager").is_of(found)


def test_moments_before_the_layers_are_not_compared() -> None:
    """Masks and positions are made there, by ``generate`` itself."""
    moments = {"inputs prefill": 1, "embedding prefill": 2, "embedding decode": 3, "layer 0 decode": 4}
    totals: Any = SimpleNamespace(saved=9, rows=[1], saved_by={}, math_attention=True, moments=moments)
    assert agreement._figures(totals) == {"saved": 9, "moments": {"layer 0 decode": 4}}


def test_where_each_allocation_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of calls of ``generate`` nor of caches, which hold tensors otherwise, nor of flash-attn's kernels."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(agreement, "config_of", lambda raw, live: "theirs")
    monkeypatch.setattr(agreement, "shipped_config", lambda programs, raw, where: "ours")
    monkeypatch.setattr(agreement, "_ran", lambda config, step, batch, seq: found[config])
    plain: Step = Step("llama", "bfloat16", procedure=Train())
    generates = Generate(GenerateOptions.model_validate({"max_new_tokens": 3}), None)
    inexact = [plain._replace(attention="flash"), plain._replace(use_cache=True), plain._replace(procedure=generates)]
    live: Any = SimpleNamespace(raw={}, where="the config")

    def agrees(ours: tuple[Any, ...], step: Step) -> bool:
        found.update(theirs=(7, [1, -1], 3), ours=ours)
        return agreement.agrees([], live, 2, 9, step)

    for step in (plain, *inexact):
        assert agrees((7, [1, -1], 3), step)
        assert not agrees((8, [1, -1], 3), step)
        assert agrees((7, [1, 2, -1, -2], 3), step) is (step in inexact)
