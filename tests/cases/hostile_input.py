"""Hostile input, made at random from a seed: plans and their blocks, configs, adapters, headers, snapshots, records,
training files, recorded programs, command lines, and places to write to.

A case is the arguments of one command; ``run`` answers it in this process as the command line would, and says what a
job script would see. ``python -m tests.cases.hostile_input 20000 7`` runs as many cases, the first ``BLOCK`` of
them from seed 7 and the next from seed 8 in another process, and prints what broke; with a third argument other
commands than ``estimate``, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import shlex
import struct
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from estimator.engines.llama_cpp import convert
from estimator.engines.llama_cpp.header import Header
from estimator.engines.registry import KEYS
from estimator.engines.vllm.serving_options import ServingOptions
from estimator.methods.registry import METHODS
from estimator.moments.options import RunOptions
from estimator.plans.models import builtin_names, load
from estimator.plans.plan import Plan
from estimator.plans.recorded_programs import shipped_folder
from estimator.steps.generate_options import GenerateOptions
from estimator.steps.sharding.options import ShardingOptions
from estimator.steps.trainers import TRAINERS
from tests.cases.images_and_audio import ALONE, MIXED, WITH_IMAGES
from tests.cases.method_examples import EXAMPLES
from tests.cases.training_files import FORMATS, cases
from tests.helpers.commands import MEGABYTES, SECONDS, Seen, run

CONFIG: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 211,
    "hidden_size": 48,
    "intermediate_size": 104,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "use_sliding_window": True,
    "sliding_window": 16,
    "layer_types": ["full_attention", "sliding_attention"] * 2,
    "attention_dropout": 0.0,
    "tie_word_embeddings": True,
}
GPT2: dict[str, Any] = {
    "model_type": "gpt2", "vocab_size": 211, "n_embd": 48, "n_layer": 4, "n_head": 4, "n_positions": 128,
}  # fmt: skip
MODELS = (
    "smollm2-135m", "qwen3-0.6b", "gemma-2-2b", "gemma-3-1b", "gemma-3n-e2b", "phi-3.5-mini", "mixtral-8x7b",
    "qwen3-30b-a3b", "gpt-oss-20b", "deepseek-v2-lite", "deepseek-v3", "lfm2-1.2b", "granite-4.0-h-tiny", "smollm3-3b",
)  # fmt: skip
"""One of each architecture of llama.cpp."""
NAMES = (
    "plain",
    "[red]x[bold",
    "[x]",
    "a$\\frac$b",
    "$x$",
    "esc\x1b[31m",
    "bytes\udcff\udc80",
    "ключ",
    "a\nb",
    "{x}",
    "%s",
    "#",
)
"""Names of folders."""
NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 7, 64, 255, 4097, 10**4, 10**6, 10**9, 2**31, 2**32, 2**63, 10**30, -(10**9), 0.5, -0.0, 1e308,
)  # fmt: skip
PATTERNS = (
    ".*", "(([a-z._0-9])+)+!", "(.|..|...)*[!?]", "^(?!.*visual).*q_proj$", "(", "[", "a{2,1}", "(?i)x", r"\1", "é",
    "(?:.*?){50}[!?]", "[[:alpha:]]", "(" * 99 + ")" * 99, "q_proj|v_proj", r".*\.[02]\..*proj", "(?P<n>q)_proj",
    "x" * 5000, "*", "a{e<=1}",
)  # fmt: skip
TEXTS = (
    *PATTERNS,
    *NAMES,
    "",
    " ",
    "all-linear",
    "true",
    "null",
    "-",
    "0x10",
    "1e9",
    "8GiB",
    "rtx-4090",
    "/dev/zero",
    "/dev/stdin",
    ".",
    "full",
)
WORDS = (
    "--json",
    "--budget",
    "8GiB",
    "--device",
    "rtx-4090",
    "iphone-15",
    "--seq",
    "--batch",
    "--help",
    "--",
    "-",
    "--seq=",
    "=",
)


OTHERS = [
    ["formula"],
    ["timeline"],
    ["timeline", "--device", "rtx-4090"],
    ["max-batch", "--budget", "8GiB"],
    ["max-seq", "--budget", "8GiB"],
    ["max-rank", "--budget", "8GiB"],
    ["advise", "--budget", "2GiB"],
    ["compare", "--seqs", "16,64", "--methods", "full,lora"],
    ["max-context", "--device", "iphone-15"],
    ["smallest-device"],
    ["smallest-cluster", "--devices", "t4"],
    ["explain"],
    ["export", "--to", "sql", "--vars", "seq"],
]


WRITERS = {
    ".txt": ["formula", "smollm2-135m", "--seq", "16"],
    ".py": ["export", "smollm2-135m", "--to", "python", "--vars", "seq"],
    ".csv": ["sweep", "smollm2-135m", "--seq", "16", "--batch", "1,2"],
    ".svg": ["max-seq", "smollm2-135m", "--budget", "4GiB"],
    ".html": ["explain", "smollm2-135m", "--seq", "16"],
}
"""Commands that write a file, by how it ends."""
PLACES = (
    "-", "/dev/full", "/dev/stdout", "/proc/x", "/dev/null/x", "{}", "missing/x{}", "{}/", "pipe{}", "null{}", "plan{}",
    "old{}", "new{}", "loop{}", "a\nb{}", "\x1b[31m{}", "bytes\udcff{}", "." * 255, "n" * 300, "~/x{}", "../{}",
)  # fmt: skip
"""Where they are asked to write; ``{}`` stands for the file's ending."""
TRAINING: tuple[tuple[str, dict[str, Any]], ...] = (
    ("a.yaml", {"model_name_or_path": "HuggingFaceTB/SmolLM2-135M", "max_length": 64, "use_peft": True, "lora_r": 8}),
    ("b.yaml", {"base_model": "HuggingFaceTB/SmolLM2-135M", "sequence_len": 64, "adapter": "lora", "lora_r": 8}),
    ("c.json", {"model_name_or_path": "HuggingFaceTB/SmolLM2-135M", "finetuning_type": "lora", "cutoff_len": 64}),
    ("training_args.json", {"per_device_train_batch_size": 1, "output_dir": "x", "bf16": True}),
)
"""Training files, as keys. Half of the cases are public ones of every tool."""
DEVICES = ("rtx-4090", "iphone-15", "raspberry-pi-5-8gb", "apple-m3-ultra-512gb", "h100-80gb")
COMMANDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "vllm serve",
        tuple(f"--{name.replace('_', '-')}" for name in (*ServingOptions.model_fields, "no_enable_prefix_caching")),
    ),
    (
        "llama-server -m",
        ("-c", "-ngl", "-ts", "-ctk", "-ctv", "-fa", "-np", "-b", "-ub", "-ncmoe", "-ot", "--mmproj", "-sm", "-md"),
    ),
)
"""Programs of engines that take a command line, and some of their options."""
TRAINER_KEYS = (
    *("trl", "prompt_seq", "loss_type", "beta", "precompute_ref_log_probs", "num_generations", "reference", "batch"),
    *("num_iterations", "steps_per_generation", "reward_model", "use_vllm", "vllm_mode"),
    *("vllm_gpu_memory_utilization", "vllm_enable_sleep_mode", "vllm_max_model_length"),
    *("seq", "loss", "checkpointing", "gradient_accumulation_steps", "optimizer", "lengths", "autocast", "runtime"),
)
MEDIA_KEYS = ("images", "image_size", "audio_frames", "audio_seconds", "target_seq", "freeze", "head", "seq", "batch")
GENERATE_KEYS = ("method", "attention", "batch", "sdpa_kernel", "use_cache", "expandable_segments", "runtime", "torch")
PROCESSORS = (
    "Qwen2VLImageProcessorFast",
    "LlavaNextImageProcessor",
    "SmolVLMImageProcessor",
    "PixtralImageProcessor",
    "x",
)
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
RECORD = {
    "schema": 1, "model": "m", "device": "d", "date": "2026-01-01", "predicted": {"process": 5},
    "measured": {"process": 7}, "versions": {}, "plan": {}, "error": "",
}  # fmt: skip
"""A record of ``estimator.callback``."""
TAGS = (
    "!!bool",
    "!!int",
    "!!float",
    "!!timestamp",
    "!!null",
    "!!str",
    "!!binary",
    "!!set",
    "!!omap",
    "!!pairs",
    "!!seq",
)
"""YAML's own tags."""
TAGGED = ("maybe", '""', "x", '"_"', "0b", "0x", "1:x", "9999-99-99", ".", "-", "[1]", "{a: 1}", "5", "true", "~")
SECRETS = ("hub_token", "api_key", "wandb_key", "password", "HF_TOKEN", "token")
SECRET = "hf_Sentinel"
"""What stands at these keys, and may be in no answer."""
RAN = "ran"
"""A file in the folder of the cases that is there if something of theirs was run as code."""


