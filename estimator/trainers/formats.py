"""Which tool a training file is of, and what it says. Nothing in a file is executed or unpickled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, shown
from ..io.files import STANDARD_INPUT, NotYaml, existing, named_by, parse_json_or_yaml, read_json, read_text
from ..methods.registry import read_adapter_config
from . import (
    accelerate,
    axolotl,
    deepspeed,
    llama_factory,
    mlx_lm,
    sharing,
    shell,
    torchtune,
    training_arguments,
    trl,
    unsloth,
)
from .settings import Reading, Settings

Reader = Callable[[Mapping[str, Any], str], Reading]
READERS: Mapping[str, Reader] = {
    "trl": trl.read,
    "axolotl": axolotl.read,
    "llama-factory": llama_factory.read,
    "torchtune": torchtune.read,
    "mlx-lm": mlx_lm.read,
    "unsloth": unsloth.read,
    "training-arguments": training_arguments.read,
    "deepspeed": deepspeed.read,
    "accelerate": accelerate.read,
}
"""Readers by the names of ``--format``."""
_MARKS = {
    "trl": trl.MARKS,
    "axolotl": axolotl.MARKS,
    "llama-factory": llama_factory.MARKS,
    "unsloth": unsloth.MARKS,
    "deepspeed": deepspeed.MARKS,
    "accelerate": accelerate.MARKS,
}
_COMPANIONS = ("deepspeed", "accelerate")
"""Formats that say how something is launched, not what."""
_OF_EXAMPLES = frozenset({"dataset_config_name", "block_size", "train_file", "validation_split_percentage"})
"""Keys of transformers' example scripts, such as ``run_clm.py``."""
WANTED = "a training file: YAML or JSON of a tool, a shell line, or a folder that holds one"
_MOST_DEEP = 50
"""The most blocks around a value."""
_MOST_FILES, _MOST_BYTES = 500, 500_000
"""The most files of a folder that are looked into, and the most bytes of a file and of a folder's files together. All
public files of one tool in ``tests/cases/training_files`` have 22,000 together."""
_SKIPPED = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "trainer_state.json", "added_tokens.json", "vocab.json", "preprocessor_config.json", "all_results.json",
)  # fmt: skip
"""Files beside a model that hold no training settings."""


def read(source: str, tool: str | None = None) -> Reading:
    """What a file says: a path, ``-`` for standard input, or a shell line itself. Raises ``InputError``.

    ``tool`` is a name in ``READERS``, where the keys alone do not say which tool's file it is.
    """
    if tool is not None and not (isinstance(tool, str) and tool in READERS):
        raise InputError(f"format {shown(tool)} is not known; known are {', '.join(READERS)}")
    found = None if source == STANDARD_INPUT else existing(Path(source))
    if found is None and source != STANDARD_INPUT:
        if shell.is_line(source) and " " in source.strip():
            return _of_line(source, "the line", Path(), tool)
        shell.refuse_unread(source, "the line")
        raise InputError(f"no file {called(source)}; give {WANTED}")
    if found is not None and found.is_dir():
        return _of_folder(found, tool)
    return _of_file(found or Path(source), tool)


def called(source: str) -> str:
    """A source as messages quote it: of a command, whose options may hold a token, the first word alone."""
    first, *more = source.split() or [source]
    return f"'{first.partition('=')[0]} ...'" if any(c in source for c in "=-") and more else f"'{source}'"


def _of_file(path: Path, tool: str | None) -> Reading:
    where = "standard input" if str(path) == STANDARD_INPUT else str(path)
    if path.suffix in (".bin", ".pt", ".pkl"):
        raise InputError(
            f"'{where}' is a pickle, which is never read, since reading one can run code; write the arguments as JSON: "
            "TrainingArguments.to_json_string()"
        )
    if path.suffix in (".py", ".ipynb"):
        raise InputError(
            f"'{where}' is a program, which is never run; give its arguments as YAML, JSON or a shell line"
        )
    text = read_text(path, WANTED, _MOST_BYTES, or_stdin=True)
    known = path.suffix in (".json", ".yaml", ".yml")
    if path.suffix in (".sh", ".bash", ".slurm", ".sbatch") or (not known and shell.is_line(text)):
        return _of_line(text, where, path.parent, tool)
    reading = of_text(text, where, tool)
    reading.path = path
    return with_adapter(reading, path.parent)


