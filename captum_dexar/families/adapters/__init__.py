"""One adapter a family, by its name."""
