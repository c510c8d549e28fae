"""The service: a FastAPI application with settings, a pool, one table and one route that reads it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel
from pydantic_settings import BaseSettings
from sqlalchemy import select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Settings(BaseSettings):
    """The settings of the service."""

    database_url: str


class Base(DeclarativeBase):
    """The base of the models."""


class Item(Base):
    """A row of the table that the first small revision creates."""

    __tablename__ = "t1"

    id: Mapped[int] = mapped_column(primary_key=True)


class ItemOut(BaseModel):
    """An item in an answer."""

    id: int


@asynccontextmanager
async def pool(app: FastAPI) -> AsyncIterator[None]:
    """Provide `app.state.sessions`."""
    engine = create_async_engine(Settings().database_url.replace("postgresql://", "postgresql+asyncpg://"))
    app.state.sessions = async_sessionmaker(engine)
    yield
    await engine.dispose()


def create_app(lifespan: Any) -> FastAPI:
    """Create the application with a lifespan, which has to enter `pool`."""
    app = FastAPI(title="Items", lifespan=lifespan)

    @app.get("/items")
    async def items(request: Request) -> list[ItemOut]:
        async with request.app.state.sessions() as session:
            return [ItemOut(id=item.id) for item in await session.scalars(select(Item).limit(10))]

    return app
