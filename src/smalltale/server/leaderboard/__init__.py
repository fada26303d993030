"""The leaderboard and the comparison of two submissions, read from the database."""
