"""Hostile and odd input: files that never end, patterns that never stop, headers that lie, names with markup.

The witness is the contract: an answer, or exit status 2 and one line, soon and in little memory.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import re
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from estimator import estimate
from estimator.answers.many import estimate_lines
from estimator.engines.llama_cpp import gguf_file
from estimator.engines.llama_cpp.hparams import FACTORS, RANGES
from estimator.errors import InputError, TooLong
from estimator.files import LONGEST_LINE, lines, parse_json
from estimator.ledger import MOST_WORK
from estimator.methods import patterns
from estimator.show.cli import main
from estimator.text import dumped, printable

from .hostile import CONFIG, MODELS, NAMES, Cases, Seen, gguf, headers, run

MODEL = "smollm2-135m"
MEGABYTES = 500
LLAMA = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 100}
LLAMA["intermediate_size"] = 128


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def refused(*arguments: Any, stdin: bytes = b"") -> str:
    """The one line of a command that is refused."""
    seen = run(["estimate", *map(str, arguments)], stdin)
    assert (seen.status, seen.out, seen.wrong()) == (2, "", "")
    return seen.err


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def model(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    write(folder / "config.json", {**LLAMA, **changes})
    return folder


def child(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, with little address space and little time."""
    code = (
        "import resource, sys; from estimator.show.cli import main; "
        f"resource.setrlimit(resource.RLIMIT_AS, ({MEGABYTES << 20},) * 2); sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=30, **options)


# ---- at random ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_anything_ends_in_an_answer_or_a_line(seed: int, tmp_path: Path) -> None:
    """Asks the contract of a hundred cases of each seed; ``python -m tests.hostile`` runs more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for arguments, stdin in itertools.islice(Cases(tmp_path, seed), 100):
            seen = run(arguments, stdin)
            assert seen.wrong() == "", (arguments, stdin, seen)


def test_little_memory() -> None:
    """Asks the contract of more cases, in a process that may take little."""
    code = (
        "import resource, runpy, sys; sys.argv = ['hostile', '60', '9']; "
        f"resource.setrlimit(resource.RLIMIT_AS, ({MEGABYTES << 20},) * 2); "
        "runpy.run_module('tests.hostile', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=120
    )
    assert "nothing wrong" in done.stdout, done.stdout + done.stderr


# ---- exit status ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [TypeError("x\ny"), RecursionError(), MemoryError(), KeyError("k"), UnicodeError("u"), SystemExit(1)],
    ids=repr,
)
def test_what_nobody_foresaw_is_no_answer(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks the contract: 1 means that it does not fit, and nothing else."""
    from estimator.show.commands import estimate as command

    def broken(args: Any) -> int:
        raise error

    monkeypatch.setattr(command, "execute", broken)
    seen = run(["estimate", MODEL])
    assert (seen.status, seen.err.count("\n"), seen.out) == (2, 1, "")
    if not isinstance(error, (MemoryError, SystemExit)):
        assert type(error).__name__ in seen.err
        monkeypatch.setenv("ESTIMATOR_TRACEBACK", "1")
        assert "Traceback" in run(["estimate", MODEL]).err


def test_a_closed_standard_output() -> None:
    """Asks the contract: nobody reads the answer."""
    done = child("estimate", MODEL, preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_backend_that_matplotlib_does_not_have(tmp_path: Path) -> None:
    """Asks the contract, of a variable that job scripts set."""
    figure = str(tmp_path / "figure.png")
    done = subprocess.run(
        [sys.executable, "-m", "estimator.show.cli", "compare", MODEL, "--seqs", "64", "--output", figure],
        env={**os.environ, "MPLBACKEND": "bogus"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "MPLBACKEND" in done.stderr


def test_a_defect_costs_one_line_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks the contract: the others are answered, whatever is wrong with one."""
    from estimator.answers import many as batch

    def parse(data: dict[str, Any]) -> Any:
        raise ZeroDivisionError if data.get("seq") == 3 else InputError("wrong")

    monkeypatch.setattr(batch, "parse_plan", parse)
    answers = [json.loads(line) for line in estimate_lines(['{"seq": 3}', '{"seq": 4}'])]
    assert "ZeroDivisionError" in answers[0]["error"]
    assert answers[1] == {"error": "wrong"}


# ---- files ----------------------------------------------------------------------------------

WHERE = [["--plan"], [], [MODEL, "--method"], ["--plans"], [MODEL, "--lengths"]]


@pytest.mark.parametrize("where", WHERE, ids=["plan", "model", "method", "plans", "lengths"])
def test_what_is_no_file(where: list[str], tmp_path: Path) -> None:
    """Asks the contract: a named pipe, which would never answer, a device, which would never end, and a folder."""
    os.mkfifo(tmp_path / "pipe")
    done = child("estimate", *where, str(tmp_path / "pipe"), stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "is a named pipe" in done.stderr
    assert "is a device" in refused(*where, "/dev/zero")
    refused(*where, tmp_path)


def test_a_header_from_a_pipe(tmp_path: Path) -> None:
    """Asks the contract."""
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "is a named pipe" in refused(tmp_path / "pipe.gguf")


def test_standard_input(tmp_path: Path) -> None:
    """Asks the contract: ``-`` is a plan, an adapter or lengths; what is too long is refused."""
    answers = [
        run(
            ["estimate", "--plan", "-", "--json"],
            b'{"model": "smollm2-135m", "seq": 64, "method": {"name": "lora", "r": 4}}',
        ),
        run(["estimate", MODEL, "--seq", "64", "--method", "-", "--json"], b'{"peft_type": "LORA", "r": 4}'),
        run(["estimate", MODEL, "--method", "lora", "--r", "4", "--lengths", "-", "--json"], b"64\n32\n"),
    ]
    assert [seen.status for seen in answers] == [0, 0, 0]
    assert len({json.loads(seen.out)["bytes"]["peak"] for seen in answers}) == 1
    refused("--plan", "-", stdin=b"x" * 200_000)
    refused(MODEL, "--method", "-", stdin=b" " * 2_000_000)
    refused("--plan", "-", stdin=b"")
    for plan in ({"model": MODEL, "method": "-"}, {"model": MODEL, "lengths": "-"}):  # a line of a batch reads no input
        with pytest.raises(InputError):
            estimate(plan)


def test_a_line_too_long_costs_one_answer() -> None:
    """Asks the contract; what never ends is refused, in little memory."""
    good = json.dumps({"model": MODEL, "seq": 8}).encode()
    file = io.BytesIO(good + b"\n" + b"x" * (3 * LONGEST_LINE) + b"\n" + good + b"\n" + b"y" * LONGEST_LINE)
    answers = [json.loads(line) for line in estimate_lines(lines(file, "plans"))]
    assert ["error" in answer for answer in answers] == [False, True, False, True]
    assert "longer than" in answers[1]["error"]

    class Endless(io.RawIOBase):
        def readline(self, size: int | None = -1) -> bytes:
            return b"z" * (size or 0)

    with pytest.raises(InputError, match="a line of more than"):
        list(lines(Endless(), "plans"))  # type: ignore[arg-type]


def test_keys_given_twice(tmp_path: Path) -> None:
    """Asks the contract: which of two values is meant is not guessed, in no file; the check takes linear time."""
    folder = model(tmp_path / "twice")
    write(folder / "config.json", json.dumps(LLAMA)[:-1] + ', "vocab_size": 7}')
    assert "'vocab_size' is given twice" in refused(folder)
    adapter = write(tmp_path / "adapter.json", '{"peft_type": "LORA", "r": 4, "r": 8}')
    assert "'r' is given twice" in refused(MODEL, "--method", adapter)
    start = time.process_time()
    with pytest.raises(InputError, match="twice"):
        parse_json("{" + ",".join(f'"k{i}":1' for i in range(60_000)) + ',"k59999":1}')
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "line",
    [
        r'{"\ud800": 1, "model": "smollm2-135m"}',
        r'{"model": "\udfff"}',
        r'{"model": "smollm2-135m", "method": {"name": "lora", "rank_pattern": {"\ud800": 3}}}',
        r'{"model": "smollm2-135m", "llama_cpp": ["\ud800\ud800"]}',
        b'{"model": "\xed\xa0\x80"}',
        '{"model": "\ud800"}',
        '{"model": ' + "9" * 5000 + "}",
        '{"model": ' + "[" * 100_000,
        '{"a":' * 20_000 + "1" + "}" * 20_000,
    ],
)
def test_a_bad_line_costs_one_line(line: Any) -> None:
    """Asks the contract: also of what is no character, and what is too deep or too large for Python."""
    good = json.dumps({"model": MODEL, "seq": 8})
    answers = list(estimate_lines([good, line, good]))
    assert [set(json.loads(answer)) == {"error"} for answer in answers] == [False, True, False]
    answers[1].encode("utf-8")
    assert not re.search(r"\\ud[89a-f]", answers[1].replace("\\\\", ""))


# ---- regular expressions ----------------------------------------------------------------------

ENDLESS = [
    "(([a-z._0-9])+)+!",
    "([a-z._0-9]+)+!",
    "(.|..|...)*[!?]",
    "(?:.*?){50}[!?]",
    "(a|a|.)*[A-Z]",
    "((.?){40}){40}!",
]


@pytest.fixture
def tenth(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A tenth of a second for patterns, which have a second."""
    assert patterns.SECONDS == 1
    monkeypatch.setattr(patterns, "SECONDS", 0.1)
    yield
    patterns._patterns.cache_clear()


@pytest.mark.usefixtures("tenth")
@pytest.mark.parametrize("text", ENDLESS)
@pytest.mark.parametrize("key", ["target_modules", "exclude_modules", "rank_pattern", "feedforward_modules"])
def test_patterns_that_never_stop(text: str, key: str) -> None:
    """Asks the contract: a bound of processor time over all modules; ``re`` would take years."""
    method: dict[str, Any] = {"name": "ia3" if key == "feedforward_modules" else "lora"}
    method |= {key: {text: 3} if key == "rank_pattern" else text}
    start = time.process_time()
    answer = next(estimate_lines([json.dumps({"model": "qwen2.5-72b", "seq": 8, "method": method})]))
    assert text[:20] in json.loads(answer).get("error", text)
    assert time.process_time() - start < 1


@pytest.mark.usefixtures("tenth")
def test_many_patterns_share_a_second() -> None:
    """Asks the contract: ten thousand keys of a file take as long as one."""
    values = {f"(.|..|{i})*[!?]": 3 for i in range(10_000)}
    start = time.process_time()
    with pytest.raises(InputError, match="takes more than"):
        estimate(model=MODEL, seq=8, method={"name": "lora", "rank_pattern": values})
    assert time.process_time() - start < 5


def test_a_rank_for_every_module() -> None:
    """Asks PEFT's own files: AdaLoRA and EVA write a key for each module."""
    modules = [f"model.layers.{i}.self_attn.{m}" for i in range(30) for m in ("q_proj", "v_proj")]
    ranks = {path: 1 + i % 2 for i, path in enumerate(modules)}
    found = estimate(model=MODEL, seq=8, method={"name": "lora", "rank_pattern": ranks})
    one = [estimate(model=MODEL, seq=8, method={"name": "lora", "r": r}).trainable_parameters for r in (1, 2)]
    q, v = one[0] // 30 - (192 + 576), 192 + 576  # parameters of rank 1 at q_proj and v_proj
    assert found.trainable_parameters == 30 * (q + 2 * v)


@pytest.mark.parametrize(
    ("text", "modules"),
    [
        ("^(?!.*visual).*q_proj$", ["q_proj"]),
        (r".*(?<!gate)_proj", ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]),
        (r"model\.layers\.\d+\.self_attn\.(q|v)_proj", ["q_proj", "v_proj"]),
        (r"(?:.*?(?:language|text|model).*?(?:self_attn|mlp).*?(?:k_proj|up_proj).*?)", ["k_proj", "up_proj"]),
        (r"(?=.*mlp)(?>.*)(?<=down_proj)", ["down_proj"]),
    ],
)
def test_patterns_of_real_adapters(text: str, modules: list[str]) -> None:
    """Witness: the same modules by name."""
    by_text, by_name = (
        estimate(model=MODEL, seq=8, method={"name": "lora", "target_modules": names}).to_dict()
        for names in (text, modules)
    )
    assert by_text == by_name


PATHS = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.11.mlp.down_proj",
    "lm_head",
    "visual.blocks.3.qkv",
    "x{2}y",
    "a{e}",
]
PIECES = [
    "q_proj", "model", r"\.", r"\d", r"\w+", ".", "[a-z]", "[^.]*", "_", "1", r"\b", "^", "$", ".*", "(?:", "(", ")",
    "|", "+", "?", "*?", "{2}", "{,2}", "{,}", "{", "}", "{e}", "{e<=1}", "(?!", "(?=", "(?<=q", "(?<!q", "(?>", "++",
    "[a|b]", r"\1", "(?i:Q)", "visual", "[", "[:alpha:]", "&&", "(?x)", r"\Z", r"\p{L}", r"\X", "(?|", "(?R)", "é", "]",
    r"\x41", "(?P<n>x)", "(?V1)", "*",
]  # fmt: skip


@pytest.mark.parametrize("form", [patterns.WHOLE, patterns.SUFFIX, patterns.BELOW, patterns.LAYERS])
def test_patterns_match_what_re_matches(form: str) -> None:
    """Witness: ``re``, for patterns put together at random; what it refuses is refused."""
    rng, compared = random.Random(5), 0
    for _ in range(4000):
        text = "".join(rng.choices(PIECES, k=rng.randrange(1, 6)))
        try:
            patterns.check(text)
        except ValueError:
            continue
        compiled = re.compile(text)  # whatever is taken, re takes
        try:
            compiled = re.compile(form.replace("{}", text))
        except re.error:
            with pytest.raises(InputError):
                patterns.groups(text, form, PATHS[0])
            continue
        for path in PATHS:
            match = compiled.fullmatch(path) if form == patterns.WHOLE else compiled.match(path)
            assert patterns.groups(text, form, path) == (None if match is None else match.groups()), (text, path)
        compared += 1
    assert compared > 500


@pytest.mark.usefixtures("tenth")
def test_peft_is_given_no_pattern() -> None:
    """Asks the contract of the witnesses, in which PEFT would match with ``re``."""
    options = {"target_modules": ".*q_proj", "rank_pattern": {"(lm|x)_head": 3}, "r": 4, "exclude_modules": ["a"]}
    assert patterns.spelt_out(options, PATHS) == {
        "target_modules": [PATHS[0]], "rank_pattern": {"lm_head": 3}, "r": 4, "exclude_modules": ["a"],
    }  # fmt: skip
    for wrong in ({"target_modules": "(.|..|...)*[!?]"}, {"layers_pattern": ".*"}, {"modules_to_save": [".*"]}):
        with pytest.raises(InputError):
            patterns.spelt_out(wrong, PATHS)


def test_an_engine_is_imported_for_patterns_only() -> None:
    """Asks the contract: names need none."""
    code = (
        "import sys, estimator; estimator.estimate(model='smollm2-135m', method={'name': 'lora', "
        "'rank_pattern': {'model.layers.0.self_attn.q_proj': 3}}); assert 'regex' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- GGUF headers -----------------------------------------------------------------------------


def sparse(path: Path, head: bytes, size: int) -> Path:
    path.write_bytes(head)
    os.truncate(path, size)
    return path


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def test_lengths_are_not_believed(tmp_path: Path) -> None:
    """Asks the contract: files of a few bytes that claim gigabytes, read in little memory."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    cases = [
        struct.pack("<Q", 6 << 30),
        text("general.name") + struct.pack("<IQ", 8, 6 << 30),
        text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 1 << 29),
        text("tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, 1 << 30),
    ]
    for i, body in enumerate(cases):
        assert "no header is" in refused(sparse(tmp_path / f"{i}.gguf", head + body, 8 << 30))
    done = child("estimate", str(tmp_path / "2.gguf"), stdout=subprocess.DEVNULL)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    for n_tensors, n_keys in ((1 << 40, 0), (0, 1 << 40), (1 << 17, 1)):
        path = sparse(tmp_path / "many.gguf", b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys), 8 << 40)
        assert "claims" in refused(path)


def test_a_large_vocabulary(tmp_path: Path) -> None:
    """Witness: what was written; strings across the reader's window, long ones, empty ones."""
    header = headers(MODEL)
    tokens = [b"t" * (i % 11) for i in range(header.n_vocab - 1)] + [b"long" * 100_000]
    content, _ = gguf(header, dict(header.metadata))
    start = content.index(text("tokenizer.ggml.model"))
    value = b"".join(struct.pack("<Q", len(token)) + token for token in tokens)
    more = text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, len(tokens)) + value
    n_keys = struct.unpack_from("<Q", content, 16)[0]
    kept = content[:16] + struct.pack("<Q", n_keys + 1) + content[24:start]
    rest = content[start:].replace(text("no_vocab"), text("gpt2"), 1)
    found = gguf_file.read(sparse(tmp_path / "model.gguf", kept + more + rest, 1 << 32))
    assert found.tokens is not None
    assert (found.tokens.count, found.tokens.nbytes) == (len(tokens), sum(map(len, tokens)))
    assert dict(found.metadata) == dict(header.metadata)


@pytest.mark.parametrize("name", MODELS)
def test_every_number_has_a_range(name: str, tmp_path: Path) -> None:
    """Asks the contract: each number of each architecture's header, beyond both ends of its range."""
    header = headers(name)
    for key in header.metadata.keys() & (RANGES.keys() | FACTORS.keys()):
        least, largest = RANGES.get(key) or FACTORS[key]
        for value in (largest + 1, least - 1, float("nan"), "x"):
            if key in FACTORS and isinstance(value, int):
                value = float(value)
            content, size = gguf(header, {**header.metadata, key: value})
            seen = run(["estimate", str(sparse(tmp_path / "model.gguf", content, size))])
            if seen.status == 0:  # a number that this architecture does not read
                continue
            assert (seen.wrong(), f"{header.architecture}.{key}" in seen.err) == ("", True), (key, value, seen)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("mixtral-8x7b", "expert_used_count", 0),
        ("mixtral-8x7b", "expert_used_count", 10**9),
        ("mixtral-8x7b", "expert_used_count", 9),
        ("granite-4.0-h-tiny", "ssm.group_count", 0),
        ("gemma-3n-e2b", "attention.value_length", 0),
        ("gemma-3n-e2b", "altup.num_inputs", 10**6),
        ("lfm2-1.2b", "shortconv.l_cache", 0),
        ("deepseek-v3", "expert_group_count", 0x7FFFFFFF),
        ("smollm2-135m", "rope.dimension_count", 4096),
    ],
)
def test_numbers_that_broke_things(name: str, key: str, value: int, tmp_path: Path) -> None:
    """Asks the contract: a line with the key and the value."""
    header = headers(name)
    content, size = gguf(header, {**header.metadata, key: value})
    line = refused(sparse(tmp_path / "model.gguf", content, size))
    assert f"{header.architecture}.{key} is {value}" in line


