"""Rank judged entries: statistics, leaderboard entries, standings with intervals and ties."""
