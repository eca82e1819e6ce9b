"""Smaller networks: which channels to keep, and how many in which layer. Pure functions on arrays."""
