"""A command line of llama.cpp's programs, Ollama or LM Studio as the keys of a plan: what people paste.

Sources: ``common/arg.cpp``; Ollama's ``cmd/cmd.go`` and ``envconfig/config.go``; LM Studio's ``docs/cli/load``.
"""

from __future__ import annotations

import re
import shlex
from collections import deque
from collections.abc import Mapping
from typing import Any

from ...errors import InputError, shown
from ...io.files import specs_folder
from .placement import EXPERTS
from .recipes import RECIPES

SERVER_SLOTS = 4
"""Sequences of ``llama-server`` where none are named, which share one cache (``tools/server/server.cpp``)."""
_NUMBERS = {
    "n_ctx": "-c --ctx-size",
    "n_batch": "-b --batch-size",
    "n_ubatch": "-ub --ubatch-size",
    "n_seq_max": "-np --parallel",
    "n_cpu_moe": "-ncmoe --n-cpu-moe",
    "main_gpu": "-mg --main-gpu",
    "cache_ram": "-cram --cache-ram",
}
_TEXTS = {
    "type_k": "-ctk --cache-type-k",
    "type_v": "-ctv --cache-type-v",
    "tensor_split": "-ts --tensor-split",
    "split_mode": "-sm --split-mode",
    "mmproj": "-mm --mmproj",
    "model_draft": "-md --model-draft --spec-draft-model",
    "n_gpu_layers_draft": "-ngld --gpu-layers-draft --n-gpu-layers-draft --spec-draft-ngl",
    "n_gpu_layers": "-ngl --gpu-layers --n-gpu-layers",
}
_SWITCHES = {
    "kv_unified": ("-kvu --kv-unified", "-no-kvu --no-kv-unified"),
    "swa_full": ("--swa-full", ""),
    "no_kv_offload": ("-nkvo --no-kv-offload", "-kvo --kv-offload"),
    "use_mmap": ("--mmap", "--no-mmap"),
    "repack": ("--repack", "-nr --no-repack"),
}
_OVERRIDES = "-ot", "--override-tensor"
_COSTLESS = """
-e --escape --no-escape --special -sp -cnv --conversation -no-cnv --no-conversation -st --single-turn -i --interactive
-if --interactive-first -mli --multiline-input --in-prefix-bos --warmup --no-warmup --spm-infill --ignore-eos --perf
--no-perf --show-timings --no-show-timings --context-shift --no-context-shift --cache-idle-slots --no-cache-idle-slots
-cb --cont-batching -nocb --no-cont-batching --display-prompt --no-display-prompt --verbose-prompt --jinja --no-jinja
--metrics --props --slots --no-slots --ui --webui --no-ui --no-webui --cache-prompt --no-cache-prompt --simple-io
--log-disable -v --verbose --log-verbose --offline --log-prefix --log-timestamps --check-tensors --no-mmproj
--prefill-assistant --no-prefill-assistant --reasoning-preserve --no-reasoning-preserve --prompt-cache-all --mlock
--prompt-cache-ro --reuse-port --skip-chat-parsing --no-skip-chat-parsing
"""
"""Switches that no buffer depends on."""
_COSTLESS_WITH_VALUE = """
--draft --draft-n --draft-max --draft-min --draft-n-min --draft-p-min --draft-p-split
-t --threads -tb --threads-batch -C --cpu-mask -Cr --cpu-range --cpu-strict --prio --poll -n --predict --n-predict
--keep -p --prompt -sys --system-prompt -f --file -sysf --system-prompt-file -bf --binary-file -r --reverse-prompt
--in-prefix --in-suffix --samplers -s --seed --sampler-seq --sampling-seq --temp --temperature --top-k --top-p --min-p
--typical --top-nsigma --top-n-sigma --xtc-probability --xtc-threshold --repeat-last-n --repeat-penalty
--presence-penalty --frequency-penalty --dry-multiplier --dry-base --dry-allowed-length --dry-penalty-last-n
--dry-sequence-breaker --dynatemp-range --dynatemp-exp --mirostat --mirostat-lr --mirostat-ent -l --logit-bias
--grammar --grammar-file -j --json-schema -jf --json-schema-file --rope-scaling --rope-scale --rope-freq-base
--rope-freq-scale --yarn-orig-ctx --yarn-ext-factor --yarn-attn-factor --yarn-beta-slow --yarn-beta-fast -dt
--defrag-thold -a --alias --tags --host --port --path --api-prefix --api-key --api-key-file --ssl-key-file
--ssl-cert-file --chat-template --chat-template-file --chat-template-kwargs -to --timeout --threads-http --cache-reuse
--slot-save-path --media-path --reasoning-format -rea --reasoning --reasoning-effort --reasoning-budget -sps
--slot-prompt-similarity --sleep-idle-seconds --log-file --log-colors -lv --verbosity --log-verbosity -co --color
--numa -hft --hf-token --prompt-cache -ctxcp --ctx-checkpoints -cms --checkpoint-min-step -fitp
--fit-print -fitt --fit-target -fitc --fit-ctx -fit --fit
"""
"""Options with a value that no buffer depends on. ``--fit`` changes what else is not given, so that it fits."""


