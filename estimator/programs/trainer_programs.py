"""Steps of trainers as they come with the package: which there are, and their files.

A file has the steps of one trainer under one release. Their sizes are expressions of the batch B, the sequence S, the
tokens of a prompt, the model's vocabulary and its hidden size. Nothing in a file is executed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from ..errors import InputError
from ..io.files import parse_json, read_text, specs_folder
from ..ledger.sizes import Size, whole
from ..operators.table import RULES
from .program import Backward, Call, Drop, Event, GradMode, Program, Ref, Stored, made, used
from .program_files.copies import Asked, Lists, Writer
from .program_files.limits import FORMAT, LONGEST_FILE
from .program_files.reading import Reader
from .program_files.slots import slot_text
from .program_files.writing import events_text, plain
from .rows import Rows, written_out
from .scored import with_model
from .substitution import DTYPE, sizes_symbol, substitute
from .trainer_calls import FUNCTIONS, GENERATE, MODEL, OF_LOGITS, Key

DIMS = tuple(f"dim_{number}" for number in range(1, 9))
SYMBOLS = (
    "B",
    "S",
    "prompt_seq",
    "vocab_size",
    "hidden_size",
    "num_generations",
    "prompts",
    "completions",
    "batches",
    "desirable",
    "teacher_hidden_size",
    "anchor_seq",
    *DIMS,
)
"""The sizes of a step: rows of the batch as the trainer counts them, tokens of a row, and the others by their names.
``prompts`` and ``completions`` are those of a generation, which has several completions of each prompt, and
``batches`` come from it; ``desirable`` are half of a batch's rows, where some are. ``anchor_seq`` are the tokens of a
row's first text, where it has several, and ``DIMS`` lengths of their embeddings."""


def folder() -> Path:
    """The folder of the steps that come with the package."""
    return specs_folder() / "trainers"


@dataclass(frozen=True, eq=False)
class TrainerProgram:
    """A step of a trainer for all sizes. Each is read once."""

    program: Program

    def at(
        self, values: Mapping[str, Size], dtype: str, others: Mapping[str, tuple[Mapping[str, Size], str]]
    ) -> Program:
        """The step at these sizes, for a model of a dtype. ``others``: the same of what each other model gives, from
        its call to the next model's, or to the end of what needs no gradient.
        """
        own = values, dtype

        def substituted(events: Sequence[Any]) -> tuple[Event, ...]:
            return substitute(replace(self.program, before=tuple(events)), *own).before

        found: list[Any] = []
        counts: dict[int, int] = {}
        for event in self.program.before:
            if isinstance(event, GradMode):
                own = values, dtype
            elif isinstance(event, Call) and event.op == MODEL:
                own = others.get(dict(event.keywords)["model"], (values, dtype))
            if isinstance(event, Rows):
                number = whole(event.number if isinstance(event.number, int) else event.number.substitute(values))
                counts[event.kind] = number
                found.append(Rows(number, substituted(event.events)))
            else:
                found += [event] if isinstance(event, Backward) else substituted([event])
        around = substitute(replace(self.program, before=()), values, dtype)
        return replace(around, before=written_out(found, counts))


def without_input(program: Program, ending: str) -> Program:
    """A step whose batch lacks the inputs with names of this ending, and what is made of nothing else."""
    gone = {slot for name, slot in program.inputs.items() if name.endswith(ending)}
    kept: list[Event] = []
    for event in program.before:
        if isinstance(event, Call) and event.op == MODEL:
            given = tuple((key, x) for key, x in event.keywords if not (isinstance(x, Ref) and x.slot in gone))
            kept.append(event._replace(keywords=given))
        elif isinstance(event, Call) and gone.issuperset(used(event)) and any(True for _ in used(event)):
            gone.update(made(event))
        elif not (isinstance(event, Drop) and event.slot in gone):
            kept.append(event)
    return replace(
        program,
        buffers=tuple(one for one in program.buffers if program.inputs[one.name] not in gone),
        inputs={name: slot for name, slot in program.inputs.items() if slot not in gone},
        before=tuple(kept),
    )


def written(release: str, versions: Mapping[str, str], steps: Mapping[Key, Program]) -> str:
    """The text of a trainer's steps. A step has the events that none before it has (``program_files/copies.py``)."""
    rows: list[dict[str, Any]] = []
    writer = Writer()
    for key, program in steps.items():
        inputs = [
            [one.name, slot_text(program.inputs[one.name]), one.dtype, *plain(one.shape)] for one in program.buffers
        ]
        attributes = [[one.name, one.dtype, *plain(one.shape)] for one in program.attributes]
        events = writer.written(events_text(program.before))
        rows.append({**key._asdict(), "inputs": inputs, "attributes": attributes, "events": events})
    head = json.dumps({"format": FORMAT, "release": release, "versions": dict(versions)})[:-1]
    texts = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    return f'{head}, "steps": [\n{texts}\n]}}\n'


