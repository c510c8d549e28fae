"""What ends a measure without a result."""


class BenchError(Exception):
    """A measure failed; the message says which program, why, and the end of its output."""


class Skipped(Exception):
    """This machine lacks what a measure or a peer needs; the message says what, and how to get it."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"skipped: {what}. To get it: {remedy}")
