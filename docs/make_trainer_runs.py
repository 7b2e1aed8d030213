"""Records what a step of each training tool holds: ``make witness``.

Reads ``docs/measured/trainer_runs/runs.yaml`` and, for each tool, takes one step of each config by the tool's own
trainer, on a CPU with a Llama of two layers saved in bfloat16, and writes a JSON file of the tool's name beside it: the
dtypes of the model's parts and which are trained, the batch, autocast, what was checkpointed, gradients and optimizer
states. It shows what the tools' sources only say (``docs/make_trainer_defaults.py``).

    python docs/make_trainer_runs.py [TOOL ...]

Each tool is installed in a folder of its own, from PyPI, over the packages of the interpreter that runs this.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import types
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import yaml

FOLDER = Path(__file__).parent / "measured" / "trainer_runs"
BARE = {
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "DO_NOT_TRACK": "1",
    "AXOLOTL_DO_NOT_TRACK": "1",
    "DISABLE_VERSION_CHECK": "1",  # LLaMA-Factory's, of packages that a step does not need
    "TOKENIZERS_PARALLELISM": "false",
}
SHOWN = ("axolotl", "llamafactory", "torchtune", "trl", "transformers", "peft", "accelerate", "torch", "bitsandbytes")
WORDS = 120
SAMPLES = [" ".join(f"w{(i * j) % 100}" for j in range(1, 18 + 4 * i)) for i in range(4)]


def tiny(folder: Path) -> str:
    """A saved Llama of two layers and its tokenizer: the folder they lie in."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=WORDS,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(WORDS - 4))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return str(folder)


def _part(name: str) -> str:
    for part, words in {
        "DoRA magnitude": ("magnitude",),
        "adapter": ("lora_",),
        "saved module": ("modules_to_save",),
        "embedding": ("embed",),
        "head": ("lm_head", "output.weight"),
        "norm": ("norm",),
    }.items():
        if any(word in name for word in words):
            return part
    return "linear"


def _held(parameter: Any) -> str:
    kind = type(getattr(parameter, "data", parameter)).__name__
    if "NF4Tensor" in (kind, type(parameter).__name__):
        return "nf4 (torchao)"
    kind = type(parameter).__name__
    if kind == "Params4bit":
        return str(parameter.quant_type)
    return "int8" if kind == "Int8Params" else str(parameter.dtype).removeprefix("torch.")


