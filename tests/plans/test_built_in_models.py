"""The built-in models against transformers: each spec's number of parameters is that of the module it describes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from estimator.errors import InputError
from estimator.io.files import specs_folder
from estimator.ledger import ITEMSIZE
from estimator.plans import models
from estimator.plans.models import ModelSpec, builtin_names, load
from estimator.plans.plan import parse_plan
from estimator.plans.recorded_programs import model_types
from estimator.plans.resolve import resolve
from estimator.programs.heads import CAUSAL, HEADS
from estimator.programs.releases import NEWEST
from estimator.recorder.hugging_face import HuggingFaceModel
from tests.cases.small_models import write_config


def one_of_each_class() -> list[str]:
    """The smallest model of every ``model_type``."""
    specs = sorted((load(name) for name in builtin_names()), key=lambda spec: -(spec.parameters or 0))
    return sorted({spec.raw["model_type"]: spec.name for spec in specs}.values())


def counted(spec: ModelSpec) -> int:
    """Parameters of the module on the meta device, tied weights counted once."""
    if spec.whole is not None:
        spec = spec.asked(NEWEST, "image-text")
    keys: dict[str, Any] = {key: value for key, value in spec.raw.items() if key != "torch_dtype"}
    rope = keys.get("rope_parameters", {})
    if rope.get("rope_type") == "longrope" and "long_factor" not in rope:  # frequencies are buffers
        keys["rope_parameters"] = {**rope, "rope_type": "default"}
    if keys["model_type"].startswith("qwen3_vl"):  # the larger model alone has a head: its class, without the tower
        return sum(p.numel() for p in HuggingFaceModel(keys, spec.name).build("bfloat16").parameters())
    with torch.device("meta"):
        made = transformers.AutoConfig.for_model(**keys)
        model = getattr(transformers, HEADS[spec.head].auto_class).from_config(made)
    return sum(p.numel() for p in model.parameters())


SHARE = one_of_each_class()


@pytest.mark.share(6)
@pytest.mark.parametrize("name", SHARE)
def test_parameters_of_one_model_of_each_class(name: str) -> None:
    """Witness: transformers' module on the meta device."""
    spec = load(name)
    assert counted(spec) == spec.parameters


@pytest.mark.witness
@pytest.mark.parametrize("name", sorted(set(builtin_names()) - set(SHARE)))
def test_parameters_of_the_other_models(name: str) -> None:
    """Witness: transformers' module on the meta device."""
    spec = load(name)
    assert counted(spec) == spec.parameters


def test_families_with_programs_are_model_types() -> None:
    """Witness: transformers' table of causal classes. A text model may have a type of its own, and no class."""
    found = model_types()
    tables = transformers.models.auto.modeling_auto
    known = {*tables.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *[x for x in tables.MODEL_MAPPING_NAMES if x.endswith("_text")]}
    assert {"granitemoehybrid", "nemotron_h", "lfm2"} <= {*found} <= known
    assert found == sorted(set(found))


BEYOND_DECODERS = [name for name in builtin_names() if load(name).head != CAUSAL or load(name).whole is not None]


def written(name: str) -> dict[str, Any]:
    """What the built-in model's file says."""
    made: dict[str, Any] = json.loads((specs_folder() / f"{name}.json").read_text(encoding="utf-8"))
    return made


def test_each_file_says_where_its_numbers_were_checked() -> None:
    """Three decoders were written before files said so."""
    without = {name for name in builtin_names() if not written(name).get("checked_in")}
    assert without == {"nemotron-nano-9b-v2", "powerlm-3b", "santacoder"}


@pytest.mark.parametrize(
    ("name", "nbytes"),
    [("gte-small", 64), ("gte-base", 209), ("gte-large", 639), ("mxbai-embed-large-v1", 639), ("e5-base-v2", 418)],
)
def test_dtype_of_the_files_is_the_published_one(name: str, nbytes: int) -> None:
    """Witness: MiB of the files on the hub, as ``ModelMeta.memory_usage_mb`` of MTEB says them."""
    spec = load(name)
    assert (spec.parameters or 0) * ITEMSIZE[spec.dtype] / 2**20 == pytest.approx(nbytes, abs=1)


@pytest.mark.parametrize("name", BEYOND_DECODERS)
def test_parameters_are_as_many_as_is_published(name: str) -> None:
    """Witness: what its publisher, or the hub, says of a checkpoint, which may have a pooler or another head, too.

    A checkpoint of FLAN-T5 or mT5 has a head of its own, which its users are told.
    """
    published, spec = written(name)["published"], load(name)
    number, unit = published[:-1], {"M": 10**6, "B": 10**9}[published[-1]]
    last = unit / 10 ** len(number.partition(".")[2])
    tied = spec.raw.get("tie_word_embeddings") is not False or spec.raw["model_type"] not in ("t5", "mt5")
    apart = 0 if tied else spec.raw["vocab_size"] * spec.raw["d_model"]
    assert bool(apart) == any("a head of its own" in one for one in spec.warnings)
    assert (spec.parameters or 0) + apart == pytest.approx(float(number) * unit, rel=0.01, abs=last)


@pytest.mark.parametrize("model_type", ["t5", "mt5", "umt5"])
def test_a_head_that_a_checkpoint_may_have_apart_is_named(model_type: str, tmp_path: Path) -> None:
    """FLAN-T5's config.json says that it is not tied, which the class of release 5 does not follow."""
    raw = {"model_type": model_type, "is_encoder_decoder": True, "vocab_size": 32128, "d_model": 512}
    told = []
    for tied in (False, True):
        path = tmp_path / f"{tied}.json"
        path.write_text(json.dumps({**raw, "tie_word_embeddings": tied}))
        told.append(load(str(path)).warnings)
    assert told[1] == ()
    assert "32128 x 512 parameters more" in told[0][0]


def test_a_config_is_called_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the current folder by itself."""
    write_config(tmp_path / "mine", {"model_type": "llama"})
    assert load(str(tmp_path / "mine" / "config.json")).name == load(str(tmp_path / "mine")).name == "mine"
    monkeypatch.chdir(tmp_path / "mine")
    assert load("config.json").name == "config.json"


@pytest.mark.extra("trace")
def test_a_recording_of_a_method_says_which_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file, or a built-in model's name."""
    asked: list[str] = []

    def wrapped_config(raw: Any, where: str, *_: Any) -> None:
        asked.append(where)
        raise InputError("nothing is recorded here")

    monkeypatch.setattr("estimator.recorder.peft_adapters.wrapped_config", wrapped_config)
    folder = write_config(tmp_path / "mine", {"model_type": "llama"})
    for model in (str(folder), "smollm2-135m"):
        with pytest.raises(InputError, match="nothing is recorded here"):
            resolve(parse_plan({"model": model, "method": {"name": "vblora"}, "seq": 8}))
    assert [Path(one).name for one in asked] == ["config.json", "smollm2-135m"]


def test_a_name_is_looked_up_without_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks the contract: looking up a hub id among the built-in models imports no library."""

    def asked(*names: str) -> bool:
        raise AssertionError(names)

    monkeypatch.setattr(models, "is_installed", asked)
    for path in specs_folder().glob("*.json"):
        assert models._builtin.__wrapped__(path).raw["model_type"]
