"""Scores: protocols, students, metrics."""
