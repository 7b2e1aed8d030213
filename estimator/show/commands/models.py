"""``estimator models``: the built-in models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ...plans import models as specs
from ...programs.families import FAMILIES
from ...text import dumped
from .tables import matches, show, show_answer, table


def configure(parser: argparse.ArgumentParser, _: Sequence[str]) -> None:
    """Add the command's options."""
    parser.add_argument(
        "filter", nargs="?", metavar="FILTER", help="show models with this text in name, hub id or family"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def execute(args: argparse.Namespace) -> int:
    """Print the built-in models. Always returns 0."""
    loaded = [specs.load(name) for name in specs.builtin_names()]
    found = [
        _row(spec) for spec in loaded if matches(args.filter, spec.name, spec.hub_id or "", spec.raw["model_type"])
    ]
    if args.json:
        print(dumped(found, indent=2))
    elif not found:
        show_answer(f"no built-in model matches '{args.filter}'; any config.json, folder or hub id works as MODEL too")
    else:
        columns = (
            "name",
            "family",
            "runtimes",
            "parameters",
            "layers",
            "hidden",
            "heads",
            "KV heads",
            "vocabulary",
            "tied",
            "source (hub id)",
        )
        rows = [
            (
                row["name"],
                row["family"],
                row["runtimes"],
                "unknown" if row["parameters"] is None else f"{row['parameters']:,}",
                str(row["layers"]),
                str(row["hidden"]),
                str(row["heads"]),
                str(row["kv_heads"]),
                f"{row['vocabulary']:,}",
                "yes" if row["tied"] else "no",
                row["hub_id"] or row["source"],
            )
            for row in found
        ]
        show(f"{len(found)} built-in models", table(columns, rows, (0, 1, 2, 10)))
        show_answer(brief="\n".join(row["name"] for row in found))
    return 0


def _row(spec: specs.ModelSpec) -> dict[str, Any]:
    raw = spec.raw
    heads = raw["num_attention_heads"]
    kv = raw.get("num_key_value_heads")
    return {
        "name": spec.name,
        "family": raw["model_type"],
        "runtimes": "all" if raw["model_type"] in FAMILIES else "llama.cpp",
        "parameters": spec.parameters,
        "layers": raw["num_hidden_layers"],
        "hidden": raw["hidden_size"],
        "heads": heads,
        "kv_heads": heads if kv is None else kv,
        "vocabulary": raw["vocab_size"],
        "tied": raw.get("tie_word_embeddings", False),
        "hub_id": spec.hub_id,
        "source": spec.source,
    }
