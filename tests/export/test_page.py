"""The planner page in a real browser. The witness is ``estimate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from estimator import estimate
from estimator.answers.estimate import live_result
from estimator.engines.devices import find
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.show.cli import main
from tests.helpers.browsers import browser as browser

pytest.importorskip("playwright")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    asked = {
        "cpu": ["smollm2-135m", "--method", "lora", "--dtypes", "bfloat16,float32,nf4"],
        "gpu": [
            "llama-3.2-1b",
            "--method",
            "lora",
            "--device",
            "rtx-4090",
            "--methods",
            "lora",
            "--dtypes",
            "bfloat16",
        ],
        "phone": ["smollm2-135m", "--device", "iphone-15-pro", "--dtypes", "q4_k_m,q8_0", "--dtype", "q8_0"],
    }
    for name, words in asked.items():
        assert main(["export", *words, "--to", "html", "--output", str(folder / f"{name}.html")]) == 0
    return {name: folder / f"{name}.html" for name in asked}


def opened(browser: Any, path: Path, state: dict[str, Any] | None = None, **context: Any) -> tuple[Any, list[str]]:
    """The page, and what it wrote to the console or asked of a network."""
    page = browser.new_context(**context).new_page()
    seen: list[str] = []
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else seen.append(request.url))
    page.goto(path.as_uri() + (f"#{urlencode(state)}" if state else ""))
    return page, seen


def shown(page: Any) -> dict[str, int]:
    """The bytes of each component that the page has."""
    rows = page.eval_on_selector_all(
        "#breakdown tr", "rows => rows.map(x => [x.dataset.component, x.querySelector('[data-bytes]').dataset.bytes])"
    )
    return {name: int(value) for name, value in rows}


def set_value(page: Any, name: str, value: int) -> None:
    page.fill(f"#value-{name}", str(value))


def test_values_equal_the_estimate_in_every_regime(browser: Any, pages: dict[str, Path]) -> None:
    """Of the other dtypes, which differ in weights alone, two."""
    page, seen = opened(browser, pages["cpu"])
    for method, block in (("LoRA r=8", "lora"), ("full fine-tuning", "full")):
        for dtype in ("bfloat16", "float32", "nf4"):
            if (block, dtype) == ("full", "nf4"):
                continue
            page.select_option("#pick-method", method)
            page.select_option("#pick-dtype", dtype)
            for batch, seq in ((1, 1), (3, 1), (1, 2), (1, 300), (3, 4096))[0 if dtype == "bfloat16" else 3 :]:
                set_value(page, "batch", batch)
                set_value(page, "seq", seq)
                keys: dict[str, Any] = {"batch": batch, "seq": seq, "dtype": dtype, "method": block}
                if block == "lora":
                    set_value(page, "r", 5)
                    keys["r"] = 5
                assert shown(page) == estimate("smollm2-135m", **keys).bytes, keys
    assert seen == []


def test_llama_cpp_values_and_verdicts(browser: Any, pages: dict[str, Path]) -> None:
    page, seen = opened(browser, pages["phone"])
    for dtype in ("q8_0", "q4_k_m"):
        page.select_option("#pick-dtype", dtype)
        for n_ctx in (512, 1000, 8192):
            set_value(page, "n_ctx", n_ctx)
            result = estimate("smollm2-135m", dtype=dtype, n_ctx=n_ctx, device="iphone-15-pro")
            assert shown(page) == result.bytes
            verdict = page.inner_text("[data-device=iphone-15-pro] strong")
            assert verdict == result.verdict
    assert seen == []


def test_gpu_is_held_between_two_bounds(browser: Any, pages: dict[str, Path]) -> None:
    page, seen = opened(browser, pages["gpu"], {"batch": 4, "seq": 3000, "r": 16, "devices": "rtx-4090"})
    sizes = shown(page)
    plan = parse_plan(
        {"model": "llama-3.2-1b", "method": {"name": "lora", "r": 16}, "device": "rtx-4090", "batch": 4, "seq": 3000}
    )
    assert sizes["peak"] == live_result(plan, {}).bytes["peak"]
    process = estimate(plan.model_copy(update={"device": "rtx-4090"})).bytes["process"]
    assert sizes["process_at_least"] <= process
    usable = find("rtx-4090").usable_bytes
    verdict = page.inner_text("[data-device=rtx-4090] strong")
    assert verdict == (
        "does not fit"
        if sizes["process_at_least"] > usable
        else "fits"
        if sizes["process_at_most"] <= usable
        else "may not fit"
    )
    assert seen == []


def test_a_link_restores_the_state(browser: Any, pages: dict[str, Path]) -> None:
    page, _ = opened(browser, pages["cpu"])
    page.select_option("#pick-dtype", "float32")
    set_value(page, "batch", 7)
    set_value(page, "seq", 777)
    page.select_option("#device", index=3)
    before, address = shown(page), page.evaluate("location.href")
    devices = page.eval_on_selector_all("#verdicts li", "rows => rows.map(x => x.dataset.device)")
    again = browser.new_context().new_page()
    again.goto(address)
    assert shown(again) == before
    assert again.input_value("#value-batch") == "7"
    assert again.eval_on_selector_all("#verdicts li", "rows => rows.map(x => x.dataset.device)") == devices


@pytest.mark.parametrize(
    "state",
    [
        {"method": "__proto__", "dtype": "constructor"},
        {"batch": "-1", "seq": "NaN", "devices": "<script>alert(1)</script>"},
        {"batch": "1e99", "seq": "9" * 400},
    ],
)
def test_a_hostile_link_changes_nothing(state: dict[str, str], browser: Any, pages: dict[str, Path]) -> None:
    page, seen = opened(browser, pages["cpu"], state)
    assert shown(page) == estimate("smollm2-135m", method="lora").bytes
    assert seen == []


def test_a_link_that_cannot_be_read_is_said(browser: Any, pages: dict[str, Path]) -> None:
    state = {"batch": "x", "seq": "300", "devices": "rtx-1", "method": "LoRA r=8", "bogus": "1"}
    page, seen = opened(browser, pages["cpu"], state)
    said = page.inner_text("#unread")
    for words in ("could not be read in full", "batch 'x' is no number from 1 to 1,000,000", "'rtx-1'", "'bogus'"):
        assert words in said
    assert shown(page) == estimate("smollm2-135m", method="lora", seq=300).bytes
    page.evaluate("location.hash = 'seq=200'")
    page.wait_for_function("document.getElementById('value-seq').value === '200'")
    assert page.inner_text("#unread") == ""
    garbled = opened(browser, pages["cpu"], {"%zz&&=\x00": "1" * 5000})[0]
    assert "is unknown" in garbled.inner_text("#unread")
    assert len(garbled.inner_text("#unread")) < 300
    assert seen == []


def test_the_verdict_stands_by_the_sliders(browser: Any, pages: dict[str, Path]) -> None:
    """It is the one of the plan's device in the list, on one screen with the sliders, and follows them."""
    page, _ = opened(browser, pages["gpu"], viewport={"width": 360, "height": 740})
    headline = page.inner_text("#headline")
    assert headline.startswith("Fits on GeForce RTX 4090 24 GB: ")
    sizes = shown(page)
    low, high = (f"{sizes[name] / 2**30:.2f}" for name in ("process_at_least", "process_at_most"))
    assert f"{low} to {high} GiB of 23.51" in headline
    set_value(page, "seq", 10**6)
    page.evaluate("document.getElementById('value-r').scrollIntoView({block: 'center'})")
    assert page.inner_text("#headline").startswith("Does not fit")
    assert 0 <= page.eval_on_selector("#headline", "node => node.getBoundingClientRect().top") < 740
    page.fill("#value-seq", "")
    assert not page.is_visible("#headline")


