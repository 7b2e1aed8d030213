"""``estimator serving``: what a server says at its start, and the requests for which it has room."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...answers.serving import Serving, serving, smallest_cluster
from ...engines.devices import assumptions, find
from ...engines.registry import SERVERS, engine_of
from ...engines.registry import commanded as meant_by
from ...engines.served.engine import Served
from ...errors import InputError, shown
from ...io.fields import checked
from ...text import human
from .help import IN_FULL
from .options import add_field, add_spellings, listed, value_of
from .tables import check_output, present, show, show_answer, show_assumptions, table, write_figure


def _servers() -> list[Served]:
    found = [engine_of(name) for name in SERVERS]
    return [engine for engine in found if isinstance(engine, Served)]


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help='built-in name, config.json or its folder, hub id, or a whole command line in quotes: "vllm serve ...", '
        '"python -m sglang.launch_server ..."',
    )
    parser.add_argument("--device", help="a GPU, by name (`estimator devices`)")
    parser.add_argument("--devices", metavar="LIST", help="in place of --device: how many of each GPU it takes")
    parser.add_argument(
        "--seqs",
        metavar="LIST",
        default="2048,8192,32768,131072",
        help="tokens of a request, prompt and answer (default: %(default)s)",
    )
    add_spellings(parser, "seqs", "--seq", "--contexts")
    parser.add_argument("--runtime", metavar="|".join(SERVERS), help=f"what serves (default: {SERVERS[0]})")
    added: set[str] = set()
    for engine in _servers():
        program = engine.grammar.server.name
        often = parser.add_argument_group(f"{program} (its names; all of them: --help-all)")
        others = parser.add_argument_group(f"{program}, more {IN_FULL}")
        for name, field in engine.options.model_fields.items():
            if name not in added:
                add_field(often if name in engine.often else others, name, field)
        added |= engine.options.model_fields.keys()
    parser.add_argument("--output", metavar="FILE", type=Path, help="write a figure, requests against their length")
    parser.add_argument("--json", action="store_true", help="print one JSON object; sizes in bytes")


def execute(args: argparse.Namespace) -> int:
    """Print the log, the blocks and the requests. Returns 1 where no request of the shortest length fits, or where the
    server would not take the longest that a command line or an option asks for.
    """
    if args.device is None and args.devices is None:
        raise InputError("the following arguments are required: --device; see `estimator serving --help`")
    if args.device is not None and args.devices is not None:
        raise InputError("--device does not go with --devices, which are candidates; leave one of them out")
    seqs = [value_of("seqs", text.strip(), int) for text in args.seqs.split(",") if text.strip()]
    if not seqs or not all(isinstance(tokens, int) and 0 < tokens <= 10**8 for tokens in seqs):
        raise InputError(f"--seqs '{args.seqs}' is no list of token counts; write it like 2048,8192")
    model, given, unknown, servers = args.model, {}, [], _servers()
    if args.runtime is not None and args.runtime not in SERVERS:
        raise InputError(f"--runtime {shown(args.runtime)} serves nothing here; give one of {', '.join(SERVERS)}")
    engine = servers[SERVERS.index(args.runtime or SERVERS[0])]
    commanded = next((one for one in servers if one.grammar.server.is_command(model)), None)
    if commanded is None and (runtime := meant_by({"model": model}).get("runtime")) is not None:
        raise InputError(f"{shown(model)} is a command line of {runtime}; ask `estimator estimate` with it")
    if commanded is not None:
        if args.runtime is not None and commanded is not engine:
            raise InputError(
                f"--runtime {args.runtime} does not go with a command line of {commanded.title}; leave it out"
            )
        engine, command = commanded, commanded.grammar.parse(model)
        model, given, unknown = command.model, dict(command.options), command.unknown
    fields = engine.options.model_fields
    named = {name for one in servers for name in one.options.model_fields if getattr(args, name, None) is not None}
    if foreign := sorted(named - fields.keys()):
        raise InputError(
            f"--{foreign[0].replace('_', '-')} is no option of {engine.title}; leave it out, or set --runtime"
        )
    given |= {name: value_of(name, getattr(args, name), fields[name].annotation) for name in fields if name in named}
    asks_length = commanded is not None or engine.length in named
    options = checked(engine.options, given, "serving")
    if args.devices is not None:
        return _cluster(args, model, options)
    check_output(args.output)
    answer = serving(model, args.device, seqs, options)
    present(args, lambda: _object(answer, unknown), lambda: _print(answer, unknown))
    if args.output is not None:
        from ...figures.served import serving_figure

        write_figure(lambda: serving_figure(answer), args.output)
    starts = answer.fits or not asks_length
    if not starts or max(one.requests for one in answer.contexts) < 1:
        return 1
    return 2 if answer.unknown else 0


def _cluster(args: argparse.Namespace, model: str, options: Any) -> int:
    """Print how many cards of each kind it takes. Returns 1 where no number does."""
    devices = listed(args.devices, "devices")
    layouts = smallest_cluster(model, devices, options)

    def show_table() -> None:
        rows = [
            [
                *(one.device, f"{one.cards}", f"{one.tensor_parallel_size}", f"{one.pipeline_parallel_size}"),
                f"{one.max_concurrency:.2f}x",
            ]
            for one in layouts
        ]
        show(table(["device", "cards", "tensor parallel", "pipeline parallel", "concurrency"], rows))
        if left := [name for name in devices if find(name).name not in {one.device for one in layouts}]:
            show(f"It starts on no number of {', '.join(left)} up to 64.")

    present(args, lambda: {"layouts": [vars(one) for one in layouts]}, show_table)
    return 0 if layouts else 1


def _object(answer: Serving, unknown: Sequence[str]) -> dict[str, Any]:
    return {**answer.to_dict(), **({"unknown_options": list(unknown)} if unknown else {})}


def _verdict(answer: Serving) -> str:
    tokens = getattr(answer.options, answer.engine.length)
    if answer.refusal is not None:
        return f"{answer.engine.title} does not start on {answer.device} with requests of {tokens:,} tokens."
    if answer.unknown:
        unsure = f"{' and '.join(answer.unknown)} takes more, by an amount that has no rule here"
        return f"Not sure that {answer.engine.title} starts on {answer.device}: {unsure}."
    room = f"{answer.max_concurrency:.2f} requests of {tokens:,} tokens at once"
    return f"{answer.engine.title} starts on {answer.device}, with room for {room}."


def _print(answer: Serving, unknown: Sequence[str]) -> None:
    options, engine = answer.options, answer.engine
    ranks = f", {options.world} ranks" if options.world > 1 else ""
    show(
        f"{answer.model}, {engine.title} {options.release}, {answer.device}{ranks}, {options.dtype}, "
        f"KV cache {options.kv_cache_dtype}"
    )
    rows = [[label, human(answer.bytes[key]), f"{answer.bytes[key]:,}"] for key, label in engine.labels.items()]
    show(table(["component", "size", "bytes"], rows))
    for line in answer.log:
        show(line)
    for mend in answer.mends:
        show(f"It starts with {mend}")
    length, share = (f"--{name.replace('_', '-')}" for name in (engine.length, engine.share))
    if answer.longest is not None and answer.least_share is not None and answer.fits:
        show(
            f"Largest {length} {answer.longest:,}, smallest {share} {answer.least_share}, most requests at once "
            f"{answer.most_requests:,}."
        )
    if answer.blocks:
        show(f"{answer.blocks:,} blocks, {human(answer.bytes['block'])} each.")
        show(
            table(
                ["tokens of a request", "blocks", "requests at once", f"as {engine.title} prints it"],
                [
                    [f"{one.tokens:,}", f"{one.blocks:,}", f"{int(one.requests):,}", f"{one.requests:.2f}x"]
                    for one in answer.contexts
                ],
                left=(),
            )
        )
    requests = "\n".join(f"{one.tokens:,} tokens: {int(one.requests):,}" for one in answer.contexts)
    show_answer(_verdict(answer), brief=requests, style="good" if answer.fits else "bad")
    show_assumptions(assumptions(find(answer.device)))
    for warning in answer.warnings:
        show(f"Note: {warning}")
    if unknown:
        show(f"Note: left out, since they have no rule here: {', '.join(unknown)}")
    if answer.trained is not None and any(one.tokens > answer.trained for one in answer.contexts):
        show(
            f"Note: the model was made for {answer.trained:,} positions; {engine.title} refuses longer requests unless "
            "told."
        )
    for note in engine.notes(options):
        show(f"Note: {note}")
