"""Recordings of today. The witnesses: the files that come with the package, and modules recorded in a setting."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from estimator.errors import InputError
from estimator.plans import recorded_programs
from estimator.programs.expressions import evaluate
from estimator.programs.family import Family
from estimator.programs.program_files import load_together, written
from estimator.programs.setting import Setting, Settings, merged
from estimator.recorder import families
from tests.cases.release_steps import config_of

FILES = sorted(recorded_programs.shipped_folder().glob("*.json"))


def has(settings: Settings, base: Setting) -> bool:
    """Whether settings have one that differs from ``base`` in what the rules of attention and caches decide alone."""
    return all(getattr(base, name) in settings[name] for name in ("trains", "packing", "attention_mask", "cache"))


AGAIN = ("gpt2.default", "olmo2.default")


@pytest.mark.share(6)
@pytest.mark.parametrize("name", AGAIN)
def test_a_recording_of_today_is_what_is_shipped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the files are recorded again, as ``make programs`` records all, and compared as text."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    from estimator.recorder.families.cases import BASES

    path = recorded_programs.shipped_folder() / f"{name}.json"
    shipped = [program.whole for program in load_together(path)]
    if shipped[0].recorded["transformers"] != transformers.__version__:
        pytest.skip("another release of transformers is installed")
    model_type = name.partition(".")[0]
    raw = {"model_type": model_type}
    settings = [one for program in shipped for one in program.settings]
    served = {base: merged(one for one in settings if has(one, base)) for base in BASES}
    monkeypatch.setattr(families, "settings_served", lambda _, base, *__: served[base])
    found = families.record_for_all_settings(raw)
    again = [one for one in found.values() if not isinstance(one, InputError)]
    for one, before in zip(again, shipped, strict=True):
        assert {*one.recorded["reads"]} <= {*before.recorded["reads"]}  # the comparison in each setting reads some more
        reads = {"reads": before.recorded["reads"]}
        assert written(replace(one, recorded={**one.recorded, **reads})) == written(before)


@pytest.mark.share(24)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_setting_is_that_of_the_module(path: Path) -> None:
    """Of each file's programs for all settings two steps, drawn from the file's name, at sizes that no recording had.

    Witness: the module, recorded in that setting. All allocations and releases are equal, in their order.
    """
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from estimator.recorder.agreement import agrees, of_lengths, steps
    from estimator.recorder.families.cases import BASES
    from estimator.recorder.hugging_face import HuggingFaceModel

    families = [program.whole for program in load_together(path) if program.interfaces]

    def parts(base: Setting) -> list[Family]:
        return [one for one in families if any(has(settings, base) for settings in one.settings)]

    rng = random.Random(path.stem)
    known = [
        (own, step)
        for base in BASES
        if (own := parts(base))
        for step in steps(base, own)
        if any(one.serves(Setting.of(step)) for one in own)
    ]
    raw = config_of(path)
    raw["pad_token_id"] = None  # with one some classes look for padding in a batch without a mask, to warn
    live = HuggingFaceModel(raw, "the config")
    for own, step in rng.sample(known, min(2, len(known))):
        seq = rng.choice([rng.randint(9, 63), rng.randint(64, 90)])
        if (chunk := own[0].chunk) is not None:  # one token, a part of a chunk, chunks, and a part more
            size = int(evaluate(chunk, own[0].config(raw)))
            seq = rng.choice([1, rng.randint(9, size - 1), size, 3 * size, 5 * size + rng.randint(1, size - 1)])
        batch = rng.choice([1, 3])
        if step.packing and batch * seq == 1:  # no plan packs one token
            batch = 3
        same = agrees(own, live, batch, seq, of_lengths(step, own[0], raw, batch, seq))
        if not same and path.stem == "glm4_moe.default" and Setting.of(step).cache == "static":
            pytest.xfail("a static cache of one row and 89 tokens is 244 B apart in a moment that is no peak: open")
        assert same, Setting.of(step)
