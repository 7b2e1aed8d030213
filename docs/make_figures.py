"""Write the README's figures and print its table: ``python docs/make_figures.py`` in a checkout."""

from __future__ import annotations

from pathlib import Path

from estimator.answers.comparison import Row, compare
from estimator.figures.canvas import save
from estimator.figures.methods_compared import comparison_figure
from estimator.figures.shares_of_full import thesis_figure
from estimator.show.cli import main as run
from estimator.text import few_digits

IMAGES = Path(__file__).parent / "images"
MODELS = ("llama-3.2-1b", "qwen2.5-7b")
SEQS = (512, 1024, 2048, 4096, 8192)
ADAPTERS = (
    {"name": "lora", "r": 16, "target_modules": ["q_proj", "v_proj"]},
    {"name": "lora", "r": 16, "target_modules": "all-linear"},
    {"name": "ia3"},
)
CONDITIONS = (
    "batch 1",
    "bfloat16 weights, float32 adapters (PEFT's default)",
    "AdamW",
    "sdpa attention",
    "no checkpointing",
)
COMMANDS = {
    "context.png": "max-context llama-3.2-1b,qwen3-1.7b,gemma-3-1b --caches f16,q8_0 --device iphone-15",
    "timeline.png": "timeline qwen2.5-0.5b --method lora --seq 1024 --device rtx-4060",
}
"""The commands that draw a figure, as the pages that show it name them."""
CURVES = [round(512 * 2 ** (i / 2)) for i in range(9)]


def markdown(rows: dict[str, tuple[Row, ...]]) -> str:
    """Shares of full fine-tuning as a Markdown table: activations / peak at each length."""
    columns = ["model", "method", "trainable", *(f"{seq} tokens" for seq in SEQS)]
    lines = [" | ".join(columns), " | ".join(["---", "---", *(["---:"] * (len(columns) - 2))])]
    for model, methods in rows.items():
        for row in methods:
            cells = [f"{percent(row.shares[s].saved)} / {percent(row.shares[s].peak)}" for s in SEQS]
            lines.append(" | ".join([model, row.label, percent(row.shares[SEQS[0]].trainable), *cells]))
    return "\n".join(f"| {line} |" for line in lines)


def percent(fraction: float) -> str:
    """A fraction as a percentage."""
    return f"{few_digits(100 * fraction, 1)}%"


def main() -> None:
    """Write the figures and print the table."""
    IMAGES.mkdir(exist_ok=True)
    comparison = compare(
        {"model": MODELS[0], "batch": 4},
        [{"name": "full"}, *ADAPTERS],
        SEQS,
        2048,
        ["rtx-4090", "h100-80gb"],
        extra=CURVES,
    )
    save(comparison_figure(comparison), IMAGES / "compare.png")
    rows = {model: compare({"model": model}, ADAPTERS, SEQS, 2048).rows for model in MODELS}
    conditions = "  ·  ".join(CONDITIONS)
    save(thesis_figure(rows, (512, 2048, 8192), conditions), IMAGES / "thesis.png")
    print(markdown(rows))
    for name, command in COMMANDS.items():
        run([*command.split(), "--output", str(IMAGES / name)])


if __name__ == "__main__":
    main()
