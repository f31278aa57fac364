"""Words of captions with what they refer to, and questions with their answers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CaptionWord:
    """One whitespace-separated word of a caption.

    Attributes:
        text (str): the word
        kind (str): what it says, such as ``"colour"``, ``"size"`` or ``"relation"``;
            ``"filler"`` if nothing about the image
        object_indices (tuple of int): indices into ``scene.objects`` of all objects
            that the word refers to; a relation refers to those that it relates, a
            filler to none
    """

    text: str
    kind: str
    object_indices: tuple[int, ...] = ()

    @property
    def object_index(self) -> int | None:
        """The index of the one object that the word describes, such as its colour; None
        if it is about several objects or none."""
        indices = self.object_indices
        return indices[0] if len(indices) == 1 else None


@dataclass(frozen=True)
class Question:
    """A question about one scene, with its true answer.

    Attributes:
        text (str): the question, for example ``"how many objects are there ?"``
        answer (str): the answer, for example ``"two"``
        kind (str): what is asked for, such as ``"count"``; each world has its own kinds
    """

    text: str
    answer: str
    kind: str


def words_of(
    text: str, kind: str = "filler", object_indices: tuple[int, ...] = ()
) -> list[CaptionWord]:
    """The words of a text, all of one kind."""
    return [CaptionWord(word, kind, object_indices) for word in text.split()]
