"""The compiler: a function that is called again and again runs as a program made from a recording of one call."""
