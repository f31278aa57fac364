"""Places of image tokens on the original images."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

Rectangle = tuple[float, float, float, float]
Size = tuple[int, int]


@dataclass(frozen=True)
class View:
    """A rectangle of an original image that is covered by a grid of image tokens.

    Attributes:
        name (str): the kind of view: ``"full"``, ``"tile"``, ``"global"`` ...
        grid (tuple of int): rows ``h`` and columns ``w``
        rectangle (tuple of float or None): ``y0, x0, y1, x1`` in pixels of the original
            image; it includes padding by the processor. None if the original image or
            its preprocessing is not known.
        start (int): index of its first image token, in key order
        image (int): index of the image in the prompt
        row_stride (int or None): number of image tokens between the starts of two rows,
            if other tokens (a newline) separate rows. Default: None, the number of
            columns
    """

    name: str
    grid: tuple[int, int]
    rectangle: Rectangle | None
    start: int = 0
    image: int = 0
    row_stride: int | None = None

    @property
    def num_tokens(self) -> int:
        """Image tokens of the view, ``h * w``."""
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> Tensor:
        """The view's image tokens, row by row, ``(h * w,)``."""
        rows, columns = self.grid
        first = torch.arange(rows) * (self.row_stride or columns)
        return (self.start + first[:, None] + torch.arange(columns)).flatten()

    def _known_rectangle(self) -> Rectangle:
        if self.rectangle is None:
            raise ValueError(
                "The places of the image tokens on the original image are not known, "
                "because the input was created without it. Use "
                "ImagePromptInput(image, prompt, processor)."
            )
        return self.rectangle

    @property
    def cell_size(self) -> tuple[float, float]:
        """Height and width of a token's box in pixels, before clipping."""
        y0, x0, y1, x1 = self._known_rectangle()
        return (y1 - y0) / self.grid[0], (x1 - x0) / self.grid[1]

    @property
    def cell_area(self) -> float:
        """Area of a token's box in pixels, before clipping."""
        height, width = self.cell_size
        return height * width

    def scaled(self, scale_y: float, scale_x: float) -> "View":
        """The same view on a scaled copy of the image."""
        y0, x0, y1, x1 = self._known_rectangle()
        rectangle = (y0 * scale_y, x0 * scale_x, y1 * scale_y, x1 * scale_x)
        return replace(self, rectangle=rectangle)

    def edges(self, axis: int, num_pixels: int) -> Tensor:
        """Edges of the rows (axis 0) or columns (axis 1), clipped to the image."""
        rectangle = self._known_rectangle()
        start, stop = rectangle[axis], rectangle[axis + 2]
        steps = self.grid[axis] + 1
        return torch.linspace(start, stop, steps, dtype=torch.float64).clamp(
            0, num_pixels
        )

    def boxes(self, image_size: Size) -> Tensor:
        """Each token's box, clipped to an image of ``(height, width)`` pixels.

        Returns:
            *Tensor* of **boxes**, ``(h * w, 4)`` as y0, x0, y1, x1, float64. A token
            on padding only has an empty box.
        """
        ys, xs = self.edges(0, image_size[0]), self.edges(1, image_size[1])
        top, left = torch.meshgrid(ys[:-1], xs[:-1], indexing="ij")
        bottom, right = torch.meshgrid(ys[1:], xs[1:], indexing="ij")
        return torch.stack([top, left, bottom, right], dim=-1).flatten(0, 1)

    def cell_of_pixel(self, num_pixels: int, axis: int) -> Tensor:
        """Row (axis 0) or column (axis 1) of each pixel's centre; -1 outside."""
        rectangle = self._known_rectangle()
        start, stop = rectangle[axis], rectangle[axis + 2]
        centres = torch.arange(num_pixels, dtype=torch.float64) + 0.5
        cell = ((centres - start) / (stop - start) * self.grid[axis]).floor().long()
        return cell.where((cell >= 0) & (cell < self.grid[axis]), -1)

    def render(self, token_values: Tensor, image_size: Size) -> Tensor:
        """Interpolates one value per token bilinearly to the image's pixels.

        Args:
            token_values (Tensor): ``(h * w,)``
            image_size (tuple of int): height and width of the original image

        Returns:
            *Tensor* ``(height, width)``, float32; zero outside the view's rectangle.
        """
        y0, x0, y1, x1 = self._known_rectangle()
        height, width = image_size
        # Pixel centres in grid_sample's coordinates: -1 and 1 are the view's edges.
        ys = 2 * (torch.arange(height) + 0.5 - y0) / (y1 - y0) - 1
        xs = 2 * (torch.arange(width) + 0.5 - x0) / (x1 - x0) - 1
        points = torch.stack(
            [xs.expand(height, -1), ys[:, None].expand(-1, width)], dim=-1
        )
        values = token_values.detach().float().cpu().view(1, 1, *self.grid)
        painted = torch.nn.functional.grid_sample(
            values,
            points[None].float(),
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )[0, 0]
        is_seen_y = self.cell_of_pixel(height, axis=0) >= 0
        is_seen_x = self.cell_of_pixel(width, axis=1) >= 0
        return painted * (is_seen_y[:, None] & is_seen_x)


