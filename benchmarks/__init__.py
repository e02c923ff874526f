"""One question a script: `python -m benchmarks.<name>`."""
