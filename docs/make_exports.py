"""Run every exported program at a thousand points: ``python docs/make_exports.py``, a part of ``make witness``.

Each plan of ``tests/cases/exported_functions.py`` is written for each engine, which runs it; its bytes must be those of
``estimate``. The figures go to ``docs/measured/exports.json``, with the date and the engines' versions.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from estimator.export.build import function_of
from estimator.plans.flat import nested
from estimator.plans.plan import parse_plan
from tests.cases.exported_functions import CASES, points
from tests.helpers import engines
from tests.helpers.exported import estimated, shared

RESULTS = Path(__file__).parent / "measured" / "exports.json"
COUNT = 1000


def versions() -> dict[str, str]:
    """The release of each engine."""

    def said(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True)
        return (done.stdout or done.stderr).splitlines()[0].strip()

    return {
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "javascript": f"Node.js {said('node', '--version')}",
        "c": said("cc", "--version"),
        "duckdb": version("duckdb"),
        "json": f"a walk over the trees, Python {platform.python_version()}",
        "postgres": said("psql", "--version"),
        "spark": version("pyspark"),
        "libreoffice": said("soffice", "--version"),
    }


def main(only: list[str]) -> None:
    """Run and write. Names of cases run those alone, and keep the figures of others."""
    known = json.loads(RESULTS.read_text())["cases"] if RESULTS.exists() else {}
    for name, (keys, variables) in CASES.items():
        if only and name not in only:
            continue
        f = function_of(parse_plan(nested({}, keys)), variables, ceiling=False)
        given = points(f, COUNT)
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            expected = [estimated(f, keys, row, folder) for row in given]
            known[name] = {"variables": list(variables), "points": len(given), "equal": {}}
            for engine, run in {**engines.LIGHT, **engines.HEAVY}.items():
                place = folder / engine
                place.mkdir()
                found = run(f, given, place)
                pairs = zip(found, expected, strict=True)
                known[name]["equal"][engine] = sum(shared(f, got) == shared(f, want) for got, want in pairs)
        print(name, known[name]["equal"], flush=True)
        data = {"date": str(date.today()), "engines": versions(), "cases": known}
        RESULTS.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
