"""Every published run of vLLM and SGLang that we know of is asked, or listed with the reason why it is not."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.cases.public_runs import line
from tests.cases.public_serving import MISSED, NOT_ASKED, RUNS, TABLE, Run, scores


@pytest.mark.parametrize("run", RUNS, ids=[f"{i}: {run.id}" for i, run in enumerate(RUNS)])
def test_a_published_run(run: Run) -> None:
    """Witness: published logs. Loading within 1 %, tokens within 2 % or, where free memory is assumed, 5 %.

    Where settings are missing what was logged is within the range of what they could be. The table has what is answered
    today.
    """
    table = TABLE.read_text(encoding="utf-8").splitlines()
    for score in scores(run):
        assert score.hit == ((score.run, score.what) not in MISSED), score
        assert line(score, MISSED) in table, "python -m tests.cases.public_serving writes it"


def test_the_score() -> None:
    """Nine in ten of what was logged is met, of errors as of figures, and no run is left out silently."""
    rows = [text.split("\t") for text in TABLE.read_text(encoding="utf-8").splitlines()[1:]]
    met = Counter((row[1] == "stops", row[5]) for row in rows)
    for stops in (True, False):
        assert met[stops, "yes"] >= 9 * met[stops, "no"]
    assert met[False, "not asked"] == len(NOT_ASKED)
    assert len({row[0] for row in rows}) == len({run.id for run in RUNS} | NOT_ASKED.keys()) == 88
    assert all(row[6] for row in rows if row[5] != "yes")
