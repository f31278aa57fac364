"""Where image tokens lie on the original image."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class View:
    """A rectangle of the original image that a grid of image tokens covers in order.

    Attributes:
        name (str): what the model sees there: ``"full"``, ``"tile"``, ``"global"`` ...
        grid (tuple of int): rows ``h`` and columns ``w``
        rectangle (tuple of float or None): ``y0, x0, y1, x1`` in pixels of the original
            image; it reaches beyond the image where the processor padded it. None where
            the original image, or what was done to it, is not known.
        start (int): first of its ``h * w`` image tokens, in key order
        image (int): which image of the prompt
    """

    name: str
    grid: tuple[int, int]
    rectangle: tuple[float, float, float, float] | None
    start: int = 0
    image: int = 0

    @property
    def tokens(self) -> slice:
        """The view's image tokens, in key order."""
        return slice(self.start, self.start + self.grid[0] * self.grid[1])

    def _known_rectangle(self) -> tuple[float, float, float, float]:
        if self.rectangle is None:
            raise ValueError(
                "Where these image tokens lie on the original image is not known, "
                "because the input was made without it. Build it with "
                "ImagePromptInput(image, prompt, processor)."
            )
        return self.rectangle

    def scaled(self, scale_y: float, scale_x: float) -> "View":
        """The same view on a scaled copy of the image."""
        y0, x0, y1, x1 = self._known_rectangle()
        rectangle = (y0 * scale_y, x0 * scale_x, y1 * scale_y, x1 * scale_x)
        return replace(self, rectangle=rectangle)

    def boxes(self, image_size: tuple[int, int]) -> Tensor:
        """Each token's box, clipped to an image of ``(height, width)`` pixels.

        Returns:
            *Tensor* of **boxes**, ``(h * w, 4)`` as y0, x0, y1, x1, float64. A token
            that stands for padding alone has a box without area.
        """
        y0, x0, y1, x1 = self._known_rectangle()
        rows, columns = self.grid
        height, width = image_size
        ys = torch.linspace(y0, y1, rows + 1, dtype=torch.float64).clamp(0, height)
        xs = torch.linspace(x0, x1, columns + 1, dtype=torch.float64).clamp(0, width)
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

    def render(self, token_values: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Paints one value a token on the image's pixels, bilinearly between centres.

        Args:
            token_values (Tensor): ``(h * w,)``
            image_size (tuple of int): height and width of the original image

        Returns:
            *Tensor* ``(height, width)``, float32; zero outside the view's rectangle.
        """
        y0, x0, y1, x1 = self._known_rectangle()
        height, width = image_size
        # Pixel centres as grid_sample counts: -1 and 1 are the view's edges.
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
        num_tokens (int): image tokens, in key order
        views (tuple of View): what they cover
        image_size (tuple of int or None): height and width of the original image in
            pixels, where it is known
    """

    num_tokens: int
    views: tuple[View, ...]
    image_size: tuple[int, int] | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid, of the first view."""
        return self.views[0].grid

    @property
    def placed(self) -> Tensor:
        """Indices of the image tokens that have a place, in key order, ``(N,)``."""
        return torch.cat(
            [torch.arange(view.tokens.start, view.tokens.stop) for view in self.views]
        )

    @property
    def placeless(self) -> Tensor:
        """Indices of the image tokens without a place (a CLS token, say)."""
        has_place = torch.zeros(self.num_tokens, dtype=torch.bool)
        has_place[self.placed] = True
        return (~has_place).nonzero()[:, 0]

    def boxes(self) -> Tensor | None:
        """Box of every token with a place, ``(N, 4)`` as y0, x0, y1, x1, or None."""
        if self.image_size is None or self.views[0].rectangle is None:
            return None
        return torch.cat([view.boxes(self.image_size) for view in self.views])

    def resized(self, image_size: tuple[int, int]) -> "ImageLayout":
        """The same places on a larger or smaller copy of the image."""
        if self.image_size is None:
            raise ValueError("The size of the original image is not known.")
        scale_y = image_size[0] / self.image_size[0]
        scale_x = image_size[1] / self.image_size[1]
        views = tuple(view.scaled(scale_y, scale_x) for view in self.views)
        return replace(self, views=views, image_size=image_size)

    def token_of_pixel(self) -> Tensor:
        """Which image token sees each pixel of the original image.

        Returns:
            Integer *Tensor* ``(height, width)``: the position, among the tokens with a
            place, of the one whose box holds the pixel's centre (of the last view that
            has one); -1 where no token sees the pixel, because it was cropped away.
        """
        if self.image_size is None:
            raise ValueError("The size of the original image is not known.")
        height, width = self.image_size
        token = torch.full((height, width), -1, dtype=torch.int32)
        first = 0
        for view in self.views:
            row = view.cell_of_pixel(height, axis=0)
            column = view.cell_of_pixel(width, axis=1)
            index = first + row[:, None] * view.grid[1] + column
            seen = (row >= 0)[:, None] & (column >= 0)
            token = torch.where(seen, index.int(), token)
            first += view.grid[0] * view.grid[1]
        return token
