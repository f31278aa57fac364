"""The harness of endurance: its users do all that they can, and faults are seen."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from captum_dexar.app.server import application
from captum_dexar.shapes import load_vlm, make_scene
from tests.app.endurance.__main__ import problems, table
from tests.app.endurance.expected import check_result, known_questions
from tests.app.endurance.journal import Journal
from tests.app.endurance.pictures import bad_files, File, pictures
from tests.app.endurance.rest import Rest
from tests.app.endurance.run import run, thirds
from tests.app.endurance.server_process import Sample
from tests.app.endurance.users import downloads, Gone, User, World
from tests.app.page_visitor import PageVisitor, served
from tests.app.test_uploads import file_of

pytest.importorskip("gradio", reason="the extra app, Gradio, is not installed")


@pytest.fixture(name="world", scope="module")
def _world() -> Iterator[World]:
    """A page with one scene, and two pictures whose answers are known."""
    model, processor = load_vlm()
    image = make_scene(3).image
    scene = File("scene", file_of(image, "PNG"))
    settings: dict[str, Any] = {"model_name": "bundled", "scenes": [image]}
    with application(model, processor, **settings) as app, served(app) as address:
        yield World(
            address,
            known_questions(pictures(2), 1, 0),
            list(enumerate(known_questions([scene], 1, 0))),
            bad_files(),
            Journal(),
            until=time.monotonic() + 3600,
            pace=0,
        )


def test_users_do_all_that_they_can(world: World) -> None:
    users = [User(f"user {index}", world, index) for index in range(2)]
    for user in users:
        user.page = PageVisitor(world.address)
    # What belongs to somebody else is looked for.
    users[1]._ask()
    user = users[0]
    for action in user.actions:
        try:
            action()
        except Gone:
            user.page.leave()
            user.page = PageVisitor(world.address)
            user._forget()
    for user in users:
        user._leave()
    journal = world.journal
    assert journal.faults == []
    assert journal.done["answer checked"] >= 8 and journal.done["stop"] == 1
    assert journal.refusals["what is somebody else's"] == 1
    assert sum(journal.refusals.values()) == 5
    times = journal.latencies()["answer"]
    assert times["number"] >= 4 and 0 < times["median"] <= times["p95"] <= times["max"]


def test_a_wrong_answer_is_seen(world: World) -> None:
    first, second = world.questions
    visitor = PageVisitor(world.address)
    visitor.choose_image(first.file.name, first.file.content)
    visitor.values |= {
        "Question": first.prompt,
        "Longest answer, in tokens": first.length,
    }
    links = downloads(visitor.press("Ask"))
    content = visitor.http.get(links["dexar.dexar"]).content
    visitor.leave()
    check_result(content, first, "dexar")
    with pytest.raises(AssertionError):
        check_result(content, second, "dexar")
    # The same words with another picture's map.
    with pytest.raises(AssertionError):
        changed = first.results["dexar-rivals"]
        check_result(content, replace(first, results={"dexar": changed}), "dexar")


def test_what_users_meet_is_written_down(world: World) -> None:
    refused = replace(world.bad_files[0], refusal="something else")
    journal = Journal()
    until = time.monotonic() + 30
    user = User("user", replace(world, journal=journal, bad_files=[refused]), 0)
    user.actions = {user._bad_file: 1}
    user.world.until = until
    user.page = PageVisitor(world.address)
    user._visit()
    user._leave()
    (fault,) = journal.faults
    assert fault["what"] == "_bad_file" and "damaged" in fault["text"]


def test_a_run_of_the_command(tmp_path: Path) -> None:
    """A server in its own process, some seconds long."""
    torch.set_num_threads(1)
    measured = run(tmp_path, minutes=0.1, users=2, images=2, scenes=1, pace=0.05)
    assert measured["faults"] == [] and measured["actions"] > 0
    assert measured["model_changed"] == []
    assert measured["ended"]["status"] == 0 and measured["ended"]["files"] == []
    assert all(
        one["files"] <= 40 and not one["children"] for one in measured["samples"]
    )
    # The scenes, and nothing of users.
    assert all("scenes" in name for name in measured["left"]["files"])
    assert "| resident |" in table(measured)
    # In so short a time the memory has not got its size.
    assert set(problems(measured)) <= {"the resident memory grows"}


def test_growth_is_a_problem() -> None:
    samples = [
        Sample(float(second), 100.0 + second, 1.0, 2, 3, 0, 4, 5)
        for second in range(60)
    ]
    growth = thirds(samples)["resident"]
    # Of 10 to 59 the first and the last 16.
    assert growth == {
        "first": 117.5,
        "last": 151.5,
        "least_first": 110.0,
        "least_last": 144.0,
        "max": 159.0,
    }
    measured = {
        "faults": [],
        "thirds": thirds(samples),
        "thirds_of_rests": None,
        "model_changed": [],
        "ended": {"status": 0, "files": []},
        "log": "",
    }
    assert problems(measured) == ["the resident memory grows"]
    measured["log"] = "Traceback (most recent call last)"
    measured["ended"] = {"status": 1, "files": []}
    measured["model_changed"] = ["hooks of x"]
    assert len(problems(measured)) == 4


def test_all_rest_or_it_is_said() -> None:
    rest = Rest()
    rest.join()  # nobody rests: it returns at once
    done: list[int] = []

    def work(number: int) -> None:
        rest.join()
        done.append(number)

    users = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    with rest.of(3, 0.2) as everybody:
        for user in users:
            user.start()
        assert not everybody
    for user in users:
        user.join(10)
    assert sorted(done) == [0, 1]
    late = threading.Timer(0.05, rest.join)
    late.start()
    with rest.of(1, 10) as everybody:
        assert everybody and late.is_alive()
    late.join(10)
    assert not late.is_alive()
