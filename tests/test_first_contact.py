"""What a new user meets: help on one screen, lines that fit the terminal, words that people use, a model by its hub
id, keys beside each other in Python, and a shell's completion. The witness is the contract: what is printed for people
says the numbers that ``--json`` gives, in lines no wider than asked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from estimator import InputError, estimate
from estimator.methods.registry import METHODS
from estimator.plans.devices import catalogue
from estimator.plans.flat import BLOCKS, nested
from estimator.plans.models import builtin_names, load, specs_folder
from estimator.plans.plan import Plan, parse_plan
from estimator.plans.words import KEYS, VALUES, Given, refuse_words
from estimator.show.cli import COMMANDS, main
from estimator.show.commands import tables
from estimator.show.commands.tables import Table, table, wrapped
from estimator.show.topics import COMMON, TOPIC_OF, TOPICS

MODEL = "smollm-135m"
CONFIG = {
    "model_type": "llama",
    "vocab_size": 211,
    "hidden_size": 48,
    "intermediate_size": 104,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command in a terminal of so many columns and gives its output, checked for width."""

    def run(*arguments: str, columns: int = 80, status: int = 0) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main(arguments) == status
        out, err = capsys.readouterr()
        assert err == ""
        for line in out.splitlines():
            assert len(line) <= columns or re.fullmatch(r"\s*([a-z]+://)?[a-z0-9.-]+/\S+", line), line
        return out

    return run


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d[\d,]*", text))


GPU = ["--device", "rtx-4060"]
LONG = ["--method", "lora", "--autocast", "bfloat16", "--checkpointing", "every-2", "--loss", "chunked"]
PROSE: dict[str, tuple[list[str], int]] = {
    "estimate": (["estimate", "llama-3.2-1b", *LONG, *GPU], 0),
    "estimate-engine": (["estimate", "deepseek-r1-distill-llama-70b", "--runtime", "llama.cpp"], 0),
    "estimate-lengths": (["estimate", MODEL, "--lengths", "{histogram: {64: 9, 700: 1}}", "--budget", "2GiB"], 1),
    "compare": (
        ["compare", MODEL, "--methods", "full,lora,ia3", "--seqs", "64,128", "--devices", "rtx-4090,iphone-15"],
        0,
    ),
    "advise": (["advise", MODEL, "--method", "lora", "--budget", "2GiB"], 0),
    "timeline": (["timeline", MODEL, "--seq", "64", *GPU], 0),
    "max-context": (["max-context", "qwen3-0.6b,gemma-3-270m", "--caches", "f16,q8_0/f16", "--budget", "2GiB"], 0),
    "serving": (["serving", "deepseek-r1-distill-qwen-7b", "--device", "a100-80gb"], 0),
    "max-seq": (["max-seq", MODEL, "--method", "lora", "--budget", "2GiB"], 0),
    "max-rank": (["max-rank", MODEL, "--method", "lora", "--seq", "8", "--budget", "1MiB"], 1),
    "smallest-device": (["smallest-device", MODEL, "--method", "lora", "--kind", "laptop"], 0),
    "models": (["models"], 0),
    "devices": (["devices"], 0),
    "no models": (["models", "no-such-model-has-a-name-as-long-as-this-one-here"], 0),
    "overview": (["--help"], 0),
}


@pytest.mark.parametrize("name", PROSE)
def test_no_line_is_wider_than_the_terminal(name: str, printed: Callable[..., str]) -> None:
    """Every command that prints for people; its numbers and names are those of a terminal without end, whole."""
    arguments, status = PROSE[name]
    wide, *narrow = (printed(*arguments, columns=n, status=status) for n in (1000, 120, 80, 60))
    for out in narrow:
        assert numbers(wide) <= numbers(out)
        if name in ("models", "devices"):
            for one in builtin_names() if name == "models" else [device.name for device in catalogue()]:
                assert one in out.split()


