"""One small service in three variants: without migrations, with this project's lifespan, with the usual recipe.

Each module has an `app` for uvicorn. `service` has what they share, and imports nothing of this project.
"""
