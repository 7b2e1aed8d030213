"""What the estimator answers: tables in ``tests/data/recorded_bytes`` of questions and the bytes of their answers.

Each file is a group of questions, one a line, cells apart by tabs: the question's name, the question itself as JSON,
and the answer. An empty cell is a figure that the answer does not have. Where answers have few figures in common, one
cell has all of an answer, as JSON.

``python -m tests.cases.recorded_bytes`` writes the tables again, or those of the groups that it is given: only in a
change that means to change bytes, or to ask more. ``--again`` keeps a table's questions, though models, devices or
cases that are drawn from have come since.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_args

import estimator
from estimator.engines.replay import Batch
from estimator.engines.snapshot import Snapshot
from estimator.plans.plan import parse_plan
from estimator.plans.refusals import check_question
from estimator.plans.resolve import resolve
from estimator.show.cli import main
from tests.cases import llama_cpp_runs, published_runs
from tests.cases.exported_formulas import PLANS
from tests.cases.generate_calls import random_call
from tests.cases.inference import OTHERS, SHAPES
from tests.cases.method_examples import EXAMPLES
from tests.cases.random_plans import random_plans
from tests.cases.random_questions import commands, random_plan
from tests.cases.recipes import RECIPES
from tests.cases.small_models import FAMILIES, METHODS, all_cases, write_config
from tests.cases.tables import MEASURED
from tests.helpers.extras import without
from tests.helpers.files import DATA

TABLES = DATA / "recorded_bytes"
PYTHON = (3, 11)
"""The release that the order of events is recorded with. Another one may drop a frame's tensors in another order, all
at the same moment.
"""


@dataclass(frozen=True)
class Row:
    """A question and its answer: figures by name, in bytes where they are numbers."""

    name: str
    asked: dict[str, Any]
    """``plan``, of a small model with its ``config``, and maybe ``whole``; ``command``, a command line; ``formula``, a
    plan; ``published``, ``llama.cpp``, ``log``: which one of the tables in ``docs/measured``."""
    answer: dict[str, str] = field(default_factory=dict)


# ---- the answers ---------------------------------------------------------------------------


def answered(asked: dict[str, Any], folder: Path) -> dict[str, str]:
    """The answer to a question. ``folder`` is for the files that are asked about; it must not be there yet, because
    models are cached by their paths. Raises ``InputError``.
    """
    figures: dict[str, Any]
    if "llama.cpp" in asked:
        figures = _buffers(llama_cpp_runs.predicted(llama_cpp_runs.runs()[asked["llama.cpp"]]))
    elif "log" in asked:
        figures = _buffers(llama_cpp_runs.usage_of_log(llama_cpp_runs.logs()[asked["log"]]))
    elif "formula" in asked:
        figures = _formulas(asked, folder)
    elif "command" in asked:
        figures = dict(_leaves(json.loads(_printed([*asked["command"], "--json"]))))
    elif "published" in asked:
        figures = _estimate(published_runs.plans(asked["published"][0])[asked["published"][1]])
    else:
        model = {"model": write_config(folder, asked["config"])} if "config" in asked else {}
        figures = _estimate({**model, **asked["plan"]}, asked.get("whole", False))
    return {name: str(figure) for name, figure in figures.items() if figure is not None}


def _estimate(plan: dict[str, Any], whole: bool = False) -> dict[str, Any]:
    """The figures of a plan's answer; ``whole``: with a checksum of all else that it says, and its events."""
    result = estimator.estimate(plan)
    others = {key: getattr(result, key) for key in ("peak_at", "trainable_parameters")}
    found = {**published_runs.figures(result), **others}
    if not whole:
        return found
    said = {**result.to_dict(), "moments": dict(result.moments), "total_parameters": result.total_parameters}
    rest = json.dumps(dict(_leaves(said, numbers=True)), sort_keys=True)
    return {**found, **_events(plan), "rest": hashlib.sha256(rest.encode()).hexdigest()[:12]}


