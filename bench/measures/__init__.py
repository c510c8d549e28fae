"""The measures: each module has a function `measure(lab)` that returns a `Table`."""
