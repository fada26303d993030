"""Editions of the hackathon: rules, dates, teams."""