@pytest.mark.share(4)
@pytest.mark.parametrize("width", [360, 1200])
def test_ticks_are_round_and_labels_apart(width: int, browser: Any, pages: dict[str, Path]) -> None:
    names = "rtx-4070,rtx-4070-ti,rtx-3060-12gb,rtx-4090,l4,rtx-4080,h100-80gb,a100-80gb"
    for seq in (1, 7, 300, 2048, 16384, 10**6):
        state = {"seq": seq, "devices": names}
        page, seen = opened(browser, pages["gpu"], state, viewport={"width": width, "height": 800})
        ticks = page.eval_on_selector_all("#curve .tick", "rows => rows.map(x => x.textContent)")
        numbers = [float(text.replace(",", "")) for text in ticks]
        assert len(numbers) >= 4
        assert [text for text in ticks if len(text.replace(",", "").replace(".", "").strip("0")) > 2] == []
        boxes = page.eval_on_selector_all(
            "#curve text", "rows => rows.map(x => x.getBBox()).map(b => [b.x, b.y, b.x + b.width, b.y + b.height])"
        )
        lapping = [
            (a, b)
            for i, a in enumerate(boxes)
            for b in boxes[:i]
            if a[0] < b[2] - 1 and b[0] < a[2] - 1 and a[1] < b[3] - 2 and b[1] < a[3] - 2
        ]
        assert lapping == []
        assert min(box[1] for box in boxes) >= -1
        assert seen == []


