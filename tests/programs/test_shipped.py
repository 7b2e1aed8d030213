"""Programs that come with the package: what they answer is what the installed transformers would be recorded to do."""

from __future__ import annotations

import json
import random
import weakref
import zlib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

import estimator
from estimator.errors import InputError
from estimator.io.files import specs_folder
from estimator.operators.table import RULES
from estimator.plans import models, recorded_programs
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.programs.family import Family
from estimator.programs.heads import CAUSAL, HEADS
from estimator.programs.program_files import load_together, read_together, written_together
from estimator.programs.program_files.reading import Reader
from estimator.programs.setting import Setting
from estimator.programs.shipped import MOST_PROGRAMS, Shipped, _fitting, shipped_config
from estimator.programs.step import Procedure, Step
from tests.cases.release_steps import config_of
from tests.helpers.figures import figures_of_step
from tests.helpers.processes import LIBRARIES, run_without
from tests.helpers.recordings import answer, refuse

FILES = sorted(recorded_programs.shipped_folder().glob("*.json"))
OF_HEADS = sorted(path for head in HEADS for path in (recorded_programs.shipped_folder() / head).glob("*.json"))
OF_ONE_STACK = [path for path in OF_HEADS if "seq2seq" not in path.parent.name and not HEADS[path.parent.name].media]