def test_the_commands_are_all_asked() -> None:
    """The list above is complete but for what runs PyTorch, or prints no prose."""
    asked = {arguments[0] for arguments, _ in PROSE.values()}
    assert set(COMMANDS) - asked == {"max-batch", "formula", "validate", "measure", "completion"}


def test_the_width_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 columns where output is piped and COLUMNS not set."""
    monkeypatch.delenv("COLUMNS")
    done = subprocess.run([sys.executable, "-m", "estimator", "models", "llama"], capture_output=True, text=True)
    assert done.returncode == 0
    assert 70 < max(map(len, done.stdout.splitlines())) <= 80


def test_text_breaks_between_words() -> None:
    """Sentences break at spaces, not between a number and its unit; an address stands alone and whole."""
    address = "https://huggingface.co/meta-llama/Llama-3.1-8B/blob/main/config.json"
    text = f"It needs 16.00 GiB; see ({address}), which says more."
    assert wrapped(text, 12) == ["It needs", "16.00 GiB;", "see", address, "which says", "more."]
    assert wrapped(f"see {address}.", 80) == ["see", address]
    assert wrapped(f"(see {address})", 80) == ["(see", address, ")"]
    assert wrapped("lmkd (source.android.com/docs/core/perf/lmkd) kills", 20) == [
        "lmkd",
        "source.android.com/docs/core/perf/lmkd",
        "kills",
    ]
    assert wrapped("  two words", 6) == ["  two", "  word", "  s"]
    assert "".join(wrapped("a/path/of/one-long-word", 9)) == "a/path/of/one-long-word"
    assert wrapped("", 10) == []


def test_a_table_splits_into_columns_and_repeats_its_keys() -> None:
    """Numbers stay whole, names too where there is room, and every row is found again in each part."""
    rows = [["a-long-name", "1,234,567,890", "9,876,543,210", "some words to wrap in here"]]
    one: Table = table(("name", "first", "second number", "words"), rows, left=(0, 3))
    for width in (30, 40, 60, 80):
        lines = one.lines(width)
        assert max(map(len, lines)) <= width
        text = "\n".join(lines)
        parts = [part.split("\n") for part in text.split("\n\n")]
        assert all("name" in part[-3] + part[0] and "a-long-name" in "".join(part) for part in parts)
        assert "1,234,567,890" in text
        assert "9,876,543,210" in text
    assert table(("name", "bar"), [["x" * 20, "#" * 20]], left=(0, 1), optional=(1,)).lines(30)[-1] == "x" * 20


def test_an_address_in_a_table_stands_below_its_row() -> None:
    """Whole, and the columns keep their places."""
    address = "example.org/a/path/that/is/longer/than/the/column/that/it/is/in"
    lines = table(("name", "source"), [["one", f"as in ({address}); more"], ["two", "x"]], left=(0, 1)).lines(40)
    assert lines[2:] == ["one   as in", "      more", address, "two   x"]


def test_wide_characters_count_twice() -> None:
    """A terminal gives an ideograph two columns."""
    assert wrapped("模型模型", 4) == ["模型", "模型"]


def test_what_would_steer_a_terminal_is_shown(tmp_path: Path, printed: Callable[..., str]) -> None:
    """A folder's name with an escape sequence and markup is printed as text."""
    folder = tmp_path / "a\x1b[31m[bold]b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    out = printed("estimate", str(folder), "--seq", "8", columns=500)
    assert r"a\x1b[31m[bold]b" in out
    assert "\x1b" not in out


QUIET: dict[str, str] = {
    "estimate": r"(Fits|Does not fit) in [^\n]+(\n[^\n]+)?",
    "compare": r"(full fine-tuning|LoRA r=8|IA3)( on rtx-4090| on iphone-15)?: [^\n]+(\n[^\n]+){8}",
    "advise": r"[^\n]+: [^\n]+",
    "timeline": r"Allocated peak [^\n]+",
    "max-context": r"(qwen3|gemma-3)[^\n]+: [\d,]+(\n[^\n]+: [\d,]+){3}",
    "serving": r"2,048 tokens: [\d,]+(\n[^\n]+){3}",
    "max-seq": r"\d+",
    "max-rank": r"none",
    "smallest-device": r"[a-z0-9-]+\nassumed: the limit of one application",
    "models": r"[a-z0-9.-]+(\n[a-z0-9.-]+){100,}",
    "devices": r"[a-z0-9.-]+(\n[a-z0-9.-]+){200,}",
}


