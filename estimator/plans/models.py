"""Models by name: a built-in spec, a local config.json or a hub id, read into sizes.

Only numbers are read. Nothing that comes with a model is executed or unpickled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from ..engines.registry import RUNTIMES, engine_of
from ..errors import InputError, nearest, options, shown
from ..io.fields import torch_dtype
from ..io.files import STANDARD_INPUT, existing, read_json, specs_folder
from ..programs.heads import CAUSAL, HEADS, head_of
from ..programs.images import Processor, processor_of
from ..programs.libraries import is_installed, quiet
from ..programs.recorded import ALONE, Config, Source, language_model_alone, refuse_encoder
from ..programs.releases import NEWEST, installed_release
from .recorded_programs import model_types, program_files, programs_of
from .repacked import packing_of

if TYPE_CHECKING:  # of a folder that holds weights
    from .checkpoints import Checkpoint

_SAY_SIZES = ("llama", "mistral", "qwen2", "qwen3")
"""Types whose classes have the sizes of one model of 7B. A config.json that leaves sizes out is cut short."""
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
"""Keys without which a config.json of these types is refused."""
_NEEDED = {("t5", "seq2seq-lm"): ("decoder_start_token_id",)}
"""Those of other types, by the head. T5's class has none, and its model stops in transformers."""


_BEHIND_PADDING = (
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text", "esm", "ibert"),
    *("layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet", "xmod"),
)
"""Model types that put no token at positions up to the padding token's (``create_position_ids_from_input_ids``)."""


