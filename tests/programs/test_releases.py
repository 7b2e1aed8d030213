"""Programs of earlier releases of transformers. The witness: steps measured where such a release was installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import estimator
from estimator.errors import InputError
from estimator.plans import recorded_programs
from estimator.programs import releases
from estimator.programs.program_files import load_together, written_together
from estimator.programs.releases import NEWEST, RELEASES, with_its_keys
from tests.cases.release_steps import apart, cases, estimated, rows
from tests.helpers.commands import answer
from tests.helpers.processes import LIBRARIES, run_without

EARLIER = RELEASES[:-1]
ROWS = [row for release in EARLIER for row in rows(release)]
FILES = [(release, path) for release in EARLIER for path in recorded_programs.program_files(release=release)]


@pytest.mark.share(12)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['release']}-{row['file']}-{row['step']}")
def test_an_estimate_is_the_measured_step(row: dict[str, Any], tmp_path: Path) -> None:
    """Asks the committed measurements: parameters, buffers, saved bytes and the peak."""
    differences = apart(estimated(row, tmp_path), row)
    if row["step"] in ("bfloat16", "autocast"):
        differences.pop("peak", None)  # oneDNN's scratch is another one on another processor
    assert not differences


def test_every_file_is_measured() -> None:
    measured = {(row["release"], row["file"], row["step"]) for row in ROWS}
    assert measured == {(release, path.stem, step) for release, path in FILES for step in cases(path)}


@pytest.mark.share(32)
@pytest.mark.parametrize(("release", "path"), FILES, ids=lambda x: x if isinstance(x, str) else x.stem)
def test_a_file_is_written_as_it_is(release: str, path: Path) -> None:
    programs = [program.whole for program in load_together(path)]
    assert written_together(programs) == path.read_text(encoding="utf-8")
    assert {str(program.recorded["transformers"]).rpartition(".")[0] for program in programs} == {release}


def test_the_answer_names_the_release() -> None:
    """Asks the contract: the plan's release, without its patch; the newest one where it names none."""
    for given, named in (((), NEWEST), (("--transformers", "4.48.3"), "4.48"), (("--transformers", NEWEST), NEWEST)):
        assert answer("llama-3.2-1b", "--seq", 64, *given)["transformers"] == named
    result = estimator.estimate("llama-3.2-1b", seq=64, transformers="4.57")
    assert result.transformers == "4.57"


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"transformers": "4.49"}, "release '4.49' is not modelled; known are 4.45, 4.48, 4.57, 5.24"),
        ({"transformers": 4.48}, "write the release as a text"),
        ({"transformers": "4.48", "model": "qwen3-0.6b"}, "transformers==4.48.* is installed: estimator record Qwen/"),
        ({"transformers": "4.48", "runtime": "llama.cpp"}, "transformers belongs to runtime: torch-cpu or torch-cuda"),
        ({"transformers": "4.48", "loss": "liger", "use_reentrant": True}, "use_reentrant belongs to checkpointing"),
    ],
)
def test_what_no_program_has_is_refused(plan: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        estimator.estimate(**{"model": "llama-3.2-1b", "seq": 64, **plan})
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_rotary_embeddings_as_releases_before_5_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Witness: the classes of transformers 4.57: bases by the kinds of layers, and ``rope_scaling``."""
    plain = {"model_type": "llama", "hidden_size": 8}
    config = {**plain, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}
    assert with_its_keys(config) == config
    monkeypatch.setattr(releases, "is_before", lambda release: release == "5")
    assert with_its_keys(plain) == plain
    assert with_its_keys(config) == {**plain, "rope_theta": 5e5, "rotary_emb_base": 5e5}
    scaled = {"rope_theta": None, "partial_rotary_factor": 0.5, "rope_type": "yarn", "factor": 4.0}
    assert with_its_keys({**plain, "rope_parameters": scaled}) == {
        **plain,
        "partial_rotary_factor": 0.5,
        "rotary_pct": 0.5,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
    }
    kinds = {"sliding_attention": {"rope_theta": 1e4}, "full_attention": {"rope_theta": 1e6}}
    of_both = {"rope_local_base_freq": 1e4, "rope_theta": 1e6, "rotary_emb_base": 1e6}
    assert with_its_keys({**plain, "rope_parameters": kinds}) == {**plain, **of_both}
    assert with_its_keys({**plain, "rope_parameters": {"sliding_attention": {}}}) == {
        **plain,
        "rope_local_base_freq": 10000.0,
    }


@pytest.mark.share(6)
def test_it_needs_no_torch() -> None:
    script = (
        "import estimator\n"
        "for release in ('4.48', '4.57'):\n"
        "    for method in ('full', 'lora'):\n"
        "        for checkpointing in ('none', 'layer'):\n"
        "            plan = dict(method=method, batch=2, seq=256, checkpointing=checkpointing, transformers=release)\n"
        "            assert estimator.estimate('llama-3.1-8b', device='rtx-4090', **plan).transformers == release\n"
    )
    done = run_without(LIBRARIES, script)
    assert (done.returncode, done.stderr) == (0, "")


def test_which_release_is_older() -> None:
    assert not releases.is_older("4.57", "4.57")
    assert releases.is_older("4.9", "4.57")
    assert releases.is_older("4.57", "5")
    assert not releases.is_older("5.24", "5")
