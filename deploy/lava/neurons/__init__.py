"""Lava processes of our own, each with its bit-accurate model."""
