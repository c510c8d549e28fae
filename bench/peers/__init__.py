"""Other migration tools, each with a folder of its own for what it is built from, and installed into .data/bench."""