@dataclass(frozen=True)
class ModelSpec:
    """A model that can be asked about."""

    name: str
    raw: Mapping[str, Any]
    """The config.json's keys."""
    source: str
    parameters: int | None = None
    """Published number of parameters, tied weights counted once; ``None`` where none is known."""
    hub_id: str | None = None
    warnings: tuple[str, ...] = field(default=())
    where: str = ""
    """The config's name in messages."""
    read: Config | None = None
    """The config's numbers, where the model is not one of transformers."""
    release: str = NEWEST
    """The release of transformers whose modules run."""
    quantization: Any = None
    """The config's ``quantization_config``, which is none of ``raw``: the model's program is that of before."""
    assumed: str = ""
    """Why ``quantization`` is taken to be so, where the name alone says it."""
    whole: Mapping[str, Any] | None = None
    """The config of a larger model, of which ``raw`` is the language model's."""
    checkpoint: Checkpoint | None = None
    """The weights on disk, where the model is a folder that holds them."""
    head: str = CAUSAL
    """What the model ends with (``programs/heads.py``). A built-in embedding model has that of a classifier."""
    published: Mapping[str, Any] | None = None
    """The keys of a built-in model's preprocessor_config.json."""

    @property
    def dtype(self) -> str:
        """The dtype of the weights as they are published: of the files, else as the config says it, else PyTorch's
        default.
        """
        found = None if self.checkpoint is None else self.checkpoint.dtype
        return str(torch_dtype(found or self.raw.get("dtype") or self.raw.get("torch_dtype") or "float32"))

    @cached_property
    def config(self) -> Config:
        """The numbers that the PyTorch runtimes need. Raises ``InputError`` where they have no rules for the family."""
        if self.read is not None:
            return self.read
        where, family = self.where or self.name, self.raw.get("model_type")
        if not isinstance(family, str):
            _refuse_family(family, where, "")
        if self.head == CAUSAL and self.raw.get("is_encoder_decoder") is True:
            refuse_encoder(self.raw, where)
        for key in _SIZES if family in _SAY_SIZES else _NEEDED.get((family, self.head), ()):
            if self.raw.get(key) is None:
                raise InputError(f"{where}: {key} is missing; add it to the config")
        asked = (self.hub_id or where) if self.head == CAUSAL else ""
        return _recorded(self.raw, family, where, asked, self.release, self.head)

    @property
    def made_for(self) -> float:
        """The positions that the model was made for, where its config says; else infinite."""
        most = self.raw.get("max_position_embeddings", self.raw.get("n_positions"))
        return most if type(most) is int else inf

    @property
    def positions(self) -> float:
        """The most tokens of a row of which each has a learned embedding of its position; infinite without any."""
        beside = self.config.source.part("vision") if HEADS[self.head].media and HEADS[self.head].text else ()
        modules = [one for one in self.config.modules.of("embedding") if not one.path.startswith(beside)]
        named = [(module.path.rpartition(".")[2], module.shape[0]) for module in modules]
        rows = [rows for name, rows in named if (name == "wpe" or "position" in name) and isinstance(rows, int)]
        return min([self.made_for, *rows]) - self.skipped_positions if rows else inf

    @property
    def skipped_positions(self) -> int:
        """The positions that a model puts no token at."""
        padding = self.raw.get("pad_token_id", 1)
        return int(padding) + 1 if padding is not None and self.raw.get("model_type") in _BEHIND_PADDING else 0

    def processor(self, what: Literal["image", "video"]) -> Processor | None:
        """What becomes of images: of the file beside the config.json, in the hub's cache, or the published one.

        Raises ``InputError`` for a file that does not say it.
        """
        if what not in self._processors:
            self._processors[what] = self._processor_of(what)
        return self._processors[what]

    @cached_property
    def _processors(self) -> dict[str, Processor | None]:
        return {}

    def _processor_of(self, what: str) -> Processor | None:
        from .hub import PROCESSORS, VIDEO_PROCESSORS
        from .hub import processor_of as files_of

        names = PROCESSORS if what == "image" else VIDEO_PROCESSORS
        if self.published is not None:
            return processor_of(self.published, "the published preprocessor_config.json")
        if self.where and (path := existing(Path(self.where))) is not None:
            there = [path.parent / name for name in names]
            files = iter([(str(one), read_json(one, f"a {one.name}")) for one in there if existing(one)])
        elif self.hub_id is not None and self.read is None:
            files = files_of(self.hub_id, names)
        else:
            return None
        for where, keys in files:
            found = keys.get(f"{what}_processor") if Path(where).name == names[0] else keys
            if isinstance(found, Mapping):
                return processor_of(found, where)
        return None

    def asked(self, release: str, head: str | None, sees: bool = False) -> ModelSpec:
        """The same model as a release of transformers runs it, with a head: by default that of its config.

        A larger model is its language model alone unless the head, or a plan that ``sees``, asks for all of it.
        Raises ``InputError``.
        """
        if head is None and self.head != CAUSAL:
            head = self.head
        elif head is None:
            larger = CAUSAL if self.whole is None else head_of(self.whole)
            head = larger if HEADS[larger].media else head_of(self.raw)
        if sees and head == CAUSAL:
            head = "image-text"
            if self.whole is None and "vision_config" not in self.raw:
                raise InputError(
                    f"images do not go with {self.name}, whose config has a language model and no vision_config; leave "
                    "images, image_size and freeze out"
                )
        whole = self.whole or {}
        if head in ("seq2seq-lm", "speech-seq2seq") and whole and whole.get("is_encoder_decoder") is not True:
            raise InputError(
                f"head: {head} does not go with {whole.get('model_type')}, whose language model takes what its other "
                "parts give among its tokens and has no encoder beside it; leave head out, and the language model is "
                "answered alone"
            )
        key = release, head
        if key == (self.release, self.head):
            return self
        if key not in self._others:
            other = replace(self, release=release, head=head)
            if HEADS[head].media and self.whole is not None:
                told = tuple(warning for warning in self.warnings if not warning.startswith(ALONE))
                other = replace(other, raw=self.whole, whole=None, warnings=told, parameters=None)
            self._others[key] = other
        return self._others[key]

    @cached_property
    def _others(self) -> dict[tuple[str, str], ModelSpec]:
        return {}


def _recorded(raw: Mapping[str, Any], family: str, where: str, asked: str, release: str, head: str) -> Config:
    """The numbers of a model of a recorded family: from a file of programs, or recorded now where PyTorch is there.

    ``asked`` is as ``_live`` has it.
    """
    from ..programs.config_values import BadValue
    from ..programs.shipped import shipped_config

    def live(reason: str) -> Source:
        return _live(raw, where, "", reason, release, head).source

    reason = f"no program of model_type {family}{'' if head == CAUSAL else f' with head {head}'} is shipped"
    if programs := programs_of(family, release, head):
        try:
            return shipped_config(programs, raw, where, live, release)
        except BadValue:
            raise
        except InputError as error:
            reason = str(error).removeprefix(f"{where}: ")
    elif not is_installed("torch") and release == NEWEST and head == CAUSAL:
        _refuse_family(family, where, asked)
    return _live(raw, where, asked, reason, release, head)


