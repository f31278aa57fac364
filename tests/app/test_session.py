"""One visitor's requests: answered as without the app, stopped, failed, in turn."""

import threading
from typing import Any

import pytest
import torch
from captum_dexar.app.explainer import Explainer, OFFERED
from captum_dexar.app.session import in_words, Phase, Session
from captum_dexar.app.uploads import VisitorError
from tests.app.questions import (
    asked,
    assert_same_result,
    batch_result,
    failing_at,
    generated_ids,
    PROCESSOR,
    question,
    results_of,
    session_of,
    tiny_model,
)
from tests.helpers.untouched import untouched

MODEL = tiny_model()
FAST = ("dexar", "dexar-rivals", "attention-gradient")


@pytest.mark.parametrize("method", FAST)
def test_an_answer_is_generated_and_explained_as_without_the_app(method: str) -> None:
    session = session_of(MODEL)
    states = asked(session, (method,))
    assert [state.phase for state in states] == [Phase.RUNNING] * 4 + [Phase.DONE]
    shown = [state.result.output_tokens for state in states[1:-1]]
    (result,) = results_of(session)
    assert shown == [result.output_tokens[:length] for length in (1, 2, 3)]
    assert result.target_ids.tolist() == generated_ids(MODEL)
    assert_same_result(result, batch_result(MODEL, method, result.target_ids))
    assert not session.is_busy and list(session.run()) == []


def test_the_same_answer_by_other_methods_side_by_side() -> None:
    session = session_of(MODEL)
    asked(session, ("dexar",))
    (first,) = results_of(session)
    for methods in [("attention-gradient", "dexar"), ("dexar-rivals", "ig")]:
        session.explain_again(methods)
        states = list(session.run())
        assert states[-1].phase is Phase.DONE and session.shown == methods
        results = results_of(session)
        for method, result in zip(methods, results):
            reference = batch_result(MODEL, method, first.target_ids)
            assert_same_result(result, reference)
        # What is known is not explained once more.
        assert (results[1] is first) == (methods[1] == "dexar")
    comparison = session.comparison()
    assert comparison is not None
    assert list(comparison.results) == [session.title_of(one) for one in methods]
    assert all(seconds > 0 for seconds in comparison.seconds.values())


def test_a_slow_method_waits_until_its_cost_is_known() -> None:
    session = session_of(MODEL)
    assert session.cost(("ig",)) is None
    with pytest.raises(VisitorError, match="Ask a question first"):
        session.explain_again(("ig",))
    asked(session, ("ig",))
    assert session.shown == ("dexar",)
    estimate = session.cost(("ig",))
    assert estimate > 0 and session.cost(("dexar", "dexar-rivals")) == 0
    session.explain_again(("ig",))
    list(session.run())
    assert session.shown == ("ig",) and session.cost(("ig",)) == 0
    # A further question is estimated from the whole explanation.
    comparison = session.comparison()
    (seconds,) = comparison.seconds.values()
    asked(session, ("dexar",), new_tokens=1)
    assert session.cost(("ig",)) == pytest.approx(seconds / 3)


@pytest.mark.parametrize("method", FAST)
def test_stop_ends_generating_between_tokens(method: str) -> None:
    warm = session_of(MODEL)
    asked(warm, (method,), new_tokens=12)
    (whole,) = results_of(warm)
    session = session_of(MODEL)
    session.ask(question(new_tokens=12), (method,))
    with untouched(MODEL):
        steps = session.run()
        for state in steps:
            if state.result is not None and len(state.result.output_tokens) == 2:
                break
        session.stop()
        *_, last = steps
        # The model's own thread has ended too.
        assert not [one for one in threading.enumerate() if one.name == "generating"]
    assert last.phase is Phase.STOPPED
    (result,) = results_of(session)
    length = len(result.output_tokens)
    assert 2 <= length < 12
    assert result.target_ids.tolist() == whole.target_ids[:length].tolist()
    assert_same_result(result, batch_result(MODEL, method, result.target_ids))
    assert asked(session, (method,))[-1].phase is Phase.DONE


