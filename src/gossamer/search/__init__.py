"""Search: from a budget to the Pareto set of measured, verified members."""
