"""The interactive page: an answer whose words light up the image."""

from captum_dexar.visualization.page.data import (
    GridPlaces,
    Page,
    PageLayers,
    PagePicture,
    PageResult,
    PageWord,
    Places,
    RegionPlaces,
)
from captum_dexar.visualization.page.rendering import frame_html, page_html

__all__ = [
    "GridPlaces",
    "Page",
    "PageLayers",
    "PagePicture",
    "PageResult",
    "PageWord",
    "Places",
    "RegionPlaces",
    "frame_html",
    "page_html",
]
