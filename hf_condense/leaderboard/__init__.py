"""Leaderboards of condensed datasets: boards, result files, statistics, checks and pages."""
