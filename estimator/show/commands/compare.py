"""``estimator compare``: methods against sequence lengths, as a table and a figure."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...answers.comparison import LENGTHS, Comparison, Row, all_methods, compare, usual_lengths
from ...answers.sentences import runtime_of
from ...errors import InputError, nearest
from ...io.files import existing, parse_yaml
from ...methods.other import installed_methods
from ...methods.registry import METHODS, read_adapter_config
from ...plans.refusals import check_device
from ...plans.words import refuse_words
from ...text import GIB, few_digits, human
from .options import add_plan_options, add_spellings, listed, plan_mapping
from .tables import (
    Progress,
    Table,
    check_output,
    gib,
    present,
    show,
    show_answer,
    show_assumptions,
    table,
    write_figure,
)

METHODS_EXAMPLE = "write --methods full,lora,ia3"
MOST_SEQS = 500
"""The most lengths of a comparison, each of which every method is asked at."""
SEQS_EXAMPLE = "write --seqs 512,1024,2048"


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    add_plan_options(parser, arguments, without=("method", "seq", "device", "ios_increased_memory_limit", "devices"))
    own = parser.add_argument_group("comparison")
    own.add_argument(
        "--methods",
        default="full,lora,ia3",
        metavar="LIST",
        help="method names and adapter_config.json files, separated by commas, or a YAML list of method blocks such as "
        "'[full, {name: lora, r: 16, target_modules: all-linear}]' (default: %(default)s); a method option such as --r "
        "holds for each method that has it",
    )
    own.add_argument(
        "--seqs",
        metavar="LIST",
        help=f"sequence lengths in tokens (default: those of {','.join(map(str, LENGTHS))} that the model takes)",
    )
    own.add_argument(
        "--at",
        metavar="SEQ",
        help="length at which methods are broken down (default: the plan's seq, or 2048; the last if that is beyond "
        "them)",
    )
    own.add_argument(
        "--devices", dest="candidates", metavar="LIST", help="devices to fit, by name (`estimator devices`)"
    )
    for option, dest in (("method", "methods"), ("seq", "seqs"), ("device", "candidates")):
        add_spellings(own, dest, f"--{option}")
    own.add_argument("--output", metavar="FILE", type=Path, help="write a figure: .png, .pdf or .svg")
    own.add_argument("--json", action="store_true", help="print one JSON object; sizes in bytes")


def execute(args: argparse.Namespace) -> int:
    """Print the comparison and write its figure. Returns 0, whether or not anything fits."""
    keys = plan_mapping(args)
    block = keys.pop("method", "full")
    given = block if isinstance(block, Mapping) else {"name": block}
    if args.seqs is None:
        seqs = usual_lengths(keys)
    else:
        seqs = sorted({_length(text, "seqs") for text in listed(args.seqs, "seqs", SEQS_EXAMPLE)})
    if len(seqs) > MOST_SEQS:
        raise InputError(f"--seqs has {len(seqs):,} lengths; give {MOST_SEQS} at most, or ask `estimator sweep`")
    usual = keys.pop("seq", 2048 if seqs[0] <= 2048 <= seqs[-1] else seqs[-1])
    at = _length(str(usual) if args.at is None else args.at, "at")
    devices = [name] if (name := keys.pop("device", None)) else []
    if args.candidates is not None:
        devices = listed(args.candidates, "devices", "write --devices rtx-4090,h100-80gb or leave it out")
    for name in devices:
        check_device(str(name))
    left_out: dict[str, str] = {}
    if args.methods == "all":
        plain = {key: value for key, value in keys.items() if key != "budget"}
        plain.update({"device": devices[0]} if devices else {})
        methods = all_methods(plain, {key: value for key, value in given.items() if key != "name"}, left_out)
    else:
        methods = _methods(args.methods, given)
    extra: list[int] = []
    if args.output is not None:
        check_output(args.output)
        extra = _between(seqs)
    compared = {*seqs, at}
    total = (len(methods) + 1) * len({*compared, *extra}) + len(methods) * len(compared) * max(len(devices) - 1, 0)
    with Progress(total) as progress:
        comparison = compare(keys, methods, seqs, at, devices, keys.pop("budget", None), extra, progress.step)
    if args.output is not None:
        from ...figures.methods_compared import comparison_figure

        write_figure(lambda: comparison_figure(comparison), args.output)
    present(args, lambda: to_dict(comparison), lambda: _print(comparison, left_out))
    return 0


def _length(text: str, option: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise InputError(f"--{option}: '{text}' is not a whole number of tokens; {SEQS_EXAMPLE} --at 2048") from None
    if not 1 <= value <= 10**8:
        raise InputError(f"--{option}: {value} is not between 1 and 100000000 tokens; {SEQS_EXAMPLE} --at 2048")
    return value


def _methods(text: str, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The method blocks of ``--methods``, with the options of the plan's method.

    If the plan names a method, its options are for that method. Else they are for each method that has them; raises
    ``InputError`` if none has.
    """
    blocks = [_block(item) for item in _method_items(text)]
    name = given["name"]
    options = {key: value for key, value in given.items() if key != "name"}
    if name != "full":
        return [{**options, **block} if block["name"] == name else block for block in blocks]
    for key in options:
        if not any(key in METHODS[block["name"]].model_fields for block in blocks):
            raise InputError(
                f"none of the methods has the option --{key.replace('_', '-')}; leave it out or list one that has it"
            )
    return [
        {**block, **{k: v for k, v in options.items() if k in METHODS[block["name"]].model_fields and k not in block}}
        for block in blocks
    ]