# ---- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_are_shown_as_they_are(name: str, tmp_path: Path) -> None:
    """Asks the contract: whatever a folder is called, tables, JSON and messages name it, one line each."""
    folder = model(tmp_path / name)
    seen = run(["estimate", str(folder), "--seq", "8"])
    assert (seen.status, seen.wrong()) == (0, "")
    assert printable(str(folder)) in seen.out.replace("\n", "")
    assert "\x1b" not in seen.out
    seen = run(["estimate", str(folder), "--seq", "8", "--json"])
    assert json.loads(seen.out)["model"] == (
        str(folder) if name.isascii() or name == "ключ" else printable(str(folder))
    )
    assert seen.out.encode()
    (folder / "config.json").write_text("[]")
    assert printable(" ".join(name.split())) in refused(folder)


def test_names_in_figures(tmp_path: Path) -> None:
    """Asks the contract: dollars are no formula, bytes that are no text are escaped; nothing is said beside."""
    for name in ("a$\\frac$b", "bytes\udcff\x1b[31mключ漢"):
        folder, figure = model(tmp_path / name), tmp_path / "figure.svg"
        seen = run(["compare", str(folder), "--seqs", "8,16", "--methods", "full,lora", "--output", str(figure)])
        assert (seen.status, seen.err) == (0, "")
        assert printable(name) in figure.read_text()


