"""Training small vision-language models on drawn worlds, whichever world it is."""
