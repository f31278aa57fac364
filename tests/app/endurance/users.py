"""Users of the page: they ask, wait, stop, make mistakes, reload, and go away."""

import html
import io
import random
import re
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from tests.app.endurance.expected import Asked, check_result, FAST, SLOW
from tests.app.endurance.journal import Journal
from tests.app.endurance.pictures import File, too_large
from tests.app.endurance.rest import Rest
from tests.app.page_visitor import PageVisitor

_WAITING = "Your last question is still being answered."
_NO_LONGER = "The image is no longer here"
_SHOWN_WORD = re.compile(r'data-word="\d+"[^>]*>([^<]*)<')
# At the shortest and the longest.
_SECONDS_TO_THINK = (2.0, 25.0)
_ACTIONS_OF_A_VISIT = (3, 9)


@dataclass
class World:
    """What all users share.

    Attributes:
        address (str): of the page
        questions (sequence of Asked): with known answers
        scenes (sequence of Asked): about the scenes of the page, by their places
        bad_files (sequence of File): which are refused
        journal (Journal): of all of them
        until (float): when they go, in seconds of the monotonic clock
        pace (float): factor of the times that they think
        rest (Rest): when all of them pause
        links (dict): an image and a download of each user, by their names
    """

    address: str
    questions: Sequence[Asked]
    scenes: Sequence[tuple[int, Asked]]
    bad_files: Sequence[File]
    journal: Journal
    until: float
    pace: float = 1.0
    rest: Rest = field(default_factory=Rest)
    links: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.until

    def think(self, rng: random.Random) -> None:
        """Waits as somebody who reads, and while all rest."""
        seconds = rng.uniform(*_SECONDS_TO_THINK) * self.pace
        time.sleep(max(0.0, min(seconds, self.until - time.monotonic())))
        self.rest.join()


class Gone(Exception):
    """The user has closed the page."""


def words_of(shown: str) -> list[str]:
    """The words of the interactive page in what is shown."""
    return _SHOWN_WORD.findall(html.unescape(shown))


def downloads(shown: str) -> dict[str, str]:
    """Addresses of the files that the page offers, by name."""
    return {
        one.rpartition("/")[2]: one
        for one in re.findall('href="(/download/[^"]+)"', shown)
    }


