"""The hackathon server: accounts, submissions, judging, leaderboards, web pages and API."""