def _method_items(text: str) -> list[Any]:
    if not text.lstrip().startswith("["):
        return list(listed(text, "methods", METHODS_EXAMPLE))
    try:
        items = parse_yaml(text)
    except InputError:
        raise InputError(
            f"--methods: '{text}' is not a YAML list; write it like '[full, {{name: lora, r: 16}}]'"
        ) from None
    if not isinstance(items, list) or not items:
        raise InputError(f"--methods is an empty list; {METHODS_EXAMPLE}")
    return items


def _block(item: Any) -> dict[str, Any]:
    """The method block for a name, the path of an adapter_config.json, or a block."""
    block = item
    if isinstance(item, str):
        path = Path(item)
        if (
            item not in METHODS
            and item not in installed_methods()
            and (path.suffix == ".json" or "/" in item or existing(path))
        ):
            return read_adapter_config(path)
        block = {"name": item}
    refuse_words({"method": block})
    name = block.get("name") if isinstance(block, dict) else None
    if not isinstance(name, str) or not (name in METHODS or name in installed_methods()):
        shown = name if isinstance(block, dict) else item
        raise InputError(
            f"--methods: method '{shown}' is unknown{nearest(str(shown), METHODS)}; known are {', '.join(METHODS)}, "
            "and adapter_config.json files"
        )
    return dict(block)


def _between(seqs: list[int]) -> list[int]:
    """Lengths from the shortest to the longest, each 1.41 times the one before, for smooth curves."""
    found: list[int] = []
    seq = float(seqs[0])
    while seq < seqs[-1] and len(found) < 100:
        found.append(round(seq))
        seq *= 2**0.5
    return found


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """The comparison as one JSON object; sizes are bytes, shares are fractions of full fine-tuning.

    Results and shares are on ``device``, the first device. ``process``, ``fits`` and ``verdict`` are by device.
    """
    return {
        "schema": 1,
        "model": comparison.plan.model,
        "seqs": list(comparison.seqs),
        "at": comparison.at,
        "device": comparison.plan.device,
        "limits": dict(comparison.limits),
        "assumptions": [asdict(one) for one in comparison.assumptions],
        "methods": [
            {
                "label": row.label,
                "method": dict(row.method),
                "results": [row.results[seq].to_dict() for seq in comparison.seqs],
                "at": row.results[comparison.at].to_dict(),
                "share_of_full": asdict(row.shares[comparison.at]),
                "process": {
                    name: [results[seq].bytes["process"] for seq in comparison.seqs] for name, results in row.on.items()
                },
                "fits": {name: [results[seq].fits for seq in comparison.seqs] for name, results in row.on.items()},
                "verdict": {
                    name: [results[seq].verdict for seq in comparison.seqs] for name, results in row.on.items()
                },
            }
            for row in comparison.rows
        ],
    }


