"""Whose session and whose file is whose."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from captum_dexar.app.explainer import Explainer
from captum_dexar.app.session import Session
from captum_dexar.app.uploads import VisitorError

# Pages without a connection whose sessions are kept, and the files of their visitors.
MOST_UNCONNECTED = 16
# Files of a visitor that are kept; a page shows one.
MOST_FILES = 32


@dataclass(eq=False)
class _Visit:
    """An open page.

    Attributes:
        visitor (str): the browser that it is in
        session (Session): its session
        key (str): a name for links
        connections (int): by which it is known to be open
    """

    visitor: str
    session: Session
    key: str
    connections: int = 0


class Visitors:
    """The open pages and the files that were uploaded from them.

    A visitor is a browser, known by a secret cookie. It may have several pages open,
    each with a session of its own. An open page has a connection, on which nothing is
    said; where that is lost, the page may go on, and is kept as long as few others are
    like it. Files that belong to nobody are refused, and deleted, as are all but the
    last few of a visitor.

    Args:
        explainer (Explainer): the model of all sessions
        public (iterable of Path, optional): files for everybody. Default: ()
    """

    def __init__(self, explainer: Explainer, public: Iterable[Path] = ()) -> None:
        self._explainer = explainer
        self._public = {path.resolve() for path in public}
        self._owners: dict[Path, set[str]] = {}
        self._visits: dict[str, _Visit] = {}
        self._uploads = 0
        self._lock = threading.RLock()

    def publish(self, paths: Iterable[Path]) -> None:
        """Makes files readable for everybody."""
        self._public |= {path.resolve() for path in paths}

    def arrive(self, visitor: str, page: str) -> bool:
        """Notes that a page is open, until it leaves as often as it has arrived.

        Args:
            visitor (str): value of the cookie
            page (str): the page's own name, which it chose at random

        Returns:
            bool, whether it is noted: not if it is another visitor's
        """
        with self._lock:
            visit = self._noted(visitor, page)
            if visit.visitor != visitor:
                return False
            visit.connections += 1
            return True

    def visit(
        self, visitor: str | None, page: str | None, is_first: bool = False
    ) -> tuple[Session, str]:
        """The session of a page, and the key of its links.

        Args:
            visitor (str or None): value of the cookie
            page (str or None): the page's own name, which it chose at random
            is_first (bool, optional): whether a session begins here where there is
                none; else a new one is not kept. Default: False

        Raises:
            VisitorError: there is no cookie, or the page is another visitor's.
        """
        if not visitor or not page:
            raise VisitorError(
                "This page needs its cookie, which keeps your image apart from those "
                "of others. Allow cookies for this address, and load it again."
            )
        with self._lock:
            known = self._visits.get(page)
            if known is None and is_first:
                known = self._noted(visitor, page)
                self._forget_unconnected()
            visit = known or self._new(visitor)
        if visit.visitor != visitor:
            raise VisitorError("This page belongs to somebody else. Load it again.")
        return visit.session, visit.key

    def _noted(self, visitor: str, page: str) -> _Visit:
        if page not in self._visits:
            self._visits[page] = self._new(visitor)
        return self._visits[page]

    def _new(self, visitor: str) -> _Visit:
        return _Visit(visitor, Session(self._explainer), secrets.token_urlsafe(16))

    def _forget_unconnected(self) -> None:
        pages = [page for page, one in self._visits.items() if not one.connections]
        for page in pages[:-MOST_UNCONNECTED]:
            self._forget(page)

    def session_of(self, visitor: str | None, key: str) -> Session | None:
        """The session of a link; None unless it is the visitor's own."""
        for visit in list(self._visits.values()):
            same = secrets.compare_digest(visit.key.encode(), key.encode())
            if same and visit.visitor == visitor:
                return visit.session
        return None

    def leave(self, page: str) -> None:
        """Ends a connection of a page.

        After the last one, what the page asked for is stopped, and the page is
        forgotten. The files of a visitor without any page are deleted.
        """
        with self._lock:
            if page in self._visits:
                self._visits[page].connections -= 1
                if self._visits[page].connections <= 0:
                    self._forget(page)

    def leave_all(self) -> None:
        """Closes every page."""
        with self._lock:
            for page in list(self._visits):
                self._forget(page)

    def _forget(self, page: str) -> None:
        visit = self._visits.pop(page)
        if not self._is_here(visit.visitor):
            for owners in self._owners.values():
                owners.discard(visit.visitor)
            self._delete_unowned()
        visit.session.stop()

    def _is_here(self, visitor: str) -> bool:
        return any(visit.visitor == visitor for visit in list(self._visits.values()))

    def _delete_unowned(self) -> None:
        # The same file may just be coming from somebody else.
        if self._uploads:
            return
        for path, owners in list(self._owners.items()):
            if not owners:
                del self._owners[path]
                path.unlink(missing_ok=True)
                # Gradio makes a folder for each content.
                with suppress(OSError):
                    path.parent.rmdir()

    @contextmanager
    def uploading(self) -> Iterator[None]:
        """Within it somebody uploads, and no file is deleted."""
        with self._lock:
            self._uploads += 1
        try:
            yield
        finally:
            with self._lock:
                self._uploads -= 1
                self._delete_unowned()

    @property
    def nobody_uploads(self) -> bool:
        """Whether no upload is going on."""
        return not self._uploads

    def uploaded(self, visitor: str, paths: Iterable[str]) -> None:
        """Notes whose files these are."""
        with self._lock:
            for path in [Path(path).resolve() for path in paths]:
                # The last one comes last.
                self._owners[path] = {visitor, *self._owners.pop(path, ())}
            own = [path for path, owners in self._owners.items() if visitor in owners]
            for path in own[:-MOST_FILES]:
                self._owners[path].discard(visitor)
            self._delete_unowned()
            if not self._is_here(visitor):
                # No page may ever leave, and with it the files.
                self._noted(visitor, f"uploads of {visitor}")
                self._forget_unconnected()

    def may_read(self, visitor: str | None, path: str) -> bool:
        """Whether a file is the visitor's own, or everybody's."""
        try:
            whole = Path(path).resolve()
        except (OSError, ValueError, RuntimeError):
            return False
        return whole in self._public or visitor in self._owners.get(whole, ())
