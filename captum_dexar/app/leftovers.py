"""What Gradio would keep of closed pages and of uploads that were broken off."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

# Gradio keeps what a page showed last; those of so many pages that were never closed.
MOST_PAGES = 64
_SECONDS_UNTIL_SEEN = 60


class Leftovers:
    """Removes them.

    Args:
        blocks (gr.Blocks): the page
        folder (Path): where Gradio writes what is uploaded
    """

    def __init__(self, blocks: Any, folder: Path) -> None:
        self._blocks, self._folder = blocks, folder
        self._gone: dict[str, float] = {}
        blocks.state_session_capacity = MOST_PAGES

    async def forget(self, page: str) -> None:
        """Removes everything of a closed page: what it waits for, and what it showed.

        Args:
            page (str): its name
        """
        # Gradio has no public way. Where another version keeps these elsewhere, they
        # are kept for as long as Gradio does.
        with suppress(AttributeError):
            queue = self._blocks._queue
            await queue.clean_events(session_hash=page)
            messages = queue.pending_messages_per_session.get(page)
            while messages is not None and not messages.empty():
                messages.get_nowait()
            self._gone[page] = time.monotonic()
            self._remove_names(queue)
        with suppress(AttributeError):
            states = self._blocks.state_holder
            states.session_data.pop(page, None)
            states.time_last_used.pop(page, None)
        with suppress(AttributeError):
            names = self._blocks.upload_file_set
            names -= {name for name in names if not Path(name).exists()}

    def _remove_names(self, queue: Any) -> None:
        """Removes the empty rest of pages that have been gone for long.

        Gradio's own streams look for it until they have seen that the page has gone.
        """
        before = time.monotonic() - _SECONDS_UNTIL_SEEN
        running = queue.event_ids_to_events
        for page, since in list(self._gone.items()):
            events = queue.pending_event_ids_session.get(page, ())
            if since < before and not any(event in running for event in events):
                del self._gone[page]
                queue.pending_event_ids_session.pop(page, None)
                queue.pending_messages_per_session.pop(page, None)

    def remove_unfinished(self) -> None:
        """Removes parts of files; only while nothing is being uploaded."""
        # Whole files, and those of the page, are in folders of their own.
        for path in self._folder.iterdir():
            if path.is_file():
                path.unlink(missing_ok=True)