class Step:
    """What one step holds, seen by hooks."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {"checkpointed_layers": 0, "use_reentrant": None, "gradient_clipping": False}

    def callback(self) -> Any:
        """A callback of transformers' Trainer that watches its first step."""
        from transformers import TrainerCallback

        step = self

        class Watch(TrainerCallback):  # type: ignore[misc]
            def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
                step.watch(model)

            def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
                step.gradients(rest["model"])

            def on_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
                step.optimizer(rest["optimizer"])

        return Watch()

    def watch(self, model: Any) -> None:
        """Note the model's parts, and its batch when it comes."""
        import torch
        import torch.utils.checkpoint as checkpoint

        seen = self.seen
        parts: Counter[tuple[str, str, str]] = Counter()
        for name, parameter in model.named_parameters():
            parts[_part(name), _held(parameter), "trained" if parameter.requires_grad else "frozen"] += 1
        seen["parameters"] = [[*key, count] for key, count in sorted(parts.items())]
        seen["attention"] = getattr(getattr(model, "config", None), "_attn_implementation", None)
        configs = getattr(model, "peft_config", {}).values()
        seen["target_modules"] = sorted({t.split(".")[-1] for c in configs for t in c.target_modules}) or None
        for name, module in model.named_modules():
            if name.endswith(("embed_tokens", "tok_embeddings")):
                module.register_forward_hook(self._batch)
            elif name.endswith("lm_head") or name == "output":
                module.register_forward_hook(self._logits)

        reentrant, other = checkpoint.CheckpointFunction.apply, checkpoint._checkpoint_without_reentrant_generator
        clip = torch.nn.utils.clip_grad_norm_

        def count_reentrant(*args: Any) -> Any:
            seen["checkpointed_layers"] += 1
            seen["use_reentrant"] = True
            return reentrant(*args)

        def count_other(*args: Any, **options: Any) -> Any:
            seen["checkpointed_layers"] += 1
            seen["use_reentrant"] = False
            return other(*args, **options)

        def count_clip(*args: Any, **options: Any) -> Any:
            seen["gradient_clipping"] = True
            return clip(*args, **options)

        checkpoint.CheckpointFunction = MagicMock(apply=count_reentrant)
        checkpoint._checkpoint_without_reentrant_generator = count_other
        torch.nn.utils.clip_grad_norm_ = count_clip
        self._undo = lambda: (
            setattr(checkpoint, "CheckpointFunction", MagicMock(apply=reentrant)),
            setattr(checkpoint, "_checkpoint_without_reentrant_generator", other),
            setattr(torch.nn.utils, "clip_grad_norm_", clip),
        )

    def _batch(self, module: Any, inputs: Any, output: Any) -> None:
        import torch

        on = torch.is_autocast_enabled("cpu")
        self.seen.setdefault("batch", list(inputs[0].shape))
        self.seen.setdefault("autocast", str(torch.get_autocast_dtype("cpu")).removeprefix("torch.") if on else None)

    def _logits(self, module: Any, inputs: Any, output: Any) -> None:
        self.seen.setdefault("logits", str(output.dtype).removeprefix("torch."))

    def gradients(self, model: Any) -> None:
        """Note the dtypes of the gradients."""
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        self.seen["gradients"] = dict(Counter(str(g.dtype).removeprefix("torch.") for g in gradients))

    def optimizer(self, optimizer: Any) -> None:
        """Note the optimizer and its states."""
        inner = getattr(optimizer, "optimizer", optimizer)
        kind = type(inner)
        states = [value for state in inner.state.values() for value in state.values() if hasattr(value, "dtype")]
        self.seen["optimizer"] = f"{kind.__module__}.{kind.__name__}"
        self.seen["fused"] = inner.param_groups[0].get("fused")
        self.seen["states"] = dict(Counter(str(s.dtype).removeprefix("torch.") for s in states if s.dim()))

    def record(self) -> dict[str, Any]:
        """What was seen."""
        self._undo()
        self.seen.setdefault("logits", None)
        return self.seen


def _model_options(config: dict[str, Any]) -> dict[str, Any]:
    from transformers import BitsAndBytesConfig

    options = dict(config.pop("model", {}))
    if options.pop("load_in_4bit", False):
        options["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    return options


def run_transformers(config: dict[str, Any], model: str, out: str, step: Step) -> None:
    """A step of transformers' Trainer."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainingArguments,
    )

    options, peft = _model_options(config), config.pop("peft", None)
    network, tokenizer = AutoModelForCausalLM.from_pretrained(model, **options), AutoTokenizer.from_pretrained(model)
    if peft is not None:
        network = get_peft_model(network, LoraConfig(task_type="CAUSAL_LM", **peft))
    arguments = TrainingArguments(output_dir=out, report_to="none", use_cpu=True, max_steps=1, **config)
    Trainer(
        model=network,
        args=arguments,
        train_dataset=Dataset.from_dict({"input_ids": [tokenizer(sample)["input_ids"] for sample in SAMPLES]}),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        callbacks=[step.callback()],
    ).train()


def run_trl(config: dict[str, Any], model: str, out: str, step: Step) -> None:
    """A step of TRL's SFTTrainer."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    options, peft = _model_options(config), config.pop("peft", None)
    arguments = SFTConfig(
        output_dir=out, report_to="none", use_cpu=True, max_steps=1, model_init_kwargs=options or None, **config
    )
    SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({"text": SAMPLES}),
        peft_config=None if peft is None else LoraConfig(task_type="CAUSAL_LM", **peft),
        callbacks=[step.callback()],
    ).train()