def of_text(text: str, where: str, tool: str | None = None) -> Reading:
    """What a text of YAML or JSON says. Raises ``InputError``."""
    keys = _keys(text, where)
    name = tool or detect(keys, where)
    reading = _read(name, keys, where)
    reading.format = name
    return reading


def _read(tool: str, keys: Mapping[str, Any], where: str) -> Reading:
    """What a tool's reader makes of the keys. Raises ``InputError``."""
    waiting: list[tuple[Any, int]] = [(keys, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > _MOST_DEEP:
            raise InputError(f"{where} has blocks in blocks, more than {_MOST_DEEP} deep; is it {WANTED}?")
        if isinstance(value, (Mapping, list)):
            waiting += [(one, depth + 1) for one in (value.values() if isinstance(value, Mapping) else value)]
    return READERS[tool](keys, where)


def _keys(text: str, where: str) -> dict[str, Any]:
    """The mapping in a text of JSON or YAML. Raises ``InputError``."""
    try:
        data = parse_json_or_yaml(text)
    except NotYaml as error:
        templated = "; templates ({{ }}) are not expanded" if "{{" in text or "{%" in text else ""
        raise InputError(f"{where} is not valid YAML or JSON{error.where}{templated}; is it cut off?") from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"{where} holds no mapping of keys; give {WANTED}")
    return data


def detect(keys: Mapping[str, Any], where: str) -> str:
    """The tool whose keys these are. Raises ``InputError`` where it is none that is known, or several."""
    names = {str(key) for key in keys}
    if mlx_lm.is_config(names):
        return "mlx-lm"
    if "peft_type" in names:
        raise InputError(
            f"{where} is an adapter_config.json, which says no step: estimator estimate MODEL --method '{where}'"
        )
    if torchtune.is_recipe(keys):
        return "torchtune"
    if any(name.rpartition(".")[2] in unsloth.BLOCKS for name in names):
        return "unsloth"
    scores = {tool: len(marks & names) for tool, marks in _MARKS.items()}
    best = max(scores.values())
    if best == 0:
        if {"model_name_or_path", "dataset_name"} <= names and not names & _OF_EXAMPLES:
            return "trl"  # ScriptArguments and ModelConfig alone
        if names & training_arguments.MARKS:
            return "training-arguments"
        raise InputError(f"{where} has no keys of a tool that is known; --format names it: {', '.join(READERS)}")
    found = [tool for tool, score in scores.items() if score == best]
    if len(found) > 1:
        raise InputError(f"{where} fits {' and '.join(found)}; --format says which of them reads it")
    return found[0]


def _of_line(text: str, where: str, folder: Path, tool: str | None) -> Reading:
    line = shell.parse(text, where)
    keys: dict[str, Any] = {}
    for name in line.files:
        keys |= _keys(read_text(named_by(where, name, folder), WANTED, _MOST_BYTES), name)
    for key, value in line.options.items():
        inner = keys.get(key)
        keys[key] = {**inner, **value} if isinstance(inner, dict) and isinstance(value, dict) else value
    if not keys:
        raise InputError(f"{where} gives its program no options; give {WANTED}")
    name = tool or line.tool or detect(keys, where)
    reading = trl.read(keys, where, line.trainer, line.images) if name == "trl" else _read(name, keys, where)
    sharing.processes(Settings({}, reading, where), line.processes, line.hosts)
    if line.launcher:
        _add_below(reading, _launched(line.launcher, folder, where))
    return with_adapter(reading, folder)


def _add_below(reading: Reading, other: Reading) -> None:
    """Take over what a companion of a training file says; the file's own keys win."""
    own = dict(reading.plan)
    reading.add(other)
    reading.plan |= own


def _launched(options: Mapping[str, Any], folder: Path, where: str) -> Reading:
    """What the options of accelerate's launcher say, and their ``--config_file``."""
    keys: dict[str, Any] = {}
    name = options.get("config_file")
    if isinstance(name, str):
        keys = _keys(read_text(named_by("--config_file", name, folder), "accelerate's config", _MOST_BYTES), name)
    blocks = {"fsdp_config": ("fsdp_",), "deepspeed_config": ("zero_", "offload_", "deepspeed_config")}
    blocks |= {"parallelism_config": ("parallelism_config_",)}
    of_blocks = {key: block for key in options for block, starts in blocks.items() if key.startswith(starts)}
    keys |= {key: value for key, value in options.items() if key not in ("config_file", *_SWITCHES, *of_blocks)}
    for switch, kind in _SWITCHES.items():
        if options.get(switch):
            keys["distributed_type"] = kind
    for key, block in of_blocks.items():
        keys[block] = {**(keys.get(block) or {}), key: options[key]}
    return accelerate.read(keys, where)


_SWITCHES = {"use_deepspeed": "DEEPSPEED", "use_fsdp": "FSDP", "multi_gpu": "MULTI_GPU"}


def _of_folder(folder: Path, tool: str | None) -> Reading:
    """What the one training file of a folder says, with its companions. Raises ``InputError``."""
    files = sorted(
        path for path in folder.iterdir() if path.suffix in (".json", ".yaml", ".yml", ".sh") and path.is_file()
    )
    if len(files) > _MOST_FILES:
        raise InputError(f"folder '{folder}' holds {len(files)} files; name the training file in it")
    found: dict[str, list[Path]] = {}
    left = _MOST_BYTES
    for path in files:
        if path.name in _SKIPPED or path.name == "adapter_config.json" or path.name.endswith(".index.json"):
            continue
        try:
            text = read_text(path, WANTED, _MOST_BYTES)
        except InputError:
            continue
        left -= len(text)
        if left < 0:
            raise InputError(
                f"folder '{folder}' holds more than {_MOST_BYTES:,} bytes of JSON and YAML; name its training file"
            )
        try:
            kind = (
                "shell" if path.suffix == ".sh" and shell.is_line(text) else detect(_keys(text, str(path)), str(path))
            )
        except InputError:
            continue
        found.setdefault(kind, []).append(path)
    mains = [path for kind, paths in found.items() if kind not in _COMPANIONS for path in paths]
    if len(mains) > 1:
        raise InputError(f"folder '{folder}' holds {', '.join(path.name for path in mains)}; name one of them")
    companions = [path for kind in _COMPANIONS for path in found.get(kind, [])]
    if not mains and not companions and existing(folder / "adapter_config.json") is None:
        pickled = (
            " (training_args.bin is a pickle, which is never read)" if (folder / "training_args.bin").exists() else ""
        )
        raise InputError(f"folder '{folder}' holds no training file{pickled}; give {WANTED}")
    reading = (
        _of_file(mains[0], tool)
        if mains
        else with_adapter(Reading(training_arguments.TOOL, plan={"trainer": "hf-trainer"}), folder)
    )
    for path in companions:
        _add_below(reading, _of_file(path, None))
    if "model" not in reading.plan and (config := existing(folder / "config.json")) is not None:
        reading.assume("model", str(config), "the config.json of the folder")
    return reading


def with_adapter(reading: Reading, folder: Path) -> Reading:
    """The reading, with method and model of an adapter_config.json beside the file where it says none itself."""
    path = existing(folder / "adapter_config.json")
    if path is None or "method" in reading.plan:
        return reading
    reading.assume("method", read_adapter_config(path), "the adapter_config.json beside the file")
    base = read_json(path, "an adapter_config.json").get("base_model_name_or_path")
    if isinstance(base, str) and base:
        reading.assume("model", base, "base_model_name_or_path of the adapter_config.json")
    return reading
