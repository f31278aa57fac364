"""Two visitors at once, each in a browser of their own."""

import time
from contextlib import ExitStack
from typing import Any

import pytest
from captum_dexar.app.server import application
from tests.app.app_page import AppPage
from tests.app.page_visitor import served
from tests.app.questions import generated_ids, picture, PROCESSOR, tiny_model
from tests.helpers.browser import started_browser

pytest.importorskip("gradio", reason="the extra app, Gradio, is not installed")
QUESTIONS = ("what is left of a circle ?", "a blue square is in the image .")
_TOKENS = 200


def test_each_gets_their_own_answer_and_stops_it() -> None:
    """The second waits for the first, and the model rests once both have stopped."""
    model: Any = tiny_model()
    generated_ids(model)
    settings: dict[str, Any] = {"model_name": "tiny", "scenes": [picture()]}
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    with ExitStack() as stack:
        app = stack.enter_context(
            application(model, PROCESSOR, new_tokens=_TOKENS, **settings)
        )
        address = stack.enter_context(served(app))
        # The browsers are closed before the server.
        browsers = [stack.enter_context(started_browser()) for _ in QUESTIONS]
        handle = model.register_forward_pre_hook(count)
        stack.callback(handle.remove)
        pages = [AppPage(browser, address) for browser in browsers]
        for page, question in zip(pages, QUESTIONS):
            page.ask(question)
        pages[0].stop()
        used = passes
        pages[1].stop()
        assert 0 < used < passes < 2 * _TOKENS
        answers = []
        for page, question in zip(pages, QUESTIONS):
            page.enter_explanation()
            assert page.text(".prompt") == question
            words = page.browser.find_elements("css selector", "[data-word]")
            answers.append([word.text for word in words])
            assert 0 < len(answers[-1]) < _TOKENS
        shortest = min(map(len, answers))
        assert answers[0][:shortest] != answers[1][:shortest]
        used = passes
        time.sleep(1)
        assert passes == used
        for page in pages:
            page.browser.switch_to.default_content()
            assert page.errors() == []
            page.browser.get("about:blank")
