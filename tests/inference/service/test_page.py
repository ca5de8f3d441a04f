"""The page in a real browser: what a person does with it, and what it fetches. Needs Chromium and Playwright; nothing is downloaded."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import av
import numpy as np
import pytest

from omnivast.inference.index.api import Index
from omnivast.inference.pipeline import load
from omnivast.inference.service.run import open_library
from tests.browser import listening
from tests.inference.service.conftest import PATIENCE, serving, until
from tests.media_factory import write_video

playwright = pytest.importorskip("playwright.sync_api", reason='playwright is not installed: pip install "omnivast[dev]"')
PAGE = Path(__file__).resolve().parents[3] / "inference" / "service" / "page"
MOST = 150_000
"""Bytes of the page with all that it fetches before a search."""
LONGEST = 2 * PATIENCE
"""Seconds of a test, after which the browser is killed: most of Playwright's calls wait without end for a page that hangs."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """(address, process)"""
    with listening(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def chromium(browser):
    address, _ = browser
    with playwright.sync_playwright() as run:
        opened = run.chromium.connect_over_cdp(address, timeout=1000 * PATIENCE)
        yield opened
        opened.close()


@pytest.fixture(autouse=True)
def _limited(browser):
    timer = threading.Timer(LONGEST, browser[1].kill_all)
    timer.daemon = True
    timer.start()
    yield
    timer.cancel()


@pytest.fixture(scope="module")
def films(media, model, tmp_path_factory):
    """A served folder with a video of 20 s, which has many moments; files may be added."""
    from omnivast.inference.service.app import Service

    folder = tmp_path_factory.mktemp("films") / "clips"
    shutil.copytree(media, folder)
    write_video(folder / "b" / "long.mp4", frames=200, fps=10, sound=True)
    Index(folder, model)
    with serving(Service(open_library(folder, model, uploads=True))) as one:
        yield one


@pytest.fixture
def page(chromium, films):
    """The page, opened, with its ``errors``; none may be written to the console, and nothing asked of another host."""
    yield from opened_page(chromium, films.url, "moments")


def opened_page(chromium, url, shown):
    """Until its line about the folder has ``shown``."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    errors = opened.errors = []
    foreign = []
    opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    ours = (url, f"blob:{url}", "data:")
    opened.on("request", lambda request: None if request.url.startswith(ours) else foreign.append(request.url))
    opened.goto(url)
    wait(opened, f"document.getElementById('folder').textContent.includes('{shown}')")
    yield opened
    context.close()
    assert errors == [] and foreign == []


def wait(page, true):
    """Until an expression is true: asked again from here, since the page itself may evaluate no text."""
    def is_true():
        try:
            return page.evaluate(true)
        except playwright.Error:  # between two pages
            return False

    until(is_true)


def ask(page, text):
    page.fill("#text", text)
    page.keyboard.press("Enter")
    wait(page, "document.getElementById('status').textContent.includes('best first')")
    page.wait_for_selector("#results:not(.old)")


def names(page):
    return page.locator("#results h2").all_text_contents()


def test_a_query_finds_moments_that_play(page, films):
    ask(page, "a red car")
    wanted = films.client.post("/api/search", json={"text": "a red car", "top": 20}).json()["results"]
    assert names(page) == [one["path"] for one in wanted] and "% sure" in page.locator(".sure").first.text_content()
    assert page.locator(".reason").first.text_content().startswith("Found ")
    number = next(n for n, one in enumerate(wanted) if one["start"] > 2)
    moment, card = wanted[number], page.locator("#results article").nth(number)
    card.scroll_into_view_if_needed()
    card.locator(".play").click()
    until(lambda: card.locator("video").evaluate("media => media.currentTime > 0 && !media.paused"))
    at = card.locator("video").evaluate("media => media.currentTime")
    assert moment["start"] - 0.05 <= at <= moment["end"]
    # A browser pauses at the end that the address names.
    assert card.locator("video").get_attribute("src").endswith(f"#t={moment['start']:g},{moment['end']:g}")


SHOWN = """media => {
  const canvas = document.createElement('canvas');
  canvas.width = media.videoWidth;
  canvas.height = media.videoHeight;
  const drawing = canvas.getContext('2d');
  drawing.drawImage(media, 0, 0);
  return [media.currentTime, [...drawing.getImageData(0, 0, canvas.width, canvas.height).data]];
}"""


def test_a_moment_shows_its_first_frame_before_it_plays(page, films):
    """What the browser shows is what PyAV decodes at that time: the files' frames are grey, each lighter than the one before."""
    ask(page, "a red car")
    wanted = films.client.post("/api/search", json={"text": "a red car", "top": 20}).json()["results"]
    number = next(n for n, one in enumerate(wanted) if one["start"] > 2)
    media = page.locator("#results article").nth(number).locator("video")
    media.scroll_into_view_if_needed()
    until(lambda: media.evaluate("media => media.readyState >= 2 && !media.seeking && media.currentTime > 0"))
    at, pixels = media.evaluate(SHOWN)
    assert abs(at - wanted[number]["start"]) < 0.3
    with av.open(str(films.service.library.path(wanted[number]["path"], "path"))) as container:
        times, frames = zip(*((frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)))
    shown = np.array(pixels, np.float32).reshape(*frames[0].shape[:2], 4)[..., :3]
    apart = [float(np.abs(shown - frame).mean()) for frame in frames]
    right = max(number for number, time in enumerate(times) if time <= at + 1e-6)
    assert apart[right] < 2 and abs(int(np.argmin(apart)) - right) <= 2, apart[right - 3 : right + 4]


def test_the_reason_is_the_services(page, films):
    ask(page, "a red car")
    wanted = films.client.post("/api/search", json={"text": "a red car", "top": 20}).json()["results"]
    for one, told in zip(wanted, page.locator(".reason").all_text_contents(), strict=True):
        assert told.endswith(f"by what is {one['by']}." if one["by"] else "")


def test_the_query_is_kept_in_the_address(page):
    ask(page, "a dog")
    page.locator("#heard").fill("0.5")
    wait(page, "location.search.includes('heard=0.5')")
    page.wait_for_selector("#results:not(.old)")
    before = names(page)
    page.reload()
    wait(page, "document.getElementById('status').textContent.includes('best first')")
    assert page.input_value("#text") == "a dog" and page.input_value("#heard") == "0.5" and names(page) == before
    ask(page, "an onion")
    page.go_back()
    wait(page, "document.getElementById('text').value === 'a dog'")


def test_weights_change_the_order(page, films):
    ask(page, "a dog")
    for track in ("seen", "said"):
        page.locator(f"#{track}").fill("0")
    wait(page, "location.search.includes('seen=0') && location.search.includes('said=0')")
    asked = {"text": "a dog", "top": 20, "weights": {"seen": 0, "heard": 1, "said": 0}}
    wanted = films.client.post("/api/search", json=asked).json()["results"]
    until(lambda: names(page) == [one["path"] for one in wanted])
    assert page.locator(".reason").first.text_content() == "Found by what is heard."


def test_nothing_that_matches_is_said(page):
    page.route("**/api/search", lambda route: route.fulfill(json={"results": []}))
    page.fill("#text", "a unicorn")
    page.keyboard.press("Enter")
    wait(page, "document.getElementById('status').textContent.startsWith('Nothing here matches')")
    assert names(page) == []


def test_a_clip_of_ones_own(page, films, media):
    """It is dropped, finds what is like it, is captioned, asked about, and added to the folder."""
    page.set_input_files("#file", str(media / "picture.png"))
    wait(page, "document.getElementById('status').textContent.includes('like picture.png')")
    assert names(page)[0] == "picture.png"
    own = page.locator("#own article")
    own.locator(".caption").click()
    page.wait_for_selector("#own .said p small")
    own.locator(".ask").click()
    own.locator(".question input").fill("what is seen?")
    page.keyboard.press("Enter")
    wait(page, "document.querySelectorAll('#own .said p small').length >= 3")  # the question, and what each says is missing
    assert "what is seen?" in own.locator(".said").text_content() and "no sound" in own.locator(".said").text_content()
    own.get_by_text("Add to the folder").click()
    page.wait_for_selector("text=Added as uploads/picture.png")
    until(lambda: "uploads/picture.png" in films.service.library.paths)
    own.get_by_text("Remove").click()
    page.wait_for_selector("#own", state="hidden")


def test_a_dropped_file(page, media):
    content = list((media / "sound.wav").read_bytes())
    page.evaluate("""content => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(content)], 'mine.wav', { type: 'audio/wav' }));
      const how = { bubbles: true, cancelable: true, dataTransfer: data };
      for (const kind of ['dragenter', 'drop']) document.getElementById('drop').dispatchEvent(new DragEvent(kind, how));
    }""", content)
    wait(page, "document.getElementById('status').textContent.includes('like mine.wav')")
    assert page.locator("#own audio").count() == 1 and page.locator("body.dragging").count() == 0


def test_results_by_keyboard_alone(page):
    page.keyboard.press("/")
    page.keyboard.type("a car")
    page.keyboard.press("Enter")
    page.wait_for_selector("#results article")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    focused = "[...document.querySelectorAll('#results article')].indexOf(document.activeElement)"
    assert page.evaluate(focused) == 1
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused) == 0
    page.keyboard.press("c")
    page.wait_for_selector("#results article .said p:not(:empty)")
    page.keyboard.press("l")
    wait(page, "location.search.startsWith('?like=')")


