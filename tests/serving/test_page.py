"""The page as a person uses it: in Chromium, by mouse and keyboard, against a running server."""

import io
import json
import shlex
import urllib.request
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.serving.browser import Browser
from tests.serving.conftest import CREDIT, export_shapes, wait_for

ROLES_WITH_NAMES = {
    "button",
    "checkbox",
    "combobox",
    "image",
    "link",
    "list",
    "slider",
    "spinbutton",
    "tab",
    "tabpanel",
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def open_page(browser, server):
    """A function `(hash, **emulated)` that opens the page; at the end nothing may have gone wrong in it."""
    pages = []

    def open_one(address="", **emulated):
        page = browser.open(f"{server.url}/#{address}", **emulated)
        pages.append(page)
        page.wait("document.querySelector('#model').options.length")
        return page

    yield open_one
    for page in pages:
        assert page.errors == []
        assert_stays_at_home(page, server)


def assert_stays_at_home(page, server):
    assert len(page.requests) > 5
    assert not [url for url in page.requests if not url.startswith((f"{server.url}/", "blob:", "data:"))]


def wait_for_images(page, count):
    page.wait(f"document.querySelectorAll('.tile.ready img[src]').length >= {count}")


def values(page, expression):
    """Returns what a JavaScript expression, about each `tile`, gives."""
    return page.run(f"[...document.querySelectorAll('.tile')].map((tile) => {expression})")


def text_of(page, selector):
    return page.run(f"document.querySelector({json.dumps(selector)}).textContent")


def fetch(url):
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read()


def decoded(content):
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"))


def shown(page, selector):
    """Returns the pixels of an image element in its own size, uint8 `[height, width, 3]`."""
    flat, width, height = page.run(
        f"""(async () => {{
          const image = document.querySelector({json.dumps(selector)});
          await image.decode();
          const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
          const context = canvas.getContext("2d");
          context.drawImage(image, 0, 0);
          const {{data}} = context.getImageData(0, 0, canvas.width, canvas.height);
          return [[...data], canvas.width, canvas.height];
        }})()"""
    )
    return np.array(flat, np.uint8).reshape(height, width, 4)[..., :3]


def test_the_gallery_fills_as_one_scrolls_and_requests_only_what_is_near(open_page, server):
    page = open_page("model=shapes", height=600)
    wait_for_images(page, 20)
    assert text_of(page, "#model option:checked") == "shapes"
    assert text_of(page, "#version option:checked") == "1, newest"
    first = values(page, "tile.seed")
    assert first == list(range(len(first)))
    assert values(page, "tile.querySelector('img').alt")[7] == "shapes, seed 7"
    requested = sum("image.png" in url for url in page.requests)
    for _ in range(3):
        page.run("window.scrollTo(0, document.body.scrollHeight)")
        page.wait(f"document.querySelectorAll('.tile').length > {len(first)}")
        first = values(page, "tile.seed")
    assert first == list(range(len(first)))
    page.wait("document.querySelectorAll('.tile.ready').length > 48")
    latest = max(seed for seed, ready in enumerate(values(page, "tile.classList.contains('ready')")) if ready)
    later = [url for url in page.requests if "image.png" in url]
    assert requested < len(later) == len(set(later)), "an image was requested twice"
    np.testing.assert_array_equal(
        shown(page, f".tile:nth-child({latest + 1}) img"),
        decoded(fetch(f"{server.url}/models/shapes/image.png?seed={latest}")),
    )


def test_an_image_is_enlarged_and_left_by_keyboard_with_the_focus_kept(open_page):
    page = open_page("model=faces")
    wait_for_images(page, 20)
    page.click(".tile:nth-child(3) button")
    page.wait("document.querySelector('#viewer').open")
    assert text_of(page, "#viewer-title") == "faces, seed 2"
    page.press("ArrowRight")
    page.press("ArrowRight")
    page.press("ArrowLeft")
    page.wait(
        "document.querySelector('#viewer-image').alt === 'faces, seed 3' && document.querySelector('#viewer-image').complete"
    )
    width, scaling = page.run(
        "(({width, imageRendering}) => [parseFloat(width), imageRendering])(getComputedStyle(document.querySelector('#viewer-image')))"
    )
    assert width > 300 and scaling == "pixelated"
    page.press("Escape")
    page.wait("!document.querySelector('#viewer').open")
    page.wait("document.activeElement.closest('.tile')?.seed === 3")  # the browser tells of the closing a moment later


def test_the_gallery_is_one_stop_of_the_tab_key_and_the_arrows_move_in_it(open_page):
    page = open_page("model=faces&from=100")
    wait_for_images(page, 20)
    columns = page.run("getComputedStyle(document.querySelector('#tiles')).gridTemplateColumns.split(' ').length")
    page.run("document.querySelector('#shuffle').focus()")
    page.press("Tab")
    assert page.run("document.activeElement.closest('.tile').seed") == 100
    for key in ("ArrowRight", "ArrowDown", " ", "a", "Home", "b"):
        page.press(key)
    assert [seed for seed, on in enumerate(values(page, "tile.classList.contains('selected')"), 100) if on] == [
        101 + columns
    ]
    assert f"a={101 + columns}&b=100" in page.run("location.hash")
    page.press("Tab")
    assert page.run("document.activeElement.id") == "more"


def test_class_and_truncation_are_those_of_the_images_and_of_the_command(open_page, server):
    page = open_page("model=shapes")
    wait_for_images(page, 20)
    assert page.run("[...document.querySelector('#label').options].map((option) => option.text)") == [
        "All, in turn", "circle", "square", "star"
    ]  # fmt: skip
    before = shown(page, ".tile img")
    for field, value, event in (("label", "2", "change"), ("truncation", "0.5", "input")):
        page.run(
            f"""(() => {{
              const field = document.querySelector("#{field}");
              field.value = {value};
              field.dispatchEvent(new Event("{event}"));
            }})()"""
        )
    page.wait("document.querySelector('.tile').shown?.includes('label=2&truncation=0.5')")
    expected = decoded(fetch(f"{server.url}/models/shapes/image.png?seed=0&label=2&truncation=0.5"))
    after = shown(page, ".tile img")
    assert (before != after).any()
    np.testing.assert_array_equal(after, expected)
    page.click(".tile button")
    page.wait("document.querySelector('#viewer').open")
    assert text_of(page, "#viewer-title") == "shapes, star, seed 0"
    words = shlex.split(text_of(page, "#viewer-command"))
    assert words[:3] == ["curl", "-o", "shapes-0.png"]
    np.testing.assert_array_equal(decoded(fetch(words[3])), expected)
    page.run("document.execCommand = (what) => (window.copied = getSelection().toString(), true)")
    page.run("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.click("#viewer-curl")
    page.wait("document.querySelector('#status').textContent === 'Command copied'")
    assert page.run("window.copied") == text_of(page, "#viewer-command")


def test_the_selection_is_saved_as_png_as_sheet_and_as_zip(open_page, browser, server):
    page = open_page("model=shapes")
    wait_for_images(page, 20)
    urls = {seed: f"{server.url}/models/shapes/image.png?seed={seed}" for seed in (4, 1)}
    page.click(".tile:nth-child(5) input")
    page.click("#save-png")
    assert browser.download("shapes-4.png") == fetch(urls[4])
    page.click(".tile:nth-child(2) input")
    assert text_of(page, "#tray-count") == "2 selected"
    page.click("#save-png")
    sheet = decoded(browser.download("shapes-2-images.png"))
    factor = sheet.shape[0] // 16
    assert sheet.shape == (16 * factor, 32 * factor, 3) and factor > 1
    np.testing.assert_array_equal(
        sheet[::factor, ::factor], np.concatenate([decoded(fetch(urls[1])), decoded(fetch(urls[4]))], axis=1)
    )
    page.click("#save-zip")
    with zipfile.ZipFile(io.BytesIO(browser.download("shapes.zip"))) as archive:
        pictures = [decoded(archive.read(name)) for name in archive.namelist() if name.endswith(".png")]
    assert len(pictures) == 2
    np.testing.assert_array_equal(pictures[0], decoded(fetch(urls[1])))
    page.click("#clear")
    page.wait("document.querySelector('#tray').hidden")


def test_a_walk_goes_from_one_pinned_image_to_the_other(open_page, browser, server):
    page = open_page("model=shapes")
    wait_for_images(page, 20)
    for place, end in ((3, "a"), (6, "b")):
        page.click(f".tile:nth-child({place}) button")
        page.click(f"#viewer-{end}")
        page.press("Escape")
    page.click("#tray-pins .primary")
    page.wait("document.querySelectorAll('#strip img[src]').length === 7 && document.querySelector('#walk-image').src")
    assert page.run("document.activeElement.id") == "walk-slider"
    image = "#walk-image"
    np.testing.assert_array_equal(shown(page, image), decoded(fetch(f"{server.url}/models/shapes/image.png?seed=2")))
    for _ in range(12):
        page.press("ArrowRight")
    half = f"{server.url}/models/shapes/image.png?seed=2&seed_b=5&t=0.5"
    page.wait("document.querySelector('#walk-image').dataset.path.includes('t=0.5')")
    page.wait("document.querySelector('#walk-image').complete")
    assert page.run("document.querySelector('#walk-slider').ariaValueText") == "50% of the way from seed 2 to seed 5"
    np.testing.assert_array_equal(shown(page, image), decoded(fetch(half)))
    page.click("#play")
    page.wait("Number(document.querySelector('#walk-slider').value) > 15")
    page.click("#play")
    assert text_of(page, "#play") == "Play"
    page.click("#walk-webp")
    with Image.open(io.BytesIO(browser.download("shapes-2-to-5.webp"))) as animation:
        assert animation.n_frames > 20
    page.run("history.back()")
    page.wait("!document.querySelector('#gallery').hidden")


def test_the_quiz_is_played_by_key_and_by_click_and_keeps_score(open_page):
    page = open_page("model=faces&view=quiz")
    for turn in range(1, 5):
        page.wait("!document.querySelector('.pair button').disabled")
        if turn % 2:
            page.press("ArrowLeft")
        else:
            page.click(".pair button[data-side=right]")
        page.wait("!document.querySelector('#quiz-next').hidden")
        real = page.run("document.querySelector('.pair .real').dataset.side")
        right = real == ("left" if turn % 2 else "right")
        assert text_of(page, "#quiz-answer") == f"{'Right' if right else 'Wrong'}: the real one is on the {real}."
        marks = page.run("[...document.querySelectorAll('#quiz-rounds li')].map((item) => item.ariaLabel)")
        assert len(marks) == turn and marks[-1] == ("right" if right else "wrong")
        assert text_of(page, "#quiz-score").startswith(f"{marks.count('right')} of {turn} right.")
        page.press("Enter")  # the focus is on the button for the next pair
    assert text_of(page, "#quiz-credit") == "" or CREDIT in text_of(page, "#quiz-credit")


def test_a_model_without_real_images_has_no_quiz(open_page):
    page = open_page("model=shapes&view=quiz")
    page.wait("!document.querySelector('#quiz-none').hidden")
    assert page.run("document.querySelector('#quiz-game').hidden")
    assert not [url for url in page.requests if "/quiz/" in url]


def test_the_card_tells_data_steps_and_metrics(open_page):
    page = open_page("model=faces&view=card")
    page.wait("document.querySelector('#card .metrics')")
    card = page.run("document.querySelector('#card').innerText")
    for words in ("faces, version 1", "sngan", "32 × 32 pixels, colour", "100 images", "0 steps", "KID", "0.05"):
        assert words in card, card
    page = open_page("model=shapes&view=card")
    page.wait("document.querySelector('#card dl')")
    assert "It has not been judged yet." in page.run("document.querySelector('#card').innerText")


def test_a_busy_server_is_asked_again_after_what_it_says(open_page, browser):
    page = open_page("model=shapes&view=card")
    page.refuse("*image.png*", (503, {"Retry-After": "1"}), (503, {"Retry-After": "1"}))
    page.click("#tab-gallery")
    page.wait("document.querySelectorAll('.tile:nth-child(-n+20).ready').length === 20")
    assert values(page, "tile.classList.contains('failed')").count(True) == 0
    asked = [url for url in page.requests if "image.png" in url]
    assert len(asked) == len(set(asked)) + 2
    assert len(page.errors) == 2 and all("503" in error for error in page.errors)
    page.errors.clear()


def test_an_image_that_is_refused_says_so_and_can_be_asked_for_again(open_page):
    page = open_page("model=shapes&view=card")
    page.refuse("*image.png?seed=1&*", (500, {}))
    page.click("#tab-gallery")
    page.wait("document.querySelector('.tile.failed')")
    assert values(page, "tile.classList.contains('failed')").index(True) == 1
    page.click(".tile.failed button")
    page.wait("document.querySelector('.tile:nth-child(2).ready') && !document.querySelector('.tile.failed')")
    assert len(page.errors) == 1 and "500" in page.errors[0]
    page.errors.clear()


@pytest.mark.parametrize("width", [390, 1280])
def test_no_view_is_wider_than_the_window_and_everything_has_a_name(open_page, width):
    page = open_page("model=faces", width=width)
    wait_for_images(page, 12)
    page.click(".tile input")
    for view in ("gallery", "walk", "quiz", "card"):
        page.click(f"#tab-{view}")
        page.wait(f"!document.querySelector('#{view}').hidden && document.querySelector('#card dl, #card[hidden]')")
        assert page.run("document.documentElement.scrollWidth") <= width, view
        nodes = page.call("Accessibility.getFullAXTree")["nodes"]
        named = [(node["role"]["value"], node.get("name", {}).get("value")) for node in nodes if not node["ignored"]]
        assert {"banner", "main", "heading"} <= {role for role, _ in named}
        assert not [role for role, name in named if role in ROLES_WITH_NAMES and not name], view


def test_dark_mode_and_reduced_motion_are_followed(open_page):
    page = open_page("model=faces", dark=True, reduced_motion=True)
    wait_for_images(page, 1)
    brightness = page.run("getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).map(Number)")
    assert max(brightness) < 60
    page.emulate()
    page.wait(
        "getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).every((part) => Number(part) > 200)"
    )
    page.emulate(reduced_motion=True)
    assert page.run("getComputedStyle(document.querySelector('.tile > button')).transitionDuration") == "0s"


@pytest.mark.slow
def test_a_token_is_asked_for_once_and_sent_with_every_request(browser, start_server, saved_models):
    server = start_server(saved_models, environment={"SERVING_TOKEN": "secret-1"})
    page = browser.open(f"{server.url}/#model=faces")
    for entered in ("wrong", "secret-1"):
        page.wait("document.querySelector('#sign-in').open && document.activeElement.id === 'token'")
        page.wait("document.querySelector('#token').value === ''")
        page.call("Input.insertText", text=entered)
        page.press("Enter")
    wait_for_images(page, 20)
    page.click(".tile button")
    page.wait("document.querySelector('#viewer').open")
    command = text_of(page, "#viewer-command")
    assert '-H "Authorization: Bearer $TOKEN"' in command and "secret" not in command
    assert [error for error in page.errors if "401" not in error] == []
    page.call("Page.reload")
    wait_for_images(page, 20)
    assert_stays_at_home(page, server)


@pytest.mark.slow
def test_the_page_goes_over_to_the_version_that_replaced_its_own(browser, start_server, tmp_path):
    export_shapes(tmp_path / "models")
    server = start_server(tmp_path / "models", "--versions", 1, "--poll", 0.2)
    page = browser.open(f"{server.url}/#model=shapes", height=600)
    wait_for_images(page, 20)
    export_shapes(tmp_path / "models", version=2, shade=0.5)
    wait_for(lambda: "[2]" in str(json.loads(fetch(f"{server.url}/models"))[0]["versions"]), server)
    page.run("window.scrollTo(0, document.body.scrollHeight)")
    page.wait("document.querySelector('#version').value === '2'")
    page.wait("document.querySelectorAll('.tile.ready').length >= 20")
    assert all("version=2" in path for path in values(page, "tile.shown") if path)
    assert [error for error in page.errors if "404" not in error] == []
