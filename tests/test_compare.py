"""The comparison of methods, its figure, and the commands that list models and devices."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from estimator import estimate
from estimator.answers.comparison import compare, figures, label, process_parts
from estimator.errors import InputError
from estimator.plans.devices import catalogue, find
from estimator.show.cli import main
from estimator.show.plots import spread

MODEL = "smollm2-135m"
LORA = {"name": "lora", "r": 16, "target_modules": ["q_proj", "v_proj"]}


def output(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def refusal(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("estimator: ")
    return captured.err


def test_table_has_units_methods_and_lengths(capsys):
    text = output(capsys, "compare", MODEL, "--seqs", "256,512", "--at", "384", "--devices", "rtx-4090")
    for word in (
        "GiB",
        "bytes",
        "tokens",
        "256",
        "512",
        "At 384",
        "full fine-tuning",
        "LoRA r=8",
        "IA3",
        "rtx-4090",
        "%",
    ):
        assert word in text
    assert "loss backward" in text
    assert "to 512 tokens" in text


def test_every_number_is_the_estimates(capsys):
    methods = "[full, {name: lora, r: 16, target_modules: [q_proj, v_proj]}, ia3]"
    found = json.loads(
        output(capsys, "compare", MODEL, "--batch", "2", "--seqs", "64,256", "--methods", methods, "--json")
    )
    assert found["seqs"] == [64, 256]
    assert found["at"] == 2048
    full = estimate(model=MODEL, batch=2, seq=2048)
    for row in found["methods"]:
        for seq, result in zip(found["seqs"], row["results"], strict=True):
            assert result == estimate(model=MODEL, batch=2, seq=seq, method=row["method"]).to_dict()
        own = estimate(model=MODEL, batch=2, seq=2048, method=row["method"])
        assert row["at"] == own.to_dict()
        assert row["share_of_full"]["saved"] == own.bytes["saved"] / full.bytes["saved"]
        assert row["share_of_full"]["peak"] == own.bytes["peak"] / full.bytes["peak"]
        assert row["share_of_full"]["process"] == own.bytes["process"] / full.bytes["process"]
        assert row["share_of_full"]["trainable"] == own.trainable_parameters / full.trainable_parameters


def test_parameter_efficient_is_not_memory_efficient():
    row = compare({"model": "llama-3.2-1b"}, [LORA], [2048], 2048).rows[0]
    assert row.shares[2048].trainable < 0.01
    assert row.shares[2048].saved > 0.7


def test_fits_follows_the_process_bytes(capsys):
    arguments = ["compare", MODEL, "--seqs", "64,8192", "--methods", "full", "--json", "--budget"]
    found = json.loads(output(capsys, *arguments, "8GiB"))
    process = [result["bytes"]["process"] for result in found["methods"][0]["results"]]
    assert process[0] <= 8 * 2**30 < process[1]
    assert found["methods"][0]["fits"] == {"budget": [True, False]}
    assert "at no length" in output(capsys, "compare", MODEL, "--budget", "1MiB")  # nothing fits: still status 0


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_figure_is_written(capsys, tmp_path, suffix):
    path = tmp_path / f"figure{suffix}"
    text = output(capsys, "compare", MODEL, "--seqs", "256,512,1024", "--devices", "rtx-4090", "--output", str(path))
    assert str(path) in text
    assert path.stat().st_size > 5000
    if suffix == ".svg":
        drawn = path.read_text(encoding="utf-8")
        for word in ("(GiB", "tokens", MODEL, "bfloat16", "LoRA r=8", "IA3", "rtx-4090", "saved activations"):
            assert word in drawn


def test_figure_is_not_blank(capsys, tmp_path):
    from matplotlib.image import imread

    path = tmp_path / "figure.png"
    output(capsys, "compare", MODEL, "--seqs", "256,512,1024", "--output", str(path))
    pixels = (np.asarray(imread(path))[..., :3] * 255).astype(np.uint8)
    height, width, _ = pixels.shape
    assert width >= 1600
    assert height >= 800
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 200
    dark = pixels.min(axis=2) < 200
    for part in (dark[: height // 5], dark[:, : width // 2], dark[:, width // 2 :]):  # heading, curves, bars
        assert part.mean() > 0.01


def test_figure_of_one_method_at_one_length(capsys, tmp_path):
    for method in ("full", "ia3"):
        path = tmp_path / f"{method}.png"
        output(capsys, "compare", MODEL, "--seqs", "64", "--at", "64", "--methods", method, "--output", str(path))
        assert path.stat().st_size > 5000


def test_thesis_figure(tmp_path):
    from estimator.show.plots import thesis_figure

    rows = {MODEL: compare({"model": MODEL}, [LORA, {"name": "ia3"}], [64, 256], 64).rows}
    thesis_figure(rows, (64, 256), "batch 1", tmp_path / "thesis.png")
    assert (tmp_path / "thesis.png").stat().st_size > 5000


def test_method_options_go_to_the_methods_that_have_them(capsys, tmp_path):
    found = json.loads(output(capsys, "compare", MODEL, "--seqs", "64", "--r", "4", "--json"))
    assert [row["method"] for row in found["methods"]] == [
        {"name": "full"},
        {"name": "lora", "r": 4},
        {"name": "ia3"},
    ]
    assert found["methods"][1]["label"] == "LoRA r=4"
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        f"model: {MODEL}\nseq: 96\nbudget: 8GiB\nmethod: {{name: lora, r: 2, target_modules: all-linear}}\n"
    )
    found = json.loads(output(capsys, "compare", "--plan", str(plan), "--seqs", "64", "--json"))
    assert found["methods"][1]["method"] == {"name": "lora", "r": 2, "target_modules": "all-linear"}
    assert found["methods"][2]["method"] == {"name": "ia3"}
    assert found["at"] == 96
    assert found["limits"] == {"budget": 8 * 2**30}


def test_adapter_config_is_a_method(capsys, tmp_path):
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "r": 32, "target_modules": ["o_proj"]}))
    found = json.loads(output(capsys, "compare", MODEL, "--seqs", "64", "--methods", f"full,{path}", "--json"))
    assert found["methods"][1]["label"] == "LoRA r=32 (o_proj)"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--devices", "rtx-409"], ["rtx-409", "did you mean rtx-4090", "--budget"]),
        (["--devices", ","], ["empty list", "--devices rtx-4090"]),
        (["--methods", "full,lorra"], ["lorra", "did you mean lora"]),
        (["--methods", ","], ["empty list", "--methods full"]),
        (["--methods", "[full"], ["not a YAML list"]),
        (["--methods", "[3]"], ["'3' is unknown"]),
        (["--methods", "[]"], ["empty list"]),
        (["--methods", "[{name: lora, rank: 3}]"], ["unknown key 'method.rank'"]),
        (["--methods", "full,full"], ["listed twice"]),
        (["--methods", "missing.json"], ["missing.json"]),
        (["--methods", "full", "--r", "4"], ["none of the methods", "--r"]),
        (["--r", "many"], ["method.r", "many"]),
        (["--seqs", "512,long"], ["'long' is not a whole number", "--seqs 512"]),
        (["--seqs", ""], ["empty list"]),
        (["--seqs", "0"], ["0 is not between 1"]),
        (["--at", "2k"], ["'2k' is not a whole number"]),
        (["--budget", "24"], ["24GiB"]),
        (["--output", "figure.gif"], ["figure.gif", ".png"]),
        (["--output", "no/such/folder/figure.png"], ["cannot write", "no/such/folder"]),
        (["--batch", "0"], ["batch"]),
    ],
)
def test_wrong_input_is_one_line(capsys, arguments, words):
    line = refusal(capsys, "compare", MODEL, *arguments)
    for word in words:
        assert word in line


def test_output_that_cannot_be_written(capsys, tmp_path):
    folder = tmp_path / "figure.png"
    folder.mkdir()
    assert "cannot write" in refusal(capsys, "compare", MODEL, "--seqs", "64", "--output", str(folder))


@pytest.mark.parametrize("seq", [16, 512, 4096])
@pytest.mark.parametrize("checkpointing", ["none", "layer"])
@pytest.mark.parametrize("method", [{"name": "full"}, LORA])
@pytest.mark.parametrize("steps", [1, 4])
def test_parts_add_up_to_the_process(seq, checkpointing, method, steps):
    plan = {"model": MODEL, "seq": seq, "checkpointing": checkpointing, "gradient_accumulation_steps": steps}
    result = estimate(plan, method=method)
    parts = process_parts(result, gradients_alive=steps > 1)
    assert sum(parts.values()) == result.bytes["process"]
    assert min(parts.values()) >= 0


def test_temporaries_at_the_loss_are_logits_and_their_gradients():
    result = estimate(model="llama-3.2-1b", batch=4, seq=2048, method=LORA)
    assert result.peak_at == "loss backward"
    tokens = 4 * 2048
    logits = tokens * 128256
    # bfloat16 logits and two float32 gradients, to ids, labels and a few numbers
    assert process_parts(result)["temporaries and logits"] == pytest.approx(logits * (2 + 4 + 4), abs=32 * tokens)


def test_labels_are_short():
    assert label({"name": "full"}) == "full fine-tuning"
    assert label(LORA) == "LoRA r=16 (q_proj, v_proj)"
    assert label({"name": "lora", "bias": "all"}) == "LoRA r=8 bias=all"
    assert [figures(value) for value in (0.00851, 0.138, 1, 9.96, 88.4)] == ["0.0085", "0.14", "1.0", "10", "88"]


def test_spread_keeps_order_and_distance():
    moved = spread([0.1, 0.5, 0.51, 0.52, 0.9], 0.05)
    assert moved == pytest.approx([0.1, 0.46, 0.51, 0.56, 0.9])
    assert spread([0.5], 0.1) == [0.5]


def test_devices(capsys):
    text = output(capsys, "devices")
    for word in ("rtx-4090", "raspberry-pi-5-8gb", "iphone-15-pro", "GiB", "usable", "assumed"):
        assert word in text
    assert "iphone" not in output(capsys, "devices", "RTX")
    assert "no device matches" in output(capsys, "devices", "abacus")
    found = json.loads(output(capsys, "devices", "--json"))
    assert len(found) == len(catalogue())
    for device in found:
        assert device["source"]
        assert device["confidence"]
        assert device["name"] == device["name"].lower().replace(" ", "-")
        assert 0 < device["usable_bytes"] < device["total_bytes"]


def test_find_device():
    assert find("RTX 4090") is find("rtx-4090")
    assert find("rtx-4090").usable_bytes == (24080 - 10) * 2**20
    with pytest.raises(InputError, match="rtx-4090"):
        find("rtx4091")
    assert estimate(model=MODEL, seq=64, device="rtx-4090").fits is True


def test_models(capsys):
    start = time.perf_counter()
    text = output(capsys, "models")
    assert time.perf_counter() - start < 2  # half a second alone on a machine
    for word in ("llama-3.2-1b", "1,235,814,400", "meta-llama/Llama-3.2-1B", "KV heads", "128,256"):
        assert word in text
    assert "llama-3.2-1b" not in output(capsys, "models", "qwen3")
    assert "no built-in model matches" in output(capsys, "models", "abacus")
    found = json.loads(output(capsys, "models", "llama-3.2-1b", "--json"))
    assert found[0]["layers"] == 16
    assert found[0]["tied"] is True
    assert found[0]["source"].startswith("https://")


def test_figures_of_the_docs():
    folder = Path(__file__).parent.parent / "docs" / "images"
    for name in ("compare.png", "thesis.png", "timeline.png"):
        assert (folder / name).stat().st_size > 20_000


def test_no_row_under_a_devices_line_does_not_fit(capsys):
    """Table, curve and the device's line are of the process, on a GPU as on a CPU."""
    seqs = "512,2048,8192"
    arguments = ["compare", MODEL, "--methods", "full,lora", "--seqs", seqs, "--devices", "rtx-4060", "--json"]
    assert main(arguments) == 0
    answer = json.loads(capsys.readouterr().out)
    (limit,) = answer["limits"].values()
    for row in answer["methods"]:
        sizes = [result["bytes"]["process"] for result in row["results"]]
        assert row["fits"]["rtx-4060"] == [size <= limit for size in sizes]
        assert row["fits"]["rtx-4060"] == [verdict != "does not fit" for verdict in row["verdict"]["rtx-4060"]]
    assert main(arguments[:-1]) == 0
    shown = capsys.readouterr().out
    for row in answer["methods"]:
        for result in row["results"]:
            assert f"{result['bytes']['process'] / 2**30:,.2f}" in shown


