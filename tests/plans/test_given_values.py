"""How values of a plan are read, and where programs and files of the hub are looked for."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from estimator.errors import InputError
from estimator.plans import hub, recorded_programs
from estimator.plans.flat import mapping_of, nested
from estimator.plans.lengths import _fullest, packed
from estimator.plans.plan import _image_size, _numbers, _several_losses, parse_plan
from estimator.plans.resolve import layer_signature, resolve
from estimator.programs.releases import NEWEST


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("1024x768", (1024, 768)), (" 9 X 10 ", (9, 10)), ([3, 4], (3, 4)), ((99999, 1), (99999, 1)),
        ("3x4,5x6", ((3, 4), (5, 6))), (["3x4"], (3, 4)), ([[3, 4], "5x6", (7, 8)], ((3, 4), (5, 6), (7, 8))),
        ("3x4,", None), ("0x4", None), ("100000x4", None), ([3], None), ([3, 4, 5], None), ([0, 4], None),
        ([3, 10**5], None), ([True, 4], None), ([], None), (7, None), ("3", None), (None, None), ([[3, 4], 5], None),
    ],
)  # fmt: skip
def test_sizes_of_images(given: Any, read: Any) -> None:
    """Height and width; ``None`` stands for what is refused."""
    if read is None:
        with pytest.raises(ValueError, match="must be height x width in pixels, such as 1024x768, or one for each"):
            _image_size(given)
    else:
        assert _image_size(given) == read


def test_lists_in_a_text() -> None:
    assert [_numbers(one) for one in (3, "8,16", [4, "5"], "x")] == [(3,), (8, 16), [4, "5"], ("x",)]
    assert [_several_losses(one) for one in (["a", "b"], ("a",), "a", [], ["a", 3])] == ["a+b", "a", "a", [], ["a", 3]]


def test_what_a_plan_may_be() -> None:
    plan = parse_plan({"model": "llama-3.2-1b", "seq": 9})
    assert mapping_of(plan) == {"model": "llama-3.2-1b", "seq": 9}
    assert mapping_of("x") == mapping_of(Path("x")) == {"model": "x"}
    keys = {"model": "x"}
    assert mapping_of(keys) == keys
    assert mapping_of(keys) is not keys
    for wrong, says in (
        (3, "a plan is a model's name, a Plan or a mapping of keys, not 3"),
        ({3: 4}, "unknown key 3;"),
    ):
        with pytest.raises(InputError, match=says):
            mapping_of(wrong)
    assert repr(plan) == "Plan(model='llama-3.2-1b', seq=9)"


def test_keys_of_blocks_beside_those_of_the_plan() -> None:
    assert nested({"model": "x", "method": "lora"}, {"r": 3}) == {"model": "x", "method": {"name": "lora", "r": 3}}
    assert nested({"sharding": "fsdp2"}, {"world_size": 4}) == {"sharding": {"name": "fsdp2", "world_size": 4}}
    assert nested({"sharding": {"name": "ddp"}}, {"world_size": 4}) == {"sharding": {"name": "ddp", "world_size": 4}}
    own = parse_plan({"model": "llama-3.2-1b", "sharding": {"name": "fsdp2", "world_size": 2}}).sharding
    assert nested({"sharding": own}, {"world_size": 4})["sharding"] == {"name": "fsdp2", "world_size": 4}
    assert nested({"runtime": "vllm"}, {"max_model_len": 4}) == {"runtime": "vllm", "vllm": {"max_model_len": 4}}
    assert nested({"runtime": "sglang"}, {"dtype": "float16", "context_length": 8}) == {
        "runtime": "sglang", "dtype": "float16", "sglang": {"context_length": 8},
    }  # fmt: skip
    assert nested({"seq": 3}, {"seq": 4, "batch": 2}, lambda name, value, kind: (name, value)) == {
        "seq": ("seq", 4), "batch": ("batch", 2),
    }  # fmt: skip


def test_rows_that_are_packed() -> None:
    """By hand: the fullest row that pieces have together, and as many of it as hold all tokens."""
    assert [_fullest({3: 2, 5: 1}, room) for room in (2, 3, 4, 5, 7, 8, 10, 11, 99)] == [0, 3, 3, 5, 6, 8, 8, 11, 11]
    assert _fullest({0: 5, 4: 100}, 30) == 28
    assert _fullest({7: 3, 2: 6}, 20) == 20
    assert packed({3: 2, 5: 1}, 4, "wrapped") == {3: 1, 4: 2}
    assert packed({4: 2}, 4, "wrapped") == {4: 2}
    assert packed({9: 2}, 4, "bfd") == {4: 2}
    assert packed({9: 2}, 4, "bfd_split") == {4: 5}


def test_where_programs_are_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The system's folder for what programs keep, which variables may name."""
    folder, end = recorded_programs.user_folder, Path("llm-memory-estimator/programs")
    monkeypatch.setenv("ESTIMATOR_PROGRAMS", str(tmp_path))
    assert folder() == tmp_path
    monkeypatch.delenv("ESTIMATOR_PROGRAMS")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/one"))
    for variable in ("LOCALAPPDATA", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, "/named")
    for system, found in (("linux", "/named"), ("win32", "/named"), ("darwin", "/home/one/Library/Caches")):
        monkeypatch.setattr(sys, "platform", system)
        assert folder() == Path(found) / end
    for variable in ("LOCALAPPDATA", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, "relative")
    for system, found in (("linux", ".cache"), ("win32", "AppData/Local"), ("darwin", "Library/Caches")):
        monkeypatch.setattr(sys, "platform", system)
        assert folder() == Path("/home/one") / found / end

    def nobody() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(InputError, match="this user has no home folder; name one for programs in the variable"):
        folder()
    base = Path("base")
    assert recorded_programs.of_release(base, NEWEST) == base
    assert recorded_programs.of_release(base, "4.57") == base / "4.57"
    assert recorded_programs.of_release(base, NEWEST, "ctc") == base / "ctc"
    assert recorded_programs.of_release(base, "4.57", "ctc") == base / "4.57" / "ctc"


