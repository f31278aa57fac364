"""Geometry shared by all families: where patches, tiles and crops lie on an image."""