class User(threading.Thread):
    """Somebody with a browser, who visits the page again and again.

    Args:
        name (str): of the user
        world (World): where they are
        seed (int): of what they do
    """

    def __init__(self, name: str, world: World, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self.world, self.journal = world, world.journal
        self.rng = random.Random(seed)
        self.visitor: PageVisitor | None = None
        self.asked: Asked | None = None
        self.shown = ""
        self.path = ""
        self.is_stopped = False
        # How often each of them is chosen.
        self.actions: dict[Callable[[], None], float] = {
            self._ask: 8,
            self._ask_about_a_scene: 2,
            self._follow_up: 3,
            self._explain_again: 4,
            self._explain_slowly: 0.4,
            self._ask_and_stop: 3,
            self._change_method: 2,
            self._bad_file: 2,
            self._too_large: 0.5,
            self._break_off_upload: 1,
            self._ask_twice: 1,
            self._nonsense: 1,
            self._of_others: 1,
            self._download: 3,
            self._break_off_download: 1,
            self._close_in_the_middle: 1.5,
            self._close_while_waiting: 0.7,
            self._only_upload: 0.7,
            self._reload: 1.5,
        }

    def run(self) -> None:
        """Visits the page until the time is over."""
        while not self.world.is_over:
            try:
                self._visit()
            except Gone:
                pass
            except Exception:
                self.journal.fault(self.name, "visit", traceback.format_exc())
            self._leave()
            self.world.think(self.rng)

    def _visit(self) -> None:
        with self.journal.timed("open the page"):
            self.page = PageVisitor(self.world.address)
        self._forget()
        for _ in range(self.rng.randint(*_ACTIONS_OF_A_VISIT)):
            self.world.think(self.rng)
            if self.world.is_over:
                return
            (action,) = self.rng.choices(
                list(self.actions), list(self.actions.values())
            )
            try:
                action()
            except Gone:
                raise
            except Exception:
                self.journal.fault(self.name, action.__name__, traceback.format_exc())
                return

    @property
    def page(self) -> PageVisitor:
        assert self.visitor is not None
        return self.visitor

    @page.setter
    def page(self, visitor: PageVisitor) -> None:
        self.visitor = visitor

    def _forget(self) -> None:
        self.asked, self.shown, self.path, self.is_stopped = None, "", "", False

    def _leave(self) -> None:
        self.world.links.pop(self.name, None)
        if self.visitor is not None:
            self.visitor.leave()
            self.visitor.http.close()
            self.visitor = None

    # Asking.

    def _upload(self, file: File) -> None:
        with self.journal.timed("upload"):
            self.path = self.page.choose_image(file.name, file.content)

    def _fill_in(self, asked: Asked, methods: Sequence[str]) -> None:
        self.page.values |= {
            "Question": asked.prompt,
            "Longest answer, in tokens": asked.length,
            "Method": methods[0],
            "Side by side with": methods[1] if len(methods) > 1 else "",
        }

    def _some_methods(self) -> list[str]:
        return self.rng.sample(FAST, self.rng.choice([1, 1, 2]))

    def _ask(self) -> None:
        asked = self.rng.choice(self.world.questions)
        self._upload(asked.file)
        self._press_ask(asked, self._some_methods())

    def _ask_about_a_scene(self) -> None:
        place, asked = self.rng.choice(self.world.scenes)
        self.page.choose_scene(place)
        self.path = ""
        self._press_ask(asked, self._some_methods())

    def _follow_up(self) -> None:
        if self.asked is None:
            return self._ask()
        same = [one for one in self._all_questions() if one.file == self.asked.file]
        self._press_ask(self.rng.choice(same), self._some_methods())

    def _all_questions(self) -> list[Asked]:
        return [*self.world.questions, *(asked for _, asked in self.world.scenes)]

    def _press_ask(self, asked: Asked, methods: Sequence[str]) -> None:
        self._fill_in(asked, methods)
        self.asked = asked
        self._press("Ask", methods, "answer")

    def _press(self, button: str, methods: Sequence[str], what: str) -> None:
        start = time.monotonic()
        ends: list[float] = []

        def on_event(event: Any) -> None:
            if event["msg"] == "process_completed":
                ends.append(time.monotonic())

        self.shown = self.page.press(button, on_event)
        self.journal.did(what)
        # What follows the answer says what slow methods would cost.
        self.journal.took(what, ends[0] - start)
        self._check("Point at a word", methods)
        self.is_stopped = False

    def _check(self, outcome: str, methods: Sequence[str]) -> None:
        """Looks whether the page shows the answer to what was asked."""
        assert self.asked is not None
        assert outcome in self.shown, self.shown[:2000]
        assert 'role="alert"' not in self.shown.split("<iframe")[0]
        words, expected = words_of(self.shown), self.asked.words
        if outcome == "Stopped":
            # Of the last word some tokens may be missing.
            words = words[:-1]
            expected = expected[: len(words)]
        assert words == expected, (words, expected)
        files = downloads(self.shown)
        assert set(files) == {
            "answer.html",
            "answer.png",
            *(f"{method}.dexar" for method in methods),
        }
        for method in methods:
            content = self._get(files[f"{method}.dexar"])
            check_result(content, self.asked, method)
            self.journal.did("answer checked")
        if self.path:
            self.world.links[self.name] = (self.path, files["answer.html"])

    def _get(self, url: str) -> bytes:
        with self.journal.timed(f"download *{url[url.rindex('.') :]}"):
            answer = self.page.http.get(url)
            assert answer.status_code == 200, (url, answer.status_code)
        return bytes(answer.content)

    def _explain_again(self) -> None:
        if self.asked is None or not self.shown:
            return self._ask()
        if self.is_stopped:
            return None
        methods = self._some_methods()
        self._fill_in(self.asked, methods)
        self._press("Explain the same answer", methods, "explanation")
        return None

    def _explain_slowly(self) -> None:
        slow = [one for one in self.world.questions if SLOW in one.results]
        if not slow:
            return self._ask()
        asked = self.rng.choice(slow)
        self._upload(asked.file)
        self._press_ask(asked, FAST[:1])
        said = self.page.change("Method", SLOW)
        assert "an estimate" in said, said
        methods = [SLOW, FAST[1]]
        self._fill_in(asked, methods)
        self._press("Explain the same answer", methods, "explanation by IG")
        return None

    def _change_method(self) -> None:
        method = self.rng.choice((*FAST, SLOW))
        with self.journal.timed("change the method"):
            said = self.page.change("Method", method)
        assert 'role="alert"' not in said, said
        self.page.values["Method"] = FAST[0]

    def _ask_and_stop(self) -> None:
        asked = self.rng.choice(self.world.questions)
        self._upload(asked.file)
        self._fill_in(asked, FAST[:1])
        self.asked = asked
        after = self.rng.randint(1, 8)
        seen = 0

        def on_event(event: Any) -> None:
            nonlocal seen
            seen += event["msg"] == "process_generating"
            if seen == after:
                seen += 1
                said = self.page.press("Stop")
                assert "Stopping after this word." in said

        self.shown = self.page.press("Ask", on_event)
        self.journal.did("stop")
        if "Stopped before the first word." in self.shown:
            self._forget()
        elif "Stopped." in self.shown:
            self._check("Stopped", FAST[:1])
            self.is_stopped = True
        else:
            # The answer was complete before.
            self._check("Point at a word", FAST[:1])

    # Mistakes.

    def _expect(self, shown: str, refusal: str) -> None:
        assert refusal in shown and 'role="alert"' in shown, shown[:2000]
        assert "Traceback" not in shown and "<iframe" not in shown
        self.journal.refused(refusal)

    def _bad_file(self) -> None:
        file = self.rng.choice(self.world.bad_files)
        before = self.page.values["Image"]
        self._upload(file)
        self._expect(self.page.press("Ask"), file.refusal)
        self.page.values["Image"] = before
        self._forget()

    def _too_large(self) -> None:
        answer = self.page.upload("large.png", too_large())
        assert answer.status_code == 413, answer.status_code
        assert "maximum allowed size" in answer.text
        self.journal.refused("larger than is accepted")

    def _break_off_upload(self) -> None:
        self.page.break_off_upload(too_large()[: self.rng.randint(10**4, 10**7)])
        self.journal.did("break off an upload")

    def _nonsense(self) -> None:
        label, value, refusal = self.rng.choice(
            [
                ("Question", "", "Write a question about the image."),
                ("Question", "a" * 5000, "The question is too long"),
                ("Method", "nothing", "Choose a method."),
                ("Longest answer, in tokens", 0, "must be between 1 and"),
                ("Image", None, "Choose an image first."),
                ("Image", {"path": "/etc/passwd"}, _NO_LONGER),
            ]
        )
        before = self.page.values[label]
        self.page.values[label] = value
        self._expect(self.page.press("Ask"), refusal)
        self.page.values[label] = before

    def _ask_twice(self) -> None:
        asked = self.rng.choice(self.world.questions)
        self._upload(asked.file)
        self._fill_in(asked, FAST[:1])
        self.asked = asked
        said: list[str] = []

        def on_event(event: Any) -> None:
            if not said and event["msg"] in ("estimation", "process_starts"):
                said.append(self.page.press_once("Ask"))

        self.shown = self.page.press("Ask", on_event)
        self._expect(said[0], _WAITING)
        self._check("Point at a word", FAST[:1])
        self.journal.did("ask twice")

    def _of_others(self) -> None:
        others = [
            links for name, links in list(self.world.links.items()) if name != self.name
        ]
        if not others:
            return
        path, link = self.rng.choice(others)
        # Who has uploaded the same picture may see it.
        status = self.page.http.get(f"/gradio_api/file={path}").status_code
        assert status == (200 if path in self.page.paths else 403), status
        assert self.page.http.get(link).status_code == 404
        self.journal.refused("what is somebody else's")

    # Downloads.

    def _download(self) -> None:
        if self.asked is None or not self.shown:
            return self._ask()
        files = downloads(self.shown)
        page = self._get(files["answer.html"]).decode()
        words = _SHOWN_WORD.findall(page)
        assert words == words_of(self.shown)
        image = Image.open(io.BytesIO(self._get(files["answer.png"])))
        image.load()
        if self.path:
            url = f"/gradio_api/file={self.path}"
            assert self.page.http.get(url).content == self.asked.file.content
        return None

    def _break_off_download(self) -> None:
        if self.asked is None or not self.shown:
            return self._ask()
        self.page.break_off_download(downloads(self.shown)["answer.png"])
        self.journal.did("break off a download")
        return None

    # Going away.

    def _close_in_the_middle(self) -> None:
        asked = self.rng.choice(self.world.questions)
        self._upload(asked.file)
        self._fill_in(asked, self._some_methods())
        last = self.rng.randint(1, 12)
        seen = 0

        def on_event(event: Any) -> None:
            nonlocal seen
            seen += 1
            if seen == last:
                # The events' stream is closed by the exception.
                self.page.leave()
                raise Gone

        self.journal.did("close in the middle")
        self.page.press("Ask", on_event)

    def _close_while_waiting(self) -> None:
        asked = self.rng.choice(self.world.questions)
        self._upload(asked.file)
        self._fill_in(asked, FAST[:1])
        self.page.press_unheard("Ask")
        self.journal.did("close while waiting")
        raise Gone

    def _only_upload(self) -> None:
        self._upload(self.rng.choice(self.world.questions).file)
        self.journal.did("close after an upload")
        raise Gone

    def _reload(self) -> None:
        link = downloads(self.shown).get("answer.html")
        self._forget()
        self.world.links.pop(self.name, None)
        with self.journal.timed("reload"):
            self.page.open()
        if link is not None:
            # The old page's answer is not kept.
            time.sleep(1)
            assert self.page.http.get(link).status_code == 404