@pytest.mark.parametrize("name", QUIET)
def test_quiet_prints_the_answer_alone(name: str, printed: Callable[..., str]) -> None:
    """No table, no notes; without a budget an estimate is its process."""
    arguments, status = PROSE[name]
    assert re.fullmatch(QUIET[name] + "\n", printed(*arguments, "--quiet", status=status))
    if name == "estimate":
        assert re.fullmatch(r"\d+\.\d\d [GM]iB\n", printed("estimate", MODEL, "--quiet"))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_one_screen(command: str, printed: Callable[..., str]) -> None:
    """40 lines of 80 columns, each option in one of them, and where the rest is."""
    out = printed(command, "--help")
    assert len(out.splitlines()) <= 40
    assert out == printed(command, "-h")
    printed(command, "--help", columns=60)
    if "--method " in out:
        assert "--help-all" in out
    assert "--json" in out or command in ("formula", "completion")


def options_in(text: str) -> set[str]:
    return {f"--{name}" for name in re.findall(r"^  --(?:\[no-\])?([A-Za-z0-9-]+)", text, re.MULTILINE)}


def test_help_shows_twenty_options_and_topics_the_rest(printed: Callable[..., str]) -> None:
    """Every key of the plan, of its blocks and of every method is in its topic, and all are in --help-all."""
    short = options_in(printed("estimate", "--help"))
    assert 20 <= len(short) <= 26
    everything = options_in(printed("estimate", "--help-all"))
    assert short <= everything
    of_topics = set()
    for topic in TOPICS:
        of_topics |= options_in(printed("estimate", f"--help-{topic}"))
    for name, method in METHODS.items():
        own = options_in(printed("estimate", "--help-method", name))
        assert own == {f"--{key.replace('_', '-')}" for key in method.model_fields if key != "name"}
        of_topics |= own
    assert everything - of_topics == {"--plan", "--plans", "--phases", "--json", "--quiet"}
    keys = [key for block in (Plan, *BLOCKS.values()) for key in block.model_fields if key not in ("model", *BLOCKS)]
    assert {f"--{key.replace('_', '-')}" for key in keys} <= everything
    assert printed("estimate", "--help-lora") == printed("estimate", "--help-method", "lora")