def _events(plan: dict[str, Any]) -> dict[str, Any]:
    """What two steps allocate in each part, how often and in bytes, and the checksum of all that happens in order: the
    bytes, the kind, and where. Empty for what no memory snapshot is written of.
    """
    asked = parse_plan(plan)
    try:
        check_question("a memory snapshot", asked)
        job, snapshot = resolve(asked), Snapshot()
        asked.engine.replay(job, [Batch(asked.batch, asked.seq, False)] * 2, snapshot=snapshot)
    except estimator.InputError:
        return {}
    counts, sums, all_of_them = Counter[str](), Counter[str](), hashlib.sha256()
    said: dict[int, str] = {}  # of the frames, by which of them they are: most are at many events
    for one in snapshot.trace:
        action, nbytes, frames = one["action"], one["size"], one["frames"]
        where = said.get(id(frames)) or said.setdefault(id(frames), str([frame["name"] for frame in frames]))
        all_of_them.update(f"({action!r}, {one.get('addr')}, {nbytes}, {one['category']!r}, {where})".encode())
        if action == "alloc":
            counts[frames[-1]["name"]] += 1
            sums[frames[-1]["name"]] += nbytes
    found = {f"allocations of {part}": f"{count}, {sums[part]} bytes" for part, count in counts.items()}
    return {**found, "events": all_of_them.hexdigest()[:12]}


def _buffers(use: Any) -> dict[str, int]:
    context, weights = use.context, use.weights
    return {
        "kv": context.kv_bytes,
        "recurrent": context.recurrent_bytes,
        "output": context.output_bytes,
        "compute": use.reserved[0],
        "compute of the host": use.reserved[-1] if use.layout.devices else 0,
        "compute touched": use.touched[0],
        **{name: getattr(weights, name) for name in ("total", "mapped", "idle", "repacked", "read", "device")},
        "clean": use.clean,
        "dirty": use.dirty,
    }


def _formulas(asked: dict[str, Any], folder: Path) -> dict[str, str]:
    """The formula of every component as the command gives it."""
    folder.mkdir(parents=True)
    path = folder / "plan.json"
    path.write_text(json.dumps(asked["formula"]))
    command = ["formula", "--plan", str(path), "--component", "all", "--format", "json", *asked.get("options", [])]
    found, moments = {}, ""
    for record in json.loads(_printed(command)):
        component, text = record["component"], _terms(record["terms"])
        if "moments" in record:
            largest = "; ".join(f"{row['moment']}: {_terms(row['terms'])}" for row in record["moments"])
            if "--symbolic" in asked.get("options", []):  # several kilobytes
                checksum = hashlib.sha256(largest.encode()).hexdigest()[:16]
                largest = f"{len(record['moments'])} moments, sha256 {checksum}"
            if component == "peak_above_resident":
                moments = largest
            text += (
                f" + max({largest})" if component == "peak_above_resident" or largest != moments else " + max(above)"
            )
        found[component] = text
        found["where"] = record["condition"]
    return found


