"""Write the pictures of the page: ``python docs/make_page_images.py`` in a checkout with the ``test`` extra."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import sync_playwright

from estimator.show.page import build, serve

IMAGES = Path(__file__).parent / "images"
PLAN = {"model": "llama-3.1-8b", "method": "lora", "device": "rtx-4090"}
VIEWS = {
    "page.png": (1280, 900, "light"),
    "page-dark.png": (768, 1300, "dark"),
    "page-phone.png": (360, 1300, "light"),
}
"""Width, height and colours of each picture."""
SLOW = 1_000_000
QUESTIONS = ("Methods side by side", "What to change so that it fits")


def main() -> None:
    """Write the pictures."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        build.write(Path(folder))
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with serve.server(Path(folder)) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}/#plan={quote(json.dumps(PLAN))}"
            page = browser.new_page()
            page.set_default_timeout(SLOW)
            page.goto(address)
            for name, (width, height, scheme) in VIEWS.items():
                page.set_viewport_size({"width": width, "height": height})
                page.emulate_media(color_scheme=scheme)
                page.click("#reset")
                page.wait_for_selector("#result[data-result]")
                page.wait_for_selector("#curve svg")
                page.screenshot(path=IMAGES / name)
            page.set_viewport_size({"width": 1280, "height": 1000})
            for title in QUESTIONS:
                page.click(f"text={title}")
            page.wait_for_selector("text=Make it")
            page.wait_for_selector("text=prefix tuning")
            page.locator("#questions").screenshot(path=IMAGES / "page-questions.png")
            server.shutdown()
        browser.close()


if __name__ == "__main__":
    main()