def test_programs_are_written_to_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ESTIMATOR_PROGRAMS", str(tmp_path / "own"))
    write, files = recorded_programs.write, recorded_programs.program_files
    assert write("{}", "llama", "x", None) == tmp_path / "own" / "llama.x.json"
    assert write("{}", "llama", "y", None, "4.57") == tmp_path / "own" / "4.57" / "llama.y.json"
    assert write("[]", "llama", "x", tmp_path / "out" / "z") == tmp_path / "out" / "z"
    assert (tmp_path / "out" / "z").read_text() == "[]"
    (tmp_path / "own" / "llama.folder.json").mkdir()
    assert files("llama")[-1] == tmp_path / "own" / "llama.x.json"
    assert files("llama", "4.57")[-1] == tmp_path / "own" / "4.57" / "llama.y.json"
    assert all(path.name.startswith("llama.") for path in files("llama"))
    assert len(files()) > len(files("llama")) > 1
    assert files("../llama") == files("l" * 61) == files("") == []
    for wrong in (3, "a/b", "a" * 61, ""):
        with pytest.raises(InputError, match="the config's model_type is no name for a file; name one with --output"):
            write("{}", wrong, "x", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write '.*file/x': File exists; name another file with --output"):
        write("{}", "llama", "x", tmp_path / "file" / "x")
    with pytest.raises(InputError, match=r"cannot read '.*gone\.json': No such file or directory; remove it"):
        recorded_programs.load(tmp_path / "gone.json")
    assert len(recorded_programs.ignored("llama")) == 1
    for number in range(2 * recorded_programs.MOST_FILES):
        (tmp_path / "own" / f"llama.{number}.json").touch()
    assert len([path for path in files("llama") if path.parent == tmp_path / "own"]) < recorded_programs.MOST_FILES + 1
    assert recorded_programs.structure_of({"b": 1, "a": 2}) == recorded_programs.structure_of({"a": 2, "b": 1})
    assert len(recorded_programs.structure_of({})) == 8
    assert "llama" in recorded_programs.model_types()


def test_whether_the_hub_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address is asked where no proxy is between and the user is not offline."""
    constants = pytest.importorskip("huggingface_hub.constants")
    asked: list[Any] = []
    closed = SimpleNamespace(close=lambda: asked.append("closed"))
    monkeypatch.setattr(
        socket, "create_connection", lambda where, timeout: asked.append((where, timeout)) or closed  # type: ignore[func-returns-value]
    )  # fmt: skip
    for variable in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(variable)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for endpoint, where in (("https://a.b", ("a.b", 443)), ("http://a.b:99", ("a.b", 99)), ("file", None)):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        hub._reach()
        assert asked == ([] if where is None else [(where, 3), "closed"])
        asked.clear()
    monkeypatch.setattr(constants, "ENDPOINT", "https://a.b")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub._reach()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("https_proxy", "http://between:1")
    hub._reach()
    assert asked == []


def test_a_file_of_the_hub_has_a_bound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The size is asked first; a cache that cannot be written is done without."""
    library = pytest.importorskip("huggingface_hub")
    (tmp_path / "config.json").write_text('{"a": 1}')
    sizes: list[int | None] = [None, hub.LARGEST + 1, hub.LARGEST, hub.LARGEST]
    monkeypatch.setattr(hub, "_reach", lambda: None)
    monkeypatch.setattr(library, "get_hf_file_metadata", lambda url: SimpleNamespace(size=sizes.pop(0)))
    asked: list[dict[str, Any]] = []

    def download(model: str, file: str, **keys: Any) -> str:
        asked.append(keys)
        if len(asked) == 2:
            raise OSError("read-only")
        return str(tmp_path / file)

    monkeypatch.setattr(library, "hf_hub_download", download)
    for says in ("has no size on the hub", f"has {hub.LARGEST + 1:,} bytes on the hub, and at most {hub.LARGEST:,}"):
        with pytest.raises(InputError, match=says):
            hub._downloaded("a/b", "config.json")
    assert hub._downloaded("a/b", "config.json") == hub._downloaded("a/b", "config.json") == {"a": 1}
    assert asked[:2] == [{"force_download": True}] * 2
    assert [*asked[2]] == ["local_dir"]


def test_layers_differ_where_a_method_names_some() -> None:
    """Else a method does the same to each layer, and no layer is looked at."""

    def signatures(**block: Any) -> list[Any]:
        method = {"name": "lora", "target_modules": ["q_proj"], **block}
        job = resolve(parse_plan({"model": "smollm2-135m", "method": method}))
        return [layer_signature(job.spec.config, job.method)(layer) for layer in range(3)]

    assert signatures() == [None] * 3
    first, second, third = signatures(layers_to_transform=[1])
    assert first == third != second
