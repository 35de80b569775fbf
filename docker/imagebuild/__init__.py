"""Checks, builds, proves and exports the images; nothing of it is inside them."""