TWO = ["compare", "llama-3.2-1b", "--methods", "full,lora", "--seqs", "1024,2048,4608", "--json", "--devices"]


def test_each_device_is_asked_itself(capsys):
    """Witness: the estimate on that device. A T4 runs the math kernel where an RTX 4090 runs flash, a Mac a CPU's."""
    first = json.loads(output(capsys, *TWO, "rtx-4090,t4,apple-64gb"))
    assert first["device"] == "rtx-4090"
    for row in first["methods"]:
        assert len({tuple(sizes) for sizes in row["process"].values()}) == 3
        for name in first["limits"]:
            for i, seq in enumerate(first["seqs"]):
                own = estimate("llama-3.2-1b", method=row["method"], seq=seq, device=name)
                told = [row[key][name][i] for key in ("process", "fits", "verdict")]
                assert told == [own.bytes["process"], own.fits, own.verdict]
                if name == first["device"]:
                    assert row["results"][i] == own.to_dict()
    assert first["methods"][1]["fits"]["t4"] == [True, False, False]
    assert first["methods"][0]["verdict"]["rtx-4090"] == ["fits", "fits", "tight"]
    other = json.loads(output(capsys, *TWO, "apple-64gb,t4,rtx-4090"))
    for one, two in zip(first["methods"], other["methods"], strict=True):
        assert all(one[key] == two[key] for key in ("process", "fits", "verdict"))


