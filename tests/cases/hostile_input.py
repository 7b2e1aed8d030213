"""Hostile input, made at random from a seed: plans, configs, adapters, GGUF headers, command lines.

A case is the arguments of one command; ``run`` answers it in this process as the command line would, and says what a
job script would see. ``python -m tests.cases.hostile_input 20000 7`` runs as many cases from another seed, and prints
what broke; with a third argument other commands than ``estimate``, too.
"""

from __future__ import annotations

import json
import random
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from estimator.engines.llama_cpp import convert
from estimator.engines.llama_cpp.header import Header
from estimator.methods.registry import METHODS
from estimator.plans.models import load
from estimator.plans.plan import Plan
from tests.cases.method_examples import EXAMPLES
from tests.helpers.commands import Seen, run

CONFIG: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 211,
    "hidden_size": 48,
    "intermediate_size": 104,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "use_sliding_window": True,
    "sliding_window": 16,
    "layer_types": ["full_attention", "sliding_attention"] * 2,
    "attention_dropout": 0.0,
    "tie_word_embeddings": True,
}
MODELS = (
    "smollm2-135m", "qwen3-0.6b", "gemma-2-2b", "gemma-3-1b", "gemma-3n-e2b", "phi-3.5-mini", "mixtral-8x7b",
    "qwen3-30b-a3b", "gpt-oss-20b", "deepseek-v2-lite", "deepseek-v3", "lfm2-1.2b", "granite-4.0-h-tiny", "smollm3-3b",
)  # fmt: skip
"""One of each architecture of llama.cpp."""
NAMES = (
    "plain",
    "[red]x[bold",
    "[x]",
    "a$\\frac$b",
    "$x$",
    "esc\x1b[31m",
    "bytes\udcff\udc80",
    "ключ",
    "a\nb",
    "{x}",
    "%s",
    "#",
)
"""Names of folders."""
NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 7, 64, 255, 4097, 10**4, 10**6, 10**9, 2**31, 2**32, 2**63, 10**30, -(10**9), 0.5, -0.0, 1e308,
)  # fmt: skip
PATTERNS = (
    ".*", "(([a-z._0-9])+)+!", "(.|..|...)*[!?]", "^(?!.*visual).*q_proj$", "(", "[", "a{2,1}", "(?i)x", r"\1", "é",
    "(?:.*?){50}[!?]", "[[:alpha:]]", "(" * 99 + ")" * 99, "q_proj|v_proj", r".*\.[02]\..*proj", "(?P<n>q)_proj",
    "x" * 5000, "*", "a{e<=1}",
)  # fmt: skip
TEXTS = (
    *PATTERNS,
    *NAMES,
    "",
    " ",
    "all-linear",
    "true",
    "null",
    "-",
    "0x10",
    "1e9",
    "8GiB",
    "rtx-4090",
    "/dev/zero",
    "/dev/stdin",
    ".",
    "full",
)
WORDS = (
    "--json",
    "--budget",
    "8GiB",
    "--device",
    "rtx-4090",
    "iphone-15",
    "--seq",
    "--batch",
    "--help",
    "--",
    "-",
    "--seq=",
    "=",
)


OTHERS = [
    ["formula"],
    ["timeline"],
    ["timeline", "--device", "rtx-4090"],
    ["max-batch", "--budget", "8GiB"],
    ["max-seq", "--budget", "8GiB"],
    ["max-rank", "--budget", "8GiB"],
    ["advise", "--budget", "2GiB"],
    ["compare", "--seqs", "16,64", "--methods", "full,lora"],
    ["max-context", "--device", "iphone-15"],
    ["smallest-device"],
]


