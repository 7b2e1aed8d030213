"""A shell line that starts a training, such as ``accelerate launch sft.py --bf16 true``. Nothing is run."""

from __future__ import annotations

import itertools
import re
import shlex
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError
from ..steps.trainers import TRAINERS as TRL

LAUNCHERS = (
    "accelerate",
    "torchrun",
    "deepspeed",
    "python",
    "python3",
    "trl",
    "llamafactory-cli",
    "axolotl",
    "tune",
    "uv",
)
"""First words of the lines that are read."""
UNREAD = {"swift": "ms-swift", "megatron": "ms-swift"}
"""First words of training commands that are not read, each with its tool."""
_ACCELERATE = (
    "num_processes",
    "num_machines",
    "config_file",
    "mixed_precision",
    "multi_gpu",
    "use_deepspeed",
    "use_fsdp",
)
_LONGEST = 50_000
"""The most characters of a command: ``shlex`` takes time that grows with the square of a word's length."""
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


@dataclass
class Line:
    """What a line says."""

    tool: str = ""
    """The format that its program reads, where the program is one of a tool's own."""
    trainer: str | None = None
    """The plan's name of the trainer of TRL that the command or its script names."""
    images: bool = False
    """Whether the script is one of TRL's for rows with images, ``sft_vlm.py``."""
    launcher: dict[str, Any] = field(default_factory=dict)
    """Options of ``accelerate launch``."""
    files: list[str] = field(default_factory=list)
    """Files that the line names as configs, in order."""
    options: dict[str, Any] = field(default_factory=dict)
    """The script's own options."""
    processes: int | None = None
    """How many processes torchrun and its kin start, on all ``hosts`` together; ``None`` where they do not say."""
    hosts: int = 1


def is_line(text: str) -> bool:
    """Whether a text begins as one of the lines that are read."""
    return bool(_commands(text))


def refuse_unread(text: str, where: str) -> None:
    """Raise ``InputError`` for a text whose command is of a tool that is not read."""
    for line in text.splitlines():
        words = _words(line)
        if len(words) > 1 and words[0] in UNREAD:
            raise InputError(
                f"{where}: {UNREAD[words[0]]}'s options are not read; give them as a plan, as in `estimator estimate "
                "MODEL --trainer hf-trainer --method lora --batch 1 --seq 2048 --checkpointing layer`"
            )


def _commands(text: str) -> list[str]:
    """The lines of a script that start a training; a backslash at the end of a line joins it with the next."""
    joined = re.sub(r"\\\r?\n", " ", text)
    found = []
    for line in joined.splitlines():
        words = _words(line)
        if words and words[0].rpartition("/")[2] in LAUNCHERS and len(words) > 1:
            found.append(" ".join(words))
    return found


def _words(line: str) -> list[str]:
    """The words of a line from the command's name on."""
    return list(itertools.dropwhile(_goes_before, line.split()))


def _goes_before(word: str) -> bool:
    """Whether a word stands before a command's name: an assignment, or what runs the command."""
    return bool(_ASSIGNMENT.match(word)) or word in ("env", "exec", "nohup", "time")


def parse(text: str, where: str) -> Line:
    """The one training command of a text. Raises ``InputError``."""
    commands = [one for one in _commands(text) if "pip " not in one]
    if not commands:
        refuse_unread(text, where)
    if len(commands) != 1:
        raise InputError(
            f"{where} has {len(commands) or 'no'} commands of {', '.join(LAUNCHERS)}; leave the one to ask about"
        )
    if len(commands[0]) > _LONGEST:
        raise InputError(f"{where}: the command is longer than {_LONGEST:,} characters; shorten it")
    try:
        words = shlex.split(commands[0], comments=True)
    except ValueError as error:
        raise InputError(f"{where}: not a shell line: {str(error).lower()}; is a quotation mark missing?") from None
    stop = next((at for at, word in enumerate(words) if word in ("&&", "||", ";", "|", "&", ">", ">>", "2>&1")), None)
    return _read(words[:stop], where)


