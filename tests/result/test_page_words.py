"""The words of a page in a real browser: by mouse, keyboard and touch."""

from typing import Any

import torch
from captum_dexar.comparison import Comparison
from tests.helpers.browser import Keys
from tests.result.pages import assert_drawn, assert_shows, made, OPACITY, Open


def test_pointing_shows_a_words_map(show: Open, result: Any) -> None:
    page = show(result.to_html(prompt="What is it?"))
    assert_shows(page, result)
    for word in (3, 1):
        page.hover(word)
        assert_shows(page, result, word)
    assert "violet" in page.text("#readout")
    weight = float(result.token_weights[1])
    assert f"{weight:.3g} of at most 2" in page.text("#numbers")
    probability = 100 * float(result.token_log_probs[1].exp())
    assert f"{probability:.1f} %" in page.text("#numbers")
    page.leave()
    assert_shows(page, result)
    assert page.text("#chosen") == "The whole answer"
    assert page.text(".prompt") == "What is it?"
    assert page.complaints() == []


def test_clicking_keeps_and_combines(show: Open, result: Any) -> None:
    page = show(result.to_html())
    page.click(1)
    page.leave()
    assert_shows(page, result, 1)
    page.hover(3)
    assert_shows(page, result, 3)
    page.click(3, shift=True)
    page.leave()
    assert_shows(page, result, 1, 3)
    chosen = page.browser.find_elements("css selector", '[aria-selected="true"]')
    assert [one.text for one in chosen] == ["violet", "."]
    page.click(1, shift=True)
    page.leave()
    assert_shows(page, result, 3)
    page.click(3)
    page.leave()
    assert_shows(page, result)
    page.click(2)
    page.find("#clear").click()
    page.leave()
    assert_shows(page, result)
    assert page.complaints() == []


def test_dragging_combines(show: Open, result: Any) -> None:
    page = show(result.to_html())
    actions = page.actions().click_and_hold(page.word(2))
    actions.move_to_element(page.word(1)).move_to_element(page.word(0)).release()
    actions.perform()
    page.leave()
    assert_shows(page, result, 0, 1, 2)
    page.press(Keys.ESCAPE)
    assert_shows(page, result)


def test_a_fast_pointer_is_no_drag(show: Open, result: Any) -> None:
    """On the next word in the moment after a click, the button is up already."""
    page = show(result.to_html())
    page.run(
        "const [first, second] = [2, 3].map((index) =>"
        ' document.querySelector(`[data-word="${index}"]`));'
        "const tell = (element, kind, buttons, Kind = PointerEvent) =>"
        " element.dispatchEvent(new Kind(kind,"
        " {bubbles: true, pointerType: 'mouse', button: 0, buttons}));"
        "tell(first, 'pointerdown', 1);"
        "tell(first, 'pointerup', 0);"
        "tell(first, 'click', 0, MouseEvent);"
        "tell(second, 'pointerover', 0);"
        "tell(document.getElementById('answer'), 'pointerleave', 0);"
    )
    page.leave()
    assert_shows(page, result, 2)
    assert page.complaints() == []


def test_dragging_adds_to_what_is_kept_if_shift_is_held(
    show: Open, result: Any
) -> None:
    page = show(result.to_html())
    for shift, kept in ((True, (0, 2, 3)), (False, (2, 3))):
        page.click(0)
        actions = page.actions()
        if shift:
            actions = actions.key_down(Keys.SHIFT)
        actions.click_and_hold(page.word(2)).move_to_element(page.word(3)).release()
        actions.key_up(Keys.SHIFT).perform()
        page.leave()
        assert_shows(page, result, *kept)


def test_probabilities_are_never_rounded_to_none_or_certainty(show: Open) -> None:
    probabilities = torch.tensor([0.0005, 0.005, 0.9999, 1.0])
    page = show(made(token_log_probs=probabilities.log()).to_html())
    for word, said in enumerate(("under 0.1 %", "0.5 %", "over 99.9 %", "100 %")):
        page.hover(word)
        assert f"probability\n{said}" in page.text("#numbers")


def test_all_of_it_by_keyboard(show: Open, result: Any) -> None:
    page = show(result.to_html())
    page.leave()
    page.run("document.activeElement.blur()")
    order = []
    for _ in range(3):
        page.press(Keys.TAB)
        order.append(page.run("return document.activeElement.dataset.word"))
        if order[-1] == "0":
            break
    assert order[-1] == "0", order
    assert_shows(page, result, 0)
    page.press(Keys.ARROW_RIGHT)
    assert_shows(page, result, 1)
    page.press(Keys.END)
    assert_shows(page, result, 3)
    page.press(Keys.ARROW_LEFT, Keys.ENTER, Keys.HOME)
    assert_shows(page, result, 0)
    page.press_shift(Keys.ENTER)
    page.press(Keys.TAB)
    assert_shows(page, result, 0, 2)
    page.press_shift(Keys.TAB)
    page.press(Keys.ESCAPE)
    page.press(Keys.TAB)
    assert_shows(page, result)
    # One stop for the whole answer, where the reader left it.
    one_stop = '[data-word][tabindex="0"]'
    for word in (0, 2):
        stops = page.browser.find_elements("css selector", one_stop)
        assert [stop.get_attribute("data-word") for stop in stops] == [str(word)]
        page.click(2)
    assert page.complaints() == []