@dataclass(frozen=True)
class ImageLayout:
    """The places of all image tokens of an input.

    Attributes:
        num_tokens (int): number of image tokens
        views (tuple of View): the views that they cover, in key order
        image_sizes (tuple or None): height and width of each original image in pixels,
            if known
        approximation (str): how the places were found, as a sentence, if they are an
            approximation. Default: "", they are exact
    """

    num_tokens: int
    views: tuple[View, ...]
    image_sizes: tuple[Size, ...] | None = None
    approximation: str = ""

    @property
    def num_images(self) -> int:
        """Number of images in the prompt."""
        return 1 + max(view.image for view in self.views)

    @property
    def placed(self) -> Tensor:
        """Indices of the image tokens that have a place, in key order, ``(N,)``."""
        return torch.cat([view.tokens for view in self.views])

    @property
    def placeless(self) -> Tensor:
        """Indices of the image tokens without a place (a CLS token, a newline)."""
        has_place = torch.zeros(self.num_tokens, dtype=torch.bool)
        has_place[self.placed] = True
        return (~has_place).nonzero()[:, 0]

    @property
    def is_located(self) -> bool:
        """Whether the tokens' places on the original images are known."""
        return self.image_sizes is not None and all(
            view.rectangle is not None for view in self.views
        )

    def columns(self) -> list[tuple[View, slice]]:
        """Each view, and the slice of its tokens among those with a place."""
        columns, first = [], 0
        for view in self.views:
            columns.append((view, slice(first, first + view.num_tokens)))
            first += view.num_tokens
        return columns

    def check_image(self, image: int) -> None:
        """Raises IndexError unless there is an image of this index."""
        count = self.num_images
        if not 0 <= image < count:
            raise IndexError(
                f"The prompt has {count} image{'s' * (count != 1)}, counted from 0; "
                f"got image {image}."
            )

    def of_image(self, image: int) -> tuple["ImageLayout", Tensor]:
        """The layout of one image, and its tokens among those with a place."""
        self.check_image(image)
        views: list[View] = []
        kept: list[Tensor] = []
        start = 0
        for view, column in self.columns():
            if view.image != image:
                continue
            views.append(replace(view, start=start, image=0, row_stride=None))
            kept.append(torch.arange(column.start, column.stop))
            start += view.num_tokens
        sizes = None if self.image_sizes is None else (self.image_sizes[image],)
        layout = ImageLayout(start, tuple(views), sizes, self.approximation)
        return layout, torch.cat(kept)

    def boxes(self) -> Tensor | None:
        """Box of every token with a place, ``(N, 4)`` as y0, x0, y1, x1, or None."""
        if self.image_sizes is None or not self.is_located:
            return None
        sizes = self.image_sizes
        return torch.cat([view.boxes(sizes[view.image]) for view in self.views])

    def resized(self, image_sizes: tuple[Size, ...]) -> "ImageLayout":
        """The same places on larger or smaller copies of the images."""
        if self.image_sizes is None:
            raise ValueError("The sizes of the original images are not known.")
        scales = [
            (new[0] / old[0], new[1] / old[1])
            for new, old in zip(image_sizes, self.image_sizes)
        ]
        views = tuple(view.scaled(*scales[view.image]) for view in self.views)
        return replace(self, views=views, image_sizes=image_sizes)

    def token_of_pixel(self, image: int = 0) -> Tensor:
        """The image token that covers each pixel of an original image.

        Returns:
            Integer *Tensor* ``(height, width)``: among the tokens with a place, the
            index of the one whose box contains the pixel's centre (in the view with the
            smallest boxes); -1 where the image was cropped.
        """
        if self.image_sizes is None:
            raise ValueError("The size of the original image is not known.")
        height, width = self.image_sizes[image]
        token = torch.full((height, width), -1, dtype=torch.int32)
        of_image = [pair for pair in self.columns() if pair[0].image == image]
        for view, column in sorted(of_image, key=lambda pair: pair[0].cell_area):
            row = view.cell_of_pixel(height, axis=0)
            cell = view.cell_of_pixel(width, axis=1)
            # Four bytes a pixel: an image may have hundreds of millions of them.
            index = (column.start + row[:, None] * view.grid[1]).int() + cell.int()
            is_new = (row >= 0)[:, None] & (cell >= 0) & (token < 0)
            torch.where(is_new, index, token, out=token)
        return token

    def painted(self, values: Tensor, image: int = 0) -> Tensor:
        """Each pixel's value: the sum over all boxes that contain its centre.

        Args:
            values (Tensor): one value per token with a place, ``(..., N)``
            image (int, optional): index of the image. Default: 0

        Returns:
            *Tensor* ``(..., height, width)``; zero where no box is.
        """
        assert self.image_sizes is not None
        height, width = self.image_sizes[image]
        total = values.new_zeros(*values.shape[:-1], height, width, dtype=torch.float32)
        for view, column in self.columns():
            if view.image != image:
                continue
            row = view.cell_of_pixel(height, axis=0).to(values.device)
            cell = view.cell_of_pixel(width, axis=1).to(values.device)
            grid = values[..., column].unflatten(-1, view.grid)
            painted = grid[..., row.clamp(min=0)[:, None], cell.clamp(min=0)]
            seen = (row >= 0)[:, None] & (cell >= 0)
            total = total + painted.where(seen, 0)
        return total