def run_axolotl(config: dict[str, Any], model: str, out: str, step: Step) -> None:
    """A step of axolotl's trainer. Its fused LoRA kernels and its copies to the host need a GPU and are left out."""
    import axolotl.core.trainers.mixins.activation_checkpointing as offloading
    import peft.tuners.lora.torchao
    import transformers.training_args
    from axolotl.core.builders import HFCausalTrainerBuilder
    from axolotl.loaders import ModelLoader, load_tokenizer
    from axolotl.utils.config import normalize_config, validate_config
    from axolotl.utils.dict import DictDefault
    from datasets import Dataset

    offloading.get_lora_act_offloading_ctx_manager = lambda *args, **options: nullcontext()
    offloading.get_act_offloading_ctx_manager = lambda *args, **options: nullcontext()
    peft.tuners.lora.torchao.is_torchao_available = lambda: False
    transformers.training_args.is_torch_bf16_gpu_available = lambda: True
    needed = {
        "base_model": model,
        "sequence_len": 128,
        "micro_batch_size": 2,
        "num_epochs": 1,
        "learning_rate": 1e-4,
        "datasets": [{"path": "x", "type": "alpaca"}],
        "output_dir": out,
        "max_steps": 1,
        "save_steps": 100,
        "tf32": False,
        **{f"lora_{kernel}_kernel": False for kernel in ("mlp", "qkv", "o", "embedding")},
        **({"lora_r": 8, "lora_alpha": 16} if "adapter" in config else {}),
    }
    gpu = {"bf16": True, "tf32": True, "fp8": True, "n_gpu": 1, "n_node": 1, "compute_capability": "sm_90"}
    read = validate_config(
        DictDefault({**needed, **config}), capabilities=gpu, env_capabilities={"torch_version": "2.9.0"}
    )
    normalize_config(read)
    tokenizer = load_tokenizer(read)
    network, _ = ModelLoader(read, tokenizer).load()
    builder = HFCausalTrainerBuilder(read, network, tokenizer, None)
    tokens = [tokenizer(sample)["input_ids"] for sample in SAMPLES]
    builder.train_dataset = Dataset.from_dict(
        {"input_ids": tokens, "attention_mask": [[1] * len(ids) for ids in tokens], "labels": tokens}
    )
    trainer = builder.build(1)
    trainer.add_callback(step.callback())
    trainer.train()


def run_llama_factory(config: dict[str, Any], model: str, out: str, step: Step) -> None:
    """A step of LLaMA-Factory's sft."""
    import llamafactory.hparams.parser
    import peft.tuners.lora.torchao
    from llamafactory.train.tuner import run_exp

    llamafactory.hparams.parser.is_torch_bf16_gpu_available = lambda: True
    peft.tuners.lora.torchao.is_torchao_available = lambda: False
    data = Path(out) / "data"
    data.mkdir(parents=True)
    rows = [{"instruction": sample, "input": "", "output": sample} for sample in SAMPLES]
    (data / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    (data / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}), encoding="utf-8")
    needed = {
        "model_name_or_path": model,
        "stage": "sft",
        "do_train": True,
        "dataset": "rows",
        "dataset_dir": str(data),
        "template": "default",
        "output_dir": f"{out}/saved",
        "report_to": "none",
        "use_cpu": True,
        "max_steps": 1,
        "save_strategy": "no",
    }
    run_exp({**needed, **config}, callbacks=[step.callback()])


def run_torchtune(config: dict[str, Any], model: str, out: str, step: Step) -> None:
    """A step of torchtune's recipe for full or LoRA fine-tuning on one device, with its config of Llama 3.2 1B."""
    from omegaconf import OmegaConf
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = [{"tokens": ids, "labels": ids} for ids in (tokenizer(sample)["input_ids"] for sample in SAMPLES)]
    sys.modules["rows"] = types.ModuleType("rows")
    vars(sys.modules["rows"]).update(tokenizer=lambda: SimpleNamespace(pad_id=0), dataset=lambda tokenizer: rows)
    shape = {
        "vocab_size": WORDS,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 4,
        "embed_dim": 128,
        "intermediate_dim": 256,
        "max_seq_len": 128,
    }
    name = config.pop("recipe")
    lora = name == "lora"
    recipes = Path(os.environ["PYTHONPATH"]) / "recipes"  # no package: its __init__ refuses to be imported
    spec = importlib.util.spec_from_file_location("recipe", recipes / f"{name}_finetune_single_device.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(recipes)
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    needed = {
        "model": {"_component_": f"torchtune.models.llama3.{'lora_' if lora else ''}llama3", **shape},
        "tokenizer": {"_component_": "rows.tokenizer"},
        "dataset": {"_component_": "rows.dataset"},
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": model,
            "checkpoint_files": ["model.safetensors"],
            "output_dir": out,
            "model_type": "LLAMA3",
        },
        "metric_logger": {"_component_": "torchtune.training.metric_logging.DiskLogger", "log_dir": out},
        "output_dir": out,
        "device": "cpu",
        "max_steps_per_epoch": 1,
        "gradient_accumulation_steps": 1,
    }
    read = OmegaConf.load(recipes / "configs" / "llama3_2" / f"1B_{name}_single_device.yaml")
    for key in ("tokenizer", "dataset", "checkpointer", "model"):
        if key != "model" or not lora:
            read.pop(key)
    if not lora and config.get("optimizer_in_bwd") is None:
        config["optimizer_in_bwd"] = False
    read = OmegaConf.merge(read, OmegaConf.create(needed), OmegaConf.create(config))
    made = (recipe.LoRAFinetuneRecipeSingleDevice if lora else recipe.FullFinetuneRecipeSingleDevice)(cfg=read)
    made.setup(cfg=read)
    made.save_checkpoint = lambda epoch: None
    step.watch(made._model)
    if made._optimizer is None:  # one optimizer a parameter, stepped in backward
        made.train()
        step.gradients(made._model)
        step.optimizer(next(iter(made._optim_ckpt_wrapper.optim_map.values())))
        return
    made._optimizer.register_step_pre_hook(lambda *args: step.gradients(made._model))
    made._optimizer.register_step_post_hook(lambda optimizer, *args: step.optimizer(optimizer))
    made.train()


