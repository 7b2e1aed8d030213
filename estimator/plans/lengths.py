"""How long a run's sequences are: the longest batch, and how likely a run is to meet it.

A job runs out of memory at its longest batch. So a plan may give the lengths of all samples in place of one length: a
number, a histogram or a file of token counts, and what the training script does to them. Batches are drawn without
replacement from a shuffled data set. Their probabilities are computed exactly, not simulated.
"""

import json
import math
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple, NoReturn, SupportsIndex

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, model_validator

from ..errors import InputError, shown
from ..io.fields import FileName, Number, Whole, checked
from ..io.files import STANDARD_INPUT, opened

MOST_TOKENS = 10**8
"""Most tokens of a sequence, as for a plan's ``seq``."""
MOST_SAMPLES = 10**9
"""Most samples of a data set, which bounds the time that probabilities take."""
MEGA_BATCHES = 50
"""Most batches that transformers' ``LengthGroupedSampler`` sorts together."""

_COLUMNS = ("length", "input_ids")
"""Columns to look for where none is named: transformers' ``length_column_name``, and what tokenizers return."""
_LINE_BYTES = 1 << 23
"""Most bytes of a line: enough for a sample of a million token ids. It bounds the memory that a line takes."""
_NEVER = -45.0
"""Logarithm of 3e-20. A smaller probability is lost to rounding when it is added to the others."""

Distribution = list[tuple[int, float]]
"""Lengths in tokens, ascending, and their probabilities, which add up to one."""


