"""Teams, hand-ins, durable judging work and leaderboards."""
