"""The page: what a visitor sees and presses, in Gradio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from captum_dexar.app import fragments
from captum_dexar.app.explainer import is_slow, OFFERED, Question
from captum_dexar.app.files import files_of
from captum_dexar.app.privacy import COOKIE
from captum_dexar.app.session import Phase, Session, State
from captum_dexar.app.uploads import (
    checked_length,
    checked_prompt,
    Limits,
    read_image,
    VisitorError,
)
from captum_dexar.app.visitors import Visitors
from captum_dexar.comparison.methods import METHODS
from captum_dexar.comparison.table import duration

TITLE = "Ask about an image"
STYLE = (Path(__file__).parent / "app.css").read_text(encoding="utf-8")
# All events that use the model wait in one queue.
_MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
_AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
# Values arrive as the browser sent them, and are checked by our own rules.
_OURS: dict[str, Any] = {"preprocess": False, "api_visibility": "private"}
# On a phone what is answered is below the buttons.
_TO_STATUS = (
    "() => { const status = document.querySelector('.dexar-status'); "
    "if (status.getBoundingClientRect().top > innerHeight / 2) "
    "status.scrollIntoView(); return []; }"
)
_NONE = ""
_CHOICES = [(METHODS[name].title, name) for name in OFFERED]
_MOST_WAITING = 32


@dataclass(frozen=True)
class Settings:
    """What the page offers.

    Attributes:
        model_name (str): the model's name or folder, shown on the page
        prompt (str): the question at first
        new_tokens (int): largest number of tokens of an answer at first
        scenes (sequence of Path): image files to choose from
        limits (Limits): what is accepted
    """

    model_name: str
    prompt: str = "Describe the image."
    new_tokens: int = 25
    scenes: Sequence[Path] = ()
    limits: Limits = field(default_factory=Limits)


class _Parts:
    """The components, from top to bottom."""

    def __init__(self, settings: Settings) -> None:
        shown = fragments.message(f"Model: {settings.model_name}")
        with gr.Column(elem_classes="dexar-head"):
            gr.HTML(f"<h1>{TITLE}</h1>{shown}")
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                self._add_question(settings)
            with gr.Column(scale=4, min_width=300):
                self.status = gr.HTML(
                    fragments.message("Choose an image, and ask about it."),
                    elem_classes="dexar-status",
                )
                self.view = gr.HTML("")
                self.files = gr.HTML("")

    def _add_question(self, settings: Settings) -> None:
        scenes, limits = [str(path) for path in settings.scenes], settings.limits
        self.image = gr.Image(
            value=scenes[0] if scenes else None,
            label="Image",
            sources=["upload", "clipboard"],
            type="filepath",
            image_mode=None,
            height=220,
            buttons=[],
        )
        self.scenes = gr.Gallery(
            value=scenes,
            label="Scenes to choose from",
            show_label=False,
            elem_classes="dexar-scenes",
            columns=4,
            height="auto",
            allow_preview=False,
            interactive=False,
            visible=bool(scenes),
            buttons=[],
        )
        self.prompt = gr.Textbox(
            value=settings.prompt,
            label="Question",
            lines=1,
            max_lines=6,
            max_length=limits.prompt_characters,
        )
        with gr.Row():
            self.ask = gr.Button("Ask", variant="primary", min_width=100)
            self.stop = gr.Button(
                "Stop", variant="stop", interactive=False, min_width=100
            )
        self.method = gr.Radio(_CHOICES, value=OFFERED[0], label="Method")
        self.other = gr.Dropdown(
            [("nothing", _NONE), *_CHOICES],
            value=_NONE,
            label="Side by side with",
            filterable=False,
        )
        self.again = gr.Button("Explain the same answer", interactive=False)
        self.cost = gr.HTML("")
        self.length = gr.Slider(
            1,
            limits.new_tokens,
            value=min(settings.new_tokens, limits.new_tokens),
            step=1,
            label="Longest answer, in tokens",
            buttons=[],
        )

    @property
    def buttons(self) -> list[Any]:
        """Those that :func:`_buttons` updates, in its order."""
        return [self.ask, self.again, self.stop]


def theme() -> Any:
    """Gradio's own, with the fonts of the visitor's system: none is downloaded."""
    ours = gr.themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    # White text on Gradio's own shades is too faint.
    colours = {
        "button_primary_background_fill": "*primary_700",
        "button_primary_background_fill_hover": "*primary_800",
    }
    dark = {f"{name}_dark": shade for name, shade in colours.items()}
    return ours.set(**colours, **dark)


def page(settings: Settings, visitors: Visitors) -> gr.Blocks:
    """The page.

    Args:
        settings (Settings): what it offers
        visitors (Visitors): their sessions and files
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
        parts = _Parts(settings)
        handlers = _Handlers(settings, visitors)
        handlers.connect(parts)
        # With it, an open page stays connected, which is how it is known to be open.
        blocks.unload(_nothing)
    blocks.queue(max_size=_MOST_WAITING, api_open=False)
    return blocks


