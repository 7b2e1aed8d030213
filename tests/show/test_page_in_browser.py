"""The estimator as a page, in Chromium. The witness is the command line on this machine."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import yaml

from estimator.answers.check import check
from estimator.plans.plan import Plan, parse_plan
from estimator.show.captured import captured
from estimator.show.commands.options import plan_mapping
from estimator.show.page import serve
from tests.cases.page_plans import PLANS, on_this_machine
from tests.helpers.browsers import browser as browser

pytest.importorskip("playwright")

SLOW = 600_000
"""The most ms that an answer may take on a busy machine."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("page")
    assert captured(["page", "--output", str(written)]).status == 0
    return written


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with serve.server(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


SEEN: list[str] = []
"""What the page wrote to the console, and what it asked of other hosts."""
FIRST: list[str] = []
"""What was asked of its own host until the first answer."""


@pytest.fixture(scope="module")
def page(browser: Any, address: str) -> Any:
    opened = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    opened.set_default_timeout(SLOW)
    opened.on("console", lambda message: SEEN.append(message.text))
    opened.on("pageerror", lambda error: SEEN.append(str(error)))
    opened.on("request", lambda one: None if one.url.startswith((address, "data:")) else SEEN.append(one.url))
    opened.on("request", first := lambda one: FIRST.append(urlsplit(one.url).path.lstrip("/")))
    opened.goto(address)
    shown(opened)
    opened.remove_listener("request", first)
    return opened


def answer(page: Any, plan: dict[str, Any] | str) -> dict[str, Any]:
    """What the page answers to an address with a plan."""
    text = plan if isinstance(plan, str) else json.dumps(plan)
    page.evaluate("() => delete document.getElementById('result').dataset.result")
    page.evaluate("hash => { location.hash = hash }", f"plan={quote(text, safe='')}")
    return shown(page)


def shown(page: Any) -> dict[str, Any]:
    page.wait_for_selector("#result[data-result]")
    found: dict[str, Any] = json.loads(page.get_attribute("#result", "data-result"))
    return found


@pytest.mark.share(6)
def test_a_model_s_program_is_sent_when_it_is_asked_about(page: Any, folder: Path) -> None:
    sent = {name for name in FIRST if name.startswith("model_specs/")}
    assert sent
    assert {name.rpartition("/")[2].partition(".")[0] for name in sent} == {"llama"}
    assert sum(len(gzip.compress((folder / name).read_bytes())) for name in set(FIRST) - {""}) < 12_000_000


def test_a_program_that_does_not_come_is_one_line(page: Any) -> None:
    plan = {"model": "gemma-2-2b", "method": "lora"}
    seen = len(SEEN)
    page.context.route("**/model_specs/programs/gemma2*", lambda route: route.abort())
    found = answer(page, plan)
    page.context.unroute("**/model_specs/programs/gemma2*")
    del SEEN[seen:]  # the browser's own word for it
    assert "cannot read" in found["error"]
    assert "\n" not in found["error"]
    assert answer(page, plan) == on_this_machine(plan)


@pytest.mark.share(80)
@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan["model"])
def test_its_answer_is_the_command_lines(page: Any, plan: dict[str, Any]) -> None:
    assert answer(page, plan) == on_this_machine(plan)


def test_modules_by_a_regular_expression(page: Any) -> None:
    """In a browser other code matches them, by another clock."""
    plan = {"model": "smollm2-135m", "method": {"name": "lora", "target_modules": r".*\.(q|v)_proj"}}
    assert answer(page, plan) == on_this_machine(plan)


@pytest.mark.share(4)
def test_an_answer_that_does_not_come_is_one_line(browser: Any, address: str) -> None:
    method = {"name": "lora", "target_modules": "(([a-z._0-9])+)+!"}
    opened = browser.new_page()
    opened.set_default_timeout(SLOW)
    opened.clock.install()
    opened.goto(address)
    shown(opened)
    opened.evaluate("() => delete document.getElementById('result').dataset.result")
    opened.evaluate(
        "hash => { location.hash = hash }", f"plan={quote(json.dumps({'model': 'gpt2', 'method': method}))}"
    )
    opened.wait_for_timeout(1000)
    opened.clock.fast_forward(130_000)
    assert shown(opened) == {"error": "no answer: it takes more than two minutes; ask for less"}
    opened.close()


