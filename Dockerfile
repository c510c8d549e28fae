# No `# syntax` line and no cache mount: it builds with BuildKit and with the classic builder, and fetches no frontend.

FROM python:3.13-slim AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /venv
COPY requirements.txt .
# Alone in its layer: made again only when the pins change. The service has no use for pip.
RUN /venv/bin/python -m pip install --quiet -r requirements.txt \
 && /venv/bin/python -m pip uninstall --quiet --yes pip

FROM python:3.13-slim
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
COPY --from=packages /venv /venv
WORKDIR /app
COPY alembic.ini migrate.sh ./
COPY alembic alembic
COPY api api
# The user cannot write here, so it would compile on every start.
RUN python -m compileall -q api alembic
# A number, so that Kubernetes can verify `runAsNonRoot`.
USER 10001:10001
EXPOSE 8000
# Ready, not merely alive: this is what `up --wait` and `service_healthy` ask for. Until MIGRATION_WAIT_SECONDS have passed
# an instance is starting and not unhealthy; the first answer ends that, so it makes nobody wait.
HEALTHCHECK --interval=5s --timeout=3s --start-period=310s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=2)"]
# Exec form: SIGTERM reaches uvicorn itself. One process a container: `--workers` would hide a failed start.
CMD ["uvicorn", "api.main:app", "--host", "0.0.0.0", "--port", "8000"]
