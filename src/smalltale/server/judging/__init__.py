"""The queue of judging jobs, judge panels and their scores."""