def _print(comparison: Comparison, left_out: Mapping[str, str]) -> None:
    plan, at = comparison.plan, comparison.at
    own, *others = comparison.groups()
    on = f" on {plan.device}" if others else ""
    shares = table(
        ["method", "trainable", "saved (GiB)", "process (GiB)", "trainable", "saved", "process", "the peak is in"],
        [_share_cells(row, at) for row in comparison.rows],
        left=(0, 7),
    )
    show(
        f"{plan.model}, batch {plan.batch}, {plan.dtype}, {plan.optimizer}, {runtime_of(plan)}, {plan.checkpoints}: "
        f"the process's largest memory{on} in GiB (1 GiB = {GIB} bytes), which is what a device has to hold",
        _peaks(comparison, own),
    )
    for names in others:
        show(f"The same steps need other bytes on {_listed(names)}:", _peaks(comparison, names))
    show(
        f"At {at} tokens{on}: trainable parameters, saved activations and process, also as % of full fine-tuning",
        shares,
    )
    for row in comparison.rows:
        show_answer(brief=f"{row.label}: {human(row.results[at].bytes['process'])}")
        for name in comparison.limits:
            show_answer(brief=f"{row.label} on {name}: {comparison.reach(row, name)}")
    if any(result.verdict == "tight" for row in comparison.rows for one in row.on.values() for result in one.values()):
        show("Tight means that less is left than measured processes differ from estimates.")
    show_assumptions(comparison.assumptions)
    for note in _notes(comparison):
        show(note)
    for title, why in left_out.items():
        show(f"Left out: {title}: {why}")


def _peaks(comparison: Comparison, names: Sequence[str]) -> Table:
    """The bytes of each method on devices where they are the same, and the lengths up to which it fits each device."""
    columns = [f"fits {name}\n({gib(comparison.limits[name])} GiB)" for name in names]
    rows = []
    for row in comparison.rows:
        results = row.on[names[0]] if names else row.results
        sizes = [gib(results[seq].bytes["process"]) for seq in comparison.seqs]
        rows.append([row.label, *sizes, *(comparison.reach(row, name) for name in names)])
    texts = range(1 + len(comparison.seqs), 1 + len(comparison.seqs) + len(names))
    return table(["method", *(f"{seq}\ntokens" for seq in comparison.seqs), *columns], rows, left=(0, *texts))


def _notes(comparison: Comparison) -> list[str]:
    """The warnings at ``at`` tokens, with the methods and devices that they are about unless it is all of them.

    Warnings that a step runs out of memory are left out, since the table says so.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    asked = 0
    for row in comparison.rows:
        places = {**({} if row.on else {"": row.results}), **row.on}
        for name, results in places.items():
            asked += 1
            for note in dict.fromkeys(results[comparison.at].warnings):
                if not note.startswith("out of memory in "):
                    found.setdefault(note, []).append((row.label, name))
    return [
        f"Note: {note}"
        if len(of) == asked
        else f"Note on {_whose(of, len(comparison.limits))} at {comparison.at} tokens: {note}"
        for note, of in found.items()
    ]


def _whose(of: Sequence[tuple[str, str]], places: int) -> str:
    """Methods, and devices if there are several: ``LoRA r=8 and IA3 on t4``."""
    methods, names = (list(dict.fromkeys(one)) for one in zip(*of, strict=True))
    return _listed(methods) + (f" on {_listed(names)}" if places > 1 else "")


def _listed(words: Sequence[str]) -> str:
    """A list of words in a sentence, at most four by name."""
    if len(words) > 4:
        return f"{', '.join(words[:3])} and {len(words) - 3} more"
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _share_cells(row: Row, at: int) -> list[str]:
    result, share = row.results[at], row.shares[at]
    return [
        row.label,
        f"{result.trainable_parameters:,}",
        gib(result.bytes["saved"]),
        gib(result.bytes["process"]),
        _percent(share.trainable),
        _percent(share.saved),
        _percent(share.process),
        result.peak_at,
    ]


def _percent(fraction: float) -> str:
    return f"{few_digits(100 * fraction, 1)}%"