def test_words_are_combined_without_a_keyboard(show: Open, result: Any) -> None:
    page = show(result.to_html())
    page.find("#combine").click()
    page.click(1)
    page.click(3)
    page.leave()
    assert_shows(page, result, 1, 3)
    page.click(1)
    page.leave()
    assert_shows(page, result, 3)


def test_arrows_go_from_line_to_line(show: Open) -> None:
    texts = tuple("abcdefghijklmnopqrstuvwxyz" * 3)
    page = show(made(texts).to_html())
    focused = "return Number(document.activeElement.dataset.word)"
    page.click(3)
    page.press(Keys.ARROW_DOWN)
    below = page.run(focused)
    first, second = page.word(3).rect, page.word(below).rect
    assert first["y"] + first["height"] / 2 < second["y"] < first["y"] + 60
    assert abs(first["x"] - second["x"]) < 30
    # The next line, not the last or the first.
    page.press(Keys.ARROW_DOWN)
    assert second["y"] + second["height"] / 2 < page.word(page.run(focused)).rect["y"]
    page.press(Keys.ARROW_UP)
    assert page.run(focused) == below
    page.press(Keys.ARROW_UP)
    assert page.run(focused) == 3
    page.press(Keys.ARROW_UP)
    assert page.run(focused) == 3


def test_it_says_what_a_word_was_contrasted_with(show: Open) -> None:
    rivals: dict[str, Any] = {
        "rival_ids": torch.arange(8).view(4, 2),
        "rival_tokens": [["the", "one"], ["blue", "<b>"], ["ring", "let"], ["!", "?"]],
    }
    one_word = torch.tensor([True, True, False, True])
    page = show(made(word_starts=one_word, **rivals).to_html())
    page.hover(0)
    assert page.text("#numbers").endswith("%") and "the, one" in page.text("#numbers")
    page.hover(1)
    assert "violet: blue, <b>; circle: ring, let" in page.text("#numbers")
    results = {"plain": made(), "against rivals": made(**rivals)}
    compared = Comparison(results, {"plain": 1.0, "against rivals": 1.0})
    page = show(compared.to_html())
    page.hover(2)
    first, second = page.browser.find_elements("css selector", ".verdict")
    assert "rather than" not in first.text and "rather than ring, let" in second.text


def test_words_without_evidence_are_said_so(show: Open) -> None:
    attr = torch.rand(4, 24)
    attr[2] = 0
    result = made(token_attr=attr)
    page = show(result.to_html())
    blind = page.browser.find_elements("css selector", "[data-blind]")
    assert [one.text for one in blind] == ["a", "circle"]
    page.hover(0)
    assert "supports this no more than the text" in page.text("#remark")
    page.hover(2)
    assert "No visual evidence" in page.text("#remark")
    assert "zero map" in page.text(".verdict")
    assert not page.pixels()[~result.unseen_pixels.numpy()][:, 3].any()
    page.hover(3)
    assert "No visual evidence" not in page.text("#remark")


def test_an_answer_without_words(show: Open) -> None:
    special = torch.ones(4, dtype=torch.bool)
    result = made(special_tokens=special, answer="")
    page = show(result.to_html())
    assert_drawn(page.pixels(), result.pixel_map(), OPACITY, result.unseen_pixels)
    assert "(no words)" in page.text("main")
    assert page.complaints() == []


def test_what_is_said_of_several_words(show: Open, result: Any) -> None:
    page = show(result.to_html())
    page.click(3)
    page.click(1, shift=True)
    page.leave()
    assert page.text("#chosen") == "violet + ."
    both = 100 * float(result.token_log_probs[[1, 3]].sum().exp())
    for said in ("weight\n2 of at most 2", f"probability\n{both:.1f} %", "words\n2"):
        assert said in page.text("#numbers")
    name = page.find("canvas").get_attribute("aria-label")
    assert name == "Heatmap of violet + ., Layer DEX-AR"


def test_many_words_are_counted(show: Open) -> None:
    page = show(made(tuple("abcdefghijklm")).to_html())
    page.actions().drag_and_drop(page.word(0), page.word(12)).perform()
    page.leave()
    assert page.text("#chosen").endswith(" + l and 1 more")
    name = page.find("canvas").get_attribute("aria-label")
    assert name == "Heatmap of 13 words, Layer DEX-AR"


def test_shift_and_arrows_add_and_the_space_bar_keeps(show: Open, result: Any) -> None:
    page = show(result.to_html())
    page.click(1)
    page.press_shift(Keys.ARROW_RIGHT)
    page.leave()
    assert_shows(page, result, 1, 2)
    for kept in ((2,), ()):
        page.press(" ")
        assert_shows(page, result, *kept)


def test_arrows_follow_a_text_from_the_right(show: Open) -> None:
    page = show(made(("שלום", "עולם")).to_html())
    page.click(0)
    page.press(Keys.ARROW_LEFT)
    assert page.run("return document.activeElement.dataset.word") == "1"
    page.press(Keys.ARROW_RIGHT)
    assert page.run("return document.activeElement.dataset.word") == "0"
