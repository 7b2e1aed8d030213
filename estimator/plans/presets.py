"""Presets by name: what a training tool, or a recipe, sets where a plan leaves a key open.

Each says whose defaults it means. ``docs/measured/trainer_defaults`` has the tools' own, read from the releases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from ..bases.formats import BITSANDBYTES, FOUR_BIT
from ..engines.assumptions import Assumption
from ..engines.devices import find
from ..engines.registry import meant
from ..errors import InputError, nearest, shown
from ..methods.options import MethodOptions
from ..methods.registry import METHODS, method_block
from ..steps.trainers import OF_TEXTS
from ..steps.trainers import TRAINERS as STEPS
from .models import load
from .quantised_checkpoints import with_checkpoint

Keys = Mapping[str, Any]


class Preset(NamedTuple):
    """The defaults of a tool or a recipe."""

    whose: str
    """The tool and its release, or the recipe's source."""
    keys: Callable[[Keys], Keys]
    """The keys it sets, from the keys that a plan gives."""
    method: Keys | None = None
    """The method's block, where a plan names no method, and its keys where the plan names the same one."""


def checkpoint_dtype(model: Any) -> str:
    """The dtype that a model's weights are published in, which from_pretrained of transformers 5 keeps.

    Raises ``InputError`` for a model that is not known.
    """
    return load(model).dtype if isinstance(model, str) else "float32"


def _hf_trainer(plan: Keys) -> Keys:
    """``TrainingArguments``, and ``Trainer.compute_loss``, which returns the loss alone."""
    own = {
        "batch": 8,
        "optimizer": "adamw-fused",
        "gradient_clipping": True,
        "keep_logits": False,
        "data_collator": True,
        **({"embedding_optim_bits": 32} if "8bit" in str(plan.get("optimizer")) else {}),
        **({"convert_outputs_to_fp32": True} if plan.get("autocast") else {}),
    }
    return own if "dtype" in plan else {"dtype": checkpoint_dtype(plan.get("model")), **own}


def _sentence_transformers(plan: Keys) -> Keys:
    """``SentenceTransformerTrainingArguments``, and ``Transformer``, which loads a model without its head."""
    made = {key: value for key, value in _hf_trainer(plan).items() if key != "convert_outputs_to_fp32"}
    loss = STEPS["sentence-transformers"].loss_type
    negatives = OF_TEXTS.get(str(plan.get("loss_type")), 0)
    return {**made, "head": "feature-extraction", "loss_type": loss, "negatives": negatives}


def _trl_sft(plan: Keys) -> Keys:
    """``SFTConfig``, ``ModelConfig`` and ``SFTTrainer``."""
    return {
        "dtype": "float32",
        "seq": 1024,
        "checkpointing": "layer",
        "autocast": "bfloat16",
        "loss": "fused-lm-head" if plan.get("trl", "1.16") == "1.16" else "chunked-nll",
        **({"rest_dtype": "float32"} if plan.get("dtype") in BITSANDBYTES else {}),
        **({"compute_dtype": "float32"} if plan.get("dtype") in FOUR_BIT else {}),
        **_hf_trainer({"autocast": "bfloat16", **plan, "dtype": None}),
    }


def _trl(name: str, plan: Keys) -> Keys:
    """The config of a trainer of TRL whose step is recorded, and ``ModelConfig``."""
    made = {key: value for key, value in _trl_sft(plan).items() if key not in ("loss", "convert_outputs_to_fp32")}
    trainer = STEPS[name]
    if name == "trl-reward":  # one label, whatever the config says
        made = {**made, "head": "sequence-classification"}
        del made["data_collator"]
    if trainer.loss_type:
        made["loss_type"] = trainer.loss_type
    if trainer.scores:
        made["num_generations"] = trainer.num_generations
    if trainer.scores or trainer.has_teacher:
        made["beta"] = trainer.beta
    return made


def _by_tool(name: str, keys_of: Callable[[Keys], Keys], plan: Keys) -> Keys:
    """A tool's defaults, with those of the trainer of preferences that it starts."""
    made = {key: value for key, value in keys_of(plan).items() if key not in ("loss", "convert_outputs_to_fp32")}
    return {**made, "loss_type": STEPS[name].loss_type} if STEPS[name].loss_type else made


