"""Soft labels: making, storing, replaying."""