class _Handlers:
    """What happens when something is pressed."""

    def __init__(self, settings: Settings, visitors: Visitors) -> None:
        self._settings, self._visitors = settings, visitors

    def connect(self, parts: _Parts) -> None:
        """Connects the components with these handlers."""
        chosen = [parts.method, parts.other]
        view = [parts.view, parts.files]
        asked = gr.on(
            [parts.ask.click, parts.prompt.submit],
            self.ask,
            [parts.image, parts.prompt, parts.length, *chosen],
            [parts.status, parts.cost, *parts.buttons],
            **_AT_ONCE,
            **_OURS,
        )
        again = parts.again.click(
            self.explain_again,
            chosen,
            [parts.status, parts.cost, *parts.buttons],
            **_AT_ONCE,
            **_OURS,
        )
        for prepared in (asked, again):
            prepared.then(
                self.run,
                None,
                [parts.status, *view, *parts.buttons],
                js=_TO_STATUS,
                show_progress="hidden",
                **_MODEL,
                **_OURS,
            ).then(
                self.tell_cost,
                chosen,
                [parts.cost, parts.again],
                show_progress="hidden",
                **_MODEL,
                **_OURS,
            )
        for component in chosen:
            component.change(
                self.tell_cost,
                chosen,
                [parts.cost, parts.again],
                show_progress="hidden",
                **_MODEL,
                **_OURS,
            )
        parts.stop.click(self.stop, None, [parts.status], **_AT_ONCE, **_OURS)
        parts.scenes.select(self.choose, None, [parts.image], **_AT_ONCE, **_OURS)

    def ask(
        self,
        image: Any,
        prompt: Any,
        length: Any,
        method: Any,
        other: Any,
        request: gr.Request,
    ) -> list[Any]:
        """Checks a question; it is answered by :meth:`run`."""
        limits = self._settings.limits
        try:
            session, _ = self._visit(request, is_first=True)
            question = Question(
                read_image(self._own_file(image, request), limits),
                checked_prompt(prompt, limits),
                checked_length(length, limits),
            )
            session.ask(question, _methods(method, other))
        except VisitorError as error:
            return _refused(error)
        return [fragments.message("Waiting for the model."), "", *_buttons(busy=True)]

    def explain_again(self, method: Any, other: Any, request: gr.Request) -> list[Any]:
        """Prepares explaining the same answer, for :meth:`run`."""
        try:
            session, _ = self._visit(request)
            session.explain_again(_methods(method, other))
        except VisitorError as error:
            return _refused(error)
        return [fragments.message("Waiting for the model."), "", *_buttons(busy=True)]

    def run(self, request: gr.Request) -> Iterator[list[Any]]:
        """Answers and explains, and shows every token."""
        session, key = None, ""
        with suppress(VisitorError):
            session, key = self._visit(request)
        if session is None or not session.is_busy:
            # What was asked has been refused, and the page says why. Without a value
            # Gradio would empty it.
            yield [gr.skip() for _ in range(6)]
            return
        for state in session.run():
            if state.phase is Phase.RUNNING:
                words = ""
                if state.result is not None:
                    words = fragments.words_so_far(state.result)
                status = fragments.message(_progress(state))
                yield [status, words, "", gr.skip(), gr.skip(), gr.skip()]
            else:
                yield self._ended(state, session, key)

    def _ended(self, state: State, session: Session, key: str) -> list[Any]:
        shown, links = "", ""
        try:
            comparison = session.comparison()
            if comparison is not None and session.question is not None:
                shown = fragments.explanation(comparison, session.question.prompt)
                links = fragments.links(
                    {name: f"/download/{key}/{name}" for name in files_of(session)}
                )
        except ValueError as error:
            state = State(Phase.FAILED, message=f"It can't be shown: {error}")
        kind = "error" if state.phase is Phase.FAILED else "note"
        status = fragments.message(_outcome(state, session), kind)
        buttons = _buttons(busy=False, has_answer=session.answer is not None)
        return [status, shown, links, *buttons]

    def tell_cost(self, method: Any, other: Any, request: gr.Request) -> list[Any]:
        """Says about how long the chosen methods will take on the answer."""
        try:
            session, _ = self._visit(request)
            methods = _methods(method, other)
            seconds = session.cost(methods)
        except VisitorError as error:
            return [fragments.message(str(error), "error"), gr.skip()]
        return [fragments.message(cost_in_words(methods, seconds)), gr.skip()]

    def stop(self, request: gr.Request) -> str:
        """Ends what the visitor asked for."""
        try:
            session, _ = self._visit(request)
        except VisitorError as error:
            return fragments.message(str(error), "error")
        session.stop()
        return fragments.message("Stopping after this word.")

    def choose(self, event: gr.SelectData) -> str:
        """A scene that was chosen."""
        scenes = self._settings.scenes
        return str(scenes[int(event.index) % len(scenes)])

    def _visit(
        self, request: gr.Request, is_first: bool = False
    ) -> tuple[Session, str]:
        return self._visitors.visit(
            request.cookies.get(COOKIE), request.session_hash, is_first
        )

    def _own_file(self, image: Any, request: gr.Request) -> Path:
        path = image.get("path") if isinstance(image, dict) else None
        if not isinstance(path, str) or not path:
            raise VisitorError("Choose an image first.")
        if not self._visitors.may_read(request.cookies.get(COOKIE), path):
            raise VisitorError("The image is no longer here. Choose it again.")
        return Path(path)


