"""Whose session and whose file is whose."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from captum_dexar.app.explainer import Explainer
from captum_dexar.app.session import Session
from captum_dexar.app.uploads import VisitorError


@dataclass(frozen=True)
class _Visit:
    """An open page: the browser that it is in, its session, and a name for links."""

    visitor: str
    session: Session
    key: str


class Visitors:
    """The open pages and the files that were uploaded from them.

    A visitor is a browser, known by a secret cookie. It may have several pages open,
    each with a session of its own. Files that belong to nobody are refused.

    Args:
        explainer (Explainer): the model of all sessions
        public (iterable of Path, optional): files for everybody. Default: ()
    """

    def __init__(self, explainer: Explainer, public: Iterable[Path] = ()) -> None:
        self._explainer = explainer
        self._public = {path.resolve() for path in public}
        self._owners: dict[Path, set[str]] = {}
        self._visits: dict[str, _Visit] = {}
        self._lock = threading.Lock()

    def publish(self, paths: Iterable[Path]) -> None:
        """Makes files readable for everybody."""
        self._public |= {path.resolve() for path in paths}

    def visit(self, visitor: str | None, page: str | None) -> tuple[Session, str]:
        """The session of an open page, and the key of its links.

        Args:
            visitor (str or None): value of the cookie
            page (str or None): the page's own name, which it chose at random

        Raises:
            VisitorError: there is no cookie, or the page is another visitor's.
        """
        if not visitor or not page:
            raise VisitorError(
                "This page needs its cookie, which keeps your image apart from those "
                "of others. Allow cookies for this address, and load it again."
            )
        with self._lock:
            visit = self._visits.get(page)
            if visit is None:
                session = Session(self._explainer)
                visit = _Visit(visitor, session, secrets.token_urlsafe(16))
                self._visits[page] = visit
        if visit.visitor != visitor:
            raise VisitorError("This page belongs to somebody else. Load it again.")
        return visit.session, visit.key

    def session_of(self, visitor: str | None, key: str) -> Session | None:
        """The session of a link; None unless it is the visitor's own."""
        for visit in list(self._visits.values()):
            same = secrets.compare_digest(visit.key.encode(), key.encode())
            if same and visit.visitor == visitor:
                return visit.session
        return None

    def leave(self, page: str | None) -> None:
        """Stops what a closed page asked for, and forgets it.

        The files of a visitor without any open page are deleted.
        """
        with self._lock:
            visit = self._visits.pop(page or "", None)
            if visit is None:
                return
            visitor = visit.visitor
            if all(other.visitor != visitor for other in self._visits.values()):
                for path, owners in list(self._owners.items()):
                    owners.discard(visitor)
                    if not owners:
                        del self._owners[path]
                        path.unlink(missing_ok=True)
        visit.session.stop()

    def leave_all(self) -> None:
        """Closes every page."""
        for page in list(self._visits):
            self.leave(page)

    def uploaded(self, visitor: str, paths: Iterable[str]) -> None:
        """Notes whose files these are."""
        with self._lock:
            for path in paths:
                self._owners.setdefault(Path(path).resolve(), set()).add(visitor)

    def may_read(self, visitor: str | None, path: str) -> bool:
        """Whether a file is the visitor's own, or everybody's."""
        try:
            whole = Path(path).resolve()
        except (OSError, ValueError, RuntimeError):
            return False
        return whole in self._public or visitor in self._owners.get(whole, ())
