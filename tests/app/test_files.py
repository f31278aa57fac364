"""What is downloaded is what the library writes."""

import gc
import io
import threading
from pathlib import Path

import matplotlib.pyplot as plt
import psutil
from captum_dexar import VLMAttributionResult
from captum_dexar.app.files import files_of
from matplotlib.figure import Figure
from PIL import Image
from tests.app.questions import asked, results_of, session_of, tiny_model


def test_files_of_an_answer(tmp_path: Path) -> None:
    session = session_of(tiny_model())
    assert files_of(session) == {}
    asked(session, ("dexar", "attention-gradient"), new_tokens=2)
    files = files_of(session)
    results = results_of(session)
    assert list(files) == [
        "answer.html",
        "answer.png",
        "dexar.dexar",
        "attention-gradient.dexar",
    ]
    for name, result in zip(list(files)[2:], results):
        path = tmp_path / name
        path.write_bytes(files[name]())
        assert VLMAttributionResult.load(path) == result
    html = files["answer.html"]().decode()
    assert html == session.comparison().to_html("what is in the image ?")
    both = Image.open(io.BytesIO(files["answer.png"]()))
    session.explain_again(("dexar",))
    list(session.run())
    assert list(files_of(session)) == ["answer.html", "answer.png", "dexar.dexar"]
    one = Image.open(io.BytesIO(files_of(session)["answer.png"]()))
    assert one.format == both.format == "PNG" and one.size != both.size
    assert plt.get_fignums() == []


def test_no_figure_is_kept() -> None:
    session = session_of(tiny_model())
    asked(session, ("dexar",), new_tokens=2)
    gc.collect()
    # As if the collector did not come for long.
    gc.disable()
    try:
        before = {id(one) for one in gc.get_objects() if isinstance(one, Figure)}
        files_of(session)["answer.png"]()
        after = [one for one in gc.get_objects() if isinstance(one, Figure)]
    finally:
        gc.enable()
    assert all(id(one) in before for one in after)


def test_fonts_are_opened_once() -> None:
    """Whichever threads ask for figures."""
    session = session_of(tiny_model())
    asked(session, ("dexar",), new_tokens=2)
    make = files_of(session)["answer.png"]
    make()
    process = psutil.Process()
    before = process.num_fds()
    barrier = threading.Barrier(4)

    def ask() -> None:
        # All at once, so that no thread has the number of another.
        barrier.wait()
        make()
        barrier.wait()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert process.num_fds() <= before