def test_a_service_that_is_gone_and_comes_back(page):
    page.route("**/api/**", lambda route: route.abort())
    page.fill("#text", "a dog")
    page.keyboard.press("Enter")
    page.wait_for_selector("#gone:not([hidden])")
    page.unroute("**/api/**")
    page.wait_for_selector("#gone", state="hidden")
    page.wait_for_selector("#results article")
    page.errors[:] = [error for error in page.errors if "ERR_FAILED" not in error]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_small_and_everything_can_be_read(chromium, films, scheme):
    """Text stands out from its ground by 4.5 to 1, and everything to press has a name."""
    context = chromium.new_context(color_scheme=scheme)
    opened = context.new_page()
    opened.goto(f"{films.url}/?q=a+dog")
    opened.wait_for_selector("#results article")
    opened.evaluate("document.querySelector('#more').open = true")
    opened.evaluate("for (const form of document.querySelectorAll('.question')) form.hidden = false")
    assert opened.evaluate((Path(__file__).with_name("readable.js")).read_text()) == []
    context.close()
    assert sum(path.stat().st_size for path in PAGE.iterdir()) <= MOST


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_nothing_is_wider_than_the_window(chromium, films, width):
    context = chromium.new_context(viewport={"width": width, "height": 800})
    opened = context.new_page()
    opened.goto(f"{films.url}/?q=a+dog")
    opened.wait_for_selector("#results article")
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    context.close()


