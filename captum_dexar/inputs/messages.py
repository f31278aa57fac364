"""A conversation of chat messages as a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ROLES = ("system", "developer", "user", "assistant", "tool")
# Where transformers' processors look for the image of a part.
_IMAGE_KEYS = ("image", "url", "path")
_EXPECTED = (
    "prompt must be a string, or a list of chat messages like {'role': 'user', "
    "'content': [{'type': 'image'}, {'type': 'text', 'text': 'What is this?'}]}"
)


@dataclass(frozen=True)
class Conversation:
    """Checked chat messages.

    Attributes:
        messages (list of dict): the messages as chat templates take them, without
            their images
        images (list): the image of each image part, in order; None where the part
            leaves it open
    """

    messages: list[dict[str, Any]]
    images: list[Any]

    @classmethod
    def of(cls, messages: Any) -> Conversation:
        """Reads a list of messages.

        Args:
            messages (list of dict): each with a ``role`` and a ``content``, which is a
                string or a list of parts, ``{"type": "text", "text": ...}`` or
                ``{"type": "image"}``, the latter optionally with its image as
                ``"image"``, ``"path"`` or ``"url"``

        Raises:
            TypeError: It is no list of messages, or a content no list of parts.
            ValueError: A role or the type of a part is not known.

        Examples::

            >>> from captum_dexar.inputs.messages import Conversation
            >>> parts = [{"type": "image", "path": "cat.png"}]
            >>> conversation = Conversation.of([{"role": "user", "content": parts}])
            >>> conversation.messages
            [{'role': 'user', 'content': [{'type': 'image'}]}]
            >>> conversation.images
            ['cat.png']
        """
        if not isinstance(messages, Sequence) or isinstance(messages, (bytes, str)):
            raise TypeError(f"{_EXPECTED}, got {type(messages).__name__}.")
        if not messages:
            raise ValueError("The list of chat messages is empty.")
        images: list[Any] = []
        read = [_message(one, place, images) for place, one in enumerate(messages)]
        return cls(read, images)

    def all_images(self, given: Sequence[Any]) -> list[Any]:
        """The images in the order of their parts, those given apart in their places.

        Raises:
            ValueError: The number of open image parts is not the number of images.
        """
        if not self.images:
            # The texts may hold placeholders, which are counted later.
            return list(given)
        num_open = sum(image is None for image in self.images)
        if num_open != len(given):
            raise ValueError(
                f"The messages have {len(self.images)} image parts, {num_open} of them "
                f"without an image, but {len(given)} images are given apart. Give an "
                "image for each {'type': 'image'} that has none."
            )
        others = iter(given)
        return [next(others) if image is None else image for image in self.images]

    def prompt(self, processor: Any) -> str:
        """The whole prompt, as the processor's chat template writes it.

        The answer of the assistant is begun, or goes on where the last message is the
        assistant's.

        Raises:
            ValueError: There is no chat template, it fails, or it leaves out a text.
        """
        name = type(processor).__name__
        if getattr(processor, "chat_template", None) is None:
            raise ValueError(
                f"{name} has no chat template, so chat messages can't be made a "
                "prompt. Give the whole prompt as a string."
            )
        goes_on = self.messages[-1]["role"] == "assistant"
        try:
            text = str(
                processor.apply_chat_template(
                    self.messages,
                    add_generation_prompt=not goes_on,
                    continue_final_message=goes_on,
                )
            )
        except Exception as error:  # templates raise what they like
            raise ValueError(
                f"The chat template of {name} does not take these messages: {error}"
            ) from error
        self._check_texts(text, name)
        return text

    def _check_texts(self, prompt: str, name: str) -> None:
        """Raises ValueError if a question or an instruction is not in the prompt."""
        for place, message in enumerate(self.messages):
            if message["role"] in ("assistant", "tool"):
                continue  # templates drop an assistant's earlier reasoning
            content = message["content"]
            is_text = isinstance(content, str)
            for part in [{"text": content}] if is_text else content:
                if part.get("text", "").strip() not in prompt:
                    raise ValueError(
                        f"The chat template of {name} leaves out a text of message "
                        f"{place} (role {message['role']!r}): {part['text']!r}. It may "
                        "have no such role, or take contents only as "
                        f"{'a list of parts' if is_text else 'a string'}."
                    )


def _message(message: Any, place: int, images: list[Any]) -> dict[str, Any]:
    """A copy of a message without its images, which are appended to ``images``."""
    where = f"message {place}"
    if not isinstance(message, Mapping):
        raise TypeError(f"{_EXPECTED}, got {type(message).__name__} as {where}.")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise ValueError(
            f"The role of {where} must be one of {', '.join(map(repr, ROLES))}, got "
            f"{role!r}."
        )
    if not isinstance(content, str):
        if not isinstance(content, (list, tuple)):
            raise TypeError(
                f"The content of {where} must be a string or a list of parts "
                "({'type': 'text', 'text': ...} or {'type': 'image'}), got "
                f"{type(content).__name__}."
            )
        content = [_part(part, where, images) for part in content]
    return {**message, "content": content}


def _part(part: Any, where: str, images: list[Any]) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        raise TypeError(
            f"A part of {where} must be a dict, {{'type': 'text', 'text': ...}} or "
            f"{{'type': 'image'}}, got {type(part).__name__}."
        )
    kind = part.get("type")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise TypeError(
                f"A text part of {where} must hold a string as 'text', got "
                f"{type(part.get('text')).__name__}."
            )
        return dict(part)
    if kind == "image_url":
        # As other interfaces write it: {"image_url": {"url": ...}}.
        url = part.get("image_url")
        part = {"image": url.get("url") if isinstance(url, Mapping) else url}
    elif kind != "image":
        raise ValueError(
            f"The type of a part of {where} must be 'text' or 'image', got {kind!r}. "
            "Only images and texts can be explained."
        )
    if part.get("base64") is not None:
        raise ValueError(
            f"The image of {where} is given as base64. Decode it, and pass a PIL image."
        )
    held = [part[key] for key in _IMAGE_KEYS if part.get(key) is not None]
    if len(held) > 1:
        raise ValueError(f"An image part of {where} must hold one image, got several.")
    images.append(held[0] if held else None)
    left_out = ("type", "base64", *_IMAGE_KEYS)
    others = {key: value for key, value in part.items() if key not in left_out}
    return {"type": "image", **others}
