"""A run: a server, its users, and what was measured."""

import io
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from captum_dexar.cli.app import _SCENES
from captum_dexar.shapes import make_scene
from tests.app.endurance.browser_user import BrowserUser
from tests.app.endurance.expected import known_questions
from tests.app.endurance.journal import Journal
from tests.app.endurance.pictures import bad_files, File, pictures
from tests.app.endurance.server_process import Sample, ServerProcess, started_server
from tests.app.endurance.users import User, World
from tests.app.page_visitor import PageVisitor

# The part of the run in which pools and caches get their size.
WARM_UP = 1 / 6
_SECONDS_BETWEEN_SAMPLES = 5.0
# Rests, and how long users take to come to one: they think, and wait for answers.
_SECONDS_BETWEEN_RESTS = 240.0
_SECONDS_TO_REST = 90.0
_SECONDS_OF_REST = 6.0
_SECONDS_TO_GO = 300
_SECONDS_TO_CLEAN_UP = 20
_MOST_SLOW = 2


def run(
    folder: Path,
    *,
    minutes: float,
    users: int,
    images: int = 28,
    scenes: int = len(_SCENES),
    pace: float = 1.0,
    with_browser: bool = False,
) -> dict[str, Any]:
    """Measures.

    Args:
        folder (Path): an empty one, for files
        minutes (float): how long users use the page
        users (int): how many at once
        images (int, optional): different ones that they upload. Default: 28
        scenes (int, optional): how many of the page's they choose from. Default: all
        pace (float, optional): factor of the times that they think. Default: 1.0
        with_browser (bool, optional): whether one of them has a real Chromium.
            Default: False

    Returns:
        dict of plain values
    """
    questions = known_questions(pictures(images), 2, _MOST_SLOW)
    drawn = [File(f"scene-{one}", _png(one)) for one in _SCENES[:scenes]]
    about_scenes = list(enumerate(known_questions(drawn, 1, 0)))
    samples: list[Sample] = []
    rests: list[Sample] = []
    over = threading.Event()
    with started_server(folder) as server:
        _warm_up(server)
        at_first, before = server.sample(), server.look_inside()
        assert before["model"], "the model is not found in the process"
        journal = Journal()
        world = World(
            server.address,
            questions,
            about_scenes,
            bad_files(),
            journal,
            time.monotonic() + 60 * minutes,
            pace,
        )
        watching = threading.Thread(target=_watch, args=(server, samples, over))
        resting = threading.Thread(
            target=_rest, args=(server, world, users, rests, journal, over)
        )
        watching.start()
        resting.start()
        people: list[threading.Thread] = [
            User(f"user {index}", world, index) for index in range(users - with_browser)
        ]
        if with_browser:
            people.append(BrowserUser("browser", world, users, folder))
        start = time.monotonic()
        for one in people:
            one.start()
        for one in people:
            one.join(max(1.0, world.until - time.monotonic() + _SECONDS_TO_GO))
            if one.is_alive():
                journal.fault(one.name, "end", "it does not come to an end")
        lasted = time.monotonic() - start
        over.set()
        watching.join()
        resting.join()
        time.sleep(_SECONDS_TO_CLEAN_UP)
        if not server.is_running:
            raise RuntimeError(f"the server has ended:\n{_log(folder)}")
        at_last, after = server.sample(), server.look_inside()
        left = {"files": list(server.files()), "folders": server.folders()}
        ended = server.end()
    return {
        "minutes": lasted / 60,
        "users": users,
        "with_browser": with_browser,
        "done": dict(journal.done),
        "actions": sum(journal.done.values()) + sum(journal.refusals.values()),
        "refusals": dict(journal.refusals),
        "faults": journal.faults,
        "seconds": journal.latencies(),
        "thirds": thirds(samples),
        "thirds_of_rests": thirds(rests) if rests else None,
        "before_users": asdict(at_first),
        "after_users": asdict(at_last),
        "model_changed": _changed(before["model"], after["model"]),
        "objects": [before["objects"], after["objects"]],
        "more_of": _more(before["kinds"], after["kinds"]),
        "before_and_after_trimming": [before["resident"], after["resident"]],
        "threads": [before["threads"], after["threads"]],
        "memory": [before.get("memory"), after.get("memory"), after.get("stacks")],
        "left": left,
        "ended": ended,
        "log": _log(folder),
        "samples": [asdict(one) for one in samples],
        "rests": [asdict(one) for one in rests],
    }


def thirds(samples: Sequence[Sample]) -> dict[str, Any]:
    """Medians and least values of the first and last third after the warm-up.

    How much memory is held depends on the pictures that are open just then. The least
    values are those of moments with small ones.
    """
    kept = [one for one in samples if one.second >= WARM_UP * samples[-1].second]
    third = max(1, len(kept) // 3)
    measured = {}
    for name in asdict(kept[0]):
        if name != "second":
            values = [getattr(one, name) for one in kept]
            measured[name] = {
                "first": float(np.median(values[:third])),
                "last": float(np.median(values[-third:])),
                "least_first": min(values[:third]),
                "least_last": min(values[-third:]),
                "max": max(getattr(one, name) for one in samples),
            }
    return measured


def _png(seed: int) -> bytes:
    file = io.BytesIO()
    make_scene(seed).image.save(file, format="PNG")
    return file.getvalue()


def _warm_up(server: ServerProcess) -> None:
    """One answer: the model's first pass puts hooks of transformers on it."""
    visitor = PageVisitor(server.address)
    assert "Point at a word" in visitor.press("Ask")
    visitor.leave()
    visitor.http.close()
    time.sleep(1)


def _watch(server: ServerProcess, samples: list[Sample], over: threading.Event) -> None:
    while server.is_running:
        samples.append(server.sample())
        if over.wait(_SECONDS_BETWEEN_SAMPLES):
            return


def _rest(
    server: ServerProcess,
    world: World,
    users: int,
    rests: list[Sample],
    journal: Journal,
    over: threading.Event,
) -> None:
    """Samples what the server holds while nobody does anything."""
    while not over.wait(_SECONDS_BETWEEN_RESTS):
        if world.until - time.monotonic() < _SECONDS_TO_REST:
            return
        with world.rest.of(users, _SECONDS_TO_REST) as everybody:
            if not everybody:
                journal.fault("all", "rest", "somebody does not come to rest")
            elif not over.wait(_SECONDS_OF_REST):
                rests.append(server.sample())


def _log(folder: Path) -> str:
    """The end of what the server has written."""
    return (folder / "log.txt").read_text()[-20_000:]


def _changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    names = before.keys() | after.keys()
    return sorted(name for name in names if before.get(name) != after.get(name))


def _more(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Kinds of objects of which there are more, most first."""
    more = {kind: count - before.get(kind, 0) for kind, count in after.items()}
    ranked = sorted(more.items(), key=lambda one: -one[1])
    return {kind: count for kind, count in ranked[:40] if count > 0}
