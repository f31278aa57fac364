"""What really happens when a processor is called: images, settings and pixels."""

import copy
import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from captum_dexar.model.threads import kept_free_in_forks
from transformers.image_processing_utils import BaseImageProcessor

# The method that every image processor's call ends in, with the image processor's
# settings, the processor's and those of the call merged into its arguments.
_METHOD = "_preprocess_image_like_inputs"
_lock = kept_free_in_forks(threading.Lock())
_watches = 0
_of_thread = threading.local()


@dataclass(frozen=True, eq=False)
class ImageProcessorCall:
    """One call of an image processor.

    Attributes:
        image_processor (BaseImageProcessor): what was called
        settings (dict): the settings that were effective
        images (list): the images, in one of the forms that image processors take
        made (dict): a copy of what was returned
    """

    image_processor: Any
    settings: dict[str, Any]
    images: list[Any]
    made: dict[str, Any]


@contextmanager
def watched_image_processors() -> Iterator[list[ImageProcessorCall]]:
    """Collects the calls of image processors in this thread.

    Other threads are not affected: for them a call is passed on.
    """
    before = getattr(_of_thread, "calls", None)
    calls: list[ImageProcessorCall] = []
    _of_thread.calls = calls
    _change_watches(1)
    try:
        yield calls
    finally:
        _change_watches(-1)
        _of_thread.calls = before


def _change_watches(change: int) -> None:
    """The classes are changed while anybody watches, and restored after the last
    one."""
    global _watches
    with _lock:
        _watches += change
        for kind in _with_own_method(BaseImageProcessor):
            current = getattr(kind, _METHOD)
            plain = getattr(current, "_plain", None)
            if _watches and plain is None:
                setattr(kind, _METHOD, _recording(current))
            elif not _watches and plain is not None:
                setattr(kind, _METHOD, plain)


def _with_own_method(kind: Any) -> Iterator[Any]:
    """The classes of image processors that define the method."""
    if _METHOD in vars(kind):
        yield kind
    for derived in kind.__subclasses__():
        yield from _with_own_method(derived)


def _recording(plain: Any) -> Any:
    @functools.wraps(plain)
    def record(self: Any, images: Any, *args: Any, **settings: Any) -> Any:
        # Some of them change their arguments.
        given = dict(settings)
        made = plain(self, images, *args, **settings)
        calls = getattr(_of_thread, "calls", None)
        if calls is not None:
            # A copy: pixels may be changed in place afterwards.
            kept = copy.deepcopy(dict(made))
            calls.append(ImageProcessorCall(self, given, _flat(images), kept))
        return made

    record._plain = plain  # type: ignore[attr-defined]
    return record


def _flat(images: Any) -> list[Any]:
    if not isinstance(images, (list, tuple)):
        return [images]
    return [image for some in images for image in _flat(some)]