@pytest.fixture
def without_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is recorded: a program that is not there is refused."""
    monkeypatch.setattr(models, "_live", refuse)


SMALL = 150_000
"""Bytes of a file that takes some seconds to be written. The larger ones take up to a minute."""


@pytest.mark.share(48)
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.witness] * (path.stat().st_size > SMALL)) for path in (*FILES, *OF_HEADS)],
    ids=lambda path: f"{path.parent.name} {path.stem}",
)
def test_a_file_is_written_as_it_is(path: Path) -> None:
    programs = [program.whole for program in load_together(path)]
    again = read_together(written_together(programs), path.name)  # terms of a sum may stand in another order
    assert [program.whole for program in again] == [program.whole for program in programs]
    assert all(program.model_type == path.name.partition(".")[0] for program in programs)


@pytest.mark.share(3)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_programs_of_the_same_configs_are_asked_once(path: Path) -> None:
    """What is read, and which fit a config, is as if each program stood alone, with all that others of its file say."""
    together, raw = load_together(path), config_of(path)
    heads: list[dict[str, Any]] = []
    for row in json.loads(path.read_text())["programs"]:
        like = row.pop("like", 0)
        heads.append({**heads[like], **row} if heads else row)
    alone = [Reader(path.name, RULES).head(head) for head in heads]
    read = [field.name for field in fields(Family) if field.name != "read"]
    assert [[getattr(one, name) for name in read] for one in together] == [
        [getattr(one, name) for name in read] for one in alone
    ]
    for other in (raw, {**raw, "tie_word_embeddings": 3}, {**raw, "num_key_value_heads": 1}):
        fitting, refused = _fitting(together, other)
        each = [_fitting([one], other) for one in alone]
        assert [together.index(one) for one in fitting] == [n for n, (found, _) in enumerate(each) if found]
        assert [*map(str, refused)] == [str(error) for _, errors in each for error in errors]


def test_the_folder_is_small() -> None:
    assert FILES
    assert sum(path.stat().st_size for path in recorded_programs.shipped_folder().rglob("*.json")) < 24_000_000


LORA = {"name": "lora", "r": 4, "target_modules": "all-linear"}
STEPS = [
    {"batch": 3, "seq": 33},
    {"batch": 1, "seq": 47, "method": LORA, "dtype": "float32"},
    {"batch": 2, "seq": 29, "device": "rtx-4090", "method": LORA},
    {"batch": 2, "seq": 21, "device": "rtx-4090"},
]


NO_LORA = {"llama4_text", "nemotron_h", "phimoe"}
"""Families with linear layers on which PEFT refuses LoRA: a router that gives a tuple, ``out_proj`` of Mamba."""


@pytest.mark.share(48)
@pytest.mark.parametrize("path", [*FILES, *OF_ONE_STACK], ids=lambda path: f"{path.parent.name} {path.stem}")
def test_its_totals_are_those_of_a_recording(path: Path, tmp_path: Path) -> None:
    """Every total, moment and allocation of a step, at sizes that no recording had. Which step a file takes is drawn.

    Biases, tied embeddings, dropouts and labels are as a draw from the file's name says.
    """
    name = path.relative_to(recorded_programs.shipped_folder()).as_posix()
    step: dict[str, Any] = STEPS[zlib.crc32(name.encode()) % len(STEPS)]
    head = path.parent.name if path in OF_HEADS else "causal-lm"
    step = {**step, "head": head} if path in OF_HEADS else step
    step = step if HEADS[head].labels else {**step, "task": "infer"}
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from estimator.recorder.families.configs import resolved_keys
    from estimator.recorder.hugging_face import recorded_config

    families, rng = load_together(path), random.Random(path.stem)
    raw = config_of(path)
    if resolved_keys({"model_type": raw["model_type"]}).get("pad_token_id") is None:  # some look for one that is given
        del raw["pad_token_id"]
    raw |= {key: rng.random() < 0.5 for key in families[0].switches}
    raw |= {key: rng.choice([0.0, 0.1]) for key in families[0].rates}
    alone = any({"B", "num_labels"} <= {*one.fixed} for one in families)  # a program of one row with one label
    labels = rng.choice([1, 3]) if alone or step["batch"] > 1 else 3
    raw |= {"num_labels": labels, "pad_token_id": 0} if head.endswith("classification") else {}
    (tmp_path / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    config = shipped_config(families, raw, "the config")
    assert isinstance(config.source, Shipped)
    if config.family in NO_LORA:
        step = {**step, "method": "full"}
    ours = resolve(parse_plan({"model": str(tmp_path), **step}))
    theirs = recorded_config(raw, "the config", head)
    assert config.source.has_experts == theirs.source.has_experts
    found = []
    for one in (config, theirs):
        sizes = one.sizes(lambda _: 0, ours.step, step["batch"], step["seq"])
        method = ours.plan.method.build(one, ours.plan.dtype)
        found.append(figures_of_step(ours.step, sizes, method, step["batch"], step["seq"]))
    assert found[0] == found[1]


def test_a_built_in_model_is_answered_without_torch() -> None:
    script = (
        "import estimator\n"
        "for model in ('gemma-2-2b', 'phi-4'):\n"
        "    for method in ('full', {'name': 'lora', 'target_modules': 'all-linear'}):\n"
        "        result = estimator.estimate(model=model, method=method, batch=2, seq=256)\n"
        "        assert result.bytes['saved'] > 0\n"
    )
    done = run_without(LIBRARIES, script)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.share(16)
@pytest.mark.parametrize("first", range(4))
def test_every_built_in_model_is_answered_without_torch(first: int) -> None:
    """Programs of training and of a forward pass are found, in one process in which nothing can be recorded."""
    script = (
        "from estimator.plans import models\n"
        "from estimator.plans.plan import parse_plan\n"
        "from estimator.plans.resolve import resolve\n"
        "from estimator.errors import InputError\n"
        "from estimator.programs.heads import HEADS\n"
        f"for name in models.builtin_names()[{first}::4]:\n"
        "    if not HEADS[models.load(name).head].text:\n"
        "        continue\n"
        "    for task, device in (('train', None), ('train', 'h100-80gb'), ('infer', None)):\n"
        "        try:\n"
        "            plan = {'model': name, 'task': task, 'batch': 1, 'dtype': 'bfloat16'}\n"
        "            plan |= {'seq': 1024} if models.load(name).head == 'causal-lm' else {}\n"
        "            resolved = resolve(parse_plan(plan | ({'device': device} if device else {})))\n"
        "            config = models.load(name).config\n"
        "            config.sizes(lambda _: 0, resolved.step, 1, resolved.plan.seq)\n"
        "        except InputError:\n"
        "            print(name, task)\n"
    )
    done = run_without(LIBRARIES, script)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


BEYOND_DECODERS = [
    name for name in models.builtin_names() if models.load(name).head != CAUSAL or models.load(name).whole is not None
]
"""The built-in models that are no decoder, or have more than one."""
OF_EACH: list[dict[str, Any]] = [
    {"batch": 3, "method": {"name": "lora", "r": 4, "target_modules": "all-linear"}, "dtype": "bfloat16"},
    {"batch": 2, "dtype": "float32"},
    {"batch": 2, "checkpointing": "layer", "autocast": "bfloat16", "dtype": "float32"},
]
NO_CHECKPOINTS = {
    **dict.fromkeys(("t5", "mt5"), r"within which the attention of m?t5 makes other"),
    "mpnet": "whose class in transformers has no checkpoints",
}
"""How steps with checkpoints are refused, by the model type."""


def plan_of(name: str, keys: dict[str, Any]) -> dict[str, Any]:
    """A plan of a model with the inputs that its head takes."""
    spec = models.load(name)
    if spec.whole is not None:
        any_size = {} if "image_size" in spec.whole["vision_config"] else {"image_size": "640x480"}
        return {"model": name, "images": 1, "seq": 3000, **any_size, **keys}
    inputs = {"seq": 96} if HEADS[spec.head].text else {}
    target = {"target_seq": 40} if any("T" in one.shape for one in HEADS[spec.head].labels) else {}
    return {"model": name, **inputs, **target, **keys}


@pytest.mark.share(240)
@pytest.mark.parametrize("number", range(len(OF_EACH)))
@pytest.mark.parametrize("name", BEYOND_DECODERS)
def test_a_built_in_model_beyond_decoders(name: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Witness: a recording of the module of the installed transformers, at its real sizes."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    plan = plan_of(name, OF_EACH[number])
    refused = NO_CHECKPOINTS.get(models.load(name).raw["model_type"]) if "checkpointing" in plan else None
    if refused is not None:
        with pytest.raises(InputError, match=refused):
            answer(plan, True, monkeypatch)
        return
    assert answer(plan, True, monkeypatch) == answer(plan, False, monkeypatch)


LINEAR = {"name": "lora", "target_modules": "all-linear"}
IMAGES: list[tuple[str, dict[str, Any]]] = [
    ("llava-1.5-7b", {"images": 2, "batch": 2}),
    ("llava-1.5-7b", {"images": 1, "batch": 1, "method": LINEAR, "checkpointing": "layer", "freeze": ["vision"]}),
    ("llava-1.5-13b", {"images": 3, "batch": 1, "method": LINEAR, "dtype": "bfloat16", "device": "h100-80gb"}),
    ("llava-1.5-13b", {"image_size": "400x600,336x336", "batch": 3, "freeze": ["vision", "projector"]}),
    ("gemma-3-4b", {"images": 2, "batch": 2, "checkpointing": "layer", "dtype": "bfloat16"}),
    ("gemma-3-12b", {"images": 1, "batch": 1, "freeze": ["vision"], "dtype": "bfloat16", "device": "h100-80gb"}),
    ("gemma-3-27b", {"images": 3, "batch": 1, "method": LINEAR, "dtype": "bfloat16"}),
    ("internvl3-1b", {"image_size": "1024x768", "batch": 1, "seq": 4000, "device": "h100-80gb", "method": LINEAR}),
    ("internvl3-8b", {"image_size": "448x448,500x1500", "batch": 2, "freeze": ["vision"], "checkpointing": "layer"}),
    ("paligemma-3b", {"images": 2, "batch": 2, "device": "h100-80gb", "dtype": "bfloat16"}),
    ("qwen2-vl-2b", {"images": 2, "image_size": "1024x768", "batch": 2, "method": LINEAR, "dtype": "bfloat16"}),
    ("qwen2-vl-2b", {"images": 1, "image_size": "400x30", "batch": 12, "dtype": "bfloat16", "task": "infer"}),
    ("qwen2-vl-7b", {"images": 1, "image_size": "300x1200", "batch": 3, "freeze": ["vision"], "device": "h100-80gb"}),
    ("qwen2-vl-7b", {"images": 2, "image_size": "640x480", "seq": 1000, "batch": 2, "checkpointing": "layer"}),
    ("paligemma-3b", {"images": 1, "batch": 1, "method": LINEAR, "freeze": ["vision"], "checkpointing": "layer"}),
    ("smolvlm-256m", {"image_size": "300x1200,700x2000", "batch": 2, "checkpointing": "layer", "dtype": "bfloat16"}),
    ("smolvlm-500m", {"images": 1, "batch": 1, "method": LINEAR, "device": "h100-80gb"}),
    ("smolvlm2-500m", {"image_size": "1024x768", "batch": 3, "freeze": ["vision", "projector"]}),
    ("llava-1.5-7b", {"images": 2, "batch": 1, "task": "infer", "dtype": "float32"}),
    ("gemma-3-4b", {"images": 1, "batch": 2, "task": "infer", "dtype": "bfloat16", "device": "h100-80gb"}),
    ("internvl3-1b", {"image_size": "1024x768", "batch": 2, "seq": 4000, "task": "infer", "method": LINEAR}),
    ("paligemma-3b", {"images": 2, "batch": 1, "task": "infer", "dtype": "bfloat16"}),
    ("smolvlm-256m", {"image_size": "300x1200,700x2000", "batch": 2, "task": "infer", "device": "h100-80gb"}),
    ("smolvlm2-500m", {"images": 1, "batch": 3, "task": "infer", "dtype": "bfloat16"}),
]
"""Images of several sizes and numbers, and towers that do not train."""


def with_images(name: str, keys: dict[str, Any]) -> dict[str, Any]:
    """A plan with the images of ``keys``."""
    plan = plan_of(name, keys)
    return plan if "images" in keys else {key: value for key, value in plan.items() if key != "images"}


@pytest.mark.share(48)
@pytest.mark.parametrize(("name", "keys"), IMAGES)
def test_images_of_a_built_in_model(name: str, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Witness: a recording of the module of the installed transformers, at its real sizes."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    plan = with_images(name, keys)
    assert answer(plan, True, monkeypatch) == answer(plan, False, monkeypatch)


SMALLER: dict[str, dict[str, Any]] = {
    "llava-1.5-7b": {
        "text_config": {"hidden_size": 384, "num_attention_heads": 3, "num_key_value_heads": 3}
        | {"intermediate_size": 712, "num_hidden_layers": 3},
        "vision_config": {"num_hidden_layers": 4},
    },
    "gemma-3-4b": {
        "text_config": {"hidden_size": 480, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64}
        | {"intermediate_size": 712, "num_hidden_layers": 8}
        | {"layer_types": [*["sliding_attention"] * 5, "full_attention", *["sliding_attention"] * 2]},
        "vision_config": {"num_hidden_layers": 3},
    },
    "internvl3-1b": {
        "text_config": {"hidden_size": 288, "num_attention_heads": 6, "num_key_value_heads": 2}
        | {"intermediate_size": 712, "num_hidden_layers": 3},
        "vision_config": {"num_hidden_layers": 4},
    },
    "paligemma-3b": {"text_config": {"num_hidden_layers": 3}, "vision_config": {"num_hidden_layers": 4}},
    "smolvlm-256m": {
        "text_config": {"hidden_size": 384, "num_attention_heads": 6, "num_key_value_heads": 2}
        | {"intermediate_size": 712, "num_hidden_layers": 3},
        "vision_config": {"num_hidden_layers": 4},
    },
    "smolvlm2-500m": {"text_config": {"num_hidden_layers": 3}, "vision_config": {"num_hidden_layers": 4}},
}
"""Sizes that no built-in model has. A structure's other sizes are all models'."""


OF_PATCHES: list[dict[str, Any]] = [
    {"images": 1, "image_size": "56x84", "batch": 1, "method": LINEAR},
    {"images": 1, "image_size": "200x90", "batch": 5, "seq": 41, "autocast": "bfloat16", "dtype": "float32"}
    | {"checkpointing": "layer"},
    {"images": 2, "image_size": "90x200", "batch": 1, "freeze": ["vision", "projector"], "dtype": "bfloat16"},
    {"images": 2, "image_size": "112x112", "batch": 3, "method": LINEAR, "device": "h100-80gb"},
    {"images": 2, "image_size": "112x56", "batch": 2, "task": "infer", "dtype": "bfloat16"},
]


@pytest.mark.share(10)
@pytest.mark.parametrize("keys", OF_PATCHES)
@pytest.mark.parametrize("tied", [False, True])
def test_patches_of_a_model_of_other_sizes(
    tied: bool, keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Witness: a recording of the module."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    raw = json.loads((specs_folder() / "qwen2-vl-2b.json").read_text(encoding="utf-8"))["config"]
    raw["text_config"] |= {"hidden_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 151999}
    raw["text_config"] |= {"intermediate_size": 712, "num_hidden_layers": 3, "tie_word_embeddings": tied}
    raw["vision_config"] |= {"hidden_size": 512, "depth": 3}
    raw["tie_word_embeddings"] = tied
    (tmp_path / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    plan = {"model": str(tmp_path), "seq": 300, **keys}
    assert answer(plan, True, monkeypatch) == answer(plan, False, monkeypatch)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"image_size": "448x448,200x300"}, "rows with images of one size, and the model is given images of several"),
        ({"image_size": "448x448", "images": 3}, "no program was recorded for rows with 3 images"),
        ({"image_size": "28x400"}, "high is 1, for which this program was not recorded"),
        ({"image_size": "448x448", "video_frames": 4}, "rows with images of one size, and the model is given a video"),
    ],
)
@pytest.mark.usefixtures("without_live")
def test_patches_that_no_program_is_of_are_refused(keys: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        estimator.estimate(model="qwen2-vl-2b", batch=2, seq=3000, **keys)


TOWERS: dict[str, dict[str, Any]] = {
    "clip": {
        "projection_dim": 96,
        "text_config": {"model_type": "clip_text_model", "hidden_size": 64, "num_attention_heads": 4},
        "vision_config": {"hidden_size": 192, "intermediate_size": 200, "num_hidden_layers": 5}
        | {"num_attention_heads": 3, "image_size": 95, "patch_size": 12, "projection_dim": 96},
    },
    "siglip": {
        "vision_config": {"hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 3}
        | {"num_attention_heads": 4, "image_size": 151, "patch_size": 10},
    },
    "vit": {"hidden_size": 192, "intermediate_size": 344, "num_hidden_layers": 4}
    | {"num_attention_heads": 3, "image_size": 384, "patch_size": 32},
}
"""Towers whose images and patches are of other sizes than any built-in model's; one beside a text model's config."""


@pytest.mark.share(6)
@pytest.mark.parametrize("keys", [*OF_EACH, {"batch": 1, "device": "h100-80gb"}, {"batch": 5, "task": "infer"}])
@pytest.mark.parametrize("model_type", TOWERS)
def test_a_tower_of_other_patches(
    model_type: str, keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Witness: a recording of the module."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    raw = {"model_type": model_type, **TOWERS[model_type]}
    (tmp_path / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    plan = {"model": str(tmp_path), "head": "image-classification", **keys}
    assert answer(plan, True, monkeypatch) == answer(plan, False, monkeypatch)


WIDE: dict[str, dict[str, Any]] = {
    "all": {"image_size": "300x1200,300x1200", "batch": 2},
    "language": {
        "image_size": "300x1200",
        "batch": 1,
        "method": LINEAR,
        "checkpointing": "layer",
        "freeze": ["vision"],
    },
    "GPU": {"image_size": "300x1200,300x1200,300x1200", "batch": 1, "seq": 4000, "method": LINEAR}
    | {"device": "h100-80gb"},
    "sizes": {"image_size": "300x1200,400x1600", "batch": 3, "freeze": ["vision", "projector"]},
    "inference": {"image_size": "300x1200,400x1600", "batch": 2, "task": "infer"},
}
"""Images of few tiles. A recording of more reads numbers that it does not hold."""


@pytest.mark.share(48)
@pytest.mark.parametrize("keys", WIDE)
@pytest.mark.parametrize("name", SMALLER)
def test_images_of_a_model_of_other_sizes(
    name: str, keys: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Witness: a recording of the module."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    spec = json.loads((specs_folder() / f"{name}.json").read_text(encoding="utf-8"))
    raw = spec["config"]
    for key, value in SMALLER[name].items():
        raw[key] = {**raw[key], **value} if isinstance(value, dict) else value
    (tmp_path / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(spec["processor"]), encoding="utf-8")
    plan = {**with_images(name, WIDE[keys]), "model": str(tmp_path)}
    assert answer(plan, True, monkeypatch) == answer(plan, False, monkeypatch)


@pytest.mark.share(12)
def test_a_model_that_looks_at_images_is_answered_without_torch() -> None:
    """One of each file, with steps, a question and a formula whose number of images is a symbol."""
    script = (
        "import estimator\n"
        "from estimator.export.build import function_of\n"
        "from estimator.export.code_python import evaluate\n"
        "from estimator.plans.plan import parse_plan\n"
        f"for name in {sorted(SMALLER)!r}:\n"
        "    plan = {'model': name, 'images': 2, 'seq': 6000, 'batch': 1, 'dtype': 'bfloat16'}\n"
        "    trained = estimator.estimate(**plan).bytes\n"
        "    tuned = estimator.estimate(**plan, checkpointing='layer', method='lora', device='h100-80gb').bytes\n"
        "    assert trained['saved'] > tuned['saved'] > 0\n"
        "    assert trained['peak'] > estimator.estimate(**plan, task='infer').bytes['peak'] > 0\n"
        "    f = function_of(parse_plan(plan), ['images', 'seq'], ceiling=False)\n"
        "    assert evaluate(f, {'images': 2, 'seq': 6000})['peak'] == trained['peak']\n"
    )
    done = run_without(LIBRARIES, script)
    assert (done.returncode, done.stderr) == (0, "")


ELECTRA = {
    "model_type": "electra", "vocab_size": 211, "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 5,
    "num_attention_heads": 6,
}  # fmt: skip


@pytest.mark.parametrize("embeddings", [40, 96])
def test_embeddings_of_the_hidden_size_are_not_projected(
    embeddings: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Witness: a recording. Each file is of one of the two cases."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps({**ELECTRA, "embedding_size": embeddings}), encoding="utf-8")
    plan = {"model": str(tmp_path), "seq": 32, "batch": 2, "head": "question-answering"}
    assert answer(plan, True, monkeypatch) == answer(plan, False, monkeypatch)


def test_a_program_with_a_projection_is_not_one_of_a_model_without(tmp_path: Path, without_live: None) -> None:
    """OPT projects its embeddings where their size is not the hidden one."""
    raw = {**QWEN2, "model_type": "opt", "do_layer_norm_before": False, "ffn_dim": 160}
    assert answered(tmp_path, {**raw, "word_embed_proj_dim": 40})
    with pytest.raises(InputError, match="and the program was recorded for"):
        answered(tmp_path, {**raw, "word_embed_proj_dim": 96})


@pytest.mark.share(3)
@pytest.mark.parametrize(
    ("layers", "method"), [((5, 2), "full"), ((1, 3), {"name": "lora", "r": 4, "target_modules": "all-linear"})]
)
def test_an_encoder_and_a_decoder_have_depths_of_their_own(
    layers: tuple[int, int], method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Witness: a recording of a T5 whose sizes are no built-in model's, with one row and with three."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    raw = {
        **models.load("t5-small").raw,
        "d_model": 192,
        "num_heads": 3,
        "d_ff": 200,
        "num_layers": layers[0],
        "num_decoder_layers": layers[1],
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(raw), encoding="utf-8")
    for batch in (1, 3):
        plan = {"model": str(path), "batch": batch, "seq": 31, "target_seq": 17, "method": method, "dtype": "float32"}
        assert answer(plan, True, monkeypatch) == answer(plan, False, monkeypatch)


BERT = {
    "vocab_size": 30522, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
    "num_hidden_layers": 12, "max_position_embeddings": 512, "type_vocab_size": 2,
}  # fmt: skip
ROBERTA = {**BERT, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-05}
DISTILBERT = {"vocab_size": 30522, "dim": 768, "hidden_dim": 3072, "n_heads": 12, "n_layers": 6, "dropout": 0.1}


@pytest.mark.parametrize(
    ("model_type", "name", "config", "parameters"),
    [
        ("bert", "BertForMaskedLM", BERT, 109_514_298),
        ("roberta", "RobertaForMaskedLM", {**ROBERTA, "vocab_size": 50265}, 124_697_433),
        ("distilbert", "DistilBertForMaskedLM", DISTILBERT, 66_985_530),
    ],
)
def test_published_encoders_are_answered(
    model_type: str, name: str, config: dict[str, Any], parameters: int, tmp_path: Path, without_live: None
) -> None:
    """Witness: the parameters of bert-base-uncased, roberta-base and distilbert-base-uncased, as their weights on the
    hub have them.
    """
    path = tmp_path / "config.json"
    raw = {"model_type": model_type, "architectures": [name], "gradient_checkpointing": False, **config}
    path.write_text(json.dumps(raw), encoding="utf-8")
    assert estimator.estimate(model=str(path), seq=128, batch=8, dtype="float32").total_parameters == parameters
    few, many = (
        estimator.estimate(model=str(path), seq=128, batch=8, dtype="float32", head="sequence-classification").bytes
        for labels in (2, 5)
        if path.write_text(json.dumps({**raw, "id2label": {str(i): f"L{i}" for i in range(labels)}}))
    )
    assert many["parameters"] - few["parameters"] == 3 * 769 * 4


CONFIG = config_of(next(path for path in FILES if path.stem.startswith("gemma2.")))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden_activation": "relu"}, "hidden_activation: 'relu', and the program was recorded for"),
        ({"attention_bias": "yes"}, "attention_bias is 'yes'; it must be true or false"),
        ({"attention_dropout": -0.1}, "attention_dropout is -0.1; it must be at least 0 and below 1"),
        ({"sliding_window": None}, "sliding_window"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing is no key of the recorded class"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"hidden_size": "x"}, "hidden_size is 'x'; it must be a whole number"),
        ({"hidden_size": 0}, "hidden_size is 0; it must be a whole number"),
        ({"intermediate_size": 1e400}, "intermediate_size is inf; it must be a whole number"),
        ({"num_attention_heads": 8, "num_key_value_heads": 5}, "8 is not a multiple of num_key_value_heads 5"),
        ({"head_dim": 15}, "head_dim is 15; rotary embeddings need an even one"),
        ({"layer_types": ["full_attention"]}, "layer_types must list one type for each of the 7 layers"),
    ],
)
def test_what_no_program_has_is_refused(
    changed: dict[str, Any], message: str, tmp_path: Path, without_live: None
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**CONFIG, **changed}), encoding="utf-8")
    with pytest.raises(InputError) as raised:
        estimator.estimate(model=str(path), seq=32, batch=2)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def answered(folder: Path, config: dict[str, Any], **plan: Any) -> dict[str, Any]:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return dict(estimator.estimate(model=str(folder), seq=32, batch=2, **plan).bytes)


def test_a_key_that_no_module_reads_changes_nothing(tmp_path: Path, without_live: None) -> None:
    """As configs at the hub have them: marks of tools that wrote them, and of other libraries."""
    marks = {"is_llama_config": True, "unsloth_fixed": True, "transformers.js_config": {"dtype": "q4"}, "towers": 3}
    assert answered(tmp_path, {**CONFIG, **marks}) == answered(tmp_path, CONFIG)


def test_a_key_that_the_class_sets_another_one_by() -> None:
    """A key that fills in others matters where these are left out, and one that sets others always does."""
    (first, *_) = load_together(next(path for path in FILES if path.stem == "llama.default"))
    rules = {"reads": ["pattern", "width"], "fills": {"pattern": ["head_dim"]}, "sets": {"hidden_size": "width + 1"}}
    made = replace(first.whole, recorded={**first.recorded, **rules})
    (family,) = read_together(written_together([made]), "llama")
    with pytest.raises(InputError, match="pattern is no key of the recorded class"):
        family.config({**QWEN2, "model_type": "llama", "head_dim": None, "pattern": "M"})
    config = {**QWEN2, "model_type": "llama", "head_dim": 16}
    assert family.config({**config, "pattern": "M"})["hidden_size"] == config["hidden_size"]
    assert family.config({**config, "width": 63})["hidden_size"] == 64


@pytest.mark.parametrize("model_type", ["qwen2", "phi3"])
def test_a_key_that_modules_read_and_the_class_has_not(
    model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asks the module: ``head_dim`` is a size of these, although their classes do not have it."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    config = config_of(next(path for path in FILES if path.stem.startswith(f"{model_type}.")))
    config = {**config, "head_dim": 48, "num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 96}

    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    plan = {"model": str(tmp_path), "seq": 32, "batch": 2}
    assert answer(plan, True, monkeypatch) == answer(plan, False, monkeypatch)


QWEN2: dict[str, Any] = {
    "model_type": "qwen2", "vocab_size": 211, "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 4,
    "num_attention_heads": 6, "num_key_value_heads": 2,
}  # fmt: skip


OTHERS: dict[str, dict[str, Any]] = {
    "the first layer has the window": {**QWEN2, "use_sliding_window": True, "sliding_window": 16,
                                       "max_window_layers": 0},
    "every other one has it": {**QWEN2, "use_sliding_window": True, "sliding_window": 40,
                               "layer_types": ["sliding_attention", "full_attention"] * 2},
    "as many heads of keys": {**QWEN2, "num_key_value_heads": None},
    "dynamic rotary embeddings": {**QWEN2, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
                                  "max_position_embeddings": 32},
    "the window in every layer of Cohere 2": {
        **QWEN2, "model_type": "cohere2", "sliding_window": 16, "layer_types": ["sliding_attention"] * 4,
    },
    "no dense layer": {
        **QWEN2, "model_type": "deepseek_v3", "num_key_value_heads": 6, "first_k_dense_replace": 0,
        "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 40,
        "q_lora_rank": None, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16,
    },
    "dense layers among those of experts": {
        **QWEN2, "model_type": "qwen3_moe", "head_dim": 16, "mlp_only_layers": [0, 2], "num_experts": 8,
        "num_experts_per_tok": 2, "moe_intermediate_size": 40, "decoder_sparse_step": 1,
    },
    "the window in every layer": {
        **QWEN2, "model_type": "gemma3_text", "head_dim": 16, "sliding_window": 16,
        "layer_types": ["sliding_attention"] * 4,
    },
    "full attention first": {
        **QWEN2, "model_type": "gemma3_text", "head_dim": 16, "sliding_window": 16,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
    },
    "the window of StarCoder2": {**QWEN2, "model_type": "starcoder2", "sliding_window": 16},
    "norms of queries and keys": {**QWEN2, "model_type": "cohere", "use_qk_norm": True},
    "full attention in every second layer": {**QWEN2, "model_type": "qwen3_5_text", "full_attention_interval": 2},
    "layers of Qwen3-Next": {
        **QWEN2, "model_type": "qwen3_next", "head_dim": 16, "full_attention_interval": 2, "num_experts": 8,
        "num_experts_per_tok": 2, "moe_intermediate_size": 40, "shared_expert_intermediate_size": 48,
    },
    "norms of queries and keys of GLM-4.5": {
        **QWEN2, "model_type": "glm4_moe", "head_dim": 16, "use_qk_norm": True, "n_routed_experts": 8,
        "num_experts_per_tok": 2, "moe_intermediate_size": 40,
    },
    "a dense layer first": {
        **QWEN2, "model_type": "glm4_moe_lite", "num_key_value_heads": 6, "n_routed_experts": 8, "q_lora_rank": 24,
        "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16, "num_experts_per_tok": 2,
        "moe_intermediate_size": 40, "first_k_dense_replace": 3,
    },
    "the language model of Qwen3-VL": {
        **QWEN2, "model_type": "qwen3_vl_text", "head_dim": 128, "tie_word_embeddings": True,
    },
    "kinds of layers beside an interval": {
        **QWEN2, "model_type": "qwen3_5_text", "full_attention_interval": 4,
        "layer_types": ["linear_attention", "full_attention"] * 2,
    },
    "ALiBi": {
        **QWEN2, "model_type": "falcon", "num_attention_heads": 8, "alibi": True, "bias": True, "multi_query": False,
        "parallel_attn": False,
    },
}  # fmt: skip


REFUSED = ("the window in every layer",)
"""Of these, what no program is for: Gemma 3 makes cos and sin for each kind of layer that there is."""


@pytest.mark.share(2)
@pytest.mark.parametrize("name", OTHERS)
def test_what_models_of_a_family_differ_in(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Witness: a recording."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps(OTHERS[name]), encoding="utf-8")
    plan = {"model": str(tmp_path), "seq": 32, "batch": 2}
    if name in REFUSED:
        with pytest.raises(InputError, match="no layer is of kind"):
            answer(plan, True, monkeypatch)
        return
    assert answer(plan, True, monkeypatch) == answer(plan, False, monkeypatch)


@pytest.mark.parametrize(
    "switches",
    [
        {"sliding_window": 16, "max_window_layers": 4},
        {"sliding_window": 16, "layer_types": ["full_attention"] * 4},
        {"sliding_window": None},
    ],
    ids=["few layers", "no such layer", "no window"],
)
def test_a_window_that_no_layer_has_is_none(switches: dict[str, Any], tmp_path: Path, without_live: None) -> None:
    config = {**QWEN2, "use_sliding_window": True, **switches}
    assert answered(tmp_path, config) == answered(tmp_path, QWEN2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "gpt_neox", "num_hidden_layers": 10**6},
            "is 1000000; it must be a whole number between 1 and 10000",
        ),
        ({"model_type": "gpt2", "n_layer": 10**6}, "n_layer is 1,000,000; 10,000 are the most"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": 5}, "mlp_only_layers is 5; it must be a list"),
    ],
)
def test_a_hostile_config_is_one_line(config: dict[str, Any], message: str, tmp_path: Path, without_live: None) -> None:
    with pytest.raises(InputError, match=message):
        answered(tmp_path, config)


def test_a_program_with_a_window_is_not_one_of_a_model_without(without_live: None) -> None:
    for path in FILES:
        for family in load_together(path):
            if family.window is None or "layer_types" in family.lists:
                continue
            with pytest.raises(InputError):
                family.config({**config_of(path), family.window: None, "use_sliding_window": False})


def test_another_setting_is_refused_by_name(tmp_path: Path, without_live: None) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG), encoding="utf-8")
    with pytest.raises(InputError, match=r"no program was recorded for training with attention: sdpa"):
        estimator.estimate(model=str(path), seq=32, batch=2, attention="sdpa")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format":4,"programs":[3]}', "\0"])
def test_a_damaged_file_of_the_user_is_a_note(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = estimator.estimate("gemma-2-2b", seq=32)
    monkeypatch.setenv(recorded_programs.VARIABLE, str(tmp_path))
    (tmp_path / "gemma2.bad.json").write_text(text, encoding="utf-8")
    result = estimator.estimate("gemma-2-2b", seq=32)
    assert result.bytes == plain.bytes
    assert "gemma2.bad.json" in "".join(result.warnings)


def test_a_damaged_part_of_a_file_of_the_user_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its heads are whole: the program is not looked at before it is needed."""
    monkeypatch.setenv(recorded_programs.VARIABLE, str(tmp_path))
    text = (recorded_programs.shipped_folder() / "gemma2.default.json").read_text(encoding="utf-8")
    (tmp_path / "gemma2.mine.json").write_text(text.replace('"gelu"', '"unheard_of"'), encoding="utf-8")
    assert "gemma2.mine.json" in "".join(estimator.estimate("gemma-2-2b", seq=32).warnings)


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of a user that the system does not know, as in many a container; and variables that name no folder."""
    import pwd

    plain = estimator.estimate("gemma-2-2b", seq=32)
    for name in ("HOME", "XDG_CACHE_HOME", recorded_programs.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    assert estimator.estimate("gemma-2-2b", seq=32).to_dict() == plain.to_dict()
    with pytest.raises(InputError, match=f"no home folder.*{recorded_programs.VARIABLE}"):
        recorded_programs.write("", "gemma2", "mine", None)
    for home in ("/nonexistent", "/dev/null", ""):
        monkeypatch.setenv("HOME", home)
        assert estimator.estimate("gemma-2-2b", seq=32).to_dict() == plain.to_dict()


def test_a_file_that_another_version_wrote_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = answered(tmp_path, CONFIG)
    monkeypatch.setenv(recorded_programs.VARIABLE, str(tmp_path))
    (tmp_path / "gemma2.mine.json").write_text('{"format":1,"programs":[]}', encoding="utf-8")
    assert answered(tmp_path, CONFIG) == plain


@pytest.mark.share(3)
@pytest.mark.parametrize(
    ("model", "plan", "why"),
    [
        ("qwen3.5-27b", {"method": {"name": "prefix_tuning", "num_virtual_tokens": 8}}, "prefix_tuning has no rules"),
        ("lfm2-1.2b", {"method": {"name": "prefix_tuning", "num_virtual_tokens": 8}}, "take no keys and values from a"),
        (
            "qwen3.5-27b",
            {"method": {"name": "prompt_tuning", "num_virtual_tokens": 8}, "attention_mask": True},
            "a padding mask has no rule here beside virtual tokens",
        ),
    ],
)
def test_virtual_tokens_that_a_program_does_not_take(model: str, plan: dict[str, Any], why: str) -> None:
    """Layers with a cache of their own take no prefix, as in the real step. A padded program has a mask of its rows."""
    script = (
        "import estimator\n"
        f"try: estimator.estimate(model={model!r}, seq=256, task='infer', **{plan!r})\n"
        "except estimator.InputError as error: print(error)\n"
    )
    done = run_without(LIBRARIES, script)
    assert why in done.stdout, done


def test_a_program_stays_while_few_others_are_asked_for() -> None:
    """Every size has its own, and a process may answer many plans of one built-in model."""
    resolved = resolve(parse_plan({"model": "smollm2-135m", "seq": 8}))
    source = resolved.spec.config.source
    first, second = (weakref.ref(source.at(resolved.step, 1, seq)) for seq in (8, 9))
    for seq in range(10, 8 + MOST_PROGRAMS):
        source.at(resolved.step, 1, seq)
    assert source.at(resolved.step, 1, 8) is first()
    assert source.knows(resolved.step, 1, 3)
    assert (first() is None, second() is None) == (False, True)


def test_rows_with_a_padding_mask_have_a_program_of_their_own() -> None:
    """Where the model uses the mask beyond attention; a step without one, or of packed rows, has another program."""
    families = [one.whole for one in load_together(recorded_programs.shipped_folder() / "opt.default.json")]
    found = {
        name: {
            str(Setting(*(values[0] for values in family.settings[0].values())).task)
            for family in families
            if family.serves(Setting.of(Step("opt", "bfloat16", **options)))
        }
        for name, options in {
            "plain": {},
            "padded": {"attention_mask": True},
            "packed": {"packing": True},
            "inference": {"attention_mask": True, "procedure": Procedure(trains=False)},
        }.items()
    }
    assert found == {
        "plain": {"training"},
        "padded": {"training on padded rows"},
        "packed": {"training on packed rows"},
        "inference": {"inference on padded rows"},
    }


@pytest.mark.share(6)
@pytest.mark.parametrize(
    ("name", "key"),
    [("qwen3_5_text.qwen3.5-27b", "mrope_section"), ("granitemoehybrid.granite-4.0-h-micro", "mamba_chunk_size")],
)
def test_a_key_that_a_config_leaves_out_has_the_default_of_the_class(name: str, key: str) -> None:
    """The chunk of state-space layers, and the sections of rotary embeddings, whose default is that of a module."""
    raw = dict(models.load(name.partition(".")[2]).raw)
    families = [one.whole for one in load_together(recorded_programs.shipped_folder() / f"{name}.json")]
    without = {k: v for k, v in raw.items() if k not in (key, "rope_parameters")} | {
        "rope_parameters": {k: v for k, v in raw.get("rope_parameters", {}).items() if k != key}
    }
    assert families[0].config(without)[key] == families[0].config(raw)[key]
