"""The recipe in its usual place: in the lifespan of an application, which serves nothing before its end."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from tests.chaos.recipe.instance import migrate


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Migrate, then serve."""
    await migrate(os.environ["RECIPE_URL"], os.environ["RECIPE_INI"], "same")
    yield


app = FastAPI(lifespan=lifespan)