def test_every_key_has_one_topic() -> None:
    """A new key of the plan needs a topic; the short list names keys that there are."""
    assert set(TOPIC_OF) == set(Plan.model_fields)
    assert set(TOPIC_OF.values()) == set(TOPICS)
    known = {key for block in (Plan, *BLOCKS.values(), METHODS["lora"]) for key in block.model_fields} | {"plan"}
    assert {key for keys in COMMON.values() for key in keys} <= known


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--help-lorra"], "no help on 'lorra'"),
        (["--help-method", "lorra"], "did you mean lora"),
        (["--helpp"], "unrecognized arguments: --helpp"),
        (["--bacth", "3"], "did you mean --batch"),
    ],
)
def test_help_that_there_is_not(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, and status 2."""
    assert main(["estimate", MODEL, *arguments]) == 2
    assert says in capsys.readouterr().err


def test_the_package_runs() -> None:
    """``python -m estimator`` is the command."""
    done = subprocess.run([sys.executable, "-m", "estimator", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("estimator ")


# Words that people use


def test_what_words_mean_are_plans() -> None:
    """Every key and value that a word is answered with is one that a plan takes, and is itself no such word."""
    meanings = [*KEYS.values(), *(meaning for words in VALUES.values() for meaning in words.values())]
    for meaning in meanings:
        if isinstance(meaning, str):
            continue
        examples = {"N": 2, "LIST": ["q_proj"], "SIZE": "8GiB", "NAME": None, "DTYPE": "bfloat16"}
        keys = {k: examples[str(v)] if isinstance(v, Given) else v for k, v in meaning.items()}
        keys = {k: v for k, v in keys.items() if v is not None and v != "offloaded"}
        kbit = {"method": "lora"} if keys.get("dtype") in ("nf4", "int8", "float8") else {}
        cuda = {"runtime": "torch-cuda"} if keys.get("attention") == "flash" else {}
        assert parse_plan(nested({"model": MODEL}, {**kbit, **cuda, **keys}))
        refuse_words(keys)


def test_no_word_is_a_key_or_a_value_already() -> None:
    """A word that a plan takes is not refused."""
    keys = {key for block in (Plan, *BLOCKS.values(), *METHODS.values()) for key in block.model_fields}
    assert not keys & KEYS.keys()
    for key, words in VALUES.items():
        for word in words:
            with pytest.raises(InputError):
                parse_plan({"model": MODEL, key: word})
    assert not VALUES["method"].keys() & METHODS.keys()


WORDS: list[tuple[dict[str, Any], str]] = [
    ({"method": "qlora"}, "`method: qlora` is dtype: nf4 with method: lora: give --dtype nf4 --method lora"),
    ({"method": {"name": "QLoRA", "r": 8}}, "dtype: nf4 with method: lora"),
    ({"qlora": True}, "`qlora` is dtype: nf4 with method: lora: give --dtype nf4 --method lora"),
    ({"dtype": "8bit"}, "`dtype: 8bit` is dtype: int8: give --dtype int8"),
    ({"load_in_4bit": True}, "`load_in_4bit` is dtype: nf4: give --dtype nf4"),
    ({"gradient_checkpointing": True}, "`gradient_checkpointing` is checkpointing: layer: give --checkpointing layer"),
    ({"checkpointing": True}, "`checkpointing: true` is checkpointing: layer"),
    ({"fp16": True}, "`fp16` is autocast: float16"),
    ({"attention": "flash_attention_2"}, "is attention: flash"),
    ({"per_device_train_batch_size": 4}, "`per_device_train_batch_size` is batch: give --batch N"),
    ({"cutoff_len": 512}, "`cutoff_len` is seq: give --seq N"),
    ({"lora_r": 16}, "`lora_r` is r with method: lora: give --r N --method lora"),
    ({"deepspeed": "ds.json"}, "`deepspeed` spreads a step over several GPUs"),
    ({"runtime": "vllm"}, "`estimator serving`"),
    ({"optimizer": "paged_adamw_32bit"}, "is optimizer: paged-adamw"),
]


@pytest.mark.parametrize(("keys", "says"), WORDS)
def test_words_that_people_use(keys: dict[str, Any], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line with the keys they mean: in a plan, as a keyword and on the command line."""
    with pytest.raises(InputError, match=re.escape(says)):
        estimate({"model": MODEL, **keys})
    with pytest.raises(InputError, match=re.escape(says)):
        estimate(MODEL, **keys)
    ((key, value),) = keys.items()
    if not isinstance(value, dict):
        switch = value is True and key != "checkpointing"
        arguments = [f"--{key.replace('_', '-')}", *([] if switch else [str(value)])]
        assert main(["estimate", MODEL, *arguments]) == 2
        assert says.rpartition("` ")[2].lower() in capsys.readouterr().err.lower()


def test_an_adapters_folder_may_have_such_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder ``qlora`` that holds an adapter is that adapter."""
    monkeypatch.chdir(tmp_path)
    Path("qlora").mkdir()
    Path("qlora/adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    assert estimate(MODEL, method="qlora").bytes == estimate(MODEL, method="lora", r=4).bytes


# Keys beside each other


def test_keys_of_blocks_stand_beside_the_plans() -> None:
    """From Python as on the command line: a model's name first, a block's keys among the plan's."""
    nest = estimate({"model": MODEL, "method": {"name": "lora", "r": 16}, "seq": 64})
    assert estimate(MODEL, method="lora", r=16, seq=64) == nest
    assert estimate(MODEL, method={"name": "lora"}, r=16, seq=64) == nest
    assert estimate({"model": MODEL, "method": {"name": "lora", "r": 4}}, r=16, seq=64) == nest
    options = METHODS["lora"].model_validate({"name": "lora", "r": 4})
    assert estimate(MODEL, method=options, r=16, seq=64) == nest
    assert estimate(MODEL, seq=64, max_new_tokens=9) == estimate(model=MODEL, seq=64, generate={"max_new_tokens": 9})
    assert estimate(MODEL, n_ctx=512) == estimate(model=MODEL, llama_cpp={"n_ctx": 512})


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"r": 16}, "unknown key 'method.r' of method full; name one that has it: lora"),
        ({"method": "ia3", "r": 16}, "unknown key 'method.r' of method ia3; name one that has it: lora"),
        ({"method": {"name": "lora", "r": 8}, "r": 16}, "'r' is given twice"),
        ({"generate": {"num_beams": 2}, "num_beams": 3}, "'num_beams' is given twice"),
        ({"bacth": 2}, "unknown key 'bacth' (did you mean batch"),
        ({"target_module": ["q_proj"], "method": "lora"}, "did you mean target_modules"),
    ],
)
def test_keys_that_belong_nowhere(keys: dict[str, Any], says: str) -> None:
    """They are refused with the nearest that there is."""
    with pytest.raises(InputError, match=re.escape(says)):
        estimate(MODEL, **keys)


