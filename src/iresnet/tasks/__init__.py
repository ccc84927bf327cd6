"""Floor 3: what a network is trained for. Each task is one file: its rows, its loss, its figures."""
