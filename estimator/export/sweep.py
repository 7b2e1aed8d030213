"""A plan with lists and ranges as a table: a row for each combination, computed by compiled functions in blocks.

What changes the step's structure (the method, the dtype, ...) is compiled once for each combination. Batch, sequence,
rank and llama.cpp's context are arrays. A combination that has no formula is estimated row by row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice, product, repeat
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..answers.estimate import Progress, answer
from ..answers.tabular import Tabular, html_table
from ..errors import InputError, options, shown
from ..io.outputs import replacing
from ..plans.flat import BLOCKS, nested
from ..plans.plan import Plan, parse_plan
from ..programs.libraries import is_installed
from ..text import printable
from .build import function_of, variable_names
from .code_python import arrays
from .function import Function
from .limits import limits_of

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from matplotlib.figure import Figure

ARRAYS = ("batch", "seq", "max_new_tokens", "r", "n_ctx")
"""Keys whose values are arrays in a compiled function."""
BLOCK = 1 << 18
"""The most rows that are computed at once."""
SHOWN_ROWS = 50
"""The rows that a notebook shows."""
MOST_ROWS, MOST_STRUCTURES, MOST_ESTIMATES = 10**10, 10_000, 100_000
_VERDICT = ("budget_bytes", "fits")


@dataclass(frozen=True)
class Structure:
    """A combination of the values that are no arrays."""

    keys: Mapping[str, Any]
    plan: Plan | None
    """The plan with the first value of each array; ``None`` where it is refused."""
    function: Function | None
    """``None`` where rows are estimated one by one."""
    error: str = ""
    components: tuple[str, ...] = ()


class Sweep(Tabular):
    """A table of plans. ``columns`` are the swept keys, the components of the result, and what is known of fitting."""

    def __init__(
        self, keys: Mapping[str, Any], only: Sequence[str] | None = None, progress: Progress = lambda: None
    ) -> None:
        self.fixed, self.axes = axes_of(keys)
        self.only, self._progress = only, progress
        self.rows = prod(len(values) for values in self.axes.values())
        if self.rows > MOST_ROWS:
            raise InputError(
                f"the table would have {self.rows:,} rows; {MOST_ROWS:,} are the most, so take wider steps"
            )
        if self._count() > MOST_STRUCTURES:
            raise InputError(
                f"{self._count():,} combinations would be compiled, of {', '.join(self._others)}; {MOST_STRUCTURES:,} "
                f"are the most ({', '.join(ARRAYS)} may have any number of values)"
            )

    def _brief(self) -> Mapping[str, object]:
        return {**self.fixed, "rows": self.rows, "columns": list(self.axes)}

    @property
    def _others(self) -> list[str]:
        return [name for name in self.axes if name not in ARRAYS]

    def _count(self) -> int:
        return prod(len(self.axes[name]) for name in self._others)

    @cached_property
    def structures(self) -> list[Structure]:
        """Each combination of what is no array, compiled. Raises ``InputError`` where all of them are refused."""
        found = []
        for values in product(*(self.axes[name] for name in self._others)):
            found.append(self._structure(dict(zip(self._others, values, strict=True))))
            self._progress()
        if all(one.plan is None for one in found):
            raise InputError(found[0].error)
        return found

    def _structure(self, keys: Mapping[str, Any]) -> Structure:
        first = {name: self.axes[name][0] for name in self.axes if name in ARRAYS}
        try:
            plan = parse_plan(nested({}, {**self.fixed, **keys, **first}))
        except InputError as error:
            return Structure(keys, None, None, str(error))
        names = [name for name in first if len(self.axes[name]) > 1]
        try:
            if not names or self._asks_communicated or not set(names) <= set(variable_names(plan)):
                return self._by_row(keys, plan, names)
            ceiling = self.only is not None and "process_at_most" in self.only
            f = function_of(plan, names, ceiling)
            return Structure(keys, plan, f, components=f.components)
        except InputError as error:
            return self._by_row(keys, plan, names, str(error))

    def _by_row(self, keys: Mapping[str, Any], plan: Plan, names: Sequence[str], why: str = "") -> Structure:
        """A structure whose rows are estimated one by one, if they are not too many and the first one is answered."""
        count = prod(len(self.axes[name]) for name in names)
        if count > MOST_ESTIMATES:
            return Structure(
                keys, None, None, f"{why or 'it has no formula'}; {count:,} estimates one by one are too many"
            )
        try:
            components = tuple(self._sizes(plan))
        except InputError as error:
            return Structure(keys, None, None, str(error))
        return Structure(keys, plan, None, components=components)

    @property
    def _asks_communicated(self) -> bool:
        """Whether what a rank sends in a step is asked for, of which there is no formula."""
        return self.only is not None and "communicated" in self.only

    def _sizes(self, plan: Plan) -> Mapping[str, int]:
        result = answer(plan, {})
        return {**result.bytes, "communicated": result.communicated} if self._asks_communicated else result.bytes

    @cached_property
    def components(self) -> list[str]:
        """The components that any of the structures has. Raises ``InputError`` for one of ``only`` that none has."""
        found = dict.fromkeys(name for one in self.structures for name in one.components)
        if self.only is None:
            return list(found)
        for name in self.only:
            if name not in found:
                raise InputError(f"no component '{name}'; there are {', '.join(found)}")
        return [name for name in found if name in self.only]

    @cached_property
    def columns(self) -> list[str]:
        """The names of the columns."""
        verdict = _VERDICT if any(one.plan is not None and limits_of(one.plan) for one in self.structures) else ()
        error = ("error",) if any(one.plan is None for one in self.structures) else ()
        return [*self.axes, *self.components, *verdict, *error]

    def blocks(self) -> Iterator[dict[str, Any]]:
        """The table in blocks of rows: for each column an array, a list, or ``None`` where it has no values."""
        names = [name for name in self.axes if name in ARRAYS]
        for one in self.structures:
            for values in self._grids(names):
                yield self._block(one, names, values)

    def _grids(self, names: Sequence[str]) -> Iterator[list[np.ndarray[Any, Any]]]:
        """Parts of the product of the arrays, each as one array for every name, which broadcast to the part's shape."""
        import numpy as np

        lengths = [len(self.axes[name]) for name in names]
        inner = len(names)
        while inner and prod(lengths[inner - 1 :]) <= BLOCK:
            inner -= 1
        outer = [range(length) for length in lengths[: max(inner - 1, 0)]]
        cut = lengths[inner - 1] if inner else 0
        width = max(1, BLOCK // prod(lengths[inner:])) if inner else 0
        for fixed in product(*outer):
            for start in range(0, cut, width) if inner else (0,):
                parts = [slice(i, i + 1) for i in fixed]
                if inner:
                    parts.append(slice(start, start + width))
                parts += [slice(None)] * (len(names) - len(parts))
                made = []
                for axis, (name, part) in enumerate(zip(names, parts, strict=True)):
                    values = np.asarray(self.axes[name][part], dtype=np.int64)
                    made.append(values.reshape([-1 if i == axis else 1 for i in range(len(names))]))
                yield made

    def _block(self, one: Structure, names: Sequence[str], values: Sequence[np.ndarray[Any, Any]]) -> dict[str, Any]:
        import numpy as np

        shape = np.broadcast_shapes(*(x.shape for x in values)) if values else ()
        count = prod(shape)
        flat = {name: np.broadcast_to(x, shape).reshape(-1) for name, x in zip(names, values, strict=True)}
        block: dict[str, Any] = dict.fromkeys(self.columns)
        block |= {name: [_written(one.keys[name])] * count for name in self._others} | flat
        if one.plan is None:
            return {**block, "error": [one.error] * count}
        if one.function is not None:
            given = {v.name: values[names.index(v.name)] for v in one.function.variables}
            try:
                found = arrays(one.function)(**given)
            except (ValueError, OverflowError) as error:
                raise InputError(f"{error} ({_said(one.keys)})") from None
            sizes = {name: np.broadcast_to(x, shape).reshape(-1) for name, x in found.items()}
        else:
            sizes = self._estimated(one, flat, count)
        block |= {name: sizes[name] for name in self.components if name in sizes}
        if limits := limits_of(one.plan, replayed=one.function is None):
            block |= {"budget_bytes": [limits[0].nbytes] * count, "fits": _fits(limits, sizes, count)}
        return block

    def _estimated(self, one: Structure, flat: Mapping[str, Any], count: int) -> dict[str, Any]:
        """The components of a structure that has no formula, row by row."""
        import numpy as np

        rows = []
        for i in range(count):
            keys = {name: int(values[i]) for name, values in flat.items()}
            rows.append(self._sizes(parse_plan(nested({}, {**self.fixed, **one.keys, **keys}))))
            self._progress()
        return {name: np.array([row[name] for row in rows], dtype=np.int64) for name in rows[0]}

    def tables(self) -> Iterator[pa.RecordBatch]:
        """The table as batches of pyarrow."""
        import pyarrow as pa

        for block in self.blocks():
            columns = zip(_columns(block), self.schema, strict=True)
            yield pa.record_batch([_array(values, one.type) for values, one in columns], schema=self.schema)

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns and their types."""
        import pyarrow as pa

        def kind(name: str) -> Any:
            if name not in self._others:
                return {"error": pa.string(), "fits": pa.bool_()}.get(name, pa.int64())
            written = frozenset(type(_written(value)) for value in self.axes[name])
            known = {frozenset([int]): pa.int64(), frozenset([bool]): pa.bool_()}
            return known.get(written, pa.float64() if written <= {int, float} else pa.string())

        return pa.schema([(name, kind(name)) for name in self.columns])

    def lines(self) -> Iterator[bytes]:
        """The table as parts of a CSV file: text in quotes, numbers without, and nothing where there is no value."""
        head = _csv([[name] for name in self.columns])
        for block in self.blocks():
            yield head + _csv(_columns(block))
            head = b""

    def write(self, place: str | os.PathLike[str] | BinaryIO, kind: str | None = None) -> None:
        """Write the table as ``.csv``, ``.parquet`` or ``.arrow``, by default as the file's name ends.

        Raises ``InputError`` for another kind, and where the file cannot be written.
        """
        if isinstance(place, str | os.PathLike):
            place = Path(place)
            kind = place.suffix if kind is None else kind
        elif not hasattr(place, "write"):
            raise InputError(f"{shown(place)} is no place to write to; give a file's name")
        if not isinstance(kind, str) or kind.lower() not in KINDS:
            raise InputError(f"'{place}' ends in {shown(kind)}; a table is written as {', '.join(KINDS)}")
        kind = kind.lower()
        if kind != ".csv" and not is_installed("pyarrow"):
            raise InputError(
                f"a {kind} file is written by pyarrow: pip install '.[tables]' in a clone; or write a .csv"
            )
        parts = self.lines() if kind == ".csv" else self.tables()
        first = next(parts)  # what is refused is refused before a file is there
        with _opened(place) as file, _writing(file, kind, self) as write:
            for part in chain([first], parts):
                write(part)
                self._progress()

    def records(self) -> list[dict[str, Any]]:
        """The rows. A large table is better written, or read in ``blocks``."""
        return [row for block in self.blocks() for row in self._rows(block)]

    def _rows(self, block: Mapping[str, Any], most: int | None = None) -> list[dict[str, Any]]:
        return [dict(zip(self.columns, row, strict=True)) for row in islice(zip(*_columns(block), strict=True), most)]

    def _repr_html_(self) -> str:
        """The first rows, for a notebook."""
        first = self._rows(next(self.blocks()), SHOWN_ROWS)
        note = f"<p>{self.rows:,} rows</p>" if self.rows > len(first) else ""
        return html_table(first) + note

    def to_dict(self) -> dict[str, Any]:
        """The table as an object."""
        return {"columns": self.columns, "rows": self.records()}

    def plot(self, component: str = "process", along: str | None = None) -> Figure:
        """A component against one of the swept numbers, a line for each combination of the others."""
        from ..figures.swept import sweep_figure

        numbers = [name for name in self.axes if name in ARRAYS]
        along = along or next((name for name in ("seq", "n_ctx", *numbers) if name in numbers), None)
        if along not in numbers:
            raise InputError(
                f"a figure needs a swept number to be drawn along; this table has {', '.join(numbers) or 'none'}"
            )
        if component not in self.components:
            raise InputError(f"no component '{component}'; there are {', '.join(self.components)}")
        return sweep_figure(self.records(), component, along, [name for name in self.axes if name != along])


@contextmanager
def _opened(place: Path | BinaryIO) -> Iterator[BinaryIO]:
    """An open file to write to; one that is named takes its place when it is whole."""
    if not isinstance(place, Path):
        yield place
        return
    with replacing(place) as part, part.open("wb") as file:
        yield file


KINDS = (".csv", ".parquet", ".arrow")
"""The kinds of files of a table."""


@contextmanager
def _writing(file: Any, kind: str, table: Sweep) -> Iterator[Callable[[Any], Any]]:
    """What writes a part of a table, as ``lines`` or ``tables`` yield it, into a binary file."""
    if kind == ".csv":
        yield file.write
        return
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    with (ParquetWriter if kind == ".parquet" else pa.ipc.new_file)(file, table.schema) as writer:
        yield writer.write_batch


def _columns(block: Mapping[str, Any]) -> list[list[Any]]:
    """The columns of a block as lists of equal lengths."""
    height = max(len(values) for values in block.values() if values is not None)
    return [
        [None] * height if values is None else values.tolist() if hasattr(values, "tolist") else values
        for values in block.values()
    ]


def _csv(columns: Sequence[list[Any]]) -> bytes:
    """Columns as lines of a CSV file. Many columns have one value throughout, which is written once."""
    height = len(columns[0])
    cells = (
        repeat(_cell(values[0]), height)
        if values.count(values[0]) == height
        else map(str if set(map(type, values)) == {int} else _cell, values)
        for values in columns
    )
    return "".join([",".join(row) + "\n" for row in zip(*cells, strict=True)]).encode()


def _cell(value: Any) -> str:
    """A value in a CSV file. A spreadsheet would run a text that looks like a formula: it is told by a quote that it is
    text (https://owasp.org/www-community/attacks/CSV_Injection).
    """
    if isinstance(value, int | float):
        return str(value).lower()  # true, as other programs write it
    if value is None:
        return ""
    text = printable(str(value)).replace('"', '""')
    return f'"\'{text}"' if text.startswith(("=", "+", "-", "@")) else f'"{text}"'


def _array(values: Sequence[Any], kind: Any) -> pa.Array:
    """Values as an array of pyarrow. What is mixed is text."""
    import pyarrow as pa

    return pa.array([x if x is None else str(x) for x in values] if kind == pa.string() else values, kind)


def _fits(limits: Sequence[Any], sizes: Mapping[str, Any], count: int) -> Any:
    """Whether each row fits; ``None`` where that is not known, between a floor and a ceiling."""
    import numpy as np

    fits = np.ones(count, dtype=bool)
    for limit in limits:
        fits &= sizes[limit.least] <= limit.nbytes
    known = ~fits
    for limit in limits:
        if limit.most in sizes:
            known |= sizes[limit.most] <= limit.nbytes
    return [bool(a) if b else None for a, b in zip(fits, known, strict=True)]


def _written(value: Any) -> Any:
    """A swept value as a cell."""
    if isinstance(value, Mapping):
        from ..answers.comparison import label

        return label(value) if "name" in value else str(dict(value))
    return value


def _said(keys: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {_written(value)}" for name, value in keys.items()) or "the plan"


def axes_of(keys: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Sequence[Any]]]:
    """The keys that have one value, and the values of those that have several.

    A list is several values, and so is a range ``{from: 128, to: 8192, step: 128}``, its end included. Keys of a
    plan's blocks stand beside the plan's own. Raises ``InputError``.
    """
    fixed: dict[str, Any] = {}
    axes: dict[str, Sequence[Any]] = {}
    for name, value in _flat(keys):
        values = values_of(name, value)
        if name in axes or name in fixed:
            raise InputError(f"'{name}' is given twice, in a block and beside it; keep one of them")
        if values is None:
            fixed[name] = value
        else:
            axes[name] = values
    if not axes:
        raise InputError(f"nothing is swept; give a key a list or a range, such as {options({'batch': [1, 2, 4]})}")
    # Arrays come last: their rows follow each other in a block.
    ordered = sorted(axes, key=lambda name: name in ARRAYS)
    return fixed, {name: axes[name] for name in ordered}


def _flat(keys: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """A plan's keys, with those of blocks that are swept beside them."""
    for name, value in keys.items():
        if name in (*BLOCKS, "method") and isinstance(value, Mapping):
            swept = {key: one for key, one in value.items() if values_of(key, one) is not None}
            yield name, {key: one for key, one in value.items() if key not in swept}
            yield from swept.items()
        else:
            yield name, value


_LISTS = ("target_modules", "modules_to_save", "exclude_modules", "layers_to_transform", "layers_pattern")


def values_of(name: str, value: Any) -> Sequence[Any] | None:
    """The values of a key that is swept; ``None`` for one value. Raises ``InputError`` for an empty list or range."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, range | tuple):
        value = list(value)
    if isinstance(value, Mapping) and set(value) >= {"from", "to"} and set(value) <= {"from", "to", "step"}:
        return _range(name, value["from"], value["to"], value.get("step", 1))
    if not isinstance(value, list) or _is_list(name):
        return None
    if not value:
        raise InputError(f"{name} is an empty list; give it values, or leave it out")
    if name in ARRAYS and (wrong := [one for one in value if type(one) is not int or one < 1]):
        raise InputError(f"{name}: {shown(wrong[0])} is no whole number from 1 on")
    if None in value:
        raise InputError(f"{name} has an empty value; give it another, or leave it out")
    try:
        texts = {str(one) for one in value}
    except ValueError:  # an integer of more digits than Python prints
        largest = max((one for one in value if isinstance(one, int)), default=value)
        raise InputError(f"{name} has {shown(largest)}") from None
    if len(texts) < len(value):
        raise InputError(f"{name} has a value twice; give each once")
    return value


def _is_list(name: str) -> bool:
    """Whether a list is one value of a key."""
    return name in _LISTS or name.endswith(("_pattern", "_indices", "_index", "_modules", "_parameters"))


def _range(name: str, first: Any, last: Any, step: Any) -> range:
    if not all(type(x) is int and 0 < x <= MOST_ROWS for x in (first, last, step)) or last < first:
        raise InputError(f"{name}: {shown([first, last, step])} is no range; write from:to:step, as in 128:8192:128")
    return range(first, last + 1, step)
