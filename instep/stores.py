"""Where an installation keeps what is looked up: the Redis of the settings."""

from __future__ import annotations

from instep.settings import Settings
from stream.redis_client import RETRIES, Client
from stream.redis_profiles import RedisProfiles


def redis_client(settings: Settings, timeout_ms: int | None = None, retries: int = RETRIES) -> Client:
    """A connection to the Redis of the settings."""
    r = settings.redis
    return Client(r.url, r.cluster, timeout_ms or r.timeout_ms, r.client, retries)


def redis_profiles(settings: Settings, client: Client) -> RedisProfiles:
    """The profiles of the settings."""
    stream = settings.stream
    return RedisProfiles(
        client, settings.fields, stream.max_history, stream.history_ttl_ms, settings.redis.prefix
    )
