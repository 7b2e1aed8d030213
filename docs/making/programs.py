"""Writes ``model_specs/programs``: the programs of families that are answered without PyTorch. Needs the trace extra.

A file has the programs of one structure of a config: one of ``programs/structures.yaml`` or that of a built-in model,
where none of the earlier files of the family fits. Under an earlier release the built-in models alone are recorded.
Where litgpt is installed, its models are, and nothing else.
Give names of files, of families or of heads to write those alone: ``python -m docs.making.programs gpt2.default``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain, product
from typing import Any

import yaml

from docs.making.models import record_models
from estimator.errors import InputError
from estimator.plans import litgpt, models, recorded_programs
from estimator.programs.family import Family
from estimator.programs.heads import CAUSAL, HEADS
from estimator.programs.libraries import is_installed
from estimator.programs.module_table import has_token_types
from estimator.programs.program_files import written_together
from estimator.programs.releases import NEWEST, installed_release
from estimator.programs.setting import Setting
from estimator.recorder import families
from estimator.recorder.families.cases import of_dtypes
from estimator.recorder.families.configs import resolved_keys, window_key
from estimator.recorder.hugging_face import HuggingFaceModel

release = litgpt.PROGRAMS if is_installed("litgpt") else installed_release()
STRUCTURES: dict[str, dict[str, Any]] = yaml.safe_load(
    (recorded_programs.shipped_folder() / "structures.yaml").read_text(encoding="utf-8")
)
NEEDED = {"sequence-classification": {"pad_token_id": 0}}
"""The other heads, and what a config must say."""

ENCODERS: dict[str, dict[str, Any]] = {
    name: {"model_type": name.partition(".")[0]}
    for name in (
        *("bert.default", "roberta.default", "xlm-roberta.default", "camembert.default"),
        *("distilbert.default", "mpnet.default", "electra.default"),
    )
} | {
    "electra.equal": {"model_type": "electra", "embedding_size": 256},
    "modernbert.default": {"model_type": "modernbert", "classifier_pooling": "mean"},
    "deberta-v2.v3": {
        "model_type": "deberta-v2",
        "type_vocab_size": 0,
        "relative_attention": True,
        "position_buckets": 256,
        "position_biased_input": False,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
    },
}
"""Encoders, which no causal language model is. Larger ELECTRAs have no projection of their embeddings."""
MODELS: dict[tuple[str, str], tuple[str, ...]] = {
    ("speech-seq2seq", "whisper.default"): ("whisper-", "distil-whisper-"),
    ("seq2seq-lm", "bart.default"): ("bart-",),
    ("seq2seq-lm", "m2m_100.default"): ("nllb-",),
    ("seq2seq-lm", "mbart.default"): ("mbart-",),
    ("seq2seq-lm", "mt5.default"): ("mt5-",),
    ("seq2seq-lm", "pegasus.default"): ("pegasus-",),
    ("seq2seq-lm", "t5.default"): ("t5-",),
    ("seq2seq-lm", "t5.gated"): ("flan-t5-",),
    ("image-classification", "vit.default"): ("vit-", "deit-"),
    ("image-classification", "clip.default"): ("clip-",),
    ("image-classification", "siglip.default"): ("siglip-",),
    ("ctc", "wav2vec2.default"): ("wav2vec2-base-960h",),
    ("ctc", "wav2vec2.no-layerdrop"): ("wav2vec2-base",),
    ("ctc", "hubert.default"): ("hubert-base",),
    ("image-classification", "dinov2.default"): ("dinov2-",),
    ("image-text", "gemma3.default"): ("gemma-3-4b", "gemma-3-12b", "gemma-3-27b"),
    ("image-text", "idefics3.default"): ("smolvlm-",),
    ("image-text", "internvl.default"): ("internvl3-",),
    ("image-text", "llava.default"): ("llava-1.5-",),
    ("image-text", "paligemma.default"): ("paligemma-",),
    ("image-text", "qwen2_vl.default"): ("qwen2-vl-",),
    ("image-text", "smolvlm.default"): ("smolvlm2-",),
}
"""The head and the file of models of several stacks, and the built-in models that it is recorded from: a name, or with
a hyphen at its end how names begin."""
OF_ENCODERS = (
    "masked-lm",
    "sequence-classification",
    "token-classification",
    "question-answering",
    "feature-extraction",
)


def structures() -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of each file, and the config that it is recorded from."""
    if release == litgpt.PROGRAMS:
        for name, row in litgpt.models().items():
            yield f"litgpt.{name}", litgpt.config(row)
            yield f"litgpt.{name}-0.4.12", litgpt.config(litgpt.before(row, "lora"))
        return
    if release == NEWEST:
        yield from ((name, {"model_type": name.partition(".")[0], **keys}) for name, keys in STRUCTURES.items())
    for spec in map(models.load, models.builtin_names()):
        if spec.head == CAUSAL and spec.whole is None:
            yield f"{spec.raw['model_type']}.{spec.name}", dict(spec.raw)


def cases_of(raw: dict[str, Any]) -> list[families.Case]:
    """What to record. Of an earlier release, sequences of one token are left out."""
    return [one for one in families.cases_of(raw) if release == NEWEST or "S" not in one.fixed]