def test_a_link_gives_the_same_plan(page: Any) -> None:
    plan = {"model": "qwen3-0.6b", "method": {"name": "lora", "r": 4}, "seq": 512, "keep_logits": False}
    first = answer(page, plan)
    page.click("text=Copy a link")
    assert json.loads(page.evaluate("() => decodeURIComponent(location.hash.slice('#plan='.length))")) == plan
    page.reload()
    assert shown(page) == first


def copied(page: Any, button: str) -> str:
    page.evaluate("() => { document.getElementById('copied').textContent = '' }")
    page.click(f"text={button}")
    page.wait_for_function("() => document.getElementById('copied').textContent")
    text: str = page.inner_text("#copied")
    return text.removeprefix("copied:\n")


@pytest.mark.parametrize(
    "plan",
    [
        {"model": "qwen3-0.6b", "method": {"name": "lora", "target_modules": ["q_proj", "v_proj"], "use_rslora": True}},
        {"model": "llama-3.1-8b", "keep_logits": False, "sharding": {"name": "fsdp2", "world_size": 8}},
        {"model": "llama-3.1-8b", "task": "infer", "generate": {"max_new_tokens": 64}, "budget": "20GiB"},
        {
            "model": "qwen3-0.6b",
            "lengths": {"histogram": {"512": 9}},
            "method": {"name": "lora", "target_modules": "q.*"},
        },
    ],
)
def test_its_command_is_the_plan(page: Any, plan: dict[str, Any]) -> None:
    import argparse

    from estimator.show.commands.estimate import configure

    answer(page, plan)
    words = shlex.split(copied(page, "Copy as a command"))
    assert words[:2] == ["estimator", "estimate"]
    parser = argparse.ArgumentParser()
    configure(parser, words[2:])
    assert parse_plan(plan_mapping(parser.parse_args(words[2:]))) == parse_plan(plan)
    assert eval(copied(page, "Copy as Python").partition("estimate(")[2].removesuffix("))")) == plan


def test_the_form_changes_the_plan(page: Any) -> None:
    answer(page, {"model": "qwen3-0.6b", "method": "lora"})
    for name, value in (("seq", "4096"), ("r", "16"), ("model", "smollm2-135m")):
        page.fill(f"#common [data-key$='{name}']", value)
        page.press(f"#common [data-key$='{name}']", "Tab")
    page.select_option("#common [data-key='optimizer']", "sgd")
    shown(page)
    page.wait_for_function("() => document.getElementById('result').dataset.result?.includes('smollm2')")
    plan = {"model": "smollm2-135m", "method": {"name": "lora", "r": 16}, "seq": 4096, "optimizer": "sgd"}
    assert json.loads(page.evaluate("() => decodeURIComponent(location.hash.slice(6))")) == plan
    assert shown(page) == on_this_machine(plan)


def test_the_method_may_be_taken_back(page: Any) -> None:
    """llama.cpp refuses a plan that names any."""
    answer(page, {"model": "smollm2-135m", "method": "lora"})
    page.select_option("#common [data-key='method']", "")
    shown(page)
    assert json.loads(page.evaluate("() => decodeURIComponent(location.hash.slice(6))")) == {"model": "smollm2-135m"}


def test_each_key_has_a_field(page: Any) -> None:
    answer(page, {"model": "qwen3-0.6b", "method": "lora"})
    keys = set(page.eval_on_selector_all("[data-key]", "all => all.map(one => one.dataset.key.split('.')[0])"))
    assert keys == set(Plan.model_fields)
    assert {"method.use_dora", "sharding.world_size", "generate.max_new_tokens"} <= set(
        page.eval_on_selector_all("[data-key]", "all => all.map(one => one.dataset.key)")
    )


