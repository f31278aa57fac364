"""Where image tokens lie on images, and maps made of their attributions."""