def test_devices_that_need_the_same_share_estimates():
    """Asks the contract: CPUs' bytes are estimated once; limits, verdicts and assumptions are each device's own."""
    done: list[None] = []
    devices = ["apple-64gb", "iphone-15", "galaxy-s24"]
    found = compare({"model": MODEL}, [LORA], [64, 4096], 64, devices, progress=lambda: done.append(None))
    assert len(done) == 4
    for name in devices:
        for seq, result in found.rows[0].on[name].items():
            assert result == estimate(model=MODEL, seq=seq, method=LORA, device=name)
    assert found.groups() == [devices]


def test_the_table_says_what_is_tight(capsys):
    """Witness: the estimate's verdict, for a budget just above what 256 tokens need."""
    seqs = (64, 256, 512)
    sizes = [estimate(model=MODEL, seq=seq, method="lora").bytes["process"] for seq in seqs]
    command = ["compare", MODEL, "--methods", "lora", "--seqs", "64,256,512", "--budget"]
    budget = sizes[1] + 2**20
    verdicts = [estimate(model=MODEL, seq=seq, method="lora").held_against(budget).verdict for seq in seqs]
    assert verdicts == ["fits", "tight", "does not fit"]
    text = output(capsys, *command, f"{budget}B")
    assert "to 64, tight to 256 tokens" in " ".join(text.split())
    assert "Tight means" in text
    assert "tight to 64 tokens" in output(capsys, *command, f"{sizes[0] + 2**10}B")
    text = output(capsys, *command, "64GiB")
    assert "to 512 tokens" in text
    assert "ight" not in text


