"""Choosing real images or crops."""
