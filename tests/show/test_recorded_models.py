"""Commands about models whose programs are recorded: answers, refusals, and what is said without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from estimator.show.cli import main
from tests.helpers.processes import run_without

pytestmark = pytest.mark.extra("trace")
SIZES = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 131,
}


def config(folder: Path, model_type: str, **keys: Any) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps({"model_type": model_type, **SIZES, **keys}))
    return str(path)


@pytest.fixture
def helium(tmp_path: Path) -> str:
    """A model of a class that has neither a hand-written nor a shipped program."""
    return config(tmp_path, "helium", head_dim=12)


@pytest.mark.share(6)
@pytest.mark.parametrize(
    "command",
    [
        ["estimate"],
        ["estimate", "--device", "rtx-4090"],
        ["compare", "--methods", "full,lora", "--target-modules", "q_proj", "--devices", "rtx-4090"],
        ["formula", "--component", "saved"],
        ["max-seq", "--budget", "1GiB"],
        ["max-batch", "--budget", "1GiB"],
        ["smallest-device"],
    ],
    ids=lambda command: " ".join(command[:3]),
)
def test_answers(command: list[str], helium: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, *options = command
    sizes = ["--seq", "64"] if name in ("estimate", "max-batch", "smallest-device") else []
    assert main([name, helium, *sizes, *options]) == 0
    assert capsys.readouterr().out


def test_the_answer_says_what_was_recorded(helium: str, capsys: pytest.CaptureFixture[str]) -> None:
    import transformers

    assert main(["estimate", helium, "--seq", "16", "--json"]) == 0
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert any(transformers.__version__ in warning for warning in warnings)


def test_the_attention_that_transformers_picks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where none is named. Bloom has no SDPA, which is refused in transformers' words."""
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps({"model_type": "bloom", "hidden_size": 48, "n_layer": 2, "n_head": 4, "vocab_size": 131})
    )
    assert main(["estimate", str(path), "--seq", "16", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["estimate", str(path), "--seq", "16", "--attention", "sdpa"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model_type": "no_such_model"}, "no_such_model"),
        ({"model_type": "helium", **SIZES, "hidden_size": "wide"}, "transformers refuses the config"),
        ({"model_type": "helium", **SIZES, "num_attention_heads": 0}, ""),
        ({"model_type": "blt"}, ""),
    ],
    ids=["unknown", "a word for a size", "no heads", "reads its data"],
)
def test_refusals(keys: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit status 2, no traceback."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(keys))
    assert main(["estimate", str(path), "--seq", "16"]) == 2
    out, error = capsys.readouterr()
    assert not out
    assert error.startswith("estimator: ")
    assert error.count("\n") == 1
    assert message in error


def test_without_pytorch(helium: str) -> None:
    script = f"from estimator.show.cli import main\nsys.exit(main(['estimate', {helium!r}, '--seq', '16']))"
    done = run_without(["torch"], script)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "helium" in done.stderr
    assert "pip install '.[trace]'" in done.stderr
