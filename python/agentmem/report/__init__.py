"""Figures for people, computed with the public API: what the commands print."""
