"""The schema of a result file's header: all that is not a tensor, with its limits.

It is checked before anything is made of a file, which may be damaged or made by
anybody.
"""

from __future__ import annotations

from typing import Annotated, Any, TYPE_CHECKING

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    InstanceOf,
    model_validator,
    ValidationError,
)
from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from typing_extensions import Self

MOST_TOKENS = 10**7
# Of all images of a result, 16,384 x 16,384: they take 0.8 GB.
MOST_PIXELS = 2**28
_MOST_VIEWS = 2**14
# Rectangles of padded images begin before the image and end behind it, not that far.
_FARTHEST, _SMALLEST = 1e9, 1e-6

# Numbers are never made of texts or of true and false. Texts may hold what is no
# Unicode character by itself.
Text = InstanceOf[str]
Count = Annotated[int, Field(ge=0, le=MOST_TOKENS, strict=True)]
Positive = Annotated[int, Field(gt=0, le=MOST_TOKENS, strict=True)]
Side = Annotated[int, Field(gt=0, le=MOST_PIXELS, strict=True)]
Edge = Annotated[
    float, Field(ge=-_FARTHEST, le=_FARTHEST, allow_inf_nan=False, strict=True)
]


class Damaged(Exception):
    """A file does not hold a result; the message says in what."""


class _Stored(BaseModel):
    # Later versions may say more.
    model_config = ConfigDict(frozen=True, extra="ignore")


class StoredView(_Stored):
    """The fields of a :class:`View`."""

    name: Text
    grid: tuple[Side, Side]
    rectangle: tuple[Edge, Edge, Edge, Edge] | None
    start: Count
    image: Count
    row_stride: Positive | None

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.grid[0] * self.grid[1] > MOST_TOKENS:
            raise _refused(f"a grid has {MOST_TOKENS} cells at most, got {self.grid}")
        if self.row_stride is not None and self.row_stride < self.grid[1]:
            raise _refused("row_stride is smaller than a row of the grid")
        if self.rectangle is not None:
            y0, x0, y1, x1 = self.rectangle
            if y1 - y0 < _SMALLEST or x1 - x0 < _SMALLEST:
                raise _refused(
                    f"rectangle must be y0, x0, y1, x1 of an area, got {self.rectangle}"
                )
        return self


class StoredLayout(_Stored):
    """The fields of an :class:`ImageLayout`, or of a :class:`SegmentLayout` without its
    labels."""

    num_tokens: Count
    views: Annotated[
        tuple[StoredView, ...], Field(min_length=1, max_length=_MOST_VIEWS)
    ]
    image_sizes: tuple[tuple[Side, Side], ...] | None
    # Earlier files do not say.
    approximation: Text | None = None
    names: tuple[Text, ...] | None = None

    @model_validator(mode="after")
    def _checked(self) -> Self:
        images = {view.image for view in self.views}
        if images != set(range(len(images))):
            raise _refused(f"images must be numbered from 0, got {sorted(images)[:5]}")
        if self.image_sizes is None:
            return self
        if len(self.image_sizes) != len(images):
            raise _refused(
                f"image_sizes must be of {len(images)} images, got "
                f"{len(self.image_sizes)}"
            )
        pixels = sum(height * width for height, width in self.image_sizes)
        if pixels > MOST_PIXELS:
            raise _refused(
                f"images have {MOST_PIXELS} pixels together at most, got {pixels}"
            )
        return self


class Description(_Stored):
    """What a file says besides its tensors."""

    output_tokens: list[Text]
    layer_indices: list[Count] | None
    method: Text
    layout: StoredLayout
    # Earlier files lack them.
    answer: Text | None = None
    question: Text | None = None
    rival_tokens: list[list[Text]] | None = None


class StoredTensor(_Stored):
    """What the header of a safetensors file says about a tensor."""

    dtype: str
    shape: list[Annotated[int, Field(ge=0, lt=2**63, strict=True)]]


class Header(_Stored):
    """The header of a safetensors file, without its texts."""

    tensors: dict[str, StoredTensor]


def described(content: Any) -> Description:
    """The description, out of what JSON has been read to; raises Damaged."""
    try:
        return Description.model_validate(content)
    except ValidationError as error:
        raise Damaged(reason_of(error)) from None


def tensors_of(header: Any) -> dict[str, StoredTensor]:
    """The tensors that a safetensors header names; raises Damaged."""
    try:
        return Header.model_validate({"tensors": header}).tensors
    except ValidationError as error:
        raise Damaged(reason_of(error)) from None


def reason_of(error: ValidationError) -> str:
    """The first thing that is wrong: where, what is expected, and what came."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"])) or "the description"
    reason = f"{place}: {first['msg']}"
    if first["type"] in ("refused", "missing"):
        return reason
    given = repr(first["input"])
    return f"{reason}, got {given if len(given) <= 80 else f'{given[:77]}...'}"


def _refused(message: str) -> PydanticCustomError:
    # Braces would be taken for places to fill.
    return PydanticCustomError("refused", "{message}", {"message": message})