class Lengths(NamedTuple):
    """The lengths of a data set's samples, how batches are made of them, and how long the run is.

    ``counts`` has pairs (tokens, samples), ascending, after truncation and packing. Every method that takes ``batch``,
    a number of samples, raises ``InputError`` where the data set has fewer.
    """

    counts: tuple[tuple[int, int], ...]
    pad_to_multiple_of: int
    group_by_length: bool
    steps: int | None
    epochs: float

    @property
    def samples(self) -> int:
        """Samples per epoch."""
        return sum(count for _, count in self.counts)

    @property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        return self.counts[-1][0]

    def padded(self, length: int) -> int:
        """Tokens of each row of a batch whose longest sample has ``length`` tokens."""
        return -(-length // self.pad_to_multiple_of) * self.pad_to_multiple_of

    def batches(self, batch: int, gradient_accumulation_steps: int = 1) -> int:
        """Batches (forward passes) of the run.

        As in transformers' ``Trainer``, ``steps`` overrides ``epochs``, the samples left at the end of an epoch make
        a smaller batch, and no step takes batches of two epochs.
        """
        epoch = -(-self._of_data(batch) // batch)
        steps = -(-epoch // gradient_accumulation_steps)
        whole, rest = divmod(self.steps or math.ceil(self.epochs * steps), steps)
        return whole * epoch + min(rest * gradient_accumulation_steps, epoch)

    def batch_distribution(self, batch: int) -> Distribution:
        """The distribution of the padded length of one full batch."""
        samples = self._of_data(batch)
        # get_length_grouped_indices in transformers/trainer_pt_utils.py
        together = min(samples // (4 * batch), MEGA_BATCHES)
        if not self.group_by_length or together < 2:
            return self._longest_of(batch)
        # A mega-batch is sorted, so its samples above a length fill its first batches. The sampler also swaps two
        # samples so that the longest of all comes first. That does not change the distribution of a single batch.
        found: dict[int, float] = {}
        longer, before = 0, 0.0
        for length, count in reversed(self.counts):
            longer += count
            reached = _mean_batches(samples, longer, together * batch, batch) / together
            width = self.padded(length)
            found[width] = found.get(width, 0.0) + max(reached - before, 0.0)
            before = reached
        return sorted(found.items())

    def run_distribution(self, batch: int, batches: int) -> Distribution:
        """The distribution of the largest padded length among the first ``batches`` batches of a run.

        After an epoch the longest sample has certainly come. With ``group_by_length`` it comes in the first batch,
        where the sampler puts it. The smaller batch at the end of an epoch counts as a full one.
        """
        samples = self._of_data(batch)
        if self.group_by_length:
            return [(self.padded(self.longest), 1.0)]
        return self._longest_of(min(batches * batch, samples))

    def probability_of_exceeding(self, length: int, batch: int, batches: int) -> float:
        """Probability that one of a run's first ``batches`` batches is padded to more than ``length`` tokens.

        Where ``length`` is the longest that fits in memory, that is the probability that the run fails. Where several
        devices share the batches of a step, ``batches`` counts those of all devices.
        """
        return min(math.fsum(chance for width, chance in self.run_distribution(batch, batches) if width > length), 1.0)

    def representative_batches(self, batch: int, n: int) -> list[int]:
        """Padded lengths of ``n`` batches, at least 1, in the order in which an allocator's replay runs them.

        They are quantiles of ``batch_distribution`` at the multiples of the golden ratio modulo 1. Every beginning of
        that sequence is spread evenly, so lengths vary as in a shuffled data set. An allocator keeps blocks that are
        too small for a longer batch, so what it reserves depends on the batches before. The longest batch may come
        anywhere in a shuffle. Here it is last, which is the worst case; with ``group_by_length`` it is first.
        """
        distribution = self.batch_distribution(batch)
        golden = (math.sqrt(5) - 1) / 2
        others = [quantile(distribution, i * golden % 1) for i in range(1, n)]
        longest = self.padded(self.longest)
        return [longest, *others] if self.group_by_length else [*others, longest]

    def _of_data(self, batch: int) -> int:
        """The samples, at least a batch. Raises ``InputError``."""
        if batch > self.samples:
            raise InputError(
                f"batch {batch} is more than the {self.samples:,} samples that lengths has; use a smaller batch, "
                "or counts of all samples"
            )
        return self.samples

    def _longest_of(self, draws: int) -> Distribution:
        """The distribution of the longest padded length among ``draws`` samples drawn without replacement."""
        found: dict[int, float] = {}
        left, shorter = self.samples, 1.0  # samples of at most this length; probability that no longer one is drawn
        for length, count in reversed(self.counts):
            log_none = _log_none_drawn(left, count, draws)
            width = self.padded(length)
            found[width] = found.get(width, 0.0) - shorter * math.expm1(log_none)
            left -= count
            shorter *= math.exp(log_none)
            if not shorter:
                break
        return sorted(found.items())


def _log_none_drawn(samples: int, marked: int, draws: int) -> float:
    """Logarithm of the probability that no marked sample is drawn: C(samples - marked, draws) / C(samples, draws).

    It is a sum of the logarithms of factors, since differences of log-gammas lose eight digits at 10^7 samples.
    """
    many, few = max(marked, draws), min(marked, draws)
    if many + few > samples:
        return -math.inf
    total = 0.0
    for i in range(few):
        total += math.log1p(-many / (samples - i))
        if total < _NEVER:
            return -math.inf
    return total


def _mean_batches(samples: int, marked: int, draws: int, batch: int) -> float:
    """The mean number of batches that the marked samples among those drawn fill or begin.

    The number of marked samples drawn is hypergeometric. Its probabilities are computed by their ratios, starting from
    the most probable number, so that none overflows or vanishes.
    """
    mode = (draws + 1) * (marked + 1) // (samples + 2)
    others = samples - marked - draws
    weight = mean = total = 0.0
    for step in (1, -1):
        x, weight = mode, 1.0
        while weight > 1e-20:
            if step == 1 or x < mode:
                total += weight
                mean += weight * -(-x // batch)
            if step == 1:
                weight *= (marked - x) * (draws - x) / ((x + 1) * (others + x + 1))
            else:
                weight *= x * (others + x) / ((marked - x + 1) * (draws - x + 1))
            x += step
    return mean / total


def quantile(distribution: Distribution, share: float) -> int:
    """The shortest length that a ``share`` of the batches (0 to 1) or more do not exceed."""
    reached = list(accumulate(chance for _, chance in distribution))
    return distribution[min(bisect_left(reached, share), len(reached) - 1)][0]


def _histogram(value: Any) -> dict[int, int]:
    """Samples by tokens. Keys may be text, as JSON's are. Raises ``InputError``."""
    if not isinstance(value, Mapping) or not value:
        raise InputError(
            f"lengths.histogram must map tokens to samples, as in {{512: 900, 2048: 12}}, not {shown(value)}"
        )
    found: Counter[int] = Counter()
    for key, count in value.items():
        length = int(key) if isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) < 10 else key
        if not _whole(length, MOST_TOKENS):
            raise InputError(
                f"lengths.histogram: {shown(key)} is no number of tokens; give whole numbers from 1 to {MOST_TOKENS:,}"
            )
        if not _whole(count, MOST_SAMPLES):
            raise InputError(
                f"lengths.histogram: {shown(count)} samples of {length} tokens; give whole numbers "
                f"from 1 to {MOST_SAMPLES:,}"
            )
        found[length] += count
    if found.total() > MOST_SAMPLES:
        raise InputError(f"lengths.histogram has more than {MOST_SAMPLES:,} samples; divide its counts")
    return dict(sorted(found.items()))


class LengthOptions(BaseModel):
    """The plan's ``lengths``: where sample lengths come from, and what the training script does to them."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    file: Annotated[FileName, Field(min_length=1)] | None = Field(
        None, description="JSONL or parquet file of token counts, or of lists of token ids"
    )
    column: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="the file's column; length, input_ids or the only one if not given"
    )
    histogram: Annotated[dict[int, int], BeforeValidator(_histogram)] | None = Field(
        None, description="samples by tokens: {512: 900, 2048: 12}"
    )
    length: Annotated[Whole, Field(ge=1, le=MOST_TOKENS)] | None = Field(None, description="tokens of every sample")
    truncate: Annotated[Whole, Field(ge=1, le=MOST_TOKENS)] | None = Field(
        None, description="tokens kept of a sample, and of a packed row (TRL's max_length)"
    )
    pad_to_multiple_of: Annotated[Whole, Field(ge=1, le=10**6)] = Field(
        1, description="batches are padded to their longest sample, and on to a multiple of this"
    )
    packing: Literal["none", "bfd", "bfd_split", "wrapped"] = Field(
        "none", description="TRL's packing_strategy; the two bfd put a batch's rows into one, of the same tokens"
    )
    group_by_length: StrictBool = Field(False, description="transformers' train_sampling_strategy: group_by_length")
    steps: Annotated[Whole, Field(ge=1, le=10**9)] | None = Field(
        None, description="optimizer steps of the run (max_steps: overrides epochs)"
    )
    epochs: Annotated[Number, Field(gt=0, le=10**6)] = Field(1.0, description="epochs of the run (num_train_epochs)")

    @model_validator(mode="after")
    def _fits_together(self) -> "LengthOptions":
        sources = [name for name in ("file", "histogram", "length") if getattr(self, name) is not None]
        if len(sources) != 1:
            found = f"both {sources[0]} and {sources[1]}" if sources else "none of them"
            raise InputError(f"lengths takes one of file, histogram and length; it has {found}")
        if self.column is not None and self.file is None:
            raise InputError(f"lengths.column belongs to a file, not to a {sources[0]}; leave it out")
        if self.packing != "none" and self.truncate is None:
            raise InputError(f"lengths.packing {self.packing} needs the length of a row; add truncate: 2048")
        return self

    def read(self) -> Lengths:
        """The lengths, read from the file if there is one. Raises ``InputError``."""
        if self.file is not None:
            counts = _counts_of(Path(self.file), self.column)
        else:
            # A single length stands for the most samples that there can be.
            counts = self.histogram or {self.length or 1: MOST_SAMPLES}
        if self.packing != "none":
            assert self.truncate is not None
            counts = packed(counts, self.truncate, self.packing)
        elif self.truncate is not None:
            counts = _truncated(counts, self.truncate)
        return Lengths(
            tuple(sorted(counts.items())),
            self.pad_to_multiple_of,
            self.group_by_length,
            self.steps,
            self.epochs,
        )


def length_options(value: Any) -> LengthOptions:
    """The checked block that a plan's ``lengths`` stands for: a block, a number or a file. Raises ``InputError``."""
    if isinstance(value, LengthOptions):
        return value
    if isinstance(value, str):
        value = {"file": value}
    elif isinstance(value, SupportsIndex) and not isinstance(value, bool):
        value = {"length": value}
    if not isinstance(value, Mapping):
        raise InputError(
            "lengths must be a number of tokens, a JSONL or parquet file, or a block such as "
            f"{{file: data.jsonl, truncate: 2048}}, not {shown(value)}"
        )
    return checked(LengthOptions, {str(key): one for key, one in value.items()}, "lengths", "lengths.")


def _truncated(counts: Mapping[int, int], most: int) -> Counter[int]:
    found: Counter[int] = Counter()
    for length, count in counts.items():
        found[min(length, most)] += count
    return found


def packed(counts: Mapping[int, int], room: int, strategy: str) -> dict[int, int]:
    """{tokens: rows} after packing {tokens: samples} into rows of at most ``room`` tokens.

    The source is TRL 1.16's ``pack_dataset`` (trl/data_utils.py). ``wrapped`` cuts the stream of tokens into rows of
    ``room``. TRL does so for a thousand samples at a time; here one remainder is counted for all of them. ``bfd`` puts
    whole samples, truncated to ``room``, into rows. ``bfd_split`` also keeps the pieces of longer samples. Which
    samples share a row depends on the shuffle, so all rows are taken to be the fullest that samples can make.
    """
    if strategy == "wrapped":
        rows, rest = divmod(sum(length * count for length, count in counts.items()), room)
        return {length: count for length, count in ((rest, 1), (room, rows)) if length and count}
    if strategy == "bfd":
        pieces = _truncated(counts, room)
    else:
        pieces = Counter()
        for length, count in counts.items():
            pieces[room] += length // room * count
            pieces[length % room] += count
    fullest = _fullest(pieces, room)
    return {fullest: -(-sum(length * count for length, count in pieces.items()) // fullest)}


def _fullest(pieces: Mapping[int, int], room: int) -> int:
    """The largest number of tokens, up to ``room``, that some of the pieces have together."""
    sums, mask = 1, (1 << room + 1) - 1  # bit s of sums: some pieces have s tokens together
    for length, count in sorted(pieces.items(), reverse=True):
        left, group = min(count, room // length) if length else 0, 1
        while left:  # groups of 1, 2, 4, ... pieces add up to any number of pieces
            sums |= sums << length * min(group, left) & mask
            left -= min(group, left)
            group *= 2
        if sums >> room:
            break
    return sums.bit_length() - 1


_WANTED = "a JSONL or parquet file of token counts"


def _counts_of(path: Path, column: str | None) -> Mapping[int, int]:
    """Samples by tokens in a file. Raises ``InputError``."""
    with opened(path, _WANTED) as file:
        stat = os.fstat(file.fileno())
    return _read(path, column, stat.st_ino, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _read(path: Path, column: str | None, *stamp: int) -> Mapping[int, int]:
    """``_counts_of`` for a file with this ``stamp``: an answer to one plan may ask for its lengths many times."""
    with opened(path, _WANTED) as file:
        parquet = path.suffix.lower() == ".parquet" or file.peek(4)[:4] == b"PAR1"
        counts = _read_parquet(file, path, column) if parquet else read_counts(file, path, column)
    if not counts:
        raise InputError(f"lengths '{path}' has no samples; give {_WANTED}")
    return counts


def read_counts(file: BinaryIO, path: Path = Path(STANDARD_INPUT), column: str | None = None) -> Counter[int]:
    """Samples by tokens in JSON Lines. Holds one line at a time. Raises ``InputError``."""
    counts: Counter[int] = Counter()
    encoding = "utf-8-sig"
    for number, line in enumerate(iter(lambda: file.readline(_LINE_BYTES), b""), 1):
        where = f"line {number} of '{path}'"
        if len(line) == _LINE_BYTES:
            raise InputError(f"{where} is longer than {_LINE_BYTES >> 20} MiB; write one sample per line")
        if line.isspace():
            continue
        try:
            value = json.loads(line.decode(encoding))
        except UnicodeDecodeError:
            raise InputError(f"{where} is not text in UTF-8; give {_WANTED}") from None
        except (ValueError, RecursionError):
            raise InputError(f"{where} is not JSON; write one number or object per line; is it cut off?") from None
        encoding = "utf-8"
        if isinstance(value, dict):
            column = column or _column(None, value, where)
            if column not in value:
                _column(column, value, where)
            value = value[column]
        elif column is not None:
            raise InputError(f"{where} is no object, so it has no column '{column}'; write {{\"{column}\": 512}}")
        length = len(value) if type(value) is list and set(map(type, value)) <= {int} else value
        if not _whole(length, MOST_TOKENS):
            _refuse(value, where)
        counts[length] += 1
    return counts


def _read_parquet(file: BinaryIO, path: Path, column: str | None) -> Counter[int]:
    """Samples by tokens in a parquet file. Holds some thousand rows at a time."""
    try:
        import pyarrow as pa
        import pyarrow.compute as pc
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise InputError(
            f"lengths '{path}' is a parquet file, which takes pyarrow to read; pip install '.[lengths]', or give JSONL"
        ) from None
    counts: Counter[int] = Counter()
    try:
        table = ParquetFile(file)
        column = _column(column, table.schema_arrow.names, f"'{path}'")
        kind = table.schema_arrow.field(column).type
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if not pa.types.is_integer(kind.value_type if lists else kind):
            raise InputError(
                f"column '{column}' of '{path}' holds {kind}; name one of whole numbers, or of lists of token ids"
            )
        for rows in table.iter_batches(batch_size=1024 if lists else 65536, columns=[column]):
            values = rows.column(column)
            for pair in pc.value_counts(pc.list_value_length(values) if lists else values).to_pylist():
                if not _whole(pair["values"], MOST_TOKENS):
                    _refuse(pair["values"], f"column '{column}' of '{path}'")
                counts[pair["values"]] += pair["counts"]
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"'{path}' is not a valid parquet file ({str(error)[:100]}); is it cut off? give {_WANTED}"
        ) from None
    return counts


def _column(named: str | None, found: Iterable[str], where: str) -> str:
    """The column to take. Raises ``InputError``, which lists the columns found."""
    columns = list(found)
    wanted: Sequence[str] = _COLUMNS if named is None else (named,)
    for name in wanted:
        if columns.count(name) > 1:
            raise InputError(f"{where} has {columns.count(name)} columns '{name}'; rename one")
        if name in columns:
            return name
    if named is None and len(columns) == 1:
        return columns[0]
    has = f"has {', '.join(columns)}" if columns else "has no columns"
    if named is None:
        raise InputError(f"{where} {has}; say in which the counts are, as in lengths: {{file: ..., column: n_tokens}}")
    raise InputError(f"{where} has no column '{named}'; it {has}")


def _whole(value: Any, most: int) -> bool:
    """Whether a value is an integer (no bool) from 1 to ``most``."""
    return type(value) is int and 1 <= value <= most


def _refuse(value: Any, where: str) -> NoReturn:
    raise InputError(
        f"{where}: {shown(value)} is no count of tokens; give whole numbers from 1 to {MOST_TOKENS:,}, "
        "or lists of token ids"
    )