RUN: dict[str, Callable[[dict[str, Any], str, str, Step], None]] = {
    "transformers": run_transformers,
    "trl": run_trl,
    "axolotl": run_axolotl,
    "llama_factory": run_llama_factory,
    "torchtune": run_torchtune,
}


def _stub(names: list[str]) -> None:
    for name in names:
        module = MagicMock()
        module.__spec__, module.__path__ = importlib.machinery.ModuleSpec(name, None), []
        sys.modules[name] = module


def _inside(name: str, out: Path) -> None:
    """In the tool's environment: each config's run in a fork of this process, its record to a file in ``out``."""
    importlib.import_module("transformers.models.llama.modeling_llama")  # takes some stubs for packages
    tool = yaml.safe_load((FOLDER / "runs.yaml").read_text(encoding="utf-8"))[name]
    _stub(tool.get("stubs", []))
    for module in tool["imports"]:
        importlib.import_module(module)
    for number, config in enumerate(tool["runs"]):
        fork = multiprocessing.get_context("fork").Process(target=_one, args=(name, config, out / f"{number}.json"))
        fork.start()
        fork.join()
        if fork.exitcode:
            sys.exit(f"{name}: {config}")


def _one(name: str, config: dict[str, Any], out: Path) -> None:
    step = Step()
    with tempfile.TemporaryDirectory() as folder:
        RUN[name](dict(config), tiny(Path(folder) / "model"), f"{folder}/out", step)
    out.write_text(json.dumps(step.record()), encoding="utf-8")


def record(name: str, tool: Mapping[str, Any]) -> dict[str, Any]:
    """What a step of each of the tool's configs holds. Raises ``subprocess.CalledProcessError``."""
    packages = tool["packages"]
    with tempfile.TemporaryDirectory() as folder:
        pinned = [f"{package}=={release}" for package, release in packages.items()]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
        subprocess.run([*pip, *pinned], check=True)
        records = Path(folder) / "records"
        records.mkdir()
        command = [sys.executable, "-W", "ignore", __file__, "--inside", name, str(records)]
        subprocess.run(command, env={**os.environ, **BARE, "PYTHONPATH": folder}, stdout=subprocess.DEVNULL, check=True)
        seen = [json.loads((records / f"{number}.json").read_text("utf-8")) for number in range(len(tool["runs"]))]
    used = {name: packages.get(name) or version(name) for name in SHOWN if name in packages or find_spec(name)}
    return {
        "release": ", ".join(f"{package} {release}" for package, release in used.items()),
        "date": date.today().isoformat(),
        "runs": [{"config": config, **step} for config, step in zip(tool["runs"], seen, strict=True)],
    }


def main() -> None:
    """Write the records of the tools named on the command line, or of all."""
    if sys.argv[1:2] == ["--inside"]:
        _inside(sys.argv[2], Path(sys.argv[3]))
        return
    tools = yaml.safe_load((FOLDER / "runs.yaml").read_text(encoding="utf-8"))
    for name in sys.argv[1:] or [name for name in tools if not name.startswith(".")]:
        text = json.dumps(record(name, tools[name]), indent=1, ensure_ascii=False)
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
