"""Where patches, tiles and crops lie on an image, for all families."""
