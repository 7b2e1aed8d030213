"""Tables of whole answers (``tests/helpers/whole_answers.py``). ``python -m tests.cases.whole_answers`` writes them
anew, or those of the groups that it is given. With ``--show GROUP QUESTION`` it prints all parts of one answer in full,
to be compared with those of another commit.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.cases import (
    whole_engines,
    whole_exports,
    whole_modules,
    whole_plans,
    whole_programs,
    whole_results,
    whole_shown,
    whole_traced,
    whole_training_files,
)
from tests.helpers.whole_answers import answered, table, write

GROUPS = {
    **whole_engines.GROUPS, **whole_training_files.GROUPS, **whole_plans.GROUPS, **whole_modules.GROUPS,
    **whole_exports.GROUPS, **whole_results.GROUPS, **whole_programs.GROUPS, **whole_shown.GROUPS,
    **whole_traced.GROUPS,
}  # fmt: skip


def main(arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments[:1] == ["--show"]:
            group, question = arguments[1:]
            found = answered(next(asked for name, asked in GROUPS[group](folder) if name == question))
            for part, text in found.items():
                print(part, *([text] if isinstance(text, str) else text), sep="\n  ")
            return
        for group in arguments or GROUPS:
            write(group, [(name, answered(asked)) for name, asked in GROUPS[group](folder / group)])
            table.cache_clear()
            print(f"{group}: {len(table(group))} answers")


if __name__ == "__main__":
    main(sys.argv[1:])
