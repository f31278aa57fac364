"""Forked processes, copies for other processes, and asyncio."""

import asyncio
import faulthandler
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.model.threads import kept_free_in_forks, this_thread
from captum_dexar.shapes import load_vlm, make_scene
from tests.helpers.interleaved import elsewhere
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm
from torch import Tensor

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="only where forks are")
FEW = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Where several threads of PyTorch have worked, a fork of the process that works
    with several waits for them forever, with this package or without."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def in_a_fork(check: Callable[[], bool]) -> bool:
    """Whether a check holds in a forked process, which ends after it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            # The system ends a process that waits forever, which says where before.
            signal.alarm(60)
            faulthandler.dump_traceback_later(50, file=sys.__stderr__)
            code = 0 if check() else 1
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def streamed(dexar: VLMAttribution) -> Tensor:
    parts = list(dexar.stream(prompt_inputs(), gen_args=FEW))
    return torch.cat([part.token_attr for part in parts])


@needs_fork
def test_a_fork_in_the_body_of_a_stream() -> None:
    """The child has the hooks of a thread that does not exist in it, and its first
    thread gets the number of that one."""
    dexar = VLMAttribution(LayerDexAR(tiny_vlm()))
    expected = streamed(dexar)
    given = dexar.attribute(prompt_inputs(), [40, 41]).token_attr
    stream = dexar.stream(prompt_inputs(), gen_args=FEW)
    first = next(stream).token_attr

    def explains_as_before() -> bool:
        again = dexar.attribute(prompt_inputs(), [40, 41]).token_attr
        return torch.equal(again, given) and torch.equal(streamed(dexar), expected)

    assert in_a_fork(explains_as_before)
    rest = [part.token_attr for part in stream]
    assert torch.equal(torch.cat([first, *rest]), expected)


@needs_fork
def test_a_stream_is_not_continued_in_a_fork() -> None:
    dexar = VLMAttribution(LayerDexAR(tiny_vlm()))
    stream: Any = dexar.stream(prompt_inputs(), gen_args=FEW)
    next(stream)

    def refuses() -> bool:
        with pytest.raises(RuntimeError, match="begun before the process was forked"):
            next(stream)
        return True

    assert in_a_fork(refuses)
    assert len(list(stream)) == 2


@needs_fork
def test_a_lock_is_free_in_a_fork() -> None:
    lock = kept_free_in_forks(threading.Lock())
    is_held = threading.Event()

    def hold() -> None:
        with lock:
            is_held.set()
            # Long enough for the fork to begin meanwhile.
            threading.Event().wait(0.2)

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait()
    assert in_a_fork(lambda: lock.acquire(timeout=10))
    thread.join()
    assert lock.acquire(timeout=10)
    # Held for good, it would stop every later fork.
    lock.release()


def test_threads_are_told_apart_after_their_end() -> None:
    seen = [elsewhere(this_thread) for _ in range(20)]
    assert len(set(map(id, seen))) == 20
    assert this_thread() is this_thread() and this_thread() not in seen


def test_an_input_is_sent_to_another_process() -> None:
    """Without the model, whose weights would go with it."""
    model, processor = load_vlm()
    dexar = VLMAttribution(LayerDexAR(model), processor)
    image = make_scene(4).image
    inp = ImagePromptInput(image, "Describe the image.", processor, model)
    expected = dexar.attribute(inp, "a red circle")
    sent = pickle.dumps(inp)
    assert len(sent) < 1e6
    got: Any = pickle.loads(sent)
    result = dexar.attribute(got, "a red circle")
    assert torch.equal(result.token_attr, expected.token_attr)
    absent = torch.zeros(1, got.n_itp_features)
    painted = [one.to_model_input(absent)["pixel_values"] for one in (got, inp)]
    assert torch.equal(*painted)
    # And the result is sent back.
    returned = pickle.loads(pickle.dumps(result))
    assert torch.equal(returned.token_attr, expected.token_attr)


def test_asyncio() -> None:
    dexar = VLMAttribution(LayerDexAR(tiny_vlm()))
    expected = dexar.attribute(prompt_inputs(), gen_args=FEW).token_attr

    async def read(stream: Any) -> Tensor:
        parts: list[Tensor] = []
        end: Any = object()
        while (part := await asyncio.to_thread(next, stream, end)) is not end:
            parts.append(part.token_attr)
        return torch.cat(parts)

    async def both() -> list[Tensor]:
        whole = asyncio.to_thread(dexar.attribute, prompt_inputs(), gen_args=FEW)
        stream = read(dexar.stream(prompt_inputs(), gen_args=FEW))
        result, parts = await asyncio.gather(whole, stream)
        return [result.token_attr, parts]

    whole, parts = asyncio.run(both())
    assert torch.equal(whole, expected)
    torch.testing.assert_close(parts, expected, rtol=1e-5, atol=1e-6)
