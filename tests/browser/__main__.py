"""Use the playground in Chromium as a person does, check what it shows, and write screenshots to look at.

  .venv/bin/python -m pip install -r requirements/playground.txt playwright==1.65.2
  .venv/bin/python -m tests.browser --output screenshots              # asks the server of this folder
  .venv/bin/python -m tests.browser --picture docs/playground.png     # the picture of the README, and no checks

Needs a Chromium, and a running server with the quickstart's model `intents`; other models are asked their examples.
The picture shows two versions of it side by side (CONTRIBUTING.md says how the second one is made).
Fails where an answer is missing, where the browser asks another host than this one, or where a text is left behind:
in the browser's storage, in a file, or in what the playground prints.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

from scripts.client.ports import free_ports
from scripts.client.server import add_options
from tests.support.samples import ROOT

ARGUMENTS = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
SECRET = "Wherever is my zanzibarquux parcel?"
HOSTILE = "<img src=x onerror=\"document.title='broken'\"> & \"quotes\" 'too'"
LOOPBACK = ("127.0.0.1", "localhost")
SIZES = {"wide": (1440, 1000), "narrow": (420, 900)}
PICTURE_SIZE = (1280, 860)
PICTURED = "Where is my parcel?\nI want my money back.\nThe charger stopped working after two weeks."
FOLLOWED = ("Model", "Version", "Operation")  # the lists whose choice changes other controls
LIMIT_MS = 300_000  # for every wait: explanations on a machine that computes something else take minutes


def main() -> None:
    """Run every check."""
    arguments = parse_arguments()
    expect.set_options(timeout=LIMIT_MS)
    with (
        tempfile.TemporaryDirectory() as scratch,
        playground(arguments, Path(scratch)) as url,
        sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path=arguments.chromium, args=ARGUMENTS, chromium_sandbox=False)
        if arguments.picture:
            picture(browser, url, arguments.picture)
            return
        arguments.output.mkdir(parents=True, exist_ok=True)
        for scheme in ("light", "dark"):
            for name, (width, height) in SIZES.items():
                context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
                page = context.new_page()
                page.set_default_timeout(LIMIT_MS)
                hosts: set[str] = set()
                page.on("request", lambda request, hosts=hosts: hosts.add(urlsplit(request.url).hostname or ""))
                page.goto(url)
                try:
                    use(page, arguments.output, f"{scheme}-{name}", everything=(scheme, name) == ("light", "wide"))
                except Exception:
                    shot(page, arguments.output, "failed")
                    raise
                assert hosts <= {*LOOPBACK, ""}, f"the browser asked {hosts}"
                state = str(context.storage_state(indexed_db=True)) + page.evaluate(
                    "JSON.stringify({...sessionStorage})"
                )
                assert "zanzibarquux" not in state, "the browser's storage keeps a text"
                context.close()
        browser.close()
        for file in Path(scratch).rglob("*"):
            assert not file.is_file() or b"zanzibarquux" not in file.read_bytes(), f"{file} keeps a text"
    print(f"all checks passed; look at {arguments.output}")


def picture(browser: Browser, url: str, file: Path) -> None:
    """Write the picture of the README: a classifier, and its second version beside it."""
    width, height = PICTURE_SIZE
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
    page.set_default_timeout(LIMIT_MS)
    page.goto(url)
    look(page)
    choose(page, "Model", "intents")
    if not page.get_by_role("combobox", name="Beside it", exact=True).is_enabled():
        raise SystemExit("the server has one version of intents: see CONTRIBUTING.md")
    choose(page, "Beside it", options(page, "Beside it")[-1])
    page.get_by_role("textbox", name="Texts, one a line").fill(PICTURED)
    press(page, "Ask")
    expect(page.locator(".answers .bars")).to_have_count(2 * len(PICTURED.splitlines()))
    page.mouse.move(0, 0)  # away from the button, which it changes
    with Image.open(io.BytesIO(page.screenshot(animations="disabled"))) as taken:
        taken.convert("P", palette=Image.Palette.ADAPTIVE).save(file, optimize=True)
    print(f"written: {file}")


def use(page: Page, output: Path, name: str, *, everything: bool) -> None:
    """Ask the classifier, and if `everything` each model and each tab."""
    look(page)
    choose(page, "Model", "intents")
    page.get_by_role("textbox", name="Texts, one a line").fill(
        f"{SECRET}\nI want my money back.\nThe screen is cracked."
    )
    press(page, "Ask")
    expect(page.locator(".answers .bars")).to_have_count(3)
    expect(page.locator(".answers .bars").first).to_contain_text("track_order")
    shot(page, output, f"{name}-answers")
    if everything:
        beside(page, output, name)
        tabs(page, output, name)
        failures(page, output, name)
        every_model(page, output, name)


def tabs(page: Page, output: Path, name: str) -> None:
    """Look at every tab of one answer."""
    for tab, text in (
        ("Time and headers", "x-inference-ms"),
        ("curl", "curl -s http"),
        ("Python", "requests.post"),
        ("JSON", "track_order"),
        ("Evaluation", "report"),
    ):
        with answered(page) if tab == "Evaluation" else nullcontext():
            page.get_by_role("tab", name=tab, exact=True).click()
        expect(page.get_by_role("tabpanel").get_by_text(text).first).to_be_visible()
        shot(page, output, f"{name}-{tab.split()[0].lower()}")
    page.get_by_role("tab", name="Answers", exact=True).click()
    press(page, "Why?")
    expect(page.locator(".answers article")).to_have_count(3)
    shot(page, output, f"{name}-why")


def beside(page: Page, output: Path, name: str) -> None:
    """Ask two versions, where there are two."""
    if page.get_by_role("combobox", name="Beside it", exact=True).is_enabled():
        choose(page, "Beside it", options(page, "Beside it")[-1])
        press(page, "Ask")
        expect(page.locator(".answers h3")).to_have_count(2)
        expect(page.locator(".answers .bars")).to_have_count(6)
        tops = [page.locator(".answers .bars").nth(index).bounding_box() for index in range(6)]
        heights = [round(top["y"]) for top in tops if top]
        assert heights[:3] == heights[3:], f"the answers to one text are not side by side: {heights}"
        shot(page, output, f"{name}-beside")
        choose(page, "Beside it", "none")


def failures(page: Page, output: Path, name: str) -> None:
    """Type what nothing can be answered to, and markup, which stays text."""
    texts = page.get_by_role("textbox", name="Texts, one a line")
    texts.fill("")
    press(page, "Ask")
    expect(page.get_by_text("nothing to ask")).to_be_visible()
    texts.fill(HOSTILE)
    press(page, "Ask")
    expect(page.locator(".answers .asked")).to_have_text(HOSTILE)
    assert page.title() == "Playground"
    page.get_by_text("Parameters", exact=True).click()
    page.get_by_label("As JSON").fill('{"top_k": "many"}')
    press(page, "Ask")
    expect(page.locator(".answers .bad")).to_contain_text("422 InvalidInput")
    shot(page, output, f"{name}-refused")
    page.get_by_label("As JSON").fill("")
    page.get_by_text("Parameters", exact=True).click()
    page.get_by_text("Another server").click()
    page.wait_for_timeout(
        500
    )  # Gradio lays the fields out when they are shown first, and empties what was typed before
    address = page.get_by_label("Inference address")
    address.fill("http://127.0.0.1:9")
    page.get_by_label("Management address").fill("http://127.0.0.1:9")
    page.get_by_role("button", name="Look again").click()
    expect(page.get_by_text("Not ready: no server at http://127.0.0.1:9")).to_be_visible()
    shot(page, output, f"{name}-no-server")
    address.fill("")
    page.get_by_label("Management address").fill("")
    page.get_by_role("button", name="Look again").click()
    look(page)
    page.get_by_text("Another server").click()


def every_model(page: Page, output: Path, name: str) -> None:
    """Ask each model the example of each of its operations."""
    for model in options(page, "Model"):
        choose(page, "Model", model)
        for operation in options(page, "Operation"):
            choose(page, "Operation", operation)
            press(page, "Example")
            expect(page.locator("textarea:visible").first).not_to_have_value("")
            press(page, "Ask")
            expect(page.locator(".answers").locator("section, .matrix").first).to_be_visible()
            assert page.locator(".answers .bad").count() == 0, f"{model} {operation} has an error"
            assert page.locator(".answers pre").count() == 0, f"{model} {operation} is shown as JSON"
            shot(page, output, f"{name}-{model}-{operation}")


def look(page: Page) -> None:
    """Wait until the page has found the server, and then its first model."""
    expect(page.get_by_text("The server is ready")).to_be_visible()
    expect(page.get_by_role("combobox", name="Version", exact=True)).to_have_value(re.compile(r" \(default\)$"))


def choose(page: Page, label: str, value: str) -> None:
    """Choose a value of a list, as with the mouse; the controls that depend on it follow."""
    box = page.get_by_role("combobox", name=label, exact=True)
    if box.input_value() != value:
        box.click()
        with answered(page) if label in FOLLOWED else nullcontext():
            page.get_by_role("option", name=value, exact=True).click()
        leave(page)


def press(page: Page, name: str) -> None:
    """Click a button, and wait until what it asked for is shown."""
    with answered(page):
        page.get_by_role("button", name=name, exact=True).click()


@contextmanager
def answered(page: Page) -> Iterator[None]:
    """Do something that makes the page call its server once; go on when Gradio shows what came of it.

    Gradio reads the results of calls from one stream. The server ends it after the last of them, or the page does, and
    what will be replaced is marked as pending from before the call until it is.
    """
    ended: list[Request] = []

    def note(request: Request) -> None:
        if urlsplit(request.url).path.endswith("/queue/data"):
            ended.append(request)

    page.on("requestfinished", note)
    page.on("requestfailed", note)
    yield
    deadline = time.monotonic() + LIMIT_MS / 1000
    while not ended:
        assert time.monotonic() < deadline, f"no answer within {LIMIT_MS / 1000:.0f} s"
        page.wait_for_timeout(50)
    page.remove_listener("requestfinished", note)
    page.remove_listener("requestfailed", note)
    expect(page.locator(".pending")).to_have_count(0)
    page.evaluate("() => new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)))")


def leave(page: Page) -> None:
    """Click beside the controls, so that a list closes."""
    page.get_by_role("heading", name="Playground").click()
    expect(page.get_by_role("option")).to_have_count(0)


def options(page: Page, label: str) -> list[str]:
    """Return the values of a list."""
    page.get_by_role("combobox", name=label, exact=True).click()
    values = [value.strip().removeprefix("✓").strip() for value in page.get_by_role("option").all_inner_texts()]
    leave(page)
    return values


def shot(page: Page, output: Path, name: str) -> None:
    """Write a screenshot of the whole page."""
    page.screenshot(path=output / f"{name}.png", full_page=True)


@contextmanager
def playground(arguments: argparse.Namespace, scratch: Path) -> Iterator[str]:
    """Run the playground with a folder for its temporary files; yield its address, and check that it said nothing."""
    (port,) = free_ports(1)
    command = [sys.executable, str(ROOT / "scripts" / "playground.py"), "--port", str(port)]
    command += ["--config", str(arguments.config), "--run-dir", str(arguments.run_dir)]
    environment = {**os.environ, "TMPDIR": str(scratch), "GRADIO_TEMP_DIR": str(scratch / "gradio")}
    with (scratch / "output").open("w+b") as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT, env=environment)
        try:
            wait_for(f"http://127.0.0.1:{port}/", process)
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()
            process.wait(30)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a page answers."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise SystemExit("the playground did not start: run scripts/playground.py to see why")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.browser", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("screenshots"), metavar="DIR", help="default: screenshots")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="write the picture of the README, and check nothing"
    )
    parser.add_argument("--chromium", default="/usr/bin/chromium", metavar="FILE", help="default: /usr/bin/chromium")
    add_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