def _live(raw: Mapping[str, Any], where: str, asked: str, reason: str, release: str, head: str) -> Config:
    """The numbers of a model that is recorded now. Raises ``InputError`` without PyTorch, and where the installed
    transformers is not the earlier release that the plan names. ``asked`` is what ``estimator record`` is to be given;
    empty where it would write no program that answers.
    """
    reason = reason.removeprefix(f"{where}: ")
    if release != NEWEST and not (is_installed("torch") and installed_release() == release):
        known = ", ".join(model_types(release))
        there = f"where transformers=={release}.* is installed"
        raise InputError(
            f"{where}: {reason}; known under transformers {release} are {known}; to record it, {there}: estimator "
            f"record {asked}"
            if asked
            else f"{where}: {reason}; with PyTorch, {there}, it is recorded each time that it is asked for"
        )
    if not is_installed("torch", "transformers"):
        each = "to record it" if asked else "with PyTorch it is recorded each time that it is asked for"
        then = f", then estimator record {asked}" if asked else ""
        raise InputError(f"{where}: {reason}; {each}: pip install '.[trace]' in a clone{then}")
    try:
        from ..recorder.hugging_face import recorded_config
    except (ImportError, MemoryError):
        raise InputError(f"{where}: {reason}; PyTorch, which would record it, cannot be imported") from None

    return recorded_config(raw, where, head)


def _refuse_family(family: Any, where: str, asked: str) -> NoReturn:
    """Raise ``InputError`` for a ``model_type`` that the PyTorch runtimes cannot answer for without PyTorch."""
    got = "no model_type" if family is None else f"model_type {shown(family)}"
    engines = {name: engine_of(name) for name in RUNTIMES}
    alone = {name: one for name, one in engines.items() if not (one.runs_steps or one.reads_programs)}
    others = [name for name, one in alone.items() if one.knows(str(family))]
    other = f" (runtime {' and '.join(others)} knows it)" if others else ""
    known = len(model_types())
    then = f", then estimator record {asked}" if asked else ""
    raise InputError(
        f"{where}: {got}{other}; without PyTorch this version knows {known} families, which `estimator record --list` "
        f"shows; to record others from transformers: pip install '.[trace]' in a clone{then}"
    )


def builtin_names() -> list[str]:
    """Names of the built-in models."""
    return sorted(path.stem for path in specs_folder().glob("*.json"))


def names_for(runtime: str) -> list[str]:
    """Names of the built-in models that an engine has rules for here."""
    return [name for name in builtin_names() if engine_of(runtime).knows(load(name).raw["model_type"])]


_TUNED = (
    r"-(?:instruct|thinking|it|chat|base|pt|hf)(?=-|$)|(?<=^qwen3-30b-a3b)-2507$|(?<=^qwen3-235b-a22b)-2507$"
    r"|(?<=^deepseek-v3)-0324$|(?<=^deepseek-r1)-0528$"
)
"""Words in a hub id that say how the weights were tuned.

Ids that differ in these words only have models of the same shapes. IBM's are the exception: Granite 3.3 has a larger
vocabulary where it is tuned.
"""


def _family(hub_id: str) -> str:
    """A hub id or a name in lower case, without the words that say how the weights were tuned."""
    owner, slash, name = hub_id.lower().rpartition("/")
    if owner == "ibm-granite":
        return owner + slash + name
    # Twice, since a date of the same shapes may stand behind the other words.
    return owner + slash + re.sub(_TUNED, "", re.sub(_TUNED, "", name.removeprefix("meta-")))


@cache
def _by_hub_id() -> dict[str, Path]:
    """Files of built-in specs by hub id in lower case; also by ``_family`` of the id, and without the owner's name."""
    ids = {str(_builtin(path).hub_id).lower(): path for path in specs_folder().glob("*.json")}
    siblings = {_family(hub_id): path for hub_id, path in ids.items()}
    names = {_family(path.stem): path for path in ids.values()}
    bare = {hub_id.rpartition("/")[2]: path for hub_id, path in {**siblings, **ids}.items()}
    return {**names, **bare, **siblings, **ids}


_MIRRORS = ("nousresearch", "unsloth")
"""Owners at the hub who publish others' models again under the same names."""


