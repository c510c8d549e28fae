"""An error keeps two texts apart: that for operators, and that for the public, without the text of other programs."""

import pytest

from api.migrations.core.protocols import PastAttempt
from api.migrations.errors import DirectConnectionNeeded, MigrationError, foreign, in_full, in_public

SECRET = "geh3im"


def test_foreign_text_is_in_the_full_message_only() -> None:
    """The full message has the text of another program; the public one has what stands instead of it."""
    message = f"failed: ValueError: {foreign(SECRET)}, at r1.py:3; last: {foreign(SECRET, 'hidden')}. To fix: it"
    assert in_full(message) == f"failed: ValueError: {SECRET}, at r1.py:3; last: {SECRET}. To fix: it"
    assert in_public(message) == "failed: ValueError: the text is in the log, at r1.py:3; last: hidden. To fix: it"


@pytest.mark.parametrize(
    "text", [f"\ufdd2{SECRET}", f"\ufdd0a\ufdd1b\ufdd2{SECRET}", foreign(SECRET), f"a\n{SECRET}\n", ""], ids=ascii
)
def test_foreign_text_cannot_end_its_own_mark(text: str) -> None:
    """Text that contains the marks themselves, or line breaks, stays hidden as a whole."""
    assert in_public(f"a {foreign(text)} z") == "a the text is in the log z"
    assert SECRET not in in_public(f"a {foreign(text)}"[:-1]), "cut off at its end"


def test_an_error_that_quotes_another_error_keeps_the_marks() -> None:
    """An error shows its text without marks, and another error with its message hides the same text."""
    cause = MigrationError(f"no: {foreign(SECRET)}")
    cause.name_scope("schema shop")
    assert str(cause) == f"schema shop: no: {SECRET}"
    timed_out = MigrationError(f"timed out: {cause.message}")
    assert (str(timed_out), in_public(timed_out.message)) == (
        f"timed out: schema shop: no: {SECRET}",
        "timed out: schema shop: no: the text is in the log",
    )


LATE = "the run did not finish within MIGRATION_RUN_SECONDS"
CONTENDED = "did not acquire its table lock (attempt 1): pid 7 (psql) blocks accounts; retry in 1 s"
LOST = "the connection was lost twice while it ran"
RECORDED = {
    f"revision b, Add it failed and was rolled back: ValueError: {SECRET}, at b.py:1. To fix: {SECRET}": (
        "revision b, Add it failed and was rolled back: ValueError: the text is in the log"
    ),
    f"revision b failed and was rolled back: CheckError (SQLSTATE 23514): {SECRET}\n{SECRET}": (
        "revision b failed and was rolled back: CheckError (SQLSTATE 23514): the text is in the log"
    ),
    f"the function 'after' was cancelled and rolled back: {LATE}=9. To fix: raise it": (
        f"the function 'after' was cancelled and rolled back: {LATE}=9. To fix: raise it"
    ),
    f"revision b was cancelled and rolled back: {LATE}=9.5 (last: {SECRET})": (
        f"revision b was cancelled and rolled back: {LATE}=9.5 (last: the text is in the log"
    ),
    f"revision b was cancelled and rolled back: {LATE}=9 (last: b {CONTENDED}). To fix: raise it": (
        f"revision b was cancelled and rolled back: {LATE}=9 (last: b {CONTENDED}). To fix: raise it"
    ),
    str(DirectConnectionNeeded.for_block("b, Add it")): str(DirectConnectionNeeded.for_block("b, Add it")),
    f"revision b, Add it failed: {LOST} (last error: {SECRET})": (
        f"revision b, Add it failed: {LOST} (last error: the text is in the log"
    ),
    f"of another version: {SECRET}": "revision b failed, the text is in the log",
}


@pytest.mark.parametrize("recorded", RECORDED)
def test_a_failure_of_another_instance_is_shown_up_to_its_exception(recorded: str) -> None:
    """Of a failure that the history has, the public reads what this package wrote, up to the text of the exception."""
    message = PastAttempt("b", "failed", "other-1", "v2", recorded, 1.0).message
    assert (in_full(message), in_public(message)) == (recorded, RECORDED[recorded])