@lru_cache(maxsize=64)
def _read(trainer: str, release: str, key: Key) -> TrainerProgram:
    """A step of a trainer. Raises ``InputError`` for a file that is damaged."""
    lists, steps = _file(trainer, release)
    if key not in steps:
        functions, model = _scored(steps, key)
        asked = (key._replace(rewards=0), functions, model)
        return TrainerProgram(with_model(*[_read(trainer, release, one).program for one in asked]))
    return TrainerProgram(_program(_reader(trainer, release), lists.whole([*steps].index(key)), steps[key]))


def _reader(trainer: str, release: str) -> Reader:
    reader = Reader(str(folder() / f"{trainer}-{release}.json"), {*RULES, MODEL, GENERATE, *FUNCTIONS, *OF_LOGITS})
    reader.of_trainer = True
    for name in SYMBOLS:
        sizes_symbol(name)
    reader.symbols.update(SYMBOLS)
    return reader


def steps_of(trainer: str, release: str) -> Mapping[Key, Mapping[str, Any]]:
    """The steps of a trainer under a release, as they are in its file. Raises ``InputError`` for a damaged one."""
    return _file(trainer, release)[1]


def has_step(trainer: str, release: str, key: Key) -> bool:
    """Whether a trainer's step comes with the package."""
    known = steps_of(trainer, release)
    return key in known or bool(_scored(known, key))


def _scored(known: Iterable[Key], key: Key) -> tuple[Key, ...]:
    """Two steps from which that of a key follows, since they say what a model that scores makes of it."""
    keys = {*known}
    models = [one for one in known if one.autocast == key.autocast and one.rewards == 1]
    pairs = [(one._replace(rewards=0), one) for one in models if key.rewards == 1]
    return next((pair for pair in pairs if keys.issuperset((key._replace(rewards=0), *pair))), ())


@lru_cache(maxsize=8)
def _file(trainer: str, release: str) -> tuple[Lists, Mapping[Key, Mapping[str, Any]]]:
    """The events of all steps of a trainer, and its steps."""
    path = folder() / f"{trainer}-{release}.json"
    reader = _reader(trainer, release)

    def wrong(place: str, what: str) -> NoReturn:
        reader.place = place
        reader.wrong(what)

    if not path.is_file():
        return Lists([], wrong), {}
    data = reader.object_(parse_json(read_text(path, "steps of a trainer", LONGEST_FILE)), "the file")
    reader.format(data)
    rows = reader.list_(data.get("steps"), "steps")
    steps = {Key(**{name: row[name] for name in Key._fields if name in row}): row for row in rows}
    asked = [Asked(row.get("events"), lambda row: row, f"step {i}, events") for i, row in enumerate(rows)]
    return Lists(asked, wrong), steps


def _program(reader: Reader, events: Sequence[Any], body: Mapping[str, Any]) -> Program:
    reader.count = 0
    inputs = reader.list_(body["inputs"], "inputs")
    return Program(
        modules=(),
        parameters=(),
        buffers=tuple([Stored(row[0], reader.shape(row[3:]), reader.dtype(row[2])) for row in inputs]),
        attributes=tuple([Stored(row[0], reader.shape(row[2:]), reader.dtype(row[1])) for row in body["attributes"]]),
        inputs={row[0]: reader.slot(row[1]) for row in inputs},
        outputs={},
        before=reader.events(list(events), "events"),
        bodies=(),
        layers=(),
        after=(),
        dtype=DTYPE,
    )


def step_of(trainer: str, release: str, key: Key) -> TrainerProgram:
    """A trainer's step. Raises ``InputError`` where there is none, with those that there are."""
    known = steps_of(trainer, release)
    if not known:
        raise InputError(f"trl: {release} has no rule with trainer: {trainer}; take trl: 1.16", "trl")
    if has_step(trainer, release, key):
        return _read(trainer, release, key)
    if key.rewards > 1 and has_step(trainer, release, key._replace(rewards=1)):
        raise InputError(
            f"reward_model of {key.rewards} models has no rule with trainer: {trainer} in this setting; give one, or "
            f"install TRL {release}, from which it is recorded",
            "reward_model",
        )
    alike = {*known}
    for name, value in (
        *(("loss_type", key.loss_type), ("reference", key.reference), ("pooling_mode", key.pooling)),
        *(("negatives", key.negatives), ("matryoshka_dims", key.dims), ("reward_model", key.rewards)),
    ):
        field = {"pooling_mode": "pooling", "matryoshka_dims": "dims", "reward_model": "rewards"}.get(name, name)
        others = sorted({str(getattr(one, field)) for one in alike})
        alike = {one for one in alike if getattr(one, field) == value}
        if str(value) not in others:
            raise InputError(
                f"{name}: {value} has no rule with trainer: {trainer}; known are {', '.join(others)}", name
            )
    raise InputError(f"trainer: {trainer} of release {release} has no rule in this setting")