def _nothing() -> None:
    """What is done is done where the connection ends."""


def _refused(error: VisitorError) -> list[Any]:
    """Says what is wrong, and leaves the rest of the page as it is."""
    refusal = fragments.message(str(error), "error")
    return [refusal, *(gr.skip() for _ in range(4))]


def _methods(method: Any, other: Any) -> tuple[str, ...]:
    chosen = dict.fromkeys(one for one in (method, other) if one)
    if not chosen or any(name not in OFFERED for name in chosen):
        raise VisitorError("Choose a method.")
    return tuple(chosen)


def _buttons(busy: bool, has_answer: bool = False) -> list[Any]:
    """Ask, explain again, and stop."""
    return [
        gr.update(interactive=not busy),
        gr.update(interactive=not busy and has_answer),
        gr.update(interactive=busy),
    ]


def _progress(state: State) -> str:
    if state.result is None:
        return f"{state.title}: reading the image and the question."
    count = len(state.result.words())
    return f"{state.title}: {_counted(count)} in {duration(state.seconds)}."


def _outcome(state: State, session: Session) -> str:
    if state.phase is Phase.FAILED:
        return state.message
    if state.phase is Phase.STOPPED:
        return "Stopped." if session.shown else "Stopped before the first word."
    return "Point at a word, or choose it, to see where it comes from."


def cost_in_words(methods: Sequence[str], seconds: float | None) -> str:
    """What is said before slow methods run.

    Args:
        methods (sequence of str): the chosen ones
        seconds (float or None): as :meth:`Session.cost` estimates them
    """
    if seconds is None:
        slow = [METHODS[one].title for one in methods if is_slow(one)]
        if not slow:
            return ""
        return (
            f"{slow[0]} takes much longer. Ask first: the answer is explained with "
            "DEX-AR, then the time that it will take is estimated here."
        )
    if not seconds:
        return ""
    return (
        f"Explain the same answer: about {duration(seconds)}, an estimate from a "
        "measured part of it."
    )


def _counted(count: int) -> str:
    return f"{count} word{'' if count == 1 else 's'}"