def test_other_bytes_have_a_table_and_notes_say_whose_they_are(capsys):
    command = ["compare", "llama-3.2-1b", "--methods", "lora,ia3", "--seqs", "1024,2048", "--devices", "rtx-4090,t4"]
    text = " ".join(output(capsys, *command).split())
    assert "largest memory on rtx-4090" in text
    assert "other bytes on t4" in text
    for name in ("rtx-4090", "t4"):
        own = estimate("llama-3.2-1b", method="lora", seq=1024, device=name)
        assert f"{own.bytes['process'] / 2**30:.2f}" in text
    assert "Note on LoRA r=8 and IA3 on t4 at 2048 tokens: attention runs PyTorch's math kernel" in text
    assert "out of memory" not in text
    assert output(capsys, *command, "--quiet").splitlines()[:3] == [
        "LoRA r=8: 9.19 GiB",
        "LoRA r=8 on rtx-4090: to 2048 tokens",
        "LoRA r=8 on t4: to 1024 tokens",
    ]


def test_lines_are_of_devices_whose_bytes_are_drawn(capsys, tmp_path):
    """The T4's line has no place beside the RTX 4090's curves; a note has its answers."""
    path = tmp_path / "figure.svg"
    command = ["compare", "llama-3.2-1b", "--methods", "lora", "--seqs", "1024,2048", "--output", str(path)]
    output(capsys, *command, "--devices", "rtx-4090,t4")
    drawn = path.read_text(encoding="utf-8")
    assert "rtx-4090: 23.5 GiB usable" in drawn
    assert "t4: 14.6 GiB usable" not in drawn
    assert "t4 (14.6 GiB usable): LoRA r=8 to 1024 tokens" in drawn
    output(capsys, *command, "--devices", "iphone-15,galaxy-s24")
    drawn = path.read_text(encoding="utf-8")
    assert "iphone-15: 3.0 GiB usable" in drawn
    assert "Not drawn" not in drawn


@pytest.mark.parametrize("arguments", [["--runtime", "llama.cpp"], ["--dtype", "q4_k_m"]])
def test_a_comparison_is_of_training_in_pytorch(capsys, arguments):
    assert "training steps in PyTorch" in refusal(capsys, "compare", MODEL, *arguments)


def test_all_methods_are_those_of_the_device(capsys):
    """Checkpoints on the host go with a GPU alone."""
    command = ["compare", MODEL, "--methods", "all", "--seqs", "64", "--at", "64", "--checkpointing", "offloaded"]
    assert "LoRA r=8" in output(capsys, *command, "--devices", "rtx-4090")
    assert "checkpointing" in refusal(capsys, *command)
