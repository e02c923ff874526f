"""One question a script: `python -m benchmarks.NAME`; all of them, quickly: `python -m benchmarks`."""