def test_stop_ends_explaining_a_given_answer() -> None:
    session = session_of(MODEL)
    asked(session, ("dexar",), new_tokens=12)
    session.explain_again(("attention-gradient", "dexar-rivals"))
    for state in (steps := session.run()):
        if state.result is not None:
            session.stop()
    assert state.phase is Phase.STOPPED and list(steps) == []
    # A part of an answer is not an explanation of it.
    assert session.shown == ("dexar",)
    (result,) = results_of(session)
    assert len(result.output_tokens) == 12


def test_a_request_is_stopped_before_its_turn() -> None:
    explainer = Explainer(MODEL, PROCESSOR)
    first, second = Session(explainer), Session(explainer)
    first.ask(question(new_tokens=40), ("dexar",))
    steps = first.run()
    while next(steps).result is None:
        pass
    second.ask(question(), ("dexar",))
    second.stop()
    assert [state.phase for state in second.run()][-1] is Phase.STOPPED
    assert second.answer is None and second.shown == () and first.is_busy
    first.stop()
    assert [state.phase for state in steps][-1] is Phase.STOPPED


def test_two_visitors_get_their_own_answers() -> None:
    explainer = Explainer(MODEL, PROCESSOR)
    sessions = [Session(explainer), Session(explainer)]
    busy, most = 0, 0
    lock = threading.Lock()

    def count(change: int) -> None:
        nonlocal busy, most
        with lock:
            busy += change
            most = max(most, busy)

    pre = MODEL.register_forward_pre_hook(lambda *_: count(1))
    post = MODEL.register_forward_hook(lambda *_: count(-1))
    threads = [
        threading.Thread(target=asked, args=(session, ("dexar",)), kwargs={"turn": i})
        for i, session in enumerate(sessions)
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        pre.remove()
        post.remove()
    assert most == 1
    for turn, session in enumerate(sessions):
        (result,) = results_of(session)
        assert result.target_ids.tolist() == generated_ids(MODEL, turn=turn)
        reference = batch_result(MODEL, "dexar", result.target_ids, turn=turn)
        assert_same_result(result, reference)
    one, other = (results_of(session)[0].token_attr for session in sessions)
    assert not torch.equal(one, other)


def test_a_visitor_who_has_gone_does_not_keep_the_model() -> None:
    explainer = Explainer(MODEL, PROCESSOR)
    gone, other = Session(explainer), Session(explainer)
    gone.ask(question(new_tokens=200), ("dexar",))
    steps: Any = gone.run()
    while next(steps).result is None:
        pass
    # Nobody asks for the next token, and nothing closes the iterator.
    gone.stop()
    assert asked(other, ("dexar",))[-1].phase is Phase.DONE
    steps.close()
    assert not gone.is_busy


def test_one_request_of_a_visitor_at_a_time() -> None:
    session = session_of(MODEL)
    session.ask(question(), ("dexar",))
    with pytest.raises(VisitorError, match="still being answered"):
        session.ask(question(), ("dexar",))
    list(session.run())
    with pytest.raises(VisitorError, match="still being answered"):
        session.explain_again(("dexar",))
        session.explain_again(("dexar",))


@pytest.mark.parametrize("number", [1, 3])
def test_a_failing_model_is_told_in_words(number: int) -> None:
    model = tiny_model()
    session = session_of(model)
    asked(session, ("dexar",))
    with failing_at(model, number, "no more <b>memory</b>\nTraceback"):
        states = asked(session, ("dexar",))
    assert states[-1].phase is Phase.FAILED
    assert states[-1].message.endswith("no more <b>memory</b> Traceback")
    # What was explained before it failed is kept.
    assert [len(one.output_tokens) for one in results_of(session)] == [2] * (number > 1)
    with untouched(model):
        assert asked(session, ("dexar",))[-1].phase is Phase.DONE


def test_messages_are_short() -> None:
    assert in_words(ValueError()).endswith("no reason was given")
    assert len(in_words(ValueError("a" * 10_000))) < 700


def test_every_offered_method_has_a_title() -> None:
    titles: set[Any] = {Session.title_of(method) for method in OFFERED}
    assert len(titles) == len(OFFERED) == 4
