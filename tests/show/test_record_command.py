"""``estimator record``: what it writes is read again, and what it lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from estimator.plans import recorded_programs
from estimator.programs.setting import Setting
from estimator.recorder import families
from estimator.recorder.families import Case
from estimator.show.cli import main
from tests.helpers.processes import run_without

GPT2 = {"model_type": "gpt2", "vocab_size": 211, "n_embd": 96, "n_layer": 2, "n_head": 6}


@pytest.mark.witness
def test_a_recorded_family_is_answered_without_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a config of a structure that no program of the package has, to an answer at other sizes."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")

    prefill = Setting(trains=False, use_cache=True, cache="dynamic")
    decode = (prefill._replace(past="prefill"), prefill._replace(past="decode"))
    cases = [Case(), Case((prefill,), fixed=("B",)), Case(decode, fixed=("B", "S"))]
    monkeypatch.setattr(families, "cases_of", lambda raw: cases)
    monkeypatch.setenv(recorded_programs.VARIABLE, str(tmp_path / "cache"))
    raw = {**GPT2, "add_cross_attention": False, "activation_function": "relu"}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(raw), encoding="utf-8")
    assert main(["record", str(path), "--quiet"]) == 0
    (file,) = (tmp_path / "cache").iterdir()
    assert capsys.readouterr().out.strip() == str(file)
    path.write_text(json.dumps({**raw, "n_embd": 80, "n_head": 5, "n_layer": 4}), encoding="utf-8")
    script = (
        "from estimator.show.cli import main\n"
        "generate = ['--task', 'infer', '--max-new-tokens', '9']\n"
        "for more in (['--batch', '2'], ['--batch', '1', *generate]):\n"
        f"    assert main(['estimate', {str(path)!r}, '--seq', '40', '--json', *more]) == 0\n"
    )
    done = run_without(["torch"], script)
    assert (done.returncode, done.stderr) == (0, "")
    training, end = json.JSONDecoder().raw_decode(done.stdout)
    assert training["bytes"]["saved"] > 0
    assert json.loads(done.stdout[end:])["bytes"]["kv_cache"] == 2 * 4 * 80 * 48 * 2


@pytest.mark.share(9)
def test_the_list(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(recorded_programs.VARIABLE, str(tmp_path))
    (tmp_path / "other.bad.json").write_text("[", encoding="utf-8")
    assert main(["record", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["family"] for row in rows} >= {"llama", "qwen3", "gemma2", "phi3", "gpt2", "other"}
    assert all(row["from"] for row in rows)
    assert main(["record", "--list"]) == 0
    assert "gemma-3-12b" in capsys.readouterr().out
    assert main(["record", "--list", "QWEN3_5"]) == 0
    out = capsys.readouterr().out
    assert "qwen3_5_text" in out
    assert "gemma" not in out
    assert main(["record", "--list", "abacus"]) == 0
    assert capsys.readouterr().out.startswith("no program has 'abacus' in its family")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "name a config.json"), (["llama-3.2-1b"], "is answered without a recording")],
)
def test_what_it_does_not_record(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_without_torch_it_says_how_to_install_it() -> None:
    script = "from estimator.show.cli import main\nsys.exit(main(['record', 'llama-4-scout']))"
    done = run_without(["torch"], script)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install '.[trace]'" in done.stderr
    assert done.stderr.count("\n") == 1
