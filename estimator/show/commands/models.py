"""``estimator models``: the built-in models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...engines.llama_cpp.convert import FAMILIES as LLAMA_CPP_FAMILIES
from ...plans import models as specs
from ...text import dumped
from .tables import counted, fits_screen, matches, show, show_answer, table


def configure(parser: argparse.ArgumentParser, _: Sequence[str]) -> None:
    """Add the command's options."""
    parser.add_argument(
        "filter", nargs="?", metavar="FILTER", help="show models with this text in name, hub id or family"
    )
    parser.add_argument("--all", action="store_true", help="show them all, however long the terminal")
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
                *("" if row[key] is None else str(row[key]) for key in ("layers", "hidden", "heads", "kv_heads")),
                "" if row["vocabulary"] is None else f"{row['vocabulary']:,}",
                "yes" if row["tied"] else "no",
                row["hub_id"] or row["source"],
            )
            for row in found
        ]
        whole = table(columns, rows, (0, 1, 2, 10))
        if args.all or fits_screen(whole):
            show(f"{len(found)} built-in models", whole)
        elif args.filter is None:
            families = [row["family"] for row in found]
            show(f"{len(found)} built-in models of {len(set(families))} families:", counted(families))
            show("`estimator models qwen3` shows those with this text in name, hub id or family; --all shows them all.")
        else:
            show(f"{len(found)} built-in models; --all shows their sizes", replace(whole, optional=range(4, 11)))
        show_answer(brief="\n".join(row["name"] for row in found))
    return 0


def _row(spec: specs.ModelSpec) -> dict[str, Any]:
    raw = {**spec.raw, **spec.raw.get("text_config", {})}

    def number(*names: str) -> int | None:
        """A size, under the name that the model's class has for it."""
        return next((raw[name] for name in names if isinstance(raw.get(name), int)), None)

    heads = number("num_attention_heads", "n_head", "num_heads")
    kv = number("num_key_value_heads", "num_kv_heads", "n_head_kv")
    return {
        "name": spec.name,
        "family": raw["model_type"],
        "runtimes": "all" if raw["model_type"] in LLAMA_CPP_FAMILIES else "torch-cpu, torch-cuda",
        "parameters": spec.parameters,
        "layers": number("num_hidden_layers", "n_layer", "num_layers"),
        "hidden": number("hidden_size", "n_embd", "d_model"),
        "heads": heads,
        "kv_heads": heads if kv is None else kv,
        "vocabulary": number("vocab_size"),
        "tied": raw.get("tie_word_embeddings", False),
        "hub_id": spec.hub_id,
        "source": spec.source,
    }
