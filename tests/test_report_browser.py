"""The report in a browser: it asks for nothing, says nothing on the console, fits a phone, and can be read by all."""

import pytest
from test_report import HOSTILE, a_run, history, played  # noqa: F401

from seqgan_hf.report import Findings, Token, Verdict, ask_networks, read_run
from seqgan_hf.report_page import write_report

# The least contrast of any text with what is behind it, as WCAG 2 measures it; the smallest letters, in pixels; what can
# be scrolled and not be reached by the keyboard; and by how much the page is wider than the screen.
LOOK = """() => {
  const channel = value => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const numbers = color => color.match(/[\\d.]+/g).map(Number);
  const light = color => numbers(color).slice(0, 3).map(channel).reduce(
    (sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
  const behind = element => {
    const color = element ? getComputedStyle(element).backgroundColor : "rgb(255, 255, 255)";
    return numbers(color)[3] === 0 ? behind(element.parentElement) : color;
  };
  const contrast = element => {
    const [dark, bright] = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  };
  document.querySelectorAll("details").forEach(details => details.open = true);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), written = [];
  while (walker.nextNode()) if (walker.currentNode.data.trim()) written.push(walker.currentNode.parentElement);
  const scrolled = [...document.querySelectorAll("body *")].filter(
    element => element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).overflowX !== "visible");
  return {
    texts: written.length,
    contrast: Math.min(...written.map(contrast)),
    letters: Math.min(...written.map(element => parseFloat(getComputedStyle(element).fontSize))),
    unreachable: scrolled.filter(element => element.tabIndex < 0).length,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    images: [...document.images].map(image => [image.alt, image.naturalWidth, image.clientWidth]),
    made: document.querySelectorAll("script, iframe, em, code, [onerror]").length,
    language: document.documentElement.lang,
  };
}"""


@pytest.fixture(scope="module")
def report(played, tmp_path_factory):  # noqa: F811
    """The page of a game and of a run whose every text is hostile."""
    folder = tmp_path_factory.mktemp("report")
    every = [Verdict(0.5, [Token(HOSTILE, reward / 4) for reward in range(5)])]
    curve = [{"temperature": 1.0, "bleu2": 0.5, "self_bleu2": 0.3}]
    hostile = a_run(
        folder / "other", name=HOSTILE, settings={HOSTILE: HOSTILE * 3}, history=history(entropy=0.1),
        nearest=[{"sample": HOSTILE, "nearest": HOSTILE * 9}], stages={HOSTILE: {HOSTILE: 1.0, "bleu2": 0.5}},
        curves={"MLE": curve, HOSTILE: curve},
    )  # fmt: skip
    run = read_run(played)
    findings = [ask_networks(run, 1, seed=5), Findings({"mle": [HOSTILE], "end": ["x" * 400]}, every, every)]
    return write_report([run, hostile], findings, folder / "report.html")


def opened(browser, report, width):
    """Return the page, what it said on the console, and what it asked for."""
    page = browser.new_page(viewport={"width": width, "height": 800})
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri(), wait_until="load")
    return page, said, [url for url in asked if not url.startswith("data:")]


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_asks_for_nothing_and_can_be_read(browser, report, width):
    page, said, asked = opened(browser, report, width)
    seen = page.evaluate(LOOK)
    assert said == [] and asked == [report.as_uri()]
    assert seen["texts"] > 100 and seen["contrast"] >= 4.5
    assert seen["letters"] >= 14 and seen["overflow"] == 0 and seen["unreachable"] == 0
    # Letters of 10.5 points in pictures 3.7 inches wide are to be 14 pixels high.
    assert len(seen["images"]) >= 5
    assert all(len(alt) > 40 and drawn > 0 and shown >= 340 for alt, drawn, shown in seen["images"])
    assert seen["language"] == "en"
    page.close()


def test_markup_in_a_text_is_shown_as_it_is(browser, report):
    page, said, _ = opened(browser, report, 390)
    page.evaluate(LOOK)  # opens what is folded
    assert said == [] and page.evaluate(LOOK)["made"] == 0
    assert page.inner_text("body").count("<script>alert('x')</script>") > 15
    assert page.inner_text("body").count("`*_[a](b)") > 15
    page.close()


def test_the_keyboard_reaches_what_is_folded_and_what_scrolls(browser, report):
    page, _, _ = opened(browser, report, 390)
    met = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        met.add(page.evaluate("document.activeElement.tagName + '.' + document.activeElement.className"))
    assert {"A.", "DIV.wide", "SUMMARY."} <= met
    page.close()
