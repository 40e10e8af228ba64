"""Soft labels: computing, storing and replaying them."""