WRONG = [
    *("", "{", "[]", "null", "{" * 5000, '{"model": 5}', '{"hodel": "x"}', '{"model": "/etc/passwd"}'),
    *('{"model": "<img src=x onerror=alert(1)>"}', '{"__proto__": {"model": "gpt2"}}', '{"model": "a", "sharding": 7}'),
    '{"model": "qwen3-0.6b", "method": []}',
    '{"model": "qwen3-0.6b", "seq": 1e999}',
    '{"model": "qwen3-0.6b", "device": {"a": 1}}',
]


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_address_is_one_line(page: Any, text: str) -> None:
    found = answer(page, text)
    assert set(found) == {"error"}
    assert 0 < len(found["error"]) < 1000
    assert "\n" not in found["error"]
    assert page.inner_text("#problem") == found["error"]
    assert page.query_selector("img") is None


FILES: dict[str, Any] = {
    "config.json": {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 128, "vocab_size": 100, "num_key_value_heads": 2,
    },
    "adapter_config.json": {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"},
}  # fmt: skip


def give(page: Any, path: Path) -> dict[str, Any]:
    page.evaluate("() => delete document.getElementById('result').dataset.result")
    page.set_input_files("#file", str(path))
    return shown(page)


def test_files_take_the_place_of_names(page: Any, tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_text(json.dumps(content))
    answer(page, {"model": "smollm2-135m", "method": "lora"})
    adapter = give(page, tmp_path / "adapter_config.json")
    block = {"name": "lora", "r": 4, "target_modules": ["q_proj"]}
    assert adapter["bytes"] == on_this_machine({"model": "smollm2-135m", "method": block})["bytes"]
    model = give(page, tmp_path / "config.json")
    local = on_this_machine({"model": str(tmp_path / "config.json"), "method": block})
    assert model["bytes"] == local["bytes"]


def test_a_training_file(page: Any, tmp_path: Path) -> None:
    keys = {
        "base_model": "Qwen/Qwen3-0.6B",
        "adapter": "qlora",
        "lora_r": 8,
        "load_in_4bit": True,
        "lora_target_linear": True,
        "sequence_len": 1024,
        "micro_batch_size": 2,
        "gradient_checkpointing": True,
    }
    path = tmp_path / "axolotl.yaml"
    path.write_text(yaml.safe_dump(keys))
    result = check(str(path)).result
    assert result is not None
    assert give(page, path)["bytes"] == dict(result.bytes)


PASTE = """(text) => {
    const clipboardData = new DataTransfer();
    clipboardData.setData("text", text);
    document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
}"""


@pytest.mark.parametrize(
    ("text", "model"),
    [
        (
            "base_model: Qwen/Qwen3-0.6B\nsequence_len: 512\nadapter: lora\nlora_target_linear: true\n",
            "Qwen/Qwen3-0.6B",
        ),
        ("trl sft --model_name_or_path Qwen/Qwen3-0.6B --use_peft --max_length 512", "Qwen/Qwen3-0.6B"),
        ('{"model": "smollm2-135m", "seq": 64}', "smollm2-135m"),
    ],
)
def test_what_is_pasted(page: Any, text: str, model: str) -> None:
    page.evaluate("() => delete document.getElementById('result').dataset.result")
    page.evaluate(PASTE, text)
    assert shown(page).get("error") is None
    assert page.input_value("#common [data-key='model']") == model


GGUF = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
LARGE = {
    "key.gguf": GGUF + struct.pack("<Q", 6 << 30),
    "strings.gguf": GGUF + struct.pack("<Q1sIIQ", 1, b"k", 9, 8, 1 << 29),
}
"""Headers that name more than memory holds: a key of 6 GiB, and half a milliard of texts."""


@pytest.mark.parametrize(("name", "head"), LARGE.items())
def test_a_file_larger_than_memory_is_one_line(page: Any, tmp_path: Path, name: str, head: bytes) -> None:
    (tmp_path / name).write_bytes(head)
    os.truncate(tmp_path / name, 7 << 30)
    found = give(page, tmp_path / name)
    assert set(found) == {"error"}
    assert "\n" not in found["error"]
    assert "method" not in found["error"]  # of the plan before


DAMAGED = {
    "a.gguf": b"GGUF" + b"\xff" * 50,
    "b.json": b'{"a": ',
    "c.yaml": b"\x00\xff",
    "d.gguf": b"",
    "e.json": b'{"model_type": "llama", "hidden_size": 1e400}',
    "f.bin": b"\x80\x04.",
}


@pytest.mark.parametrize(("name", "content"), DAMAGED.items())
def test_a_damaged_file_is_one_line(page: Any, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    found = give(page, tmp_path / name)
    assert set(found) == {"error"}
    assert "\n" not in found["error"]


@pytest.mark.parametrize(
    ("plan", "against"),
    [
        ({"model": "llama-3.2-1b", "runtime": "llama.cpp", "dtype": "q4_k_m", "device": "iphone-15"}, "dirty"),
        ({"model": "smollm2-135m", "budget": "8GiB"}, "process"),
    ],
)
def test_a_limit_stands_beside_what_it_limits(page: Any, plan: dict[str, Any], against: str) -> None:
    """An iPhone's limit is of dirty memory, and the bar is of the process."""
    answer(page, plan)
    page.wait_for_selector(f"#curve svg[aria-label='{against} against sequence length']")
    assert len(page.query_selector_all("#bar .limit")) == (2 if against == "process" else 0)


def test_advice_is_taken_change_by_change(page: Any) -> None:
    plan = {"model": "smollm2-135m", "method": "lora", "seq": 4096, "budget": "3GiB"}
    answer(page, plan)
    steps = json.loads(captured(["advise", "--json"], json.dumps(plan)).output)["advice"][0]["steps"]
    assert steps
    page.click("text=What to change so that it fits")
    page.click("text=Make it")
    page.click("text=What to change so that it fits")
    shown(page)
    assert json.loads(page.evaluate("() => decodeURIComponent(location.hash.slice(6))")) == plan | steps[0]["change"]
    assert shown(page)["bytes"]["process"] == steps[0]["bytes"]


ANSWERS = """() => {
    const boxes = [...document.querySelectorAll("#questions details")];
    const said = [...document.querySelectorAll("#questions [aria-live]")].map((one) => one.textContent);
    const words = ["prefix tuning", "IA3", "batch"];
    const all = said.every((one) => one && one !== "…") && words.every((x) => said.join().includes(x));
    return all ? boxes.map((one) => [one.firstChild.textContent, one.lastChild.textContent]) : null;
}"""
"""The answers by their questions, read at one moment: a page asks again what was answered for another plan."""


@pytest.mark.share(3)
def test_other_questions(page: Any) -> None:
    answer(page, {"model": "smollm2-135m", "method": "lora", "budget": "1GiB", "seq": 1024})
    for box in page.query_selector_all("#questions details"):
        box.query_selector("summary").click()
    texts = dict(page.wait_for_function(ANSWERS).json_value())
    assert "IA3" in texts["Methods side by side"]
    assert "Make it" in texts["What to change so that it fits"]
    assert captured(
        ["max-seq", "smollm2-135m", "--method", "lora", "--budget", "1GiB", "--quiet"]
    ).output.strip() in texts["Longest sequence and largest batch that fit"].replace(",", "")
    assert "iphone" not in texts["Smallest device"]
    for box in page.query_selector_all("#questions details"):
        box.query_selector("summary").click()


@pytest.mark.share(4)
@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (768, "dark"), (1280, "light"), (1280, "dark")])
def test_it_is_accessible_and_no_wider_than_the_screen(page: Any, width: int, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    answer(page, {"model": "smollm2-135m", "method": "lora", "device": "rtx-4090"})
    page.wait_for_selector("#curve svg")
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_nothing_was_asked_of_others_or_written_to_the_console(page: Any) -> None:
    assert SEEN == []


def test_opened_as_a_file_it_says_how_to_serve_it(browser: Any, folder: Path) -> None:
    opened = browser.new_page()
    opened.goto((folder / "index.html").as_uri())
    assert "estimator page" in opened.inner_text("#served")
    opened.close()


@pytest.mark.share(9)
def test_its_policy_is_that_of_its_server(folder: Path) -> None:
    assert serve.POLICY in (folder / "index.html").read_text()
