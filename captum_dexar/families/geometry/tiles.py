"""What the tokens of an image's tiles cover."""

from captum_dexar.maps.layout import Rectangle


def seen_part(side: int, token_pixels: int, tile: int) -> float:
    """The part of a tile's side that its tokens cover.

    It is less than one where patches do not fill the tile (14 pixels in 384).

    Args:
        side (int): tokens along the tile's side
        token_pixels (int): pixels along the side of a token
        tile (int): pixels along the tile's side
    """
    return side * token_pixels / tile


def tile_rectangles(
    image_size: tuple[float, float], rows: int, columns: int, seen: float
) -> list[Rectangle]:
    """What the tokens of each tile of a stretched image cover, row by row.

    Args:
        image_size (tuple of float): height and width of the original image
        rows (int): rows of tiles
        columns (int): columns of tiles
        seen (float): the part of a tile's side that its tokens cover
    """
    height, width = image_size[0] / rows, image_size[1] / columns
    return [
        (
            row * height,
            column * width,
            (row + seen) * height,
            (column + seen) * width,
        )
        for row in range(rows)
        for column in range(columns)
    ]


def merged_tokens(tile: int, patch: int, merge: int) -> tuple[int, float]:
    """Tokens along a tile's side, and the part of the side that they cover.

    Args:
        tile (int): pixels along the tile's side
        patch (int): pixels along a patch's side
        merge (int): patches along the side of the square that makes a token
    """
    side = tile // patch // merge
    return side, seen_part(side, merge * patch, tile)