def _sibling(model: str, by_any_owner: bool = False) -> ModelSpec | None:
    """The built-in spec of a hub id, or of an id with the same ``_family``. A warning says how the id was read.

    With ``by_any_owner``, and for those in ``_MIRRORS``, the owner's name does not count.
    """
    known = _by_hub_id()
    path = known.get(model.lower()) or known.get(_family(model))
    owner, _, name = model.lower().rpartition("/")
    if path is None and (by_any_owner or owner in _MIRRORS):
        path = known.get(name) or known.get(_family(name))
    if path is None:
        return None
    spec = _builtin(path)
    note = f"{model} is read as the built-in {spec.name}"
    if model.lower() != (spec.hub_id or "").lower():
        note += ", which has its shapes; the context that it was made for may differ"
    return replace(spec, warnings=(*spec.warnings, note))


def _repacked(model: str) -> ModelSpec | None:
    """The built-in spec of a quantised checkpoint, by its id alone. Raises ``InputError`` where it says too little."""
    found = packing_of(model)
    spec = None if found is None else _sibling(found[0], by_any_owner=True)
    if found is None or spec is None:
        return None
    packing = found[1]
    if packing.quantization is None or any(spec.raw.get(key) for key in _EXPERTS):
        what = "this format" if packing.quantization is None else "a mixture of experts in this format"
        raise InputError(
            f"{model}: its name does not say how {what} holds the weights; give its config.json or .gguf file, or ask "
            f"about {spec.name} with a dtype: {options({'dtype': 'nf4'})}, in llama.cpp {options({'dtype': 'q4_k_m'})}"
        )
    raw = spec.raw if packing.dtype is None else {**spec.raw, "torch_dtype": packing.dtype}
    note = f"{model} is read as the built-in {spec.name}, quantised; the context that it was made for may differ"
    return replace(
        spec, raw=raw, quantization=packing.quantization, assumed=packing.why, warnings=(*spec.warnings[:-1], note)
    )


_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Keys of a config.json for the number of experts, whose weights quantisers hold in different ways."""


_GIVEN: dict[str, ModelSpec] = {}
"""The model that a command line gave on standard input, as ``-``."""


def read_model() -> None:
    """Read a config.json from standard input, for ``load`` to know it as ``-``. Raises ``InputError``."""
    _GIVEN[STANDARD_INPUT] = _of_config(
        read_json(Path(STANDARD_INPUT), or_stdin=True), STANDARD_INPUT, "standard input"
    )


def load(model: str) -> ModelSpec:
    """A model by built-in name, path or hub id. Raises ``InputError``.

    The hub is not asked for built-in models. That holds for their hub ids in any case of letters, and for ids that
    differ in the tuning only (-Instruct, -it, -chat, -Base). Where the hub is not reached, the name alone counts, also
    that of a quantised checkpoint (-bnb-4bit, -AWQ, -GPTQ-Int4).
    """
    if not model.strip():
        raise InputError("model is empty; name a built-in model (`estimator models` lists them) or a config.json")
    if model in _GIVEN:
        return _GIVEN[model]
    if "/" not in model and (spec := existing(specs_folder() / f"{model.lower()}.json")):
        return _builtin(spec)
    if path := existing(Path(model)):
        return _local(path)
    if " --" in model:
        raise InputError(
            f"{shown(model.partition(' --')[0])} and its options are a command line; `estimator check` reads those of "
            "training tools"
        )
    if model.endswith((".json", ".gguf", ".safetensors")):
        raise InputError(f"no file '{model}'; give a config.json, its folder, or a name that `estimator models` lists")
    if model.count("/") <= 1 and (sibling := _sibling(model)):
        return sibling
    if ("/" not in model or model.lower().endswith("-gguf")) and (packed := _repacked(model)):
        return packed
    if model.count("/") == 1 and not model.startswith((".", "/")):
        return _hub(model)
    raise InputError(
        f"unknown model '{model}'{nearest(model.lower(), builtin_names())}; name one that `estimator models` lists, "
        "a config.json or its folder, or a hub id such as Qwen/Qwen3-0.6B"
    )


@cache
def _builtin(path: Path) -> ModelSpec:
    data = json.loads(path.read_text(encoding="utf-8"))
    spec = _of_config(data["config"], data["name"], "")
    return replace(
        spec,
        source=data["source"],
        parameters=data["parameters"],
        hub_id=data["hub_id"],
        published=data.get("processor"),
        head=CAUSAL if spec.whole is not None else data.get("head") or head_of(spec.raw),
    )


def _local(path: Path) -> ModelSpec:
    if path.suffix == ".safetensors":
        raise InputError(f"'{path}' holds weights alone; give its folder, with the config.json")
    if not path.is_dir():
        return _of_config(read_json(path), path.parent.name or str(path), str(path))
    if not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            raise InputError(
                f"folder '{path}' holds an adapter; give its base model, with {options({'method': str(path)})}"
            )
        raise InputError(f"folder '{path}' has no config.json; give a folder that has one, or the file itself")
    spec = _of_config(read_json(path / "config.json"), path.name or str(path), str(path / "config.json"))
    from . import checkpoints

    return replace(spec, checkpoint=checkpoints.read(path))


_PART = r"[a-z0-9_]{1,30}_config"
"""Keys of a larger model's config.json for its parts, such as ``vision_config``."""


