"""``estimator record``: a family's program from the installed transformers, and what is answered without PyTorch."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...io.outputs import place_of
from ...plans import models, recorded_programs
from ...programs.libraries import is_installed
from ...programs.releases import NEWEST, RELEASES, installed_release
from ...programs.setting import Setting, Settings
from ...text import dumped, matches
from .tables import counted, fits_screen, refuse_input, show, show_answer, table


def configure(parser: argparse.ArgumentParser, _: Sequence[str]) -> None:
    """Add the command's options."""
    parser.add_argument(
        "model", nargs="?", metavar="CONFIG", help="a config.json, its folder, a built-in name, a hub id"
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help=f"write the programs there; by default into the user's cache, or the folder {recorded_programs.VARIABLE}",
    )
    parser.add_argument(
        "--list", action="store_true", help="show what is answered without PyTorch; with a text, the families with it"
    )
    parser.add_argument("--all", action="store_true", help="with --list: show it all, however long the terminal")
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def execute(args: argparse.Namespace) -> int:
    """Record, or print the list. Returns 0, or 2 where no program was found. Raises ``InputError``."""
    if args.list or args.json:
        return _list(args)
    if args.model is None:
        raise InputError("name a config.json, its folder, a built-in model or a hub id; --list shows what is known")
    spec = models.load(args.model)
    if args.output is not None:
        refuse_input(Path(args.output))
        place_of(Path(args.output))
    family = spec.raw.get("model_type")
    release = installed_release() if installed_release() in RELEASES else NEWEST
    if release == NEWEST and isinstance(family, str) and _is_shipped(spec.raw, family):
        raise InputError(f"{args.model} is answered without a recording; --list shows in which settings")
    if not is_installed("torch", "transformers"):
        raise InputError(
            "this command runs PyTorch and transformers, which are not installed; install them with: "
            "pip install '.[trace]' in a clone"
        )
    from ...programs.family import Family
    from ...programs.program_files import written_together
    from ...recorder.families import Case, record

    found = record(spec.raw)
    good = [family for family in found.values() if isinstance(family, Family)]
    refused: dict[str, Case] = {}
    for case, error in found.items():
        if isinstance(error, InputError):
            refused.setdefault(str(error), case)
    if not good:
        raise InputError(f"{args.model}: {next(iter(refused))}; `estimator estimate` records it each time instead")
    word = recorded_programs.structure_of(good[0].structure)
    path = recorded_programs.write(
        written_together(good), family, word, None if args.output is None else Path(args.output), release
    )
    for reason, case in refused.items():
        show(f"No program for {case}: {reason}.")
    show_answer(f"{len(good)} programs of {family} in {path}", brief=str(path))
    return 0


def _is_shipped(raw: Mapping[str, Any], family: str) -> bool:
    """Whether the package has programs for all settings of a config's structure."""
    for one in recorded_programs.programs_of(family):
        if one.interfaces and not one.file:
            try:
                one.check_config(raw)
            except InputError:
                continue
            return True
    return False


def _list(args: argparse.Namespace) -> int:
    rows: list[dict[str, Any]] = []
    files = [
        (release, path) for release in reversed(RELEASES) for path in recorded_programs.program_files(release=release)
    ]
    for release, path in files:
        try:
            programs = recorded_programs.load(path)
        except InputError as error:
            family = path.name.partition(".")[0]
            rows.append(
                {"family": family, "structure": "", "settings": "", "transformers": release, "from": str(error)}
            )
            continue
        first = programs[0].recorded
        origin = "the package" if path.is_relative_to(recorded_programs.shipped_folder()) else str(path)
        rows.append(
            {
                "family": programs[0].model_type,
                "structure": path.stem.partition(".")[2],
                "settings": ", ".join(_tasks(one for program in programs for one in program.settings)),
                "transformers": release,
                "from": f"{origin}: transformers {first.get('transformers')}",
            }
        )
    rows = [row for row in rows if matches(args.model, row["family"], row["structure"])]
    if args.json:
        print(dumped(rows, indent=2))
        return 0
    if not rows:
        show_answer(f"no program has '{args.model}' in its family or structure; leave it out to see what there is")
        return 0
    columns = ("family", "structure", "settings", "transformers", "from")
    lines = [tuple(str(row[name]) for name in columns) for row in rows]
    whole = table(columns, lines, (0, 1, 2, 3, 4))
    if args.all or fits_screen(whole):
        show("What is answered without PyTorch", whole)
    elif args.model is not None:
        shipped = all(row["from"].startswith("the package") for row in rows)
        show("What is answered without PyTorch", whole._replace(optional=(4,) if shipped else ()))
    else:
        families = [row["family"] for row in rows]
        show(f"What is answered without PyTorch: {len(rows)} structures of {len(set(families))} families,")
        show(counted(families) + ".")
        show("`estimator record --list qwen3` shows those of a family, and in which settings; --all shows them all.")
    show_answer(brief="\n".join(dict.fromkeys(row["family"] for row in rows)))
    return 0


def _tasks(settings: Iterable[Settings]) -> Iterator[str]:
    """What settings are, in words: each task, with which attentions."""
    found: dict[str, dict[str, None]] = {}
    for one in settings:
        task = Setting(*(values[0] for values in one.values())).task
        found.setdefault(task, {}).update(dict.fromkeys(one["attention"]))
    for task, attentions in found.items():
        yield f"{task} ({', '.join(attentions)})"