def test_json_that_every_reader_takes() -> None:
    """Witness: a strict encoding of what Python reads back; whole pairs stay."""
    rng = random.Random(1)
    for _ in range(3000):
        value = "".join(rng.choices(["\\", "\ud800", "\udc80", "u", "d8", '"', "\U0001f600", "é"], k=rng.randrange(8)))
        paired = json.loads(json.dumps(value))
        back = json.loads(dumped({value: value}))
        shown = "".join(ascii(c)[1:-1] if "\ud800" <= c <= "\udfff" else c for c in paired)
        assert back == {shown: shown}
        shown.encode()


# ---- time -------------------------------------------------------------------------------------


def timed(*arguments: Any) -> Seen:
    seen = run(["estimate", *map(str, arguments)])
    assert seen.wrong() == ""
    return seen


def test_ten_thousand_layers(tmp_path: Path) -> None:
    """Asks the contract: an answer where layers repeat, a refusal with the bound where they do not."""
    deep = model(tmp_path / "deep", num_hidden_layers=10_000)
    assert timed(deep, "--seq", "8").status == 0
    assert timed(deep, "--seq", "8", "--method", "lora", "--target-modules", ".*q_proj").status == 0
    assert "800,000 allocations" in timed(deep, "--seq", "8", "--method", "lora", "--device", "rtx-4090").err
    thousand = model(tmp_path / "thousand", num_hidden_layers=1_000)
    assert timed(thousand, "--seq", "8", "--method", "lora", "--device", "rtx-4090").status == 0
    kinds = ["full_attention", "sliding_attention"] * 5_000
    alternating = model(tmp_path / "alternating")
    write(alternating / "config.json", {**CONFIG, "num_hidden_layers": 10_000, "layer_types": kinds})
    assert "256 are the most" in timed(alternating, "--seq", "8").err


