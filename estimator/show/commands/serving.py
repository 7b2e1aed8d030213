"""``estimator serving``: the number of requests for which a GPU has room in vLLM's paged KV cache."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ...answers.serving import Serving, serving
from ...engines.devices import assumptions, find
from ...engines.vllm.options import ServingOptions
from ...errors import InputError
from ...io.fields import checked
from ...text import human
from .options import add_field, add_spellings, value_of
from .tables import present, show, show_answer, show_assumptions, table

_LABELS = {
    "requested": "the share of the GPU",
    "weights": "weights",
    "activation": "activations of the largest step",
    "non_torch": "outside PyTorch's allocator",
    "kv_cache": "left for the KV cache",
}


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    parser.add_argument("model", metavar="MODEL", help="built-in name, config.json or its folder, or hub id")
    parser.add_argument("--device", required=True, help="a GPU, by name (`estimator devices`)")
    parser.add_argument(
        "--seqs",
        metavar="LIST",
        default="2048,8192,32768,131072",
        help="tokens of a request, prompt and answer (default: %(default)s)",
    )
    add_spellings(parser, "seqs", "--seq", "--contexts")
    options = parser.add_argument_group("vllm serve (its names)")
    for name, field in ServingOptions.model_fields.items():
        add_field(options, name, field)
    parser.add_argument("--json", action="store_true", help="print one JSON object; sizes in bytes")


def execute(args: argparse.Namespace) -> int:
    """Print the blocks and the requests. Returns 1 where no request of the shortest length fits."""
    seqs = [value_of("seqs", text.strip(), int) for text in args.seqs.split(",") if text.strip()]
    if not seqs or not all(isinstance(tokens, int) and 0 < tokens <= 10**8 for tokens in seqs):
        raise InputError(f"--seqs '{args.seqs}' is no list of token counts; write it like 2048,8192")
    given = {
        name: value_of(name, value, field.annotation)
        for name, field in ServingOptions.model_fields.items()
        if (value := getattr(args, name)) is not None
    }
    options = checked(ServingOptions, given, "serving")
    answer = serving(args.model, args.device, seqs, options)
    present(args, answer.to_dict, lambda: _print(answer))
    return 0 if max(one.requests for one in answer.contexts) >= 1 else 1


def _print(answer: Serving) -> None:
    options = answer.options
    show(f"{answer.model}, vLLM, {answer.device}, {options.dtype}, KV cache {options.kv_cache_dtype}")
    rows = [[label, human(answer.bytes[key]), f"{answer.bytes[key]:,}"] for key, label in _LABELS.items()]
    show(table(["component", "size", "bytes"], rows))
    show(f"{answer.blocks:,} blocks of {options.block_size} tokens, {human(answer.bytes['block'])} each.")
    show(
        table(
            ["tokens of a request", "blocks", "requests at once", "as vLLM prints it"],
            [
                [f"{one.tokens:,}", f"{one.blocks:,}", f"{int(one.requests):,}", f"{one.requests:.2f}x"]
                for one in answer.contexts
            ],
            left=(),
        )
    )
    for one in answer.contexts:
        show_answer(brief=f"{one.tokens:,} tokens: {int(one.requests):,}")
    show_assumptions(assumptions(find(answer.device)))
    if answer.trained is not None and any(one.tokens > answer.trained for one in answer.contexts):
        show(f"Note: the model was made for {answer.trained:,} positions; vLLM refuses longer requests unless told.")
    if options.activation is None:
        show(
            f"Note: activations are those of vLLM 0.6 to 0.11, for {options.tokens:,} tokens (max_num_batched_tokens) "
            f"and {options.rows:,} requests (max_num_seqs) in a step. Later releases may sample in less memory."
        )
    if not answer.blocks:
        show(
            "Nothing is left for the cache: take a larger GPU, a smaller dtype, or fewer max_num_batched_tokens or "
            "max_num_seqs."
        )