def test_out_of_range_is_said(browser: Any, pages: dict[str, Path]) -> None:
    page, seen = opened(browser, pages["cpu"])
    set_value(page, "batch", 0)
    assert "batch must be a whole number from 1 to 1000000" in page.inner_text("#problem")
    page.fill("#value-batch", "")
    assert "batch must be a whole number" in page.inner_text("#problem")
    set_value(page, "batch", 2)
    assert page.inner_text("#problem") == ""
    assert seen == []


def test_keyboard_alone_is_enough(browser: Any, pages: dict[str, Path]) -> None:
    page, _ = opened(browser, pages["cpu"])
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label') || ''")
        )
    for wanted in ("pick-method", "pick-dtype", "seq, slider", "value-seq", "device", "copy"):
        assert wanted in reached
    before = shown(page)["peak"]
    page.focus("[aria-label='seq, slider']")
    page.keyboard.press("ArrowRight")
    assert shown(page)["peak"] > before


@pytest.mark.share(6)
@pytest.mark.parametrize("name", ["cpu", "gpu", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_cut_off_and_text_can_be_read(
    name: str, scheme: str, width: int, browser: Any, pages: dict[str, Path]
) -> None:
    """No part is wider than a phone's screen, and text stands out from its ground (WCAG's ratio of 4.5)."""
    page, _ = opened(browser, pages[name], color_scheme=scheme, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    contrasts = page.evaluate(
        """() => {
            const light = (text) => {
                const c = text.match(/[\\d.]+/g).slice(0, 3).map((x) => x / 255)
                    .map((x) => (x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
                return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2];
            };
            const ground = (node) => {
                for (let one = node; one; one = one.parentElement) {
                    const text = getComputedStyle(one).backgroundColor;
                    if (!text.endsWith(", 0)")) return text;
                }
                return "rgb(255, 255, 255)";
            };
            return [...document.querySelectorAll("h1, p, label, small, td, th, strong, button, option, summary")]
                .filter((node) => node.getClientRects().length)
                .map((node) => {
                    const [a, b] = [light(getComputedStyle(node).color), light(ground(node))];
                    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
                });
        }"""
    )
    assert len(contrasts) > 20
    assert min(contrasts) >= 4.5


@pytest.mark.share(2)
@pytest.mark.parametrize("name", ["cpu", "gpu", "phone"])
def test_size_and_first_paint(name: str, browser: Any, pages: dict[str, Path]) -> None:
    assert pages[name].stat().st_size < 10**6
    page, _ = opened(browser, pages[name])
    for _ in range(100):
        if painted := page.evaluate("performance.getEntriesByType('paint').length"):
            break
        page.wait_for_timeout(50)
    assert painted
    assert shown(page)  # it is filled when it is first painted
    text = pages[name].read_text()
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text


def test_a_models_name_cannot_leave_its_place(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "<img src=x onerror=alert(1)><!--<script>$data"
    folder.mkdir()
    raw = resolve(parse_plan({"model": "smollm2-135m"})).spec.raw
    (folder / "config.json").write_text(json.dumps(raw))
    ask = ["export", folder.name, "--methods", "full", "--dtypes", "float32", "--to", "html", "--output", "page.html"]
    assert main(ask) == 0
    page, seen = opened(browser, tmp_path / "page.html")
    assert shown(page) == estimate("smollm2-135m", dtype="float32").bytes
    assert page.locator("img").count() == 0
    assert folder.name in page.inner_text("h1")
    assert seen == []


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--dtypes", "nf4", "--methods", "full"], "dtype: nf4"),
        (["--only", "peak"], "a page shows every component"),
        (["--methods", "lorra"], "did you mean lora"),
        (["--dtype", "q4_k_m", "--methods", "lora"], "--methods is for steps in PyTorch"),
    ],
)
def test_wrong_input_is_one_line(options: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "smollm2-135m", *options, "--to", "html"]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


@pytest.mark.share(4)
def test_lists_belong_to_pages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "smollm2-135m", "--methods", "lora", "--to", "c"]) == 2
    assert "--methods belongs to --to html" in capsys.readouterr().err