def test_the_token_is_asked_for(chromium, make):
    with serving(make(), token="0123456789abcdef") as one:
        context = chromium.new_context()
        opened = context.new_page()
        opened.goto(f"{one.url}/?q=a+dog")
        opened.fill("#token", "0123456789abcdef")
        opened.keyboard.press("Enter")
        wait(opened, "document.getElementById('folder')?.textContent.includes('moments')")
        context.close()


@pytest.fixture
def talk(chromium, talking, media):
    """The page of a model that converses and cannot search."""
    from omnivast.inference.service.app import Service

    with serving(Service(open_library(media, load(talking)))) as one:
        yield from opened_page(chromium, one.url, "looked at by")


def test_a_conversation_about_ones_own_clip(talk, talking, media):
    assert not talk.locator("#text").is_visible() and not talk.locator("#weights").is_visible() and talk.locator("#choose").is_visible()
    assert talk.locator("#status").text_content().startswith("Give a picture, a sound or a clip")
    talk.set_input_files("#file", media / "silent.mp4")
    card, questions = talk.locator("#own article"), ["What is it?", "Is there a cat?"]
    card.locator(".ask").click()
    for number, question in enumerate(questions, 1):
        card.locator(".question input").fill(question)
        talk.keyboard.press("Enter")
        wait(talk, f"document.querySelectorAll('#own .said small:first-child').length === {number}")
        assert card.locator(".question input").input_value() == ""
    said = card.locator(".said > p").all_text_contents()
    for line, one in zip(said, load(talking).chat(media / "silent.mp4", questions), strict=True):
        assert line == f"{one.question}{one.text or '(no words)'}has no sound, no subtitle"
