"""Objectives of the optimisation of pixels."""