def _by_option(rows: Mapping[str, str]) -> dict[str, str]:
    return {option: key for key, options in rows.items() for option in options.split()}


_PROGRAM = re.compile(
    r"(?:\w+=\S* +)*\S*\b(?:llama-(?:server|cli|completion|bench)(?:\.exe)?|ollama(?:\.exe)? run|lms(?:\.exe)? load) "
)


def is_command(text: str) -> bool:
    """Whether a text is a command line of a program that runs the engine, with variables before it perhaps."""
    return _PROGRAM.match(f"{text} ") is not None


def keys_of(text: str) -> dict[str, Any]:
    """The keys of a plan. Raises ``InputError`` with one line, which names the options that have no rule."""
    try:
        words = shlex.split(text.replace("\\\n", " "))
    except ValueError as error:
        raise InputError(f"the command line cannot be read: {str(error).lower()}; close its quotes") from None
    variables = []
    while "=" in words[0]:
        variables.append(words.pop(0))
    program = words.pop(0)
    if runner := re.search(r"\b(ollama|lms)(\.exe)?$", program):
        program += f" {words.pop(0)}"
    options = _Runner(words, variables) if runner else _Options(words)
    block, found = options.block, options.found
    if runner and runner[1] == "ollama":
        block["preset"] = "ollama"
    if "server" in program and "n_seq_max" not in block:
        block |= {"n_seq_max": SERVER_SLOTS, "kv_unified": True}
    if block.get("n_ctx") == 0:
        del block["n_ctx"]
    if "model" not in found:
        example = f"{program} llama3.1:8b" if runner else "llama-server -m model.gguf -c 8192"
        raise InputError(f"the command line names no model; write it like {example}")
    if options.unknown:
        raise InputError(
            f"{program} has options without a rule here: {', '.join(dict.fromkeys(options.unknown))}; leave them out"
        )
    return {**found, "runtime": "llama.cpp", "llama_cpp": block}


class _Options:
    """The options of a command line, read from left to right."""

    _numbers, _texts = _by_option(_NUMBERS), _by_option(_TEXTS)
    _on = _by_option({key: on for key, (on, _) in _SWITCHES.items()})
    _off = _by_option({key: off for key, (_, off) in _SWITCHES.items()})
    _costless, _costless_with_value = frozenset(_COSTLESS.split()), frozenset(_COSTLESS_WITH_VALUE.split())

    def __init__(self, words: list[str]):
        self.words = deque(words)
        self.found: dict[str, Any] = {}
        self.block: dict[str, Any] = {}
        self.unknown: list[str] = []
        while self.words:
            self._take(self.words.popleft())

    def _value(self, option: str) -> str:
        if not self.words:
            raise InputError(f"{option} needs a value; write it like {option} 2")
        return self.words.popleft()

    def _take(self, option: str) -> None:
        block = self.block
        if option in self._numbers:
            block[self._numbers[option]] = _whole(option, self._value(option))
        elif option in self._texts:
            value = self._value(option)
            block[self._texts[option]] = int(value) if re.fullmatch(r"-?\d{1,10}", value) else value
        elif option in self._on or option in self._off:
            block[(self._on | self._off)[option]] = option in self._on
        elif option in ("-fa", "--flash-attn"):  # older builds have it as a switch
            given = self.words and self.words[0] in ("on", "off", "auto", "0", "1", "-1", "true", "false")
            block["flash_attn"] = not given or self.words.popleft() not in ("off", "0", "false")
        elif option in ("-cmoe", "--cpu-moe", *_OVERRIDES):
            pattern = f"{EXPERTS}=CPU" if option.endswith("moe") else self._value(option)
            block["override_tensor"] = ",".join([*filter(None, [block.get("override_tensor")]), pattern])
        elif option == "--rpc":
            self.found["devices"] = ["rpc" for _ in self._value(option).split(",")]
        elif option in ("-m", "--model", "-hf", "-hfr", "--hf-repo"):
            self._model(option, self._value(option))
        elif option in self._costless_with_value:
            self._value(option)
        elif option not in self._costless:
            self.unknown.append(option)
            if self.words and not self.words[0].startswith("-"):
                self.words.popleft()

    def _model(self, option: str, value: str) -> None:
        """A file, or a repository of the hub with a recipe behind it: ``ggml-org/gemma-3-1b-it-GGUF:Q8_0``."""
        if option in ("-m", "--model"):
            self.found["model"] = value
            return
        name, _, recipe = value.partition(":")
        self.found |= {"model": re.sub(r"-GGUF$", "", name, flags=re.IGNORECASE)}
        self.found |= {"dtype": recipe} if recipe else {}