class Cases:
    """Cases from a seed, whose files lie in a folder."""

    def __init__(self, folder: Path, seed: int, others: bool = False) -> None:
        self.folder, self.random, self.others = folder, random.Random(seed), others

    def __iter__(self) -> Iterator[tuple[list[str], bytes]]:
        kinds = (self.plan, self.config, self.adapter, self.gguf, self.arguments, self.lines, self.bytes)
        while True:
            yield self.random.choice(kinds)()

    def plan(self) -> tuple[list[str], bytes]:
        """A plan's file, or standard input."""
        plan = self.mutated(self.some_plan())
        if self.one_in(4):
            return self.command("--plan", "-"), json.dumps(plan).encode()
        return self.command("--plan", str(self.file("plan.json", json.dumps(plan)))), b""

    def config(self) -> tuple[list[str], bytes]:
        """A model's folder, with any name."""
        folder = self.folder / self.random.choice(NAMES)
        folder.mkdir(exist_ok=True)
        config = self.mutated({**CONFIG, "model_type": self.random.choice(("llama", "mistral", "qwen2", "qwen3"))})
        (folder / "config.json").write_text(self.text(config))
        more = self.random.choice(
            [
                [],
                ["--method", "lora"],
                ["--device", "rtx-4090"],
                ["--runtime", "llama.cpp"],
                ["--budget", "1GiB", "--json"],
            ]
        )
        return self.command(str(folder), *more), b""

    def adapter(self) -> tuple[list[str], bytes]:
        """An adapter_config.json."""
        name = self.random.choice([name for name in METHODS if METHODS[name].peft])
        block = dict(self.random.choice(EXAMPLES.get(name, [{"name": name}])))
        block.pop("name", None)
        adapter = self.mutated({"peft_type": name.upper(), "task_type": "CAUSAL_LM", **block})
        for key in METHODS[name].model_fields:
            if key in ("target_modules", "exclude_modules", "feedforward_modules") and self.one_in(3):
                adapter[key] = self.random.choice(PATTERNS)
            elif key == "layers_pattern" and self.one_in(6):
                adapter |= {key: self.random.choice(PATTERNS), "layers_to_transform": [0, 2]}
            elif key.endswith("_pattern") and self.one_in(4):
                adapter[key] = {self.random.choice(PATTERNS): self.random.randrange(1, 9)}
        file = self.file("adapter_config.json", self.text(adapter))
        return self.command("smollm2-135m", "--seq", "64", "--method", str(file)), b""

    def gguf(self) -> tuple[list[str], bytes]:
        """A GGUF file whose header has other numbers than its model, or other bytes."""
        header = headers(self.random.choice(MODELS))
        metadata = dict(header.metadata)
        for _ in range(self.random.randrange(3)):
            key = self.random.choice(list(metadata))
            if self.one_in(8):
                del metadata[key]
            elif isinstance(metadata[key], list) and self.one_in(2):
                at = self.random.randrange(len(metadata[key]))
                metadata[key] = [*metadata[key][:at], self.small(), *metadata[key][at + 1 :]]
            else:
                metadata[key] = self.small() if self.one_in(2) else self.near(metadata[key])
            if not metadata:
                break
        content, size = gguf(header, metadata, self.random)
        if self.one_in(3):
            content = self.damaged(content)
        path = self.folder / "model.gguf"
        path.write_bytes(content)
        with path.open("r+b") as file:
            file.truncate(self.random.choice([size, size, size, len(content), 1 << 36]))
        more = self.random.choice(
            [[], ["--n-ctx", "512"], ["--type-k", "q8_0"], ["--no-flash-attn"], ["--device", "rtx-4090"]]
        )
        return ["estimate", str(path), *more], b""

    def arguments(self) -> tuple[list[str], bytes]:
        """Options with any values."""
        found = [
            self.random.choice(["estimate", "estimate", "max-seq", "formula", "serving", "devices", "models", "bogus"])
        ]
        found.append(self.random.choice(["smollm2-135m", "qwen3-0.6b", *NAMES, *TEXTS]))
        for _ in range(self.random.randrange(4)):
            key = self.random.choice([*Plan.model_fields, "r", "target_modules", "rank_pattern", "n_ctx", "alpha"])
            found.append(f"--{key.replace('_', '-')}")
            found.append(str(self.random.choice([*TEXTS, *NUMBERS, *WORDS])))
        if self.one_in(3):
            found.insert(self.random.randrange(len(found) + 1), self.random.choice(WORDS))
        return [word.replace("\x00", "") for word in found if "--devices" not in word], b"512\n3\n"

    def lines(self) -> tuple[list[str], bytes]:
        """Many plans, some of them damaged."""
        rows = [json.dumps(self.mutated(self.some_plan())).encode() for _ in range(3)]
        rows[1] = self.damaged(rows[1])
        content = b"\n".join(rows) + b"\n"
        if self.one_in(2):
            return ["estimate", "--plans", "-", "--json"], content
        (self.folder / "plans.jsonl").write_bytes(content)
        return ["estimate", "--plans", str(self.folder / "plans.jsonl"), "--json"], b""

    def bytes(self) -> tuple[list[str], bytes]:
        """Files whose bytes are damaged."""
        text = json.dumps(self.random.choice([self.some_plan(), CONFIG, {"peft_type": "LORA", "r": 4}, [1, 2, 3]]))
        file = self.file("damaged", self.damaged(text.encode()))
        where = self.random.choice(
            [["--plan"], [], ["smollm2-135m", "--method"], ["smollm2-135m", "--lengths"], ["--plans"]]
        )
        return ["estimate", *where, str(file)], b""

    # parts of cases

    def one_in(self, n: int) -> bool:
        return not self.random.randrange(n)

    def command(self, *arguments: str) -> list[str]:
        """``estimate``; with ``others`` sometimes another, which may ask many estimates."""
        if self.others and self.one_in(3):
            return [*self.random.choice(OTHERS), *arguments]
        return ["estimate", *arguments]

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return path

    def text(self, data: dict[str, Any]) -> str:
        """JSON, now and then with a key twice."""
        text = json.dumps(data)
        return text[:-1] + ', "vocab_size": 7, "r": 3}' if self.one_in(12) else text

    def some_plan(self) -> dict[str, Any]:
        name = self.random.choice(list(METHODS))
        plan: dict[str, Any] = {"model": "smollm2-135m", "seq": self.random.choice([16, 64, 200])}
        plan["method"] = dict(self.random.choice(EXAMPLES.get(name, [{"name": name}])))
        for key in self.random.sample(list(Plan.model_fields), self.random.randrange(4)):
            plan.setdefault(key, self.valid(key))
        return plan

    def valid(self, key: str) -> Any:
        """A value that a plan's key may have."""
        words = {
            "dtype": ["float32", "nf4", "int8", "q4_k_m"], "attention": ["eager", "sdpa"], "task": ["train", "infer"],
            "checkpointing": ["layer", "every-2", "attention"], "runtime": ["torch-cpu", "torch-cuda", "llama.cpp"],
            "optimizer": ["sgd", "muon", "galore-adamw", "adamw-8bit"], "loss": ["chunked", "liger", "cce"],
            "saved_activations": ["int8", "int4"], "device": ["rtx-4090", "iphone-15"], "budget": ["1GiB"],
            "generate": [{"max_new_tokens": 8}], "lengths": [{"histogram": {"8": 3, "20": 1}}],
            "llama_cpp": [{"n_ctx": 512}], "run": [{"eval_samples": 40, "compute_metrics": True}],
        }  # fmt: skip
        return self.random.choice(words.get(key, [True, 1, 2, "float16"]))

    def mutated(self, data: dict[str, Any]) -> dict[str, Any]:
        """The same with up to three changes, at any depth."""
        data = json.loads(json.dumps(data))
        for _ in range(self.random.randrange(4)):
            place: Any = data
            while True:
                key = self.random.choice(list(place)) if isinstance(place, dict) and place else None
                if isinstance(place, list) and place:
                    key = self.random.randrange(len(place))
                if key is None or not isinstance(place[key], (dict, list)) or not place[key] or self.one_in(2):
                    break
                place = place[key]
            if key is None:
                continue
            if self.one_in(8) and isinstance(place, dict):
                place[self.random.choice(TEXTS)] = place.pop(key)
            elif self.one_in(8):
                place.pop(key)
            else:
                place[key] = self.value()
        return data

    def value(self) -> Any:
        text, number = self.random.choice(TEXTS), self.random.choice(NUMBERS)
        kinds: list[Any] = [
            number, text, None, True, False, [], {}, [number], {text: number}, float("nan"), float("inf"), "\ud800",
            [[[[]]]], [text] * 3, list(range(300)), self.random.randrange(1, 100), self.random.randrange(1, 100),
        ]  # fmt: skip
        return self.random.choice(kinds)

    def small(self) -> Any:
        return self.random.choice(
            [0, 1, 2, 3, 5, 63, 64, 511, 512, 513, 4095, 65536, 10**6, 2**31, 2**32 - 1, -1, True, 0.5, "x"]
        )

    def near(self, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return self.small()
        return self.random.choice(
            [value * 2, value // 2, value + 1, max(value - 1, 0), value * 3, -value, float(value)]
        )

    def damaged(self, content: bytes) -> bytes:
        """Bytes of it changed, left out or cut off."""
        found = bytearray(content)
        for _ in range(self.random.randrange(1, 4)):
            at = self.random.randrange(min(len(found), 4096) or 1) if found else 0
            what = self.random.randrange(4)
            if what == 0:
                found[at : at + 1] = bytes([self.random.randrange(256)])
            elif what == 1:
                found[at : at + 8] = self.random.choice(
                    [b"\xff" * 8, b"\x00" * 8, struct.pack("<Q", 1 << 40), b'"\\ud800']
                )
            elif what == 2:
                del found[at:]
            else:
                found[at:at] = self.random.choice(
                    [b"\x00", b'"', b"{", b"[" * 3000, b"\\", b"\n", b"9" * 5000, b"\xc3"]
                )
        return bytes(found)


_HEADERS: dict[str, Header] = {}


def headers(model: str) -> Header:
    """The GGUF header of a built-in model."""
    if model not in _HEADERS:
        spec = load(model)
        _HEADERS[model] = convert.header(spec.raw, spec.name, "q8_0")
    return _HEADERS[model]


def gguf(header: Header, metadata: dict[str, Any], rng: random.Random | None = None) -> tuple[bytes, int]:
    """A GGUF file without its tensors' data, and the size that it claims to have."""
    keys = {f"{header.architecture}.{key}": value for key, value in metadata.items()}
    keys = {"general.architecture": header.architecture, "tokenizer.ggml.model": "no_vocab", **keys}
    out = [b"GGUF", struct.pack("<IQQ", 3, len(header.tensors), len(keys))]
    for key, value in keys.items():
        out += [_text(key), _value(value)]
    at = 0
    kinds = {"f32": 0, "f16": 1, "q8_0": 8, "bf16": 30, "mxfp4": 39}
    for name, tensor in header.tensors.items():
        out.append(_text(name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape))
        out.append(struct.pack("<IQ", kinds[tensor.kind], at))
        at += -(-tensor.nbytes // 32) * 32
    content = b"".join(out)
    return content, len(content) + 64 + at


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, list):
        if all(isinstance(one, bool) for one in value):
            return struct.pack(f"<IIQ{len(value)}?", 9, 7, len(value), *value)
        numbers = [int(one) if isinstance(one, (int, float)) else 0 for one in value]
        return struct.pack(f"<IIQ{len(value)}q", 9, 11, len(value), *numbers)
    return struct.pack("<IQ", 10, value) if value >= 0 else struct.pack("<Iq", 11, value)


if __name__ == "__main__":
    import collections
    import os
    import resource
    import tempfile
    import traceback

    os.environ["HF_HUB_OFFLINE"] = "1"
    count, seed = int(sys.argv[1]), int(sys.argv[2])
    found: collections.Counter[str] = collections.Counter()
    statuses: collections.Counter[int] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        for i, (arguments, stdin) in enumerate(Cases(Path(folder), seed, len(sys.argv) > 3)):
            if i == count:
                break
            try:
                seen = run(arguments, stdin)
                wrong = seen.wrong()
                statuses[seen.status] += 1
            except BaseException:
                wrong, seen = "raised", Seen(-1, "", traceback.format_exc(), 0)
            if wrong:
                found[wrong.partition(" ")[2] or wrong] += 1
                print(f"case {i}: {wrong}: {arguments!a} {stdin[:200]!r} {seen.err[-600:]!a} {seen.out[-300:]!r}")
                if os.environ.get("KEEP"):
                    os.system(
                        f"mkdir -p {os.environ['KEEP']}/{i}; cp -r {folder}/* {os.environ['KEEP']}/{i}/ 2>/dev/null"
                    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    said = dict(found) or "nothing wrong"
    print(f"{count} cases from seed {seed}: {said}; statuses {dict(statuses)}; {peak} MB at most")