def cases_of_encoder(raw: Mapping[str, Any], head: str) -> list[families.Case]:
    """The cases that programs of an encoder with a head are shipped for: training, with padding, under autocast and
    with eager attention, too, and inference. Texts that a trainer embeds are padded under autocast, too. Where the
    model tells two texts apart, a trainer's batch has token types.
    """
    model = HuggingFaceModel(raw, "the config", head)
    types = has_token_types(model.config.model_type, model.modules())
    infer = Setting(attention=model.attention, trains=False)
    trains = [infer._replace(trains=True, token_types=one) for one in {types, False}]
    every = {infer, *trains}
    every |= {one for x in trains for one in (x._replace(attention="eager"), x._replace(attention_mask=True))}
    autocast = [one._replace(dtype="float32", autocast="bfloat16") for one in trains]
    found = [families.Case(of_dtypes(one), head) for one in sorted(every, reverse=True)]
    autocast += [] if HEADS[head].labels else [one._replace(attention_mask=True) for one in autocast]
    found += [families.Case((one,), head) for one in sorted(autocast)]
    within: list[families.Case] = []
    if window_key(resolved_keys(raw)) is not None:  # without padding SDPA needs no mask within the window
        found = [one for one in found if one.settings[0].attention == model.attention]
        within = [one for one in found if not (one.settings[0].attention_mask or one.settings[0].autocast)]
        found = [replace(one, beyond_window=None if one.settings[0].attention_mask else True) for one in found]
    if head == "sequence-classification":  # one label is a regression
        found += [replace(one, fixed=fixed) for fixed in (("num_labels",), ("B", "num_labels")) for one in found]
    return found + within


def fits(raw: dict[str, Any], families: list[Family]) -> bool:
    """Whether a program that was written before is for this config."""
    for family in families:
        try:
            family.check_config(raw)
        except InputError:
            continue
        return True
    return False


def _recorded(raw: dict[str, Any], head: str) -> dict[families.Case, Family | InputError]:
    if head in OF_ENCODERS and raw in ENCODERS.values():
        return families.record_families(raw, cases_of_encoder(raw, head))
    if head != CAUSAL:
        return families.record_for_all_settings(raw, head=head)
    if release == litgpt.PROGRAMS:  # the loop has one setting
        from docs.making import litgpt as _  # noqa: F401

        return families.record_families(raw, [families.Case(), families.Case(fixed=("B",))])
    return families.record(raw, cases_of(raw))


def _good(name: str, found: dict[families.Case, Family | InputError]) -> list[Family]:
    """The programs. Why there are no others is printed."""
    for case, error in found.items():
        if isinstance(error, InputError):
            print(f"{name}: {case}: {error}")
    return [one for one in found.values() if isinstance(one, Family)]


def _models(only: list[str]) -> None:
    """Record and write the programs of models of several stacks."""
    for (head, name), starts in MODELS.items() if release == NEWEST else ():
        model_type, _, word = name.partition(".")
        if only and not {name, model_type, head} & {*only}:
            continue
        started = time.monotonic()
        begin = tuple([one for one in starts if one.endswith("-")])
        names = [one for one in models.builtin_names() if one in starts or one.startswith(begin)]
        specs = [models.load(one).asked(NEWEST, head) for one in names]
        try:
            found = record_models([one.raw for one in specs], head, specs[0].processor("image"))
        except InputError as error:
            print(f"{name}, {head}: {error}")
            continue
        good = [one for one in found.values() if isinstance(one, Family)]
        for case, why in found.items():
            if isinstance(why, InputError):
                print(f"{name}: {case}: {why}")
        if good:
            path = recorded_programs.of_release(recorded_programs.shipped_folder(), release, head) / f"{name}.json"
            recorded_programs.write(written_together(good), model_type, word, path)
            seconds = time.monotonic() - started
            print(f"{name}, {head}: {len(good)} programs, {path.stat().st_size:,} bytes, {seconds:.0f} s", flush=True)


def main(only: list[str]) -> None:
    """Record and write."""
    _models(only)
    written: dict[tuple[str, str], list[Family]] = {}
    heads = (CAUSAL, *NEEDED) if release == NEWEST else (CAUSAL,)
    encoders = product(ENCODERS.items(), OF_ENCODERS) if release == NEWEST else ()
    for (name, raw), head in chain(product(structures(), heads), encoders):
        model_type, _, word = name.partition(".")
        key = head, model_type
        if only and not {name, model_type, head} & {*only}:
            continue
        if fits({**raw, **NEEDED.get(head, {})}, written.get(key, [])):
            continue
        started = time.monotonic()
        try:
            found = _recorded(raw, head)
        except InputError as error:
            print(f"{name}, {head}: {error}")
            continue
        good = _good(name, found)
        if good:
            path = recorded_programs.of_release(recorded_programs.shipped_folder(), release, head) / f"{name}.json"
            recorded_programs.write(written_together(good), model_type, word, path)
            written.setdefault(key, []).append(good[0])
            seconds = time.monotonic() - started
            print(f"{name}, {head}: {len(good)} programs, {path.stat().st_size:,} bytes, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
