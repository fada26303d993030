"""The transformer, and the count of its parameters under the rule."""