_FOUR_BIT = {"compute_dtype": "bfloat16", "double_quant": True, "quant_storage": "bfloat16"}


def _axolotl(plan: Keys) -> Keys:
    """``AxolotlInputConfig``, and what ``ModelLoader`` sets where ``bf16`` is auto; ``set_pytorch_cuda_alloc_conf``."""
    return {
        "seq": 512,
        "dtype": "bfloat16",
        "autocast": "bfloat16",
        **(_FOUR_BIT if plan.get("dtype") in FOUR_BIT else {}),
        **({"expandable_segments": True} if _on_a_gpu(plan) else {}),
        **_reentrant(plan),
        **_hf_trainer({"autocast": "bfloat16", **plan, "dtype": None}),
        "batch": 1,
    }


def _axolotl_rl(plan: Keys) -> Keys:
    """Beside ``rl`` gradient checkpointing is TRL's default, and not reentrant (``TrainerBuilderBase``).

    In full fine-tuning TRL's KTO loads its reference itself, in float32 (``create_model_from_path``).
    """
    made = {**_axolotl(plan), "checkpointing": "layer", **_reentrant({"checkpointing": "layer", **plan}, False)}
    loads = plan.get("trainer") == "axolotl-kto" and not _is_adapted(plan) and not plan.get("precompute_ref_log_probs")
    return {**made, "reference": {"model": plan.get("model"), "dtype": "float32"}} if loads else made


def _on_a_gpu(plan: Keys) -> bool:
    if "runtime" in plan:
        return meant(plan).has_own_memory
    with suppress(InputError):
        return "device" in plan and find(str(plan["device"])).capability is not None
    return False


_LLAMA_FACTORY_LORA = {"name": "lora", "r": 8, "lora_alpha": 16, "target_modules": "all-linear"}


def _llama_factory(plan: Keys) -> Keys:
    """The dataclasses of ``llamafactory/hparams``, the checkpoint's dtype, and ``init_adapter``, which trains in
    float32.
    """
    full = "method" in plan and method_block(plan["method"])["name"] == "full"
    four_bit = plan.get("dtype") in FOUR_BIT
    return {
        "seq": 2048,
        **({} if "dtype" in plan else {"dtype": "float32" if full else checkpoint_dtype(plan.get("model"))}),
        "checkpointing": "layer",
        **(_FOUR_BIT if four_bit else {}),
        **_reentrant({"checkpointing": "layer", **plan}),
        **_hf_trainer({**plan, "dtype": None}),
    }


def _llama_factory_dpo(plan: Keys) -> Keys:
    """In full fine-tuning the reference is loaded again (``create_ref_model``), and not cast as what trains is."""
    made = _llama_factory(plan)
    full = "method" in plan and method_block(plan["method"])["name"] == "full"
    if not full or plan.get("loss_type") in STEPS["llama-factory-dpo"].without:
        return made
    return {**made, "reference": {"model": plan.get("model"), "dtype": checkpoint_dtype(plan.get("model"))}}


def _reentrant(plan: Keys, value: bool = True) -> Keys:
    return {"use_reentrant": value} if plan.get("checkpointing") in ("layer", "offloaded") else {}


def _torchtune(plan: Keys) -> Keys:
    """The recipes' ``cfg.get`` defaults, and the values that most of their configs have."""
    return {
        "batch": 2,
        "dtype": "bfloat16",
        "optimizer": "adamw-fused",
        "loss": "ce-chunked-output",
        "keep_logits": False,
        **_reentrant(plan, False),
    }


