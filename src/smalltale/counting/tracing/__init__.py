"""Records which weights, activations and operators one forward and backward pass of a model uses."""