def test_plans_that_would_take_minutes() -> None:
    """Asks the contract: the bound is in the line."""
    start = time.process_time()
    with pytest.raises(TooLong, match=f"{MOST_WORK:,} tensors"):
        estimate(model=MODEL, seq=8, method={"name": "hra", "r": 100, "apply_GS": True})
    assert time.process_time() - start < 10


def test_two_thousand_lengths() -> None:
    """Asks the contract."""
    lengths = {str(3 * i + 5): i % 7 + 1 for i in range(2000)}
    start = time.process_time()
    assert estimate(model=MODEL, lengths={"histogram": lengths}, budget="3GiB").run is not None
    assert time.process_time() - start < 5


def test_a_module_list_of_a_whole_file() -> None:
    """Asks the contract: names of a list are looked up, not compared one by one."""
    names = [f"model.layers.{i}.self_attn.q_proj" for i in range(30)] * 3000
    start = time.process_time()
    estimate(model=MODEL, seq=8, method={"name": "lora", "target_modules": names})
    with pytest.raises(InputError, match="at most 1000"):
        estimate(model=MODEL, seq=8, method={"name": "lora", "modules_to_save": ["lm_head"] * 5000})
    assert time.process_time() - start < 3


def test_no_loss_to_learn_from() -> None:
    """Witness: PyTorch, whose backward refuses a loss that depends on nothing that trains."""
    assert main(["estimate", MODEL, "--method", "oft", "--num-cayley-neumann-terms", "1"]) == 2
