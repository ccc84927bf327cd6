"""Side by side with other libraries: same machine, threads, architecture, batch and precision; ``python -m benchmarks -h``."""