TRAINERS: Mapping[str, Preset] = {
    "trl-sft": Preset("TRL 1.16.0's SFTTrainer", _trl_sft),
    **{name: Preset(f"TRL 1.16.0's {name}", partial(_trl, name)) for name in STEPS if name.startswith("trl-")},
    "hf-trainer": Preset("transformers 5.24.0's Trainer", _hf_trainer),
    "axolotl": Preset("Axolotl 0.19.0", _axolotl),
    **{
        name: Preset("Axolotl 0.19.0", partial(_by_tool, name, _axolotl_rl))
        for name in STEPS
        if name.startswith("axolotl-")
    },
    "llama-factory": Preset("LLaMA-Factory 0.9.5", _llama_factory, _LLAMA_FACTORY_LORA),
    **{
        name: Preset("LLaMA-Factory 0.9.5", partial(_by_tool, name, _llama_factory_dpo), _LLAMA_FACTORY_LORA)
        for name in STEPS
        if name.startswith("llama-factory-")
    },
    "sentence-transformers": Preset("sentence-transformers 6.2.0's trainer", _sentence_transformers),
    "torchtune": Preset("torchtune 0.6.1's recipes", _torchtune),
    "loop": Preset("a bare loop of PyTorch", lambda plan: {}),
}
"""Presets by the plan's ``trainer``."""


ACCELERATE = ("trl-sft", *STEPS, "hf-trainer", "axolotl", "llama-factory")
"""Trainers that accelerate starts processes for."""


_WITH_ITS_LAYER = (
    " (with LoRA, though, Axolotl gathers each matrix of an adapter apart, and this answer with its layer)"
)
"""``monkeypatch/accelerate/fsdp2.py: _process_lora_module_for_fsdp``."""


def prepares_itself(trainer: Any, name: Any) -> bool:
    """Whether a trainer shares the model in accelerate's place: Axolotl under FSDP2 (``patch_accelerate_fsdp2``)."""
    return str(trainer).startswith("axolotl") and name in ("fsdp2", "hsdp")


def by_accelerate(block: Any, precision: Any) -> Keys:
    """The keys of a block ``sharding`` that accelerate 1.15 sets under mixed ``precision``, or under none.

    Source: ``accelerate/utils/dataclasses.py: FullyShardedDataParallelPlugin.set_mixed_precision``.
    """
    if not str(block.get("name")).startswith(("fsdp", "hsdp")):
        return {}
    return {
        "groups": "accelerate",
        **({"param_dtype": precision, "reduce_dtype": precision} if precision is not None else {}),
    }


def _by_trainer(block: Any, plan: Keys) -> Keys:
    """What transformers' Trainer has accelerate do.

    Under FSDP1 adapters are apart, and floats in which 4-bit weights are packed are the dtype of all
    (``update_fsdp_plugin_peft``, which ``_prepare_for_training`` does not call for FSDP2). Axolotl's own
    ``fsdp2_prepare_model`` gives one choice of resharding to the layers and the rest.
    """
    adapted, storage = _is_adapted(plan) and block.get("name") == "fsdp1", plan.get("quant_storage", "uint8")
    packed = adapted and plan.get("dtype") in FOUR_BIT and storage != "uint8"
    found = by_accelerate(block, storage if packed else plan.get("autocast"))
    if found and prepares_itself(plan["trainer"], block["name"]):
        return {**found, "groups": "layers", "reshard_after_forward": True}
    return {**found, "groups": "transformers"} if adapted else found


def _is_adapted(plan: Keys) -> bool:
    method = METHODS.get(_named(plan.get("method", "full")))
    return method is not None and method.peft


def _unused(block: Keys, plan: Keys) -> Keys:
    """Whether the Trainer's DDP looks for unused parameters: not around checkpoints of a plain model (``trainer.py``).

    Axolotl tells it not to (``core/builders/causal.py``), LLaMA-Factory not for LoRA (``hparams/parser.py``).
    """
    if block.get("name") != "ddp":
        return {}
    adapted, trainer = _named(plan.get("method", "full")) != "full", plan["trainer"]
    told = trainer == "axolotl" or (trainer.startswith("llama-factory") and adapted)
    return {"find_unused_parameters": not told and (adapted or plan.get("checkpointing", "none") == "none")}


def _for_processes(plan: Keys, preset: Preset) -> Keys:
    """What a trainer's mixed precision is where several processes share a model.

    DeepSpeed casts the model in the place of autocast.
    """
    block = plan.get("sharding")
    if plan.get("trainer") not in ACCELERATE or not isinstance(block, Mapping):
        return {}
    precision = plan.get("autocast", preset.keys(plan).get("autocast"))
    zero = precision is not None and str(block.get("name")).startswith("zero")
    return {"autocast": None, "dtype": precision} if zero else {}