def _printed(command: list[str]) -> str:
    """What a command prints. Raises ``InputError`` for what is refused; what is not sure is printed."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        status = main(command)
    if status == 2 and not out.getvalue():
        raise estimator.InputError(error.getvalue().strip())
    return out.getvalue()


SAID = ("model", "device", "options", "log", "plan", "source", "schema", "question")
"""Parts of a printed answer that say what was asked."""
NUMBER = re.compile(r"(?<![\w/.-])\d[\d,.]*")
"""A number in a sentence; not one within a name or a path."""


def _leaves(value: Any, path: str = "", numbers: bool = False) -> Iterator[tuple[str, Any]]:
    """The numbers and words of a printed answer by their places. Of sentences there is how many they are, and the
    ``numbers`` in them.
    """
    if isinstance(value, dict):
        for key, one in value.items():
            if key not in SAID:
                yield from _leaves(one, f"{path}.{key}".lstrip("."), numbers)
    elif isinstance(value, list) and not (value and all(isinstance(one, str) for one in value)):
        for number, one in enumerate(value):
            yield from _leaves(one, f"{path}.{number}", numbers)
    elif isinstance(value, list) or (isinstance(value, str) and " " in value):
        if isinstance(value, list):
            yield path, len(value)
        if numbers:
            yield f"{path}, numbers", " ".join(NUMBER.findall(" ".join([value] if isinstance(value, str) else value)))
    elif value is not None:
        yield path, value


def _terms(rows: list[dict[str, Any]]) -> str:
    terms = (
        "*".join([str(row["coefficient"]), *(name if n == 1 else f"{name}^{n}" for name, n in row["powers"].items())])
        for row in rows
    )
    return " + ".join(terms) or "0"


# ---- the tables ----------------------------------------------------------------------------


def groups() -> list[str]:
    """The names of the tables."""
    return sorted(path.stem for path in TABLES.glob("*.tsv"))


@cache
def table(group: str) -> list[Row]:
    """A table as it is recorded."""
    head, *lines = [line.split("\t") for line in (TABLES / f"{group}.tsv").read_text(encoding="utf-8").splitlines()]
    if head[2:] == ["answer"]:
        return [Row(name, json.loads(asked), json.loads(answer)) for name, asked, answer in lines]
    return [
        Row(name, json.loads(asked), {key: cell for key, cell in zip(head[2:], cells, strict=True) if cell})
        for name, asked, *cells in lines
    ]


@cache
def published(source: str) -> tuple[published_runs.Run, ...]:
    """The published runs of a source with the bytes that are recorded."""
    answers = {tuple(row.asked["published"]): row.answer for row in table("published")}

    def answer(name: str, _: dict[str, Any]) -> dict[str, str]:
        if (source, name) not in answers:
            raise estimator.InputError("no answer is recorded")
        return answers[source, name]

    return tuple(published_runs.answered(source, answer))


def write(group: str, rows: list[Row]) -> None:
    """Write a table."""
    columns = sorted({key for row in rows for key in row.answer})
    lines = [["case", "asked", *columns]]
    if whole := is_whole(group):
        lines = [["case", "asked", "answer"]]
    for row in sorted(rows, key=lambda row: row.name):
        asked, answer = (json.dumps(x, sort_keys=True, separators=(",", ":")) for x in (row.asked, row.answer))
        lines.append([row.name, asked, *([answer] if whole else [row.answer.get(key, "") for key in columns])])
    TABLES.mkdir(exist_ok=True)
    (TABLES / f"{group}.tsv").write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")


def differences(row: Row, now: dict[str, str]) -> list[str]:
    """What differs between a recorded answer and one of now, a line for each figure."""
    found = []
    keys = {*row.answer, *now} - (set() if sys.version_info[:2] == PYTHON else {"events"})
    for key in sorted(keys):
        recorded, found_now = row.answer.get(key, "nothing"), now.get(key, "nothing")
        if recorded != found_now:
            by = f" ({int(found_now) - int(recorded):+,})" if recorded.isdecimal() and found_now.isdecimal() else ""
            found.append(f"{row.name}: {key} was {recorded}, is {found_now}{by}")
    return found


# ---- the questions -------------------------------------------------------------------------

GPUS = ("a100-80gb", "rtx-4090", "t4", "h100-80gb")
SMALL: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "num_hidden_layers": 5},
    "qwen3": {"model_type": "qwen3", "num_hidden_layers": 5},
}
BOTH: dict[str, dict[str, Any]] = {"cpu": {}, "gpu": {"device": "a100-80gb"}}
SIZES: dict[str, Any] = {"batch": 2, "seq": 33, "dtype": "bfloat16"}
SAVINGS: list[dict[str, Any]] = [
    {"keep_logits": False},
    {"drop_output_before_step": True},
    {"previous_output": True},
    {"gradient_accumulation_steps": 3},
    {"gradient_clipping": True},
    {"use_cache": True},
    {"attention_mask": True},
    {"attention": "eager"},
    {"attention": "flash"},
    {"autocast": "bfloat16"},
    {"autocast": "float16", "dtype": "float32"},
    {"loss": "chunked", "loss_chunk": 7},
    {"mlp_chunks": 3},
    {"mlp_chunks": 4, "checkpointing": "layer"},
    {"checkpointing": "layer", "loss": "chunked", "loss_chunk": 16, "mlp_chunks": 2},
    {"saved_activations": "int4", "activation_group_size": 32},
    {"expandable_segments": True},
    {"seq": 1},
    {"batch": 1},
    {"lengths": {"histogram": {9: 5, 21: 3, 64: 1}, "pad_to_multiple_of": 8}},
    {"lengths": {"histogram": {9: 5, 64: 1}}, "empty_cache": True},
    *({"sdpa_kernel": kernel} for kernel in ("flash", "efficient", "cudnn", "math")),
    *({"torch": f"2.{minor}"} for minor in range(1, 15)),
    *(
        {"checkpointing": checkpointing, "loss": loss, "saved_activations": saved}
        for checkpointing in ("none", "layer", "every-2", "every-3", "attention", "matmul", "offloaded")
        for loss in ("standard", "chunked", "liger", "cce")
        for saved in ("as-is", "int8", "int4", "on-host")
    ),
]
BASES: list[dict[str, Any]] = [
    *({"dtype": kind, **keys} for kind in ("nf4", "fp4") for keys in (
        {},
        {"double_quant": True, "compute_dtype": "bfloat16"},
        {"kbit_preparation": True, "autocast": "bfloat16", "checkpointing": "layer"},
        {"rest_dtype": "float32", "compute_dtype": "float16"},
        {"bitsandbytes": "0.43.1"},
        {"bitsandbytes": "0.49"},
    )),
    *({"dtype": kind, **keys} for kind in ("int8", "int8-weight-only", "float8", "gptq", "awq") for keys in (
        {},
        {"rest_dtype": "float16", "checkpointing": "layer"},
        {"kbit_preparation": True, "autocast": "bfloat16"},
        {"rest_dtype": "float32", "attention": "eager"},
    )),
]  # fmt: skip
_DISTILLED: dict[str, Any] = {
    "model": "smollm2-135m", "trainer": "trl-distillation", "teacher": "smollm2-360m", "seq": 24,
}  # fmt: skip
_LORA: dict[str, Any] = {"name": "lora", "r": 4, "target_modules": "all-linear"}
_BIASES: dict[str, Any] = {"method": {"name": "lora", "r": 4, "bias": "all"}, "gradient_clipping": True}
_ZERO2: dict[str, Any] = {"name": "zero2", "world_size": 2, "reduce_bucket_size": 10_000}
CORNERS: dict[str, dict[str, Any]] = {
    "a mixture's divergence": {**_DISTILLED, "beta": 0.3},
    "a teacher's divergence": {**_DISTILLED, "beta": 0, "method": _LORA},
    "a student's divergence": {**_DISTILLED, "beta": 1, "dtype": "float32"},
    "a mixture's divergence on a GPU": {**_DISTILLED, "beta": 0.5, "method": _LORA, "device": "a100-80gb", "batch": 2},
    "clipping of two dtypes": {**_BIASES, "dtype": "bfloat16"},
    "clipping of two dtypes on a GPU": {**_BIASES, "dtype": "float16", "device": "t4"},
    "fsdp2 of one process": {"sharding": {"name": "fsdp2", "world_size": 1}},
    "fsdp2 that keeps halves": {
        "sharding": {"name": "fsdp2", "world_size": 4, "reshard_after_forward": 2}, "device": "a100-80gb",
    },
    "zero3 of one process": {"sharding": {"name": "zero3", "world_size": 1}},
    "zero3 with parameters on the host": {
        "sharding": {"name": "zero3", "world_size": 2, "offload_param": "cpu"}, "method": _LORA, "device": "t4",
    },
    "zero3 of one process with parameters on the host": {
        "sharding": {"name": "zero3", "world_size": 1, "offload_param": "cpu"}, "device": "t4",
    },
    "zero2 over micro-batches": {"sharding": _ZERO2, "gradient_accumulation_steps": 3, "device": "t4"},
    "zero1 over micro-batches": {
        "sharding": {"name": "zero1", "world_size": 2, "overlap_comm": False}, "gradient_accumulation_steps": 3,
    },
    "cut cross-entropy": {"seq": 300, "loss": "cce", "device": "a100-80gb"},
    "cut cross-entropy on a CPU": {"seq": 300, "loss": "cce"},
    "liger in chunks": {"seq": 300, "batch": 3, "loss": "liger", "device": "t4", "dtype": "float16"},
    "a loss in chunks of 32": {"seq": 70, "loss": "chunked", "loss_chunk": 32, "method": _LORA},
}  # fmt: skip
"""Plans of what few other questions meet: settings that only together run a rule."""
OPEN: dict[str, Any] = {
    "full": "full",
    "lora": "lora",
    "ia3": "ia3",
    "dora": {"name": "lora", "use_dora": True},
    "lora-all-dropout": METHODS["lora-all-dropout"],
    "vera": {"name": "vera", "target_modules": ["o_proj", "up_proj"]},
    "oft": {"name": "oft", "target_modules": ["q_proj", "v_proj"]},
    "prompt": {"name": "prompt_tuning", "num_virtual_tokens": 7},
}
"""Methods whose formulas are recorded."""
REAL = {"llama": "smollm2-135m", "mistral": "mistral-7b-v0.1", "qwen2": "qwen2.5-0.5b", "qwen3": "qwen3-0.6b"}


def questions() -> dict[str, list[Row]]:
    """What is asked, by group, without answers; a few of them are refused."""
    biased = {**SMALL["qwen3"], "attention_bias": True}
    return {
        "steps": [_small(name, config, plan) for name, config, plan in all_cases()],
        "steps_gpu": [_small(f"{n}-{gpu}", c, {**p, "device": gpu}) for (n, c, p), gpu in _in_turn(all_cases())],
        "topics": [_small(*case) for case in _topics()],
        "topics_gpu": [_small(f"{n}-{gpu}", c, {**p, "device": gpu}) for (n, c, p), gpu in _in_turn(_topics())],
        "inference": list(_inference()),
        "compositions": list(_compositions()),
        "methods": list(_methods()),
        "optimizers": list(_optimizers()),
        "savings": list(_kinds(SAVINGS, ("full", "lora"), SMALL)),
        "bases": list(_kinds(BASES, ("lora", "ia3"), _blocks())),
        "real": list(_real()),
        "devices": list(_devices()),
        "published": [
            Row(f"{s} {i}", {"published": [s, i]}) for s in published_runs.sources() for i in published_runs.plans(s)
        ],
        "formulas": list(_open()),
        "llama_cpp": list(_llama_cpp()),
        "corners": [
            Row(name, {"plan": plan}) if "model" in plan else _small(name, biased, {"seq": 9, **plan})
            for name, plan in CORNERS.items()
        ],
        **{group: list(_random(group, count)) for group, count in RANDOM.items()},
    }


CHOSEN = "chosen_"
"""The start of the names of groups that every run asks whole: ``chosen_steps`` is asked in ``tests/steps``."""


def is_whole(group: str) -> bool:
    """Whether a cell has all of an answer, which is one without PyTorch."""
    return group in RANDOM or group.startswith(CHOSEN)


def chosen_lines() -> list[list[str]]:
    """Folder, group and name of each chosen question, and ``in turn`` where it is so slow that it takes turns."""
    return [line.split("\t") for line in (DATA / "chosen_questions.tsv").read_text(encoding="utf-8").splitlines()]


@cache
def in_each_run(group: str) -> Callable[[Row], bool]:
    """Whether each run asks a row of a group of chosen questions."""
    slow = {f"{of}: {name}" for folder, of, name, *turns in chosen_lines() if turns and CHOSEN + folder == group}
    return lambda row: row.name not in slow


def _chosen() -> dict[str, list[Row]]:
    """Of the questions that are recorded those that ``tests/data/chosen_questions.tsv`` names, whole."""
    by_name = {(group, row.name): row for group in groups() if not group.startswith(CHOSEN) for row in table(group)}
    found: dict[str, list[Row]] = {}
    for folder, group, name, *_ in chosen_lines():
        asked = {**by_name[group, name].asked, "whole": True}
        found.setdefault(CHOSEN + folder, []).append(Row(f"{group}: {name}", asked))
    return found


def _small(name: str, config: dict[str, Any], plan: dict[str, Any]) -> Row:
    return Row(name, {"config": config, "plan": plan})


def _in_turn(cases: list[Any]) -> Iterator[tuple[Any, str]]:
    return zip(cases, itertools.cycle(GPUS), strict=False)


@cache
def _topics() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    recipes: list[Any] = [
        (f"recipes-{name}", {}, {"batch": 2, "seq": 40, "attention": "flash", "device": "a100-80gb", **plan})
        for name, plan in RECIPES
    ]
    measured = [
        (f"{subject}-{name}", config, plan)
        for subject, table in MEASURED.items()
        if subject != "small_models"
        for name, config, plan in table
    ]
    return [*measured, *recipes]


def _inference() -> Iterator[Row]:
    for seed in range(160):
        config, plan = random_call(seed)
        yield _small(f"generate-{seed}", config, plan)
    base = {"task": "infer", "batch": 2, "seq": 33, "dtype": "float32"}
    for (name, config, plan), kind in itertools.product(OTHERS, BOTH):
        yield _small(f"{name}-{kind}", config, {**base, **plan, **BOTH[kind]})
    dtypes, attentions = ("float32", "bfloat16", "float16"), ("sdpa", "eager")
    grid = itertools.product(FAMILIES, dtypes, attentions, ("full", "lora"), (False, True), BOTH)
    for number, (family, dtype, attention, method, cached, kind) in enumerate(grid):
        batch, seq = SHAPES[number % len(SHAPES)]
        config = {"model_type": family, "num_hidden_layers": 2 + number % 5}
        keys = {"dtype": dtype, "attention": attention, "batch": batch, "seq": seq, "use_cache": cached}
        name = f"{family}-{dtype}-{attention}-{method}-{'cache-' * cached}{kind}"
        yield _small(name, config, {**base, **keys, "method": method, "attention_mask": number % 4 == 1, **BOTH[kind]})
    for (method, blocks), kind in itertools.product(EXAMPLES.items(), BOTH):
        yield _small(f"{method}-{kind}", SMALL["llama"], {**base, "method": blocks[0], **BOTH[kind]})


def _compositions() -> Iterator[Row]:
    for number, (config, plan) in zip(range(900), random_plans(3), strict=False):
        gpu = GPUS[number // 3 % len(GPUS)] if number % 3 == 0 else None
        yield _small(f"{number:03}-{gpu or 'cpu'}", config, {**plan, "device": gpu} if gpu else plan)


def _methods() -> Iterator[Row]:
    for model, kind, (method, blocks) in itertools.product(SMALL, BOTH, EXAMPLES.items()):
        for number, block in enumerate(blocks):
            plan = {**SIZES, "method": block, **BOTH[kind]}
            yield _small(f"{method}-{number}-{model}-{kind}", SMALL[model], plan)


def _optimizers() -> Iterator[Row]:
    names = get_args(estimator.Plan.model_fields["optimizer"].annotation)
    dtypes = ("float32", "bfloat16")
    for name, method, dtype, model, kind in itertools.product(names, ("full", "lora"), dtypes, SMALL, BOTH):
        plan = {"batch": 1, "seq": 3, "dtype": dtype, "method": method, "optimizer": name, **BOTH[kind]}
        yield _small(f"{name}-{method}-{dtype}-{model}-{kind}", SMALL[model], plan)


def _kinds(kinds: list[dict[str, Any]], methods: tuple[str, ...], models: dict[str, dict[str, Any]]) -> Iterator[Row]:
    for number, (keys, method, kind) in enumerate(itertools.product(kinds, methods, BOTH)):
        model = list(models)[(number + number // 4) % len(models)]  # in turn, for each method and kind
        name = ", ".join(f"{key} {value}" for key, value in keys.items())
        plan = {**SIZES, "method": method, **keys, **BOTH[kind]}
        yield _small(f"{name}, {method}, {model}, {kind}", models[model], plan)


def _blocks() -> dict[str, dict[str, Any]]:
    """Small models of sizes that GPTQ and AWQ take."""
    sizes = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 256}
    return {model: {**config, **sizes} for model, config in SMALL.items()}


def _real() -> Iterator[Row]:
    from docs.make_accuracy import GENERATED
    from docs.make_accuracy import REAL as MEASURED

    for number, plan in enumerate([*MEASURED, *GENERATED]):
        yield Row(f"measured-{number:02}", {"plan": plan})
    for model in _listed("models"):
        if model["family"] in FAMILIES:
            plan = {"model": model["name"], "method": "lora", "seq": 1000}
            yield Row(f"{model['name']}-lora", {"plan": plan})
            yield Row(f"{model['name']}-full-gpu", {"plan": {**plan, "method": "full", "runtime": "torch-cuda"}})
        yield Row(f"{model['name']}-llama.cpp", {"plan": {"model": model["name"], "llama_cpp": {"n_ctx": 4096}}})


def _devices() -> Iterator[Row]:
    for device in _listed("devices"):
        name = device["name"]
        yield Row(f"{name}-llama.cpp", {"plan": {"model": "qwen3-0.6b", "llama_cpp": {"n_ctx": 2048}, "device": name}})
        plan = {"model": "smollm2-135m", "method": "lora", "seq": 700, "device": name}
        for dtype in ("bfloat16", "float32") if device["capability"] else ():
            yield Row(f"{name}-{dtype}", {"plan": {**plan, "dtype": dtype}})


def _listed(command: str) -> list[dict[str, Any]]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main([command, "--json"])
    listed: list[dict[str, Any]] = json.loads(out.getvalue())
    return listed


def _open() -> Iterator[Row]:
    grid = itertools.product(REAL, OPEN, ("float32", "bfloat16"), ("eager", "sdpa"), ("torch-cpu", "torch-cuda"))
    for family, method, dtype, attention, runtime in grid:
        plan = {
            "model": REAL[family],
            "method": OPEN[method],
            "dtype": dtype,
            "attention": attention,
            "runtime": runtime,
        }
        yield Row(f"{family}-{method}-{dtype}-{attention}-{runtime}", {"formula": plan})
    keyed = {f"plan-{name}": plan for name, plan in PLANS.items()}
    for family, model in REAL.items():
        infer = {"model": model, "task": "infer", "use_cache": True}
        keyed |= {f"{family}-infer": infer, f"{family}-infer-gpu": {**infer, "runtime": "torch-cuda"}}
        for checkpointing in ("layer", "every-2", "attention", "matmul"):
            keyed[f"{family}-{checkpointing}"] = {"model": model, "method": "lora", "checkpointing": checkpointing}
    for name, plan in keyed.items():
        yield Row(name, {"formula": plan})
        yield Row(f"{name}-symbolic", {"formula": plan, "options": ["--symbolic"]})
        yield Row(f"{name}-one-sequence", {"formula": plan, "options": ["--batch", "1"]})
        yield Row(f"{name}-one-token", {"formula": plan, "options": ["--seq", "1"]})


def _llama_cpp() -> Iterator[Row]:
    runs, logs = llama_cpp_runs.runs(), llama_cpp_runs.logs()
    for number, run in enumerate(runs):
        yield Row(f"run-{number:03} {run.name} {run.quantised}", {"llama.cpp": number})
    for number, log in enumerate(logs):
        yield Row(f"log-{number:02} {log['model']}", {"log": number})


RANDOM = {
    "several_gpus": 420, "trainers": 240, "media": 240, "runs": 200, "other_runtimes": 240, "calls": 60, "litgpt": 60,
    "servers": 0, "searches": 0,
}  # fmt: skip
"""Groups of ``random_questions.py``: how many plans are drawn, or 0 of a group of command lines."""


def _random(group: str, count: int) -> Iterator[Row]:
    for seed in range(count):
        yield Row(f"{seed:03}", {"plan": random_plan(group, seed)})
    for number, command in enumerate(() if count else commands(group)):
        yield Row(f"{number:03}", {"command": command})


def _record(chosen: list[str], again: bool) -> None:
    for group, rows in {**questions(), **_chosen()}.items():
        if chosen and group not in chosen:
            continue
        rows = list(table(group)) if again else rows
        assert len({row.name for row in rows}) == len(rows), group
        found = []
        hidden = (
            without("torch") if is_whole(group) else contextlib.nullcontext()
        )  # what would be recorded is not asked
        with tempfile.TemporaryDirectory() as folder, hidden:
            for number, row in enumerate(rows):
                with contextlib.suppress(estimator.InputError):
                    found.append(Row(row.name, row.asked, answered(row.asked, Path(folder) / str(number))))
        write(group, found)
        print(f"{group}: {len(found)} answers, {len(rows) - len(found)} refused")


if __name__ == "__main__":
    names = [word for word in sys.argv[1:] if word != "--again"]
    _record(names, again=len(names) < len(sys.argv[1:]))