def test_a_model_is_given_once() -> None:
    """By its place or by its name."""
    with pytest.raises(TypeError, match="once"):
        estimate(MODEL, model=MODEL)


def test_words_are_of_plans_only(capsys: pytest.CaptureFixture[str]) -> None:
    """A command without a plan does not send its user to the keys of one."""
    assert main(["devices", "--memory", "8GiB"]) == 2
    assert "did you mean --min-memory" in capsys.readouterr().err


def test_no_key_has_two_places() -> None:
    """The plan, its blocks and the methods share no key, so that one beside the others is never ambiguous."""
    of_methods = {key for method in METHODS.values() for key in method.model_fields} - {"name"}
    places = [set(Plan.model_fields), of_methods, *(set(block.model_fields) for block in BLOCKS.values())]
    assert len(set().union(*places)) == sum(map(len, places))


# Hub ids


def test_hub_ids_of_built_in_models_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """In any case of letters, each is its own spec."""
    monkeypatch.setattr("estimator.plans.models._hub", None)
    for name in builtin_names():
        hub_id = load(name).hub_id
        assert hub_id is not None
        for written in (hub_id, hub_id.upper()):
            spec = load(written)
            assert (spec.name, spec.raw) == (name, load(name).raw)
            assert spec.warnings == (f"{written} is read as the built-in {name}",)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/llama-2-7b-chat-hf", "llama-2-7b"),
        ("google/gemma-2-2b-it", "gemma-2-2b"),
        ("google/gemma-3-4b-pt", "gemma-3-4b"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b"),
        ("Qwen/Qwen3-4B-Base", "qwen3-4b"),
        ("Qwen/Qwen3-4B-Instruct-2507", "qwen3-4b-2507"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b-v0.3"),
        ("mistralai/Mistral-Nemo-Instruct-2407", "mistral-nemo-12b"),
        ("tiiuae/Falcon3-1B-Instruct", "falcon3-1b"),
        ("Llama-3.2-1B-Instruct", "llama-3.2-1b"),
    ],
)
def test_siblings_of_built_in_models(model: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository of the same weights tuned otherwise has the same shapes, and the result says what it was read as."""
    monkeypatch.setattr("estimator.plans.models._hub", None)
    spec = load(model)
    assert (spec.name, spec.raw) == (name, load(name).raw)
    assert f"{model} is read as the built-in {name}" in spec.warnings[0]


def test_siblings_are_told_apart() -> None:
    """No two built-in models are one family, and other shapes are no sibling."""
    from estimator.plans.models import _by_hub_id, _family

    families = [_family(load(name).hub_id or "") for name in builtin_names()]
    assert len(set(families)) == len(families) == len(list(specs_folder().glob("*.yaml")))
    for other in ("Qwen/Qwen2.5-7B-Instruct-1M", "meta-llama/Llama-3.1-8B-Instruct-FP8", "google/gemma-3-4b-vision"):
        assert _family(other) not in _by_hub_id()
    assert _family("ibm-granite/granite-3.3-2b-base") not in _by_hub_id()  # a smaller vocabulary


def test_a_path_comes_before_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the same name is what is meant."""
    monkeypatch.chdir(tmp_path)
    folder = Path("meta-llama/Llama-3.1-8B")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    assert load("meta-llama/Llama-3.1-8B").raw == CONFIG


def test_a_result_says_what_its_model_was_read_as() -> None:
    """The model stays as it was given, in PyTorch and in llama.cpp."""
    for keys in ({}, {"runtime": "llama.cpp"}):
        result = estimate("meta-llama/Llama-3.2-1B", **keys)
        assert result.model == "meta-llama/Llama-3.2-1B"
        assert "meta-llama/Llama-3.2-1B is read as the built-in llama-3.2-1b" in result.warnings
        assert result.bytes == estimate("llama-3.2-1b", **keys).bytes


# Completion


def completed(line: str, tmp_path: Path) -> set[str]:
    """What the shell is given for a command line, by argcomplete's own interface to it."""
    file = tmp_path / "completions"
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(file),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    done = subprocess.run([sys.executable, "-m", "estimator"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return {word.strip() for word in file.read_text().split("\n")}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("estimator max-", {"max-context", "max-seq", "max-batch", "max-rank"}),
        ("estimator estimate qwen2.5-7b", {"qwen2.5-7b"}),
        ("estimator estimate x --dev", {"--device"}),
        ("estimator estimate x --device rtx-309", {"rtx-3090", "rtx-3090-ti"}),
        ("estimator compare x --methods full,ia", {"full,ia3"}),
        ("estimator estimate x --method vera --d-", {"--d-initial"}),
        ("estimator estimate x --loss ", {"standard", "chunked", "liger", "cce"}),
    ],
)
def test_completion(line: str, words: set[str], tmp_path: Path) -> None:
    """Commands, models, options, devices, methods in a list, a method's options, choices."""
    assert completed(line, tmp_path) == words


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each names the command and what asks it."""
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_ARGCOMPLETE" in script
    assert "estimator" in script


def test_an_estimate_imports_what_it_needs() -> None:
    """No completion, no tables of other methods, no library for progress bars: they would cost time at every start."""
    script = (
        "import sys\nfrom estimator.show.cli import main\n"
        "assert main(['estimate', 'smollm-135m', '--method', 'lora', '--seq', '64', '--budget', '8GiB']) == 0\n"
        "heavy = 'argcomplete rich sympy numpy matplotlib estimator.adapters.oft estimator.completion'.split()\n"
        "sys.exit(str([name for name in heavy if name in sys.modules] or 0))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == "0"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("where", [[], ["--device", "rtx-4060"], ["--runtime", "llama.cpp"]])
def test_an_estimate_is_small(where: list[str]) -> None:
    """A whole process with its table takes at most 45 MiB of memory; importing sympy alone takes 48."""
    arguments = ["estimate", "llama-3.2-1b", "--seq", "2048", *where]
    script = (
        "import re\nfrom estimator.show.cli import main\n"
        f"assert main({arguments}) != 2\n"
        "print(re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr == ""
    assert int(done.stdout.splitlines()[-1]) <= 45 * 1024


def test_a_terminal_shows_the_verdict_in_colour(monkeypatch: pytest.MonkeyPatch, printed: Callable[..., str]) -> None:
    """Where there are colours, and none were switched off."""
    monkeypatch.setattr(tables.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1;32mFits" in printed("estimate", MODEL, "--budget", "99GiB", columns=300)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in printed("estimate", MODEL, "--budget", "99GiB")
