"""One of the users has a real browser, headless Chromium."""

import random
import threading
import traceback
from pathlib import Path
from typing import Any

from captum_dexar.app.privacy import COOKIE
from tests.app.app_page import AppPage
from tests.app.endurance.expected import Asked, check_result, FAST
from tests.app.endurance.users import downloads, World
from tests.helpers.browser import Keys, started_browser

_SCENE = ".dexar-scenes .thumbnail-lg"
_IMAGE = "[data-testid=image] .image-frame img"
_LENGTH = "input[data-testid=number-input]"
_MARK_FRAMES = (
    "document.querySelectorAll('iframe').forEach((one) => { one.dataset.old = 1; })"
)
_WORDS_TO_CLICK = 4


class BrowserUser(threading.Thread):
    """Chooses scenes, asks, clicks words, downloads, stops, reloads, and leaves.

    Args:
        name (str): of the user
        world (World): where they are
        seed (int): of what they do
        folder (Path): for files
    """

    def __init__(self, name: str, world: World, seed: int, folder: Path) -> None:
        super().__init__(name=name, daemon=True)
        self.world, self.journal = world, world.journal
        self.rng = random.Random(seed)
        self.folder = folder

    def run(self) -> None:
        """Visits the page until the time is over, in one browser after the other."""
        while not self.world.is_over:
            try:
                with started_browser() as browser:
                    self._visits(browser)
            except Exception:
                self.journal.fault(self.name, "visit", traceback.format_exc())
                self.world.think(self.rng)

    def _visits(self, browser: Any) -> None:
        for _ in range(self.rng.randint(2, 5)):
            if self.world.is_over:
                return
            with self.journal.timed("browser: open the page"):
                page = AppPage(browser, self.world.address)
            for _ in range(self.rng.randint(1, 3)):
                self.world.think(self.rng)
                if self.world.is_over:
                    return
                self._ask(page)
            if self.rng.random() < 0.3:
                # It is left while words come.
                page.button("Ask").click()
                self.journal.did("browser: close in the middle")
            errors = page.errors()
            assert errors == [], errors
            browser.get("about:blank")
            # A page that is left in the middle says so in a console that nobody sees.
            page.errors()

    def _ask(self, page: AppPage) -> None:
        if self.rng.random() < 0.5:
            place, asked = self.rng.choice(
                [one for one in self.world.scenes if one[1].words]
            )
            page.browser.find_elements("css selector", _SCENE)[place].click()
            name = f"scene-{place}"
        else:
            asked = self.rng.choice([one for one in self.world.questions if one.words])
            path = self.folder / asked.file.name
            path.write_bytes(asked.file.content)
            page.find("input[type=file]").send_keys(str(path))
            name = path.name
            self.journal.did("browser: upload")
        page.wait(lambda: name in page.find(_IMAGE).get_attribute("src"))
        length = page.find(_LENGTH)
        length.clear()
        length.send_keys(str(asked.length), Keys.TAB)
        with self.journal.timed("browser: answer"):
            page.run(_MARK_FRAMES)
            page.ask(asked.prompt)
            # The old explanation is taken away first, however fast the new one comes.
            page.wait(lambda: page.find("iframe:not([data-old])"))
            page.wait(lambda: page.button("Ask").is_enabled())
            # The driver's mouse does not reach what is scrolled away above.
            page.run("scrollTo(0, 0)")
            page.enter_explanation()
            # Before, its script has not seen to the words yet.
            page.wait(lambda: page.run("return document.readyState") == "complete")
        words = page.browser.find_elements("css selector", "[data-word]")
        shown = [word.text for word in words]
        assert shown == asked.words, (shown, asked.words)
        for index in self.rng.sample(
            range(len(shown)), min(_WORDS_TO_CLICK, len(shown))
        ):
            page.click(index)
            said = page.text("#chosen")
            assert said == shown[index], (said, shown[index])
            self.journal.did("browser: click a word")
        page.browser.switch_to.default_content()
        self._download(page, asked)

    def _download(self, page: AppPage, asked: Asked) -> None:
        """With the browser's own cookie."""
        import httpx

        links = downloads(page.browser.page_source)
        (cookie,) = [
            one["value"] for one in page.browser.get_cookies() if one["name"] == COOKIE
        ]
        answer = httpx.get(
            self.world.address + links[f"{FAST[0]}.dexar"],
            cookies={COOKIE: cookie},
            timeout=120,
        )
        assert answer.status_code == 200
        check_result(answer.content, asked, FAST[0])
        self.journal.did("answer checked")
