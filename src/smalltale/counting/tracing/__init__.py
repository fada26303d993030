"""Records every operator of a forward pass in which data meets weights, and which weight elements it uses."""
