#!/usr/bin/env bash
# Compose, as a plugin of docker or on its own, whichever is there.
if docker compose version >/dev/null 2>&1; then exec docker compose "$@"; fi
exec docker-compose "$@"