def import_libraries() -> None:
    """Import PyTorch and transformers, where they are installed. Else the first case that needs them seems slow."""
    with contextlib.suppress(ImportError):
        from transformers import AutoModelForCausalLM  # noqa: F401

        from estimator.recorder import hugging_face  # noqa: F401


class Runs:
    """Unpickling an instance would write a file."""

    def __init__(self, folder: Path) -> None:
        self.command = f"touch '{folder / RAN}'"

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


class Cases:
    """Cases from a seed, whose files lie in a folder. Its ``programs`` may be ``ESTIMATOR_PROGRAMS``."""

    def __init__(self, folder: Path, seed: int, others: bool = False) -> None:
        self.folder, self.random, self.others = folder, random.Random(seed), others

    def __iter__(self) -> Iterator[tuple[list[str], bytes]]:
        kinds = (
            *(self.plan, self.config, self.adapter, self.gguf, self.arguments, self.lines, self.bytes),
            *(self.outputs, self.programs, self.tensors, self.snapshot, self.records, self.training, self.blocks),
            *(self.engines, self.commands, self.trainers, self.media, self.named, self.generate, self.processor),
            *(self.tags, self.special, self.pte, self.secrets, self.words),
        )
        while True:
            yield self.random.choice(kinds)()

    def plan(self) -> tuple[list[str], bytes]:
        """A plan's file, or standard input."""
        plan = self.mutated(self.some_plan())
        if self.one_in(4):
            return self.command("--plan", "-"), json.dumps(plan).encode()
        return self.command("--plan", str(self.file("plan.json", json.dumps(plan)))), b""

    def blocks(self) -> tuple[list[str], bytes]:
        """A plan of a small model with values for the keys of its blocks; or how many cards share it."""
        file = self.file("config.json", json.dumps({**CONFIG, "model_type": self.random.choice(("llama", "qwen2"))}))
        plan = {**self.some_plan(), "model": str(file)}
        if self.one_in(2):
            plan["method"] = self.random.choice(("full", "lora"))
        for key, options in (("sharding", ShardingOptions), ("run", RunOptions)):
            if self.one_in(2):
                plan[key] = {name: value for name, value in self.block(options).items() if value is not None}
        if isinstance(plan.get("sharding"), dict) and self.one_in(2):
            plan["sharding"] |= {"name": self.member(ShardingOptions, "name"), "world_size": 8}
        path = str(self.file("plan.json", json.dumps(self.mutated(plan) if self.one_in(2) else plan)))
        if self.one_in(8):
            cards = self.random.choice(("t4", "raspberry-pi-5-8gb", "rtx-4090,raspberry-pi-5-8gb", str(self.value())))
            most = str(self.random.choice((2, 4, *NUMBERS)))
            return ["smallest-cluster", "--plan", path, f"--devices={cards}", f"--max-cards={most}"], b""
        return self.command("--plan", path), b""

    def engines(self) -> tuple[list[str], bytes]:
        """A plan of any engine, with values for its keys and for those of its block."""
        name = self.random.choice(list(KEYS))
        plan: dict[str, Any] = {"model": self.random.choice(MODELS), "runtime": name}
        plan["task"] = self.random.choice(("infer", "serve")) if self.one_in(2) else None
        for key, field in KEYS[name].fields.model_fields.items():
            block = next((one for one in get_args(field.annotation) if hasattr(one, "model_fields")), None)
            if block is not None:
                plan[key] = self.mutated(self.block(block)) if self.one_in(2) else self.block(block)
            elif self.one_in(8):
                plan[key] = self.member(KEYS[name].fields, key)
        plan |= {key: self.member(Plan, key) for key in ("dtype", "seq", "batch") if self.one_in(6)}
        plan |= {"device": self.random.choice(DEVICES)} if self.one_in(2) else {}
        plan |= {"devices": self.random.choices([*DEVICES, "rpc"], k=2)} if self.one_in(8) else {}
        plan = {key: value for key, value in plan.items() if value is not None}
        plan = self.mutated(plan) if self.one_in(4) else plan
        return self.command("--plan", str(self.file("plan.json", json.dumps(plan)))), b""

    def commands(self) -> tuple[list[str], bytes]:
        """A command line of vLLM's or llama.cpp's programs, with any values."""
        program, options = self.random.choice(COMMANDS)
        words = [*program.split(), self.random.choice([*MODELS, *TEXTS])]
        for _ in range(self.random.randrange(5)):
            words.append(self.random.choice(options))
            words += [] if self.one_in(5) else [str(self.value() if self.one_in(3) else self.small())]
        line = " ".join(word if self.one_in(9) else shlex.quote(word) for word in words).replace("\x00", "")
        asked = [*self.random.choice((["serving"], ["estimate"])), line]
        return [*asked, *(["--device", self.random.choice(DEVICES)] if self.one_in(2) else [])], b""

    def trainers(self) -> tuple[list[str], bytes]:
        """A plan of a trainer's step, with values for the keys that belong to it."""
        plan = {"model": "smollm2-135m", "seq": 64, "trainer": self.random.choice(list(TRAINERS))}
        plan["method"] = self.random.choice(("full", "lora", "ia3", "prompt_tuning"))
        for key in self.random.sample(TRAINER_KEYS, self.random.randrange(5)):
            plan[key] = self.member(Plan, key)
        plan = self.mutated(plan) if self.one_in(3) else plan
        return self.command("--plan", str(self.file("plan.json", json.dumps(plan)))), b""

    def media(self) -> tuple[list[str], bytes]:
        """A model that takes images or audio, with other values in its config and in the keys of its inputs."""
        config, keys = self.random.choice([*WITH_IMAGES.values(), *ALONE.values()])
        plan = {"seq": 64, **keys, "model": str(self.file("config.json", self.text(self.mutated(config))))}
        for key in self.random.sample(MEDIA_KEYS, self.random.randrange(4)):
            plan[key] = self.random.choice((*NUMBERS[:8], "28x28", "0x9", "7x", "language", [], ["vision"], None))
        plan = self.mutated(plan) if self.one_in(3) else plan
        return self.command("--plan", str(self.file("plan.json", json.dumps(plan)))), b""

    def named(self) -> tuple[list[str], bytes]:
        """Any built-in model, or its config with other values, and values for any keys of a plan."""
        name = self.random.choice(builtin_names())
        plan = {"model": name, "seq": self.random.choice((8, 64)), "method": self.random.choice(("full", "lora"))}
        if self.one_in(2):
            plan["model"] = str(self.file("config.json", self.text(self.mutated(load(name).raw))))
        for key in self.random.sample(list(Plan.model_fields)[1:], self.random.randrange(4)):
            plan[key] = self.member(Plan, key)
        plan = self.mutated(plan) if self.one_in(4) else plan
        return self.command("--plan", str(self.file("plan.json", json.dumps(plan)))), b""

    def generate(self) -> tuple[list[str], bytes]:
        """Generation with any cache, on a CPU or a GPU."""
        plan = {"model": self.random.choice(("smollm2-135m", *MODELS)), "seq": 16, "task": "infer"}
        plan |= {"generate": self.block(GenerateOptions), "dtype": self.member(Plan, "dtype")}
        plan |= {"device": self.random.choice(DEVICES)} if self.one_in(2) else {}
        for key in self.random.sample(GENERATE_KEYS, self.random.randrange(3)):
            plan[key] = self.member(Plan, key)
        plan = self.mutated(plan) if self.one_in(3) else plan
        return self.command("--plan", str(self.file("plan.json", json.dumps(plan)))), b""

    def processor(self) -> tuple[list[str], bytes]:
        """A preprocessor_config.json beside a model that takes images."""
        folder = self.folder / "images"
        folder.mkdir(exist_ok=True)
        name = self.random.choice(list(MIXED))
        sizes, keys = MIXED[name]
        keys = {**keys, "image_processor_type": self.random.choice(PROCESSORS)} if self.one_in(2) else keys
        content = json.dumps(self.mutated(keys)).encode("utf-8", "surrogatepass")
        content = self.damaged(content) if self.one_in(6) else content
        self.file("images/config.json", json.dumps(WITH_IMAGES[name][0]))
        self.file(f"images/{self.random.choice(PROCESSOR_FILES)}", content)
        plan = {"model": str(folder), "seq": 900, "image_size": sizes, "images": sizes.count(",") + 1}
        for key in self.random.sample(MEDIA_KEYS, self.random.randrange(3)):
            plan[key] = self.random.choice((*NUMBERS, "28x28", "9000000x1", "1x999999,7x7", None))
        return self.command("--plan", str(self.file("plan.json", json.dumps(plan)))), b""

    def config(self) -> tuple[list[str], bytes]:
        """A model's folder, with any name."""
        folder = self.folder / self.random.choice(NAMES)
        folder.mkdir(exist_ok=True)
        config = self.mutated({**CONFIG, "model_type": self.random.choice(("llama", "mistral", "qwen2", "qwen3"))})
        (folder / "config.json").write_text(self.text(config))
        more = self.random.choice(
            [
                [],
                ["--method", "lora"],
                ["--device", "rtx-4090"],
                ["--runtime", "llama.cpp"],
                ["--budget", "1GiB", "--json"],
            ]
        )
        return self.command(str(folder), *more), b""

    def adapter(self) -> tuple[list[str], bytes]:
        """An adapter_config.json."""
        name = self.random.choice([name for name in METHODS if METHODS[name].peft])
        block = dict(self.random.choice(EXAMPLES.get(name, [{"name": name}])))
        block.pop("name", None)
        adapter = self.mutated({"peft_type": name.upper(), "task_type": "CAUSAL_LM", **block})
        for key in METHODS[name].model_fields:
            if key in ("target_modules", "exclude_modules", "feedforward_modules") and self.one_in(3):
                adapter[key] = self.random.choice(PATTERNS)
            elif key == "layers_pattern" and self.one_in(6):
                adapter |= {key: self.random.choice(PATTERNS), "layers_to_transform": [0, 2]}
            elif key.endswith("_pattern") and self.one_in(4):
                adapter[key] = {self.random.choice(PATTERNS): self.random.randrange(1, 9)}
        file = self.file("adapter_config.json", self.text(adapter))
        return self.command("smollm2-135m", "--seq", "64", "--method", str(file)), b""

    def gguf(self) -> tuple[list[str], bytes]:
        """A GGUF file whose header has other numbers than its model, or other bytes."""
        header = headers(self.random.choice(MODELS))
        metadata = dict(header.metadata)
        for _ in range(self.random.randrange(3)):
            key = self.random.choice(list(metadata))
            if self.one_in(8):
                del metadata[key]
            elif isinstance(metadata[key], list) and self.one_in(2):
                at = self.random.randrange(len(metadata[key]))
                metadata[key] = [*metadata[key][:at], self.small(), *metadata[key][at + 1 :]]
            else:
                metadata[key] = self.small() if self.one_in(2) else self.near(metadata[key])
            if not metadata:
                break
        content, size = gguf(header, metadata, self.random)
        if self.one_in(3):
            content = self.damaged(content)
        path = self.folder / "model.gguf"
        path.write_bytes(content)
        with path.open("r+b") as file:
            file.truncate(self.random.choice([size, size, size, len(content), 1 << 36]))
        more = self.random.choice(
            [[], ["--n-ctx", "512"], ["--type-k", "q8_0"], ["--no-flash-attn"], ["--device", "rtx-4090"]]
        )
        return ["estimate", str(path), *more], b""

    def arguments(self) -> tuple[list[str], bytes]:
        """Options with any values."""
        found = [
            self.random.choice(["estimate", "estimate", "max-seq", "formula", "serving", "devices", "models", "bogus"])
        ]
        found.append(self.random.choice(["smollm2-135m", "qwen3-0.6b", *NAMES, *TEXTS]))
        for _ in range(self.random.randrange(4)):
            key = self.random.choice([*Plan.model_fields, "r", "target_modules", "rank_pattern", "n_ctx", "alpha"])
            found.append(f"--{key.replace('_', '-')}")
            found.append(str(self.random.choice([*TEXTS, *NUMBERS, *WORDS])))
        if self.one_in(3):
            found.insert(self.random.randrange(len(found) + 1), self.random.choice(WORDS))
        return [word.replace("\x00", "") for word in found if "--devices" not in word], b"512\n3\n"

    def lines(self) -> tuple[list[str], bytes]:
        """Many plans, some of them damaged."""
        rows = [json.dumps(self.mutated(self.some_plan())).encode() for _ in range(3)]
        rows[1] = self.damaged(rows[1])
        content = b"\n".join(rows) + b"\n"
        if self.one_in(2):
            return ["estimate", "--plans", "-", "--json"], content
        (self.folder / "plans.jsonl").write_bytes(content)
        return ["estimate", "--plans", str(self.folder / "plans.jsonl"), "--json"], b""

    def bytes(self) -> tuple[list[str], bytes]:
        """Files whose bytes are damaged."""
        text = json.dumps(self.random.choice([self.some_plan(), CONFIG, {"peft_type": "LORA", "r": 4}, [1, 2, 3]]))
        file = self.file("damaged", self.damaged(text.encode()))
        where = self.random.choice(
            [["--plan"], [], ["smollm2-135m", "--method"], ["smollm2-135m", "--lengths"], ["--plans"]]
        )
        return ["estimate", *where, str(file)], b""

    def outputs(self) -> tuple[list[str], bytes]:
        """A command that writes a file, where it may be no place for one."""
        ending = self.random.choice(list(WRITERS))
        for name, target in (("null", "/dev/null"), ("loop", f"loop{ending}"), ("old", f"new{ending}")):
            if not os.path.lexists(self.folder / f"{name}{ending}"):
                (self.folder / f"{name}{ending}").symlink_to(target)
        if not (self.folder / f"pipe{ending}").exists():
            os.mkfifo(self.folder / f"pipe{ending}")
        plan = self.file(f"plan{ending}", '{"model": "smollm2-135m", "seq": 16}')
        words = list(WRITERS[ending])
        if self.one_in(3):
            words[1:] = [word for word in words[1:] if word not in ("smollm2-135m", "--seq", "16")]
            words += ["--plan", str(plan)]
        place = self.random.choice(PLACES).replace("{}", ending)
        return [*words, "--output", place if place[:1] in "-/" else str(self.folder / place)], b""

    def programs(self) -> tuple[list[str], bytes]:
        """A recorded program of a family that is not shipped, with other values or other bytes."""
        text = (shipped_folder() / f"{self.random.choice(('gpt2', 'qwen2'))}.default.json").read_text(encoding="utf-8")
        data = json.loads(text)
        data["programs"] = data["programs"][:1]
        data["programs"][0]["model_type"] = "foreign"
        for _ in range(self.random.randrange(3)):
            place: Any = data["programs"][0]
            while isinstance(place, (dict, list)) and place:
                key = self.random.choice(list(place)) if isinstance(place, dict) else self.random.randrange(len(place))
                if not isinstance(place[key], (dict, list)) or self.one_in(9):
                    elsewhere = json.loads(json.dumps(self.random.choice(list(data["programs"][0].values()))))
                    place[key] = self.random.choice([self.value(), self.near(place[key]), elsewhere])
                    break
                place = place[key]
        content = json.dumps(data).encode("utf-8", "surrogatepass")
        (self.folder / "programs").mkdir(exist_ok=True)
        self.file("programs/foreign.x.json", self.damaged(content) if self.one_in(6) else content)
        config = {**GPT2, "model_type": "foreign"} if "n_embd" in text else {**CONFIG, "model_type": "foreign"}
        file = self.file("config.json", json.dumps(config))
        return self.command(str(file), "--seq", "16", *(["--device", "rtx-4090"] if self.one_in(3) else [])), b""

    def tensors(self) -> tuple[list[str], bytes]:
        """A folder whose safetensors file has another header than it should."""
        folder = self.folder / "tensors"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(CONFIG))
        names = ["model.norm.weight", "lm_head.weight", self.random.choice(TEXTS)]
        header = {
            name: {"dtype": "BF16", "shape": [1], "data_offsets": [2 * i, 2 * i + 2]} for i, name in enumerate(names)
        }
        content = json.dumps(self.mutated(header)).encode("utf-8", "surrogatepass")
        length = self.random.choice([len(content)] * 4 + [0, 1, 1 << 20, 1 << 40, (1 << 64) - 1])
        content = struct.pack("<Q", length) + content + bytes(2 * len(names))
        (folder / "model.safetensors").write_bytes(self.damaged(content) if self.one_in(4) else content)
        return self.command(str(folder), "--seq", "16"), b""

    def snapshot(self) -> tuple[list[str], bytes]:
        """A memory snapshot with other values, other bytes, or an object in it."""
        frame = {"filename": "a.py", "line": 3, "name": "f"}
        entry = {"action": "alloc", "addr": 512, "size": 512, "stream": 0, "frames": [frame]}
        trace = [dict(entry, addr=512 * i, size=512 * (i % 7 + 1)) for i in range(self.random.choice([1, 9, 200]))]
        data = self.mutated({"segments": [], "device_traces": [trace]})
        found: Any = data if self.one_in(2) else {**data, self.random.choice(["segments", "x"]): Runs(self.folder)}
        content = pickle.dumps(found, protocol=self.random.choice([2, 3, 4, 5]))
        content = self.damaged(content) if self.one_in(2) else content
        return ["compare-snapshot", str(self.file("x.pickle", content)), "smollm2-135m", "--seq", "16"], b""

    def records(self) -> tuple[list[str], bytes]:
        """A file of records."""
        rows = [json.dumps(self.mutated(RECORD)).encode() for _ in range(3)]
        content = b"\n".join(rows)
        content = self.damaged(content) if self.one_in(2) else content
        more = self.random.choice([[], ["--json"]])
        return (
            (["report", "-", *more], content)
            if self.one_in(3)
            else (["report", str(self.file("r", content)), *more], b"")
        )

    def training(self) -> tuple[list[str], bytes]:
        """A training file: of keys, of Python, or a command line."""
        name, keys = self.random.choice(TRAINING)
        if self.one_in(2):
            case = self.random.choice(cases(self.random.choice(FORMATS)))
            name, keys = "train.yaml", case["config"]
            if isinstance(keys, str):
                words = keys.split(" ")
                words[self.random.randrange(len(words))] = str(self.value())
                return [
                    "check",
                    str(self.file("train.sh", self.damaged(" ".join(words).encode("utf-8", "replace")))),
                ], b""
        keys = self.mutated(keys)
        kind = self.random.randrange(4)
        if kind == 0:
            words = [f"--{key} {value}" for key, value in keys.items()]
            line = f"python train.py {' '.join(words)}; touch '{self.folder / RAN}'".replace("\x00", "")
            return ["check", line], b""
        if kind == 1:
            code = f"import os\nos.system(\"touch '{self.folder / RAN}'\")\nSFTConfig(**{keys!r})\n"
            return ["check", str(self.file("train.py", self.damaged(code.encode("utf-8", "replace"))))], b""
        text = json.dumps(keys)
        if kind == 2:
            text += f"\nx: !!python/object/apply:os.system [\"touch '{self.folder / RAN}'\"]\n"
        content = text.encode("utf-8", "surrogatepass")
        return ["check", str(self.file(name, self.damaged(content) if self.one_in(3) else content))], b""

    def tags(self) -> tuple[list[str], bytes]:
        """YAML with explicit tags, each with a value that may be none of its kind."""
        keys = (
            {"model": "smollm2-135m", "seq": 16, "batch": 1}
            if self.one_in(2)
            else dict(self.random.choice(TRAINING)[1])
        )
        key = self.random.choice(list(keys))
        tag, value = self.random.choice(TAGS), self.random.choice(TAGGED)
        text = "".join(
            f"{name}: {tag} {value}\n" if name == key else f"{name}: {json.dumps(keys[name])}\n" for name in keys
        )
        file = str(self.file("tags.yaml", text))
        return (["estimate", "--plan", file] if "model" in keys else ["check", file]), b""

    def special(self) -> tuple[list[str], bytes]:
        """What is no regular file, or has nothing in it, in the place of one, by the name that any reader asks for."""
        name = self.random.choice(
            ("f.pte", "f.gguf", "config.json", "f.safetensors", "f.pickle", "f.yaml", "f.sh", "f.jsonl")
        )
        folder = self.folder / f"special{self.random.randrange(10**9)}"
        folder.mkdir()
        path = folder / name
        kind = self.random.randrange(4)
        if kind == 0:
            os.mkfifo(path)
        elif kind == 1:
            path.mkdir()
        elif kind == 2:
            path.symlink_to(self.random.choice(("/dev/zero", "/dev/null", "/proc/self/mem", name)))
        else:
            path.touch()
        asked = str(self.random.choice((path, folder)))
        return self.random.choice([
            ["estimate", asked], ["check", asked], ["estimate", "--plan", asked], ["estimate", "--plans", asked],
            ["estimate", "smollm2-135m", "--method", asked], ["estimate", "smollm2-135m", "--lengths", asked],
            ["compare-snapshot", asked, "smollm2-135m"], ["report", asked], ["serving", f"vllm serve {asked!r}"],
            ["advise", "--file", asked], ["export", asked, "--to", "sql", "--vars", "seq"], ["models", asked],
        ]), b""  # fmt: skip

    def pte(self) -> tuple[list[str], bytes]:
        """An ExecuTorch program whose lists point anywhere, or all at one table."""
        count = self.random.choice((1, 9, 1000, 100_000))
        table = struct.pack("<HH9HH", 22, 40, *(4 + 4 * i for i in range(9)), 0)
        at = self.random.choice((0, 4, 24, self.random.randrange(64)))
        lists = [
            struct.pack("<I", self.random.choice((count, 1 << 31))) + struct.pack("<I", at) * count for _ in range(2)
        ]
        fields = struct.pack("<i9I", len(table), *(self.random.choice((4, 36, 40, 4 * count)) for _ in range(9)))
        content = struct.pack("<I4s", 8 + len(table), b"ET12") + table + fields + b"".join(lists)
        file = self.file("made.pte", self.damaged(content) if self.one_in(2) else content)
        return ["estimate", str(file), *(["--device", "pixel-8"] if self.one_in(2) else [])], b""

    def secrets(self) -> tuple[list[str], bytes]:
        """A training file with tokens at keys that nothing counts, in any of its blocks, or of a file that it names."""
        name, keys = self.random.choice(TRAINING)
        block = dict.fromkeys(self.random.sample(SECRETS, 3), SECRET)
        keys = {**self.mutated(keys), **block}
        inner: Any = self.random.choice((block, json.dumps(block), [block], f"{json.dumps(block)[:-1]}"))
        if self.one_in(2):
            keys["deepspeed"] = "ds.json"
            self.file("ds.json", json.dumps({"zero_optimization": inner, "optimizer": inner, **block}))
        else:
            keys[
                self.random.choice(("fsdp_config", "deepspeed", "model_init_kwargs", "quantization_config", "peft"))
            ] = inner
        if self.one_in(3):
            line = " ".join(f"--{key} {shlex.quote(str(value))}" for key, value in keys.items())
            return ["check", f"HF_TOKEN={SECRET} python train.py {line}".replace("\x00", "")], b""
        more = self.random.choice(([], ["--json"], ["--world-size", "2"]))
        return ["check", str(self.file(name, json.dumps(keys))), *more], b""

    def words(self) -> tuple[list[str], bytes]:
        """Long words, and many."""
        command = self.random.choice(("devices", "models", "estimate", "check", "formula", "serving"))
        word = self.random.choice(("x", "a-", "/", "中", "\u0301", "uv run ")) * self.random.choice((1000, 100_000))
        if self.one_in(3):
            return [command, "smollm2-135m", *["--seq", "5"] * self.random.choice((100, 5000))], b""
        return [command, word], b""

    # parts of cases

    def one_in(self, n: int) -> bool:
        return not self.random.randrange(n)

    def command(self, *arguments: str) -> list[str]:
        """``estimate``; with ``others`` sometimes another, which may ask many estimates."""
        if self.others and self.one_in(3):
            return [*self.random.choice(OTHERS), *arguments]
        return ["estimate", *arguments]

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return path

    def text(self, data: dict[str, Any]) -> str:
        """JSON, now and then with a key twice."""
        text = json.dumps(data)
        return text[:-1] + ', "vocab_size": 7, "r": 3}' if self.one_in(12) else text

    def some_plan(self) -> dict[str, Any]:
        name = self.random.choice(list(METHODS))
        plan: dict[str, Any] = {"model": "smollm2-135m", "seq": self.random.choice([16, 64, 200])}
        plan["method"] = dict(self.random.choice(EXAMPLES.get(name, [{"name": name}])))
        for key in self.random.sample(list(Plan.model_fields), self.random.randrange(4)):
            plan.setdefault(key, self.valid(key))
        return plan

    def valid(self, key: str) -> Any:
        """A value that a plan's key may have."""
        words = {
            "dtype": ["float32", "nf4", "int8", "q4_k_m"], "attention": ["eager", "sdpa"], "task": ["train", "infer"],
            "checkpointing": ["layer", "every-2", "attention"], "runtime": ["torch-cpu", "torch-cuda", "llama.cpp"],
            "optimizer": ["sgd", "muon", "galore-adamw", "adamw-8bit"], "loss": ["chunked", "liger", "cce"],
            "saved_activations": ["int8", "int4"], "device": ["rtx-4090", "iphone-15"], "budget": ["1GiB"],
            "generate": [{"max_new_tokens": 8}], "lengths": [{"histogram": {"8": 3, "20": 1}}],
            "llama_cpp": [{"n_ctx": 512}], "run": [{"eval_samples": 40, "compute_metrics": True}],
        }  # fmt: skip
        return self.random.choice(words.get(key, [True, 1, 2, "float16"]))

    def block(self, options: type[BaseModel]) -> dict[str, Any]:
        """Values for some keys of a block, each of a kind that it takes."""
        keys = self.random.sample(list(options.model_fields), self.random.randrange(5))
        return {key: self.member(options, key) for key in keys}

    def member(self, options: type[BaseModel], key: str) -> Any:
        return self.random.choice([*members(options.model_fields[key].annotation)])

    def mutated(self, data: dict[str, Any]) -> dict[str, Any]:
        """The same with up to three changes, at any depth."""
        data = json.loads(json.dumps(data))
        for _ in range(self.random.randrange(4)):
            place: Any = data
            while True:
                key = self.random.choice(list(place)) if isinstance(place, dict) and place else None
                if isinstance(place, list) and place:
                    key = self.random.randrange(len(place))
                if key is None or not isinstance(place[key], (dict, list)) or not place[key] or self.one_in(2):
                    break
                place = place[key]
            if key is None:
                continue
            if self.one_in(8) and isinstance(place, dict):
                place[self.random.choice(TEXTS)] = place.pop(key)
            elif self.one_in(8):
                place.pop(key)
            else:
                place[key] = self.value()
        return data

    def value(self) -> Any:
        text, number = self.random.choice(TEXTS), self.random.choice(NUMBERS)
        kinds: list[Any] = [
            number, text, None, True, False, [], {}, [number], {text: number}, float("nan"), float("inf"), "\ud800",
            [[[[]]]], [text] * 3, list(range(300)), self.random.randrange(1, 100), self.random.randrange(1, 100),
        ]  # fmt: skip
        return self.random.choice(kinds)

    def small(self) -> Any:
        return self.random.choice(
            [0, 1, 2, 3, 5, 63, 64, 511, 512, 513, 4095, 65536, 10**6, 2**31, 2**32 - 1, -1, True, 0.5, "x"]
        )

    def near(self, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return self.small()
        return self.random.choice(
            [value * 2, value // 2, value + 1, max(value - 1, 0), value * 3, -value, float(value)]
        )

    def damaged(self, content: bytes) -> bytes:
        """Bytes of it changed, left out or cut off."""
        found = bytearray(content)
        for _ in range(self.random.randrange(1, 4)):
            at = self.random.randrange(min(len(found), 4096) or 1) if found else 0
            what = self.random.randrange(4)
            if what == 0:
                found[at : at + 1] = bytes([self.random.randrange(256)])
            elif what == 1:
                found[at : at + 8] = self.random.choice(
                    [b"\xff" * 8, b"\x00" * 8, struct.pack("<Q", 1 << 40), b'"\\ud800']
                )
            elif what == 2:
                del found[at:]
            else:
                found[at:at] = self.random.choice(
                    [b"\x00", b'"', b"{", b"[" * 3000, b"\\", b"\n", b"9" * 5000, b"\xc3"]
                )
        return bytes(found)


def members(kind: Any) -> Iterator[Any]:
    """Some values of a type."""
    few = {bool: (True, False), int: (1, 2, 3, 8, 10**6), float: (0.5,), str: ("1GiB", "x"), type(None): (None,)}
    if get_origin(kind) is Literal:
        yield from get_args(kind)
    elif get_origin(kind) in (Union, types.UnionType):
        for one in get_args(kind):
            yield from members(one)
    elif get_origin(kind) is Annotated:
        yield from members(get_args(kind)[0])
    else:
        yield from few.get(kind, (1, "x"))


_HEADERS: dict[str, Header] = {}


def headers(model: str) -> Header:
    """The GGUF header of a built-in model."""
    if model not in _HEADERS:
        spec = load(model)
        _HEADERS[model] = convert.header(spec.raw, spec.name, "q8_0")
    return _HEADERS[model]


def gguf(header: Header, metadata: dict[str, Any], rng: random.Random | None = None) -> tuple[bytes, int]:
    """A GGUF file without its tensors' data, and the size that it claims to have."""
    keys = {f"{header.architecture}.{key}": value for key, value in metadata.items()}
    keys = {"general.architecture": header.architecture, "tokenizer.ggml.model": "no_vocab", **keys}
    out = [b"GGUF", struct.pack("<IQQ", 3, len(header.tensors), len(keys))]
    for key, value in keys.items():
        out += [_text(key), _value(value)]
    at = 0
    kinds = {"f32": 0, "f16": 1, "q8_0": 8, "bf16": 30, "mxfp4": 39}
    for name, tensor in header.tensors.items():
        out.append(_text(name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape))
        out.append(struct.pack("<IQ", kinds[tensor.kind], at))
        at += -(-tensor.nbytes // 32) * 32
    content = b"".join(out)
    return content, len(content) + 64 + at


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, list):
        if all(isinstance(one, bool) for one in value):
            return struct.pack(f"<IIQ{len(value)}?", 9, 7, len(value), *value)
        numbers = [int(one) if isinstance(one, (int, float)) else 0 for one in value]
        return struct.pack(f"<IIQ{len(value)}q", 9, 11, len(value), *numbers)
    return struct.pack("<IQ", 10, value) if value >= 0 else struct.pack("<Iq", 11, value)


BLOCK = 300
"""Cases that one process answers."""


def _ask(count: int, seed: int, others: bool, writes: int) -> None:
    """Answer the cases of one seed. What broke is printed; counts go to a pipe."""
    import collections
    import signal
    import tempfile
    import traceback

    from estimator.plans.recorded_programs import VARIABLE
    from estimator.witnesses.machine import peak_rss, reset_peak_rss, status

    found: collections.Counter[str] = collections.Counter()
    statuses: collections.Counter[str] = collections.Counter()
    start = status()["VmRSS"]
    signal.signal(signal.SIGVTALRM, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[VARIABLE] = f"{folder}/programs"
        for i, (arguments, stdin) in zip(range(count), Cases(Path(folder), seed, others), strict=False):
            reset_peak_rss()
            before = peak_rss()
            signal.setitimer(signal.ITIMER_VIRTUAL, 12 * SECONDS)
            try:
                seen = run(arguments, stdin)
                wrong = seen.wrong()
                if not wrong and (more := peak_rss() - before >> 20) > MEGABYTES:
                    wrong = f"{more} megabytes"
                statuses[str(seen.status)] += 1
            except BaseException:
                wrong, seen = "raised", Seen(-1, "", traceback.format_exc(), 0)
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            if SECRET in seen.out + seen.err and any(word in ("check", "advise") for word in arguments[:1]):
                wrong = "a secret"
            if (Path(folder) / RAN).exists():
                wrong = "run as code"
                (Path(folder) / RAN).unlink()
            if wrong:
                found[wrong.partition(" ")[2] or wrong] += 1
                said = f"{arguments!a} {stdin[:200]!r} {seen.err[-600:]!a} {seen.out[-300:]!r}"
                print(f"case {i} of seed {seed}: {wrong}: {said}", flush=True)
                if os.environ.get("KEEP"):
                    to = Path(os.environ["KEEP"]) / f"{seed}.{i}"
                    os.system(f"mkdir -p {to}; cp -r {folder}/* {to}/ 2>/dev/null")
    kept = status()["VmRSS"] - start >> 20
    with open(writes, "w", encoding="utf-8") as told:
        told.write(json.dumps([found, statuses, kept]))


def _main(count: int, seed: int, others: bool) -> None:
    """Answer the cases, each block in a process of its own."""
    import collections
    import resource

    os.environ["HF_HUB_OFFLINE"] = "1"
    found: collections.Counter[str] = collections.Counter()
    statuses: collections.Counter[str] = collections.Counter()
    kept = [0]
    import_libraries()
    resource.setrlimit(resource.RLIMIT_DATA, (4 << 30,) * 2)  # a case that takes all memory is one line, too
    for block, asked in enumerate(range(0, count, BLOCK)):
        sys.stdout.flush()
        reads, writes = os.pipe()
        if not (child := os.fork()):
            _ask(min(BLOCK, count - asked), seed + block, others, writes)
            sys.exit()
        os.close(writes)
        with open(reads, encoding="utf-8") as told:
            counts = told.read()
        if os.waitpid(child, 0)[1]:
            found[f"seed {seed + block} ended"] += 1
            continue
        *totals, more = json.loads(counts)
        for total, some in zip((found, statuses), totals, strict=True):
            total.update(some)
        kept.append(more)
    said = dict(found) or "nothing wrong"
    print(f"{count} cases from seed {seed}: {said}; statuses {dict(statuses)}; {max(kept)} MB kept at most")


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]), len(sys.argv) > 3)
