"""Training runs as one HTML file that needs nothing else: the table, the curves, the splits, the commands."""
