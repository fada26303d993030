"""Traces a forward pass: which weight elements meet data in which operator.

tracer.py sees every operator and builds a Trace (trace.py). operator_calls.py describes one call; weight_regions.py and
backward_rules.py find the weight elements behind an operand; activations.py tells apart the data that they meet;
data_lineage.py follows the result. use_counts.py turns a Trace into uses per element.
"""