_TIED_ALWAYS = ("t5", "mt5", "umt5")
"""Types whose config classes set ``tie_word_embeddings``, whatever a config.json says (``configuration_t5.py``)."""


def _of_config(raw: dict[str, Any], name: str, where: str) -> ModelSpec:
    warnings: list[str] = []
    quantization = raw.pop("quantization_config", None) or None
    whole = None
    if isinstance(raw.get("text_config"), dict):
        warnings.append(language_model_alone(key for key in raw if key != "text_config" and re.fullmatch(_PART, key)))
        whole = raw
        both = {"is_encoder_decoder": True} if raw.get("is_encoder_decoder") is True else {}
        raw = {**_model_type_of_text(raw), **raw["text_config"], **both}
        quantization = raw.pop("quantization_config", None) or quantization
    if (class_type := _type_of_class(raw)) is not None:
        warnings.append(
            f"model_type {shown(raw['model_type'])} is none of transformers' own; the model is that of the class which "
            f"its architectures name, {raw['architectures'][0]}"
        )
        raw = {**raw, "model_type": class_type}
    if raw.get("model_type") in _TIED_ALWAYS and raw.get("tie_word_embeddings") is False:
        warnings.append(
            "transformers 5 makes this model with one weight for embedding and head; from_pretrained keeps that of a "
            f"checkpoint with a head of its own, {raw.get('vocab_size')} x {raw.get('d_model')} parameters more"
        )
    told = tuple(warnings)
    return ModelSpec(name, raw, where, warnings=told, where=where, quantization=quantization, whole=whole)


def _type_of_class(raw: Mapping[str, Any]) -> str | None:
    """The ``model_type`` of the causal language model that ``architectures`` name, for a config of another one that
    has no program and that transformers does not know: Kimi K2's is read as DeepSeek-V3's.
    """
    given, classes = raw.get("model_type"), raw.get("architectures")
    name = classes[0] if isinstance(classes, list) and classes else None
    if not isinstance(given, str) or not isinstance(name, str) or not name.endswith("ForCausalLM"):
        return None
    if program_files(given):
        return None
    word = name.removesuffix("ForCausalLM").lower()
    known = next((one for one in model_types() if one.replace("_", "") == word), None)
    if known is not None and is_installed("transformers"):
        from transformers import CONFIG_MAPPING

        return None if given in CONFIG_MAPPING else known
    return known


def _model_type_of_text(raw: Mapping[str, Any]) -> dict[str, str]:
    """The ``model_type`` of a config's ``text_config``, for one that does not say it, as transformers knows it."""
    outer = raw.get("model_type")
    if "model_type" in raw["text_config"] or not isinstance(outer, str) or not is_installed("transformers"):
        return {}
    from transformers import CONFIG_MAPPING

    if outer not in CONFIG_MAPPING:
        return {}
    try:
        with quiet():  # without the file's keys, whose numbers may be of any size
            return {"model_type": CONFIG_MAPPING[outer](text_config={}).get_text_config().model_type}
    except Exception:  # what a config's own checks raise has no common class
        return {}


@cache
def _hub(model: str) -> ModelSpec:
    from .hub import Unreachable, config_of

    try:
        raw, note = config_of(model)
    except Unreachable:
        if (spec := _sibling(model, by_any_owner=True) or _repacked(model)) is None:
            raise
        return replace(spec, warnings=(*spec.warnings, "the hub was not reached, so its name alone says so"))
    spec = _of_config(raw, model, f"config.json of {model}")
    source = f"https://huggingface.co/{model}"
    return replace(spec, source=source, hub_id=model, warnings=(*spec.warnings, *filter(None, [note])))
