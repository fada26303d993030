"""Scores to ranks: statistics, leaderboard entries, standings with intervals and ties."""
