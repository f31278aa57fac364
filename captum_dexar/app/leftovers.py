"""What Gradio would keep of closed pages and of uploads that were broken off."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

# Gradio keeps what a page showed last; those of so many pages that were never closed.
MOST_PAGES = 64


class Leftovers:
    """Removes them.

    Args:
        blocks (gr.Blocks): the page
        folder (Path): where Gradio writes what is uploaded
    """

    def __init__(self, blocks: Any, folder: Path) -> None:
        self._blocks, self._folder = blocks, folder
        self._gone: set[str] = set()
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
            waiting = queue.pending_event_ids_session
            for gone in list(self._gone):
                events = waiting.get(gone, ())
                if not any(one in queue.event_ids_to_events for one in events):
                    self._gone.discard(gone)
                    waiting.pop(gone, None)
            if page in waiting:
                # Something of it still runs, or is just being told to the page.
                self._gone.add(page)
            messages = queue.pending_messages_per_session.get(page)
            while messages is not None and not messages.empty():
                messages.get_nowait()
        with suppress(AttributeError):
            states = self._blocks.state_holder
            states.session_data.pop(page, None)
            states.time_last_used.pop(page, None)
        with suppress(AttributeError):
            names = self._blocks.upload_file_set
            names -= {name for name in names if not Path(name).exists()}

    def remove_unfinished(self) -> None:
        """Removes parts of files; only while nothing is being uploaded."""
        # Whole files, and those of the page, are in folders of their own.
        for path in self._folder.iterdir():
            if path.is_file():
                path.unlink(missing_ok=True)
