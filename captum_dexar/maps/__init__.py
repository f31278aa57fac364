"""Places of image tokens on images, and maps of their attributions."""
