"""The page of a blind test in a real browser: three judges at once, a reload, and a server that is killed."""

import dataclasses
import os

import pytest
from test_judge_server import Space
from test_report import HOSTILE
from test_trial import a_trial

from seqgan_hf.tones import melody_to_wav
from seqgan_hf.trial import REAL

MARKDOWN = "# Heading\n\n**bold** [link](javascript:alert(1)) `code`\n{{ 7 * 7 }} ${7 * 7} &lt;b&gt;"
# Contrast of an element's text against the first background behind it, after WCAG 2.
CONTRAST = """(element) => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = parts(color).slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let behind = element;
  while (behind !== null && parts(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
  const lights = [light(getComputedStyle(element).color), light(getComputedStyle(behind).backgroundColor)].sort();
  return (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
}"""


class Person:
    """A judge at a browser, and a record of what that did behind the scenes."""

    def __init__(self, browser, base, total=20, **settings):
        self.total = total
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.acknowledged, self.asked, self.complaints = [], [], []
        self.context.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append("a dialog"), dialog.dismiss()))
        self.page.on("requestfinished", self._note)
        self.page.goto(base)
        self.wait_for(1)

    def _note(self, request):
        if request.method == "POST" and request.response().status == 200:
            vote = request.post_data_json
            self.acknowledged.append((vote["item"], vote["real"]))

    def wait_for(self, number):
        what = f"{number} of {self.total}" if number <= self.total else f"All {self.total} judged"
        self.page.wait_for_function("(what) => document.getElementById('count').textContent === what", arg=what)

    def text(self):
        return self.page.text_content("#text")

    def press(self, key):
        self.page.keyboard.press(key)


@pytest.mark.skipif(os.name == "nt", reason="a process is killed")
def test_three_judges_lose_no_vote_to_a_reload_and_a_killed_server(browser, tmp_path):
    with Space(a_trial(), tmp_path) as space:
        people = [Person(browser, space.base) for _ in range(3)]
        keys = ("r", "ArrowRight", "G", "ArrowLeft", "R", "g")
        pressed = {person: [] for person in people}

        def judge(person, number):
            key = keys[(number + people.index(person)) % len(keys)]
            pressed[person].append(key in ("r", "R", "ArrowLeft"))
            person.press(key)

        for number in range(1, 21):
            if number == 6:
                people[0].page.reload()
                people[0].wait_for(6)
            if number == 11:
                space.kill()
            for person in people:
                judge(person, number)
            if number == 11:
                for person in people:
                    person.page.wait_for_function(
                        "() => document.getElementById('trouble').textContent.startsWith('No connection.')"
                    )
                    person.press("r")  # while the last answer is not stored, a key is no vote
                space.start()
            for person in people:
                person.wait_for(number + 1)
        right = [person.page.text_content("#score") for person in people]
        votes = space.votes()
    assert len(votes) == 60 and len({vote[:2] for vote in votes}) == 60
    assert len({vote.judge for vote in votes}) == 3
    acknowledged = sorted(vote for person in people for vote in person.acknowledged)
    assert acknowledged == sorted((vote.item, vote.judged_real) for vote in votes)
    by_judge = [[vote.judged_real for vote in votes if vote.judge == name] for name in {vote.judge for vote in votes}]
    assert sorted(by_judge) == sorted(pressed.values())
    trial = a_trial()
    hits = {name: 0 for name in {vote.judge for vote in votes}}
    for vote in votes:
        hits[vote.judge] += vote.judged_real == (trial.items[vote.item].source == REAL)
    assert sorted(said.split(" of ")[0] for said in right) == sorted(f"You were right on {n}" for n in hits.values())
    for person in people:
        assert all(url.startswith(space.base) or url == "data:," for url in person.asked), person.asked
        assert all("ERR_CONNECTION" in said for said in person.complaints), person.complaints
        assert person.page.evaluate("document.activeElement.id") == "end"
        person.context.close()


def test_whatever_stands_in_a_text_stays_text(browser, tmp_path):
    texts = [HOSTILE, MARKDOWN, "<b>bold</b>\n<svg onload=alert(1)>", "</script><script>alert(2)</script>"]
    trial = a_trial(1, text=lambda source, _: texts[("real", "MLE", "SeqGAN", "rival").index(source)])
    with Space(trial, tmp_path) as space:
        person = Person(browser, space.base, total=4)
        seen = []
        for number in range(1, 5):
            person.wait_for(number)
            seen.append(person.text())
            assert person.page.locator("#card >> css=b, svg, script, img, a, h1, strong").count() == 0
            assert person.page.is_visible("#text")
            person.page.click("#real" if number % 2 else "#generated")
        person.wait_for(5)
    assert sorted(seen) == sorted(texts)
    assert person.complaints == []
    person.context.close()


def test_the_page_can_be_read_and_used_by_all(browser, tmp_path):
    trial = a_trial(text=lambda source, block: "Wort" * 60 + f"{source[:0]}{block}")
    with Space(trial, tmp_path) as space:
        person = Person(browser, space.base, viewport={"width": 320, "height": 640}, has_touch=True)
        page = person.page
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        for element in ("#text", "#count", "h1", "header p", "#real", "#generated", "#real small", "#trouble"):
            assert page.eval_on_selector(element, CONTRAST) >= 4.5, element
        names = [page.locator(f"#{id}").inner_text().split() for id in ("real", "generated")]
        assert names == [["Real", "R", "or", "←"], ["Generated", "G", "or", "→"]]
        assert page.get_attribute("#card", "aria-live") == "polite"
        assert page.get_by_label("1 of 20").get_attribute("value") == "0"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "real"
        page.keyboard.press("Enter")
        person.wait_for(2)
        assert page.evaluate("document.activeElement.id") == "real", "the focus stays where it was"
        page.keyboard.press("Alt+g")
        page.keyboard.press("x")
        page.wait_for_timeout(100)
        person.wait_for(2)
        page.locator("#generated").tap()
        person.wait_for(3)
        assert [vote.judged_real for vote in space.votes()] == [True, False]
        assert person.complaints == []
        person.context.close()


def test_music_plays_and_shows_its_notes(browser, tmp_path):
    trial = dataclasses.replace(a_trial(1), kind="music")
    (tmp_path / "media").mkdir()
    for id in trial.items:
        (tmp_path / "media" / f"{id}.wav").write_bytes(melody_to_wav([40, 0, 44]))
        (tmp_path / "media" / f"{id}.png").write_bytes(_PNG)
    with Space(trial, tmp_path) as space:
        person = Person(browser, space.base, total=4)
        page = person.page
        page.wait_for_function("() => document.getElementById('sound').readyState > 0")
        assert page.eval_on_selector("#sound", "(sound) => sound.duration") == pytest.approx(1.2, abs=0.01)
        assert page.get_attribute("#sound", "aria-label") == "The melody" and page.is_visible("#sound")
        assert page.eval_on_selector("#picture", "(image) => image.decode().then(() => image.naturalWidth)") == 1
        assert "notes are listed below" in page.get_attribute("#picture", "alt")
        page.click("summary")
        assert page.is_visible("#text") and person.text() == "0 words of nobody"
        page.focus("#sound")
        page.keyboard.press("ArrowRight")  # moves in the melody
        page.wait_for_timeout(100)
        person.wait_for(1)
        page.keyboard.press("g")
        person.wait_for(2)
        assert person.complaints == []
        person.context.close()


_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001"
    "a5f645400000000049454e44ae426082"
)
