"""Lets a process tell what it holds: the harness starts the server with this file.

Python runs it at its start. At the signal SIGUSR1 the process writes a report. With
``DEXAR_TRACE=1`` it also follows where memory comes from, which makes it slower.
"""

import os
import signal


def _report(*_: object) -> None:
    import collections
    import ctypes
    import gc
    import json
    import threading
    import tracemalloc
    from pathlib import Path

    import psutil
    from tests.helpers.untouched import state_of
    from transformers import PreTrainedModel

    is_frozen = gc.get_freeze_count() > 0
    gc.unfreeze()
    gc.collect()
    objects = gc.get_objects()
    kinds = collections.Counter(
        f"{type(one).__module__}.{type(one).__qualname__}" for one in objects
    )
    inner = {
        id(module)
        for one in objects
        if isinstance(one, PreTrainedModel)
        for module in one.modules()
        if module is not one
    }
    state = {
        name: repr(value)
        for one in objects
        if isinstance(one, PreTrainedModel) and id(one) not in inner
        for name, value in state_of(one).items()
        if "RNG" not in name
    }
    process = psutil.Process()
    resident = [process.memory_info().rss]
    # What is free, but has not been given back: the rest is in use, or has leaked.
    ctypes.CDLL(None).malloc_trim(0)
    resident.append(process.memory_info().rss)
    said = {
        "resident": [one / 2**20 for one in resident],
        "objects": len(objects),
        "kinds": dict(kinds.most_common()),
        "model": state,
        "threads": sorted(thread.name for thread in threading.enumerate()),
    }
    if tracemalloc.is_tracing():
        snapshot = tracemalloc.take_snapshot()
        said["memory"] = [str(one) for one in snapshot.statistics("lineno")[:60]]
        said["stacks"] = [
            [f"{one.size / 2**20:.2f} MiB in {one.count}", *one.traceback.format()]
            for one in snapshot.statistics("traceback")[:25]
        ]
    del objects
    if is_frozen:
        gc.freeze()
    path = Path(os.environ["DEXAR_LOOK_INSIDE"])
    part = path.with_suffix(".part")
    part.write_text(json.dumps(said))
    part.rename(path)


if "DEXAR_LOOK_INSIDE" in os.environ:
    signal.signal(signal.SIGUSR1, _report)
    if os.environ.get("DEXAR_TRACE"):
        import tracemalloc

        tracemalloc.start(12)
