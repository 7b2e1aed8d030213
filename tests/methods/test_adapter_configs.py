"""Adapters' configuration files as PEFT writes them. Witness: PEFT itself."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import peft
import pytest

from estimator.answers.estimate import estimate
from estimator.errors import InputError, shown
from estimator.methods.registry import METHODS, read_adapter_config
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.show.cli import main
from tests.cases.small_models import write_config
from tests.helpers.commands import answer
from tests.helpers.files import write


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
def test_all_keys_are_read(saved: Any, tmp_path: Path) -> None:
    """Witness: PEFT, whose configuration file is read with all the keys it writes."""
    saved.save_pretrained(tmp_path / "adapter")
    plan = parse_plan({"model": write_config(tmp_path / "model", {}), "method": str(tmp_path / "adapter")})
    assert plan.method.name == saved.peft_type.value.lower()
    assert resolve(plan)


NAMES = ("miss", "hira", "randlora", "fourierft", "c3a", "shira")


def adapted(name: str, **options: Any) -> Any:
    return peft.PEFT_TYPE_TO_CONFIG_MAPPING[name.upper()](**options)


@pytest.mark.parametrize("name", NAMES)
def test_defaults(name: str, tmp_path: Path) -> None:
    """A configuration that PEFT wrote with its defaults is the method with ours."""
    adapted(name).save_pretrained(tmp_path)
    options = METHODS[name]
    assert options.model_validate(read_adapter_config(tmp_path)) == options(name=name, **given_in_config(name))
    assert options.peft_options(options(name=name)).keys() <= adapted(name).to_dict().keys()


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].peft])
def test_defaults_of_every_key(name: str) -> None:
    """Witness: PEFT's configurations. Keys without an effect have its defaults, too."""
    ours = METHODS[name].model_fields
    fields = dataclasses.fields(peft.PEFT_TYPE_TO_CONFIG_MAPPING[name.upper()])
    theirs = {one.name: one.default for one in fields if isinstance(one.default, (bool, int, float, str))}
    shared = theirs.keys() & ours.keys()
    assert {key: ours[key].default for key in shared} == {key: theirs[key] for key in shared}


def given_in_config(name: str) -> dict[str, Any]:
    """What a saved configuration holds where ours has ``None``."""
    return {
        "hira": {"rank_pattern": {}},
        "c3a": {"block_size_pattern": {}},
        "fourierft": {"n_frequency_pattern": {}},
    }.get(name, {})


def test_defaults_of_beft(tmp_path: Path) -> None:
    """Witness: PEFT, which writes its defaults, and they are ours."""
    peft.PEFT_TYPE_TO_CONFIG_MAPPING["BEFT"]().save_pretrained(tmp_path)
    options = METHODS["beft"]
    assert options.model_validate(read_adapter_config(tmp_path)) == options(name="beft")


MODEL = "smollm-135m"


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Folders that PEFT itself has written, with the method block each stands for."""
    import peft

    folder = tmp_path_factory.mktemp("adapters")
    configs: dict[str, tuple[Any, dict[str, Any]]] = {
        "lora": (
            peft.LoraConfig(
                r=4, lora_alpha=32, lora_dropout=0.05, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
            ),
            {"name": "lora", "r": 4, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": ["q_proj", "v_proj"]},
        ),
        "lora-defaults": (peft.LoraConfig(), {"name": "lora"}),
        "lora-more": (
            peft.LoraConfig(
                r=2,
                target_modules=["q_proj", "down_proj"],
                layers_to_transform=[1, 3],
                layers_pattern="layers",
                rank_pattern={"down_proj": 7},
                use_rslora=True,
                bias="lora_only",
            ),
            {
                "name": "lora",
                "r": 2,
                "target_modules": ["q_proj", "down_proj"],
                "layers_to_transform": [1, 3],
                "layers_pattern": "layers",
                "rank_pattern": {"down_proj": 7},
                "bias": "lora_only",
            },
        ),
        "lora-all": (
            peft.LoraConfig(target_modules="all-linear", modules_to_save=["norm"]),
            {"name": "lora", "target_modules": "all-linear", "modules_to_save": ["norm"]},
        ),
        "ia3": (
            peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
            {"name": "ia3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
        ),
        "ia3-defaults": (peft.IA3Config(), {"name": "ia3"}),
    }
    for name, (config, _) in configs.items():
        config.save_pretrained(folder / name)
    return {name: (folder / name / "adapter_config.json", block) for name, (_, block) in configs.items()}


@pytest.mark.parametrize("name", ["lora", "lora-defaults", "lora-more", "lora-all", "ia3", "ia3-defaults"])
def test_an_adapter_config_is_a_method(
    name: str, adapters: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    """Asks the contract: the file PEFT writes works as option, as key, and by its folder; options still override."""
    file, block = adapters[name]
    expected = estimate(model=MODEL, method=block).to_dict()
    assert answer(MODEL, "--method", file) == expected
    assert answer(MODEL, "--method", file.parent) == expected
    assert answer("--plan", write(tmp_path / "plan.json", {"model": MODEL, "method": str(file)})) == expected
    if block["name"] == "lora":
        assert answer(MODEL, "--method", file, "--r", 3) == estimate(model=MODEL, method={**block, "r": 3}).to_dict()


@pytest.mark.parametrize("value", [{}, [["CAUSAL_LM"]], 3, False])
def test_a_task_type_is_a_text(value: Any, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "PROMPT_TUNING", "task_type": value}))
    with pytest.raises(InputError, match=f"sets task_type to {re.escape(shown(value))}; it must be a text"):
        read_adapter_config(tmp_path / "adapter_config.json")


def test_adapter_options_without_a_rule_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract: what changes memory and has no rule (DoRA here) is refused, not left out of the sum."""
    import peft

    peft.LoraConfig(use_qalora=True).save_pretrained(tmp_path)
    assert main(["estimate", MODEL, "--method", str(tmp_path)]) == 2
    assert "use_qalora" in capsys.readouterr().err


def test_a_method_of_the_installed_peft_alone_is_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the keys that say anything; one that nobody knows is refused."""
    monkeypatch.setattr("estimator.methods.registry.installed_methods", lambda: frozenset({"newest", "lora"}))
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "NEWEST", "r": 3, "bias": None, "revision": "main"}))
    assert read_adapter_config(path) == {"name": "newest", "r": 3}
    path.write_text(json.dumps({"peft_type": "LORA", "r": 3, "target_modules": ["q_proj"]}))
    assert read_adapter_config(path) == {"name": "lora", "r": 3, "target_modules": ["q_proj"]}
    path.write_text(json.dumps({"peft_type": "NEWER", "r": 3}))
    with pytest.raises(InputError, match="NEWER"):
        read_adapter_config(path)