def _read(words: list[str], where: str) -> Line:
    line, first = Line(), words[0].rpartition("/")[2]
    rest = words[1:]
    if first == "accelerate" and rest[:1] == ["launch"]:
        line.launcher, rest = _launcher(rest[1:])
    elif first in ("torchrun", "deepspeed"):
        options, rest = _launcher(rest)
        _count(line, options, where)
    elif first == "uv":
        options, rest = _launcher(rest[1:], takes_values=False)
        if rest and rest[0] in LAUNCHERS and rest[0] != first:
            return _read(rest, where)
    elif first in ("python", "python3"):
        options, rest = _launcher(rest, takes_values=False)
    elif first in ("trl", "llamafactory-cli", "axolotl", "tune", "uv"):
        line.tool = {"llamafactory-cli": "llama-factory", "tune": "torchtune"}.get(first, first)
        command, rest = rest[0], rest[1:]
        if line.tool == "torchtune":
            options, rest = _launcher(rest, script=r"([a-z]\w*_\w*|.*\.py)$")  # recipes have an underscore
            _count(line, options, where)
        elif first == "trl":
            line.trainer = _trainer_of(command)
        if line.tool != "torchtune" and line.trainer is None and command not in ("train", "pretrain"):
            raise InputError(
                f"{where}: {first} {command} is no training step that has rules here; known is {first} train"
            )
    module = rest[0] if rest else ""
    if rest[:1] == ["-m"]:
        module, rest = rest[1] if len(rest) > 1 else "", rest[1:]
        rest = rest[1:]
        if module.startswith("torch.distributed"):
            options, rest = _launcher(rest)
            _count(line, options, where)
            module, rest = (rest[0] if rest else ""), rest[1:]
    elif first not in ("trl", "llamafactory-cli", "axolotl"):
        rest = rest[1:]
    if module.startswith("axolotl"):
        line.tool = "axolotl"
    names = r"(?:run_|train_)?([a-z]+)(?:_trainer|_modeling)?(_vlm(?:_\w+)?)?\.py"
    script = re.fullmatch(names, module.rpartition("/")[2])
    if script is not None and (trainer := _trainer_of(script[1])) is not None and not line.tool:
        line.tool, line.trainer, line.images = "trl", trainer, script[2] is not None
    _options(rest, line)
    if first == "trl":  # the command takes accelerate's options among its own
        line.launcher = {key: line.options.pop(key) for key in _ACCELERATE if key in line.options}
    return line


def _trainer_of(word: str) -> str | None:
    """The plan's name of a trainer of TRL, by the word that its command and its scripts have."""
    name = f"trl-{word}"
    return name if name in TRL or name == "trl-sft" else None


def _launcher(
    words: list[str], takes_values: bool = True, script: str = r".*\.py$"
) -> tuple[dict[str, Any], list[str]]:
    """A launcher's options, and the words from its script or ``-m`` on."""
    found: dict[str, Any] = {}
    at = 0
    while at < len(words):
        word = words[at]
        if word == "-m" or not word.startswith("-"):
            break
        name, equals, value = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        following = words[at + 1] if at + 1 < len(words) else ""
        if equals:
            found[name] = value
        elif takes_values and following and not following.startswith("-") and not re.match(script, following):
            found[name] = following
            at += 1
        else:
            found[name] = True
        at += 1
    return found, words[at:]


def _count(line: Line, options: dict[str, Any], where: str) -> None:
    """Read how many processes a launcher starts. Raises ``InputError`` where that is no number."""
    counts = {}
    for name in ("nproc_per_node", "num_gpus", "nnodes", "num_nodes"):
        value = str(options.get(name, "")).partition(":")[
            2 if name == "nnodes" and ":" in str(options.get(name)) else 0
        ]
        if value and not value.isdecimal():
            raise InputError(f"{where}: --{name} {value} is no number of processes; write it as one")
        counts[name] = int(value[:18]) if value else None
    include = str(options.get("include", ""))
    each = counts["nproc_per_node"] or counts["num_gpus"] or (include.count(",") + 1 if "," in include else None)
    line.hosts = counts["nnodes"] or counts["num_nodes"] or 1
    line.processes = each * line.hosts if each is not None else None if line.hosts == 1 else line.hosts


def _options(words: list[str], line: Line) -> None:
    """The script's options; words without a dash before them are configs, or ``key=value`` pairs that override one."""
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if not word.startswith("--"):
            name, equals, value = word.partition("=")
            if equals:
                _set(line.options, name, value)
            elif word.endswith((".yaml", ".yml", ".json")):
                line.files.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        values = [value] if equals else []
        while not equals and at < len(words) and not words[at].startswith("--"):
            values.append(words[at])
            at += 1
        if name == "config" and values:
            line.files += values
        elif not values:
            _set(
                line.options,
                name.removeprefix("no_") if name.startswith("no_") and name != "no_cuda" else name,
                not name.startswith("no_") or name == "no_cuda",
            )
        else:
            _set(line.options, name, values[0] if len(values) == 1 else values)


def _set(options: dict[str, Any], name: str, value: Any) -> None:
    """Set an option; ``model.lora_rank=8`` sets a key of a block."""
    *blocks, last = name.split(".")
    for block in blocks:
        inner = options.setdefault(block, {})
        options = inner if isinstance(inner, dict) else options
    options[last] = value