def _whole(option: str, value: str) -> int:
    if not re.fullmatch(r"-?\d{1,10}", value):
        raise InputError(f"{option} {shown(value)} is no whole number")
    return int(value)


_RUNNERS_COSTLESS = """
--verbose --insecure --nowordwrap --hidethinking --think --truncate --experimental -y --yes --exact --estimate-only
OLLAMA_HOST OLLAMA_MODELS OLLAMA_KEEP_ALIVE OLLAMA_LOAD_TIMEOUT OLLAMA_MAX_LOADED_MODELS OLLAMA_MAX_QUEUE OLLAMA_DEBUG
OLLAMA_ORIGINS OLLAMA_NOHISTORY OLLAMA_NOPRUNE OLLAMA_REMOTES OLLAMA_EDITOR
"""
"""What no buffer of one model depends on: switches of ``ollama run`` and ``lms load``, and Ollama's variables."""
_RUNNERS_COSTLESS_WITH_VALUE = "--format --keepalive --dimensions --ttl --identifier --host --port"


class _Runner(_Options):
    """The options of ``ollama run`` or ``lms load``, and Ollama's variables."""

    _costless, _costless_with_value = (
        frozenset(words.split()) for words in (_RUNNERS_COSTLESS, _RUNNERS_COSTLESS_WITH_VALUE)
    )

    def __init__(self, words: list[str], variables: list[str]):
        super().__init__(words)
        each = self.block.pop("n_ctx", None)
        for name, _, value in (variable.partition("=") for variable in variables):
            if name == "OLLAMA_CONTEXT_LENGTH":
                each = _whole(name, value)
            elif name == "OLLAMA_NUM_PARALLEL":
                self.block["n_seq_max"] = _whole(name, value)
            elif name == "OLLAMA_KV_CACHE_TYPE":
                self.block |= {"type_k": value, "type_v": value}
            elif name == "OLLAMA_FLASH_ATTENTION":
                self.block["flash_attn"] = value.lower() not in ("0", "false")
            elif name.startswith("OLLAMA_") and name not in self._costless:
                self.unknown.append(name)
        if each is not None:
            self.block["n_ctx"] = each * self.block.get("n_seq_max", 1)  # theirs is each sequence's

    def _take(self, option: str) -> None:
        name, _, joined = option.partition("=")
        if joined and option.startswith("-"):
            self.words.appendleft(joined)
        if not option.startswith("-"):  # behind the model is a prompt
            on_hub = re.sub(r"^(?:https://)?(?:hf|huggingface)\.co/", "", option)
            if "model" in self.found:
                return
            if option.lower().endswith(".gguf") or "/" in on_hub:
                self._model("-m" if option.lower().endswith(".gguf") else "-hf", on_hub)
            else:
                self.found |= _library_model(option)
        elif name == "--gpu":
            share = self._value(name)
            if share not in ("max", "1", "1.0"):
                if share not in ("off", "0", "0.0"):
                    raise InputError(f"--gpu {shown(share)} is a share of the layers; give n_gpu_layers in its place")
                self.block["n_gpu_layers"] = 0
        elif name in ("-c", "--context-length", "--parallel"):
            self.block["n_seq_max" if name == "--parallel" else "n_ctx"] = _whole(name, self._value(name))
        elif name in self._costless_with_value or (name in self._costless and joined):
            self._value(name)
        elif name not in self._costless:
            self.unknown.append(name)
            if self.words and not self.words[0].startswith("-") and "model" in self.found:
                self.words.popleft()


_TUNED = r"[-:](?:instruct|chat|text|it|latest)(?=[-:@]|$)"
"""Words of a name that say how the weights were tuned, or that it is the newest."""


def _library_model(text: str) -> dict[str, Any]:
    """A name of Ollama's library or LM Studio's list, such as ``llama3.1:8b-instruct-q8_0``, as a built-in one."""
    recipe = re.search(rf"[-:@]({'|'.join(RECIPES)}|fp16)$", text.lower())
    name = re.sub(_TUNED, "", text.lower()[: recipe.start() if recipe else None]).replace(":", "-")
    short = re.sub(r"[^a-z0-9]", "", name)
    known = (path.stem for path in specs_folder().glob("*.json"))
    found = next((stem for stem in known if re.sub(r"[^a-z0-9]", "", stem) == short), name)
    return {"model": found, **({"dtype": recipe[1].replace("fp16", "f16")} if recipe else {})}