def _qlora(plan: Keys) -> Keys:
    four_bit = plan.get("dtype", "nf4") in FOUR_BIT
    return {
        "dtype": "nf4",
        **({"double_quant": True, "compute_dtype": "bfloat16"} if four_bit else {}),
        "kbit_preparation": True,
        "checkpointing": "layer",
    }


RECIPES: Mapping[str, Preset] = {
    "qlora": Preset(
        "PEFT 0.21's quantization guide",
        _qlora,
        {"name": "lora", "r": 16, "lora_alpha": 8, "target_modules": "all-linear"},
    )
}
"""Names of ``method`` that stand for a method and other keys of the plan."""


def with_presets(plan: Keys) -> tuple[dict[str, Any], dict[str, str]]:
    """A plan's keys with those of its ``trainer`` and of a recipe that its ``method`` names.

    Also returned: for each key that a preset set, whose defaults it is. Raises ``InputError``.
    """
    presets = _presets(plan)
    # What a checkpoint says of itself goes before what a tool would load.
    filled: dict[str, Any] = dict(with_checkpoint(plan) if presets else plan)
    whose: dict[str, str] = {}
    for preset in presets:
        given = filled.get("method")
        if preset.method is not None and (given is None or _named(given) in (*RECIPES, preset.method["name"])):
            block = {**preset.method, **_own(given), "name": preset.method["name"]}
            whose |= {key: preset.whose for key in block if key not in (*_own(given), "name")}
            if given is None or _named(given) in RECIPES:
                whose["method"] = preset.whose
            filled["method"] = block
        for keys_of in (partial(_for_processes, preset=preset), preset.keys):
            for key, value in keys_of(filled).items():
                if key not in filled:
                    filled[key], whose[key] = value, preset.whose
    shared = filled.get("sharding")
    if filled.get("trainer") in ACCELERATE and isinstance(shared, Mapping):
        more = {**_by_trainer(shared, filled), **_unused(shared, filled)}
        more = {key: value for key, value in more.items() if key not in shared}
        filled["sharding"] = {**shared, **more}
        whose |= dict.fromkeys(more, _of_trainer(filled).whose)
        if more.get("groups") == "layers" and _is_adapted(filled):
            whose["groups"] += _WITH_ITS_LAYER
    return filled, whose


def preset_assumptions(values: Keys, whose: Mapping[str, str]) -> list[Assumption]:
    """What presets set, from the keys' ``values`` and the second result of ``with_presets``."""
    return [
        Assumption(key, values.get(key), f"{name} sets it; give the key to replace it")
        for key, name in whose.items()
        if key != "method"
    ]


def _presets(plan: Keys) -> list[Preset]:
    """The presets of a plan, those that go first before others: a recipe is nearer to the user's words than a tool."""
    found = [RECIPES[name] for name in (_named(plan.get("method")),) if name in RECIPES]
    trainer = plan.get("trainer")
    if trainer is None:
        return found
    if not isinstance(trainer, str) or trainer not in TRAINERS:
        hint = nearest(trainer, TRAINERS) if isinstance(trainer, str) else ""
        raise InputError(f"trainer: {shown(trainer)} is not known{hint}; known are {', '.join(TRAINERS)}")
    return [*found, _of_trainer(plan)]


def _of_trainer(plan: Keys) -> Preset:
    """The preset of a plan's trainer, with the release of TRL that the plan names."""
    preset, release = TRAINERS[plan["trainer"]], plan.get("trl", "1.16")
    return preset if release == "1.16" else preset._replace(whose=preset.whose.replace("TRL 1.16.0", f"TRL {release}"))


def _named(method: Any) -> str:
    name = method.get("name") if isinstance(method, Mapping) else getattr(method, "name", method)
    return name.lower() if isinstance(name, str) else ""


def _own(method: Any) -> dict[str, Any]:
    """The keys that a plan gives in its method's block."""
    if isinstance(method, MethodOptions):
        return method.model_dump(exclude_unset=True)
    if isinstance(method, Mapping):
        return dict(method)
    return {} if method is None or _named(method) in RECIPES or method in METHODS else method_block(method)
