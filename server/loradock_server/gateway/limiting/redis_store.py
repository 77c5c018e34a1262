"""Buckets and running requests of all gateways in Redis: one script call for each exchange, so it counts whole or not.

Times are Redis' own. What counts no more expires by itself. One Redis database serves one installation, since subjects
are known by the names of adapters. It keeps no days: those are to outlive it.

A Redis that was frozen goes on with all that was sent to it meanwhile, though nobody waits any more and each exchange
tells again what the one before did. So an exchange says until when it counts, by Redis' clock as it was last heard.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from loradock_adapters.registry import BucketTaken, Running, Together
from loradock_adapters.registry.limit_counters import RUNNING_SECONDS
from loradock_server.gateway.errors import LimitStoreError

if TYPE_CHECKING:
    from redis import Redis

TIMEOUT_SECONDS = 2.0

# In one hash slot, as a cluster demands of the keys of one script.
_PREFIX = "loradock:{limits}:"
# KEYS: one hash for each bucket, then one for each subject with running requests. ARGV: what was taken, in JSON. The
# first part of the answer is 1 if it counted, 0 if it came too late; the second is Redis' time.
_SCRIPT = """
local told = cjson.decode(ARGV[1])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local shown = string.format('%.17g', now)
if told.good_until < now then return {0, shown, {}, {}} end
local contents, elsewhere = {}, {}
for i, one in ipairs(told.buckets) do
  local was = redis.call('HMGET', KEYS[i], 'content', 'at')
  local at = tonumber(was[2]) or now
  local passed = math.max(0, now - at)
  local left = math.max(0, (tonumber(was[1]) or 0) - passed * one.per_second)
  local content = math.max(0, left + one.taken)
  if content > 0 then
    redis.call('HSET', KEYS[i], 'content', string.format('%.17g', content), 'at', string.format('%.17g', at + passed))
    local seconds = math.min(content / one.per_second, 86400 * 7) + 60
    redis.call('PEXPIRE', KEYS[i], string.format('%d', seconds * 1000))
  else
    redis.call('DEL', KEYS[i])
  end
  contents[i] = string.format('%.17g', content)
end
for i, requests in ipairs(told.running) do
  local key = KEYS[#told.buckets + i]
  if requests > 0 then
    redis.call('HSET', key, told.gateway, requests .. ' ' .. string.format('%.17g', now + told.lease))
    redis.call('PEXPIRE', key, string.format('%d', math.max(told.lease, 0) * 1000 + 60000))
  else
    redis.call('HDEL', key, told.gateway)
  end
  local sum, all = 0, redis.call('HGETALL', key)
  for j = 1, #all, 2 do
    local count, expires = string.match(all[j + 1], '^(%d+) (.+)$')
    if tonumber(expires) < now then
      redis.call('HDEL', key, all[j])
    elseif all[j] ~= told.gateway then
      sum = sum + tonumber(count)
    end
  end
  elsewhere[i] = sum
end
return {1, shown, contents, elsewhere}
"""


class RedisLimits:
    """A `RateStore` in the Redis at `url`; thread-safe. Nothing is asked before the first exchange."""

    def __init__(self, url: str) -> None:
        """Raises LimitStoreError for a URL that cannot be one, and where the client library is not installed."""
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise LimitStoreError(
                f"LORADOCK_LIMITS_URL needs a library that is not installed ({error}): pip install 'loradock[redis]'"
            ) from error
        self._errors = (redis.RedisError, OSError)
        try:
            self._redis: Redis = redis.Redis.from_url(
                url,
                socket_timeout=TIMEOUT_SECONDS,
                socket_connect_timeout=TIMEOUT_SECONDS,
                # Once more on a connection that Redis closed meanwhile; not after a timeout, when it may have counted.
                retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
            )
        except ValueError as error:
            raise LimitStoreError(
                f"LORADOCK_LIMITS_URL cannot be read ({error}); write redis://host:6379/0, rediss://… or unix:///path"
            ) from error
        self._exchange = self._redis.register_script(_SCRIPT)
        # As long as the client waits for an answer, which the URL may say too.
        self._seconds = float(self._redis.get_connection_kwargs().get("socket_timeout") or TIMEOUT_SECONDS)
        self._ahead: float | None = None  # of Redis' clock, seconds since 1970, over ours

    def exchange(self, gateway: str, taken: Collection[BucketTaken], running: Collection[Running]) -> Together:
        """As `LimitTable.exchange`. Raises LimitStoreError."""
        keys = [f"{_PREFIX}{one.kind}:{one.subject}" for one in taken]
        keys += [f"{_PREFIX}running:{one.subject}" for one in running]
        told = {
            "gateway": gateway,
            "good_until": 0.0,
            "lease": RUNNING_SECONDS,
            "buckets": [{"taken": one.taken, "per_second": one.per_second} for one in taken],
            "running": [one.requests for one in running],
        }
        try:
            contents, elsewhere = self._tell(keys, told)
            return Together(
                {(one.subject, one.kind): float(content) for one, content in zip(taken, contents, strict=True)},
                {one.subject: int(requests) for one, requests in zip(running, elsewhere, strict=True)},
            )
        except (*self._errors, TypeError, ValueError) as error:
            raise LimitStoreError(f"Redis (LORADOCK_LIMITS_URL) failed: {error}") from error

    def _tell(self, keys: list[str], told: dict[str, Any]) -> tuple[list[bytes], list[int]]:
        if self._ahead is None:
            seconds, micros = self._redis.time()
            self._ahead = seconds + micros / 1e6 - time.monotonic()
        for _ in range(2):  # a clock that was set says in its answer how late it is
            told["good_until"] = time.monotonic() + self._ahead + self._seconds
            answer: Any = self._exchange(keys=keys, args=[json.dumps(told)])
            counted, shown, contents, elsewhere = answer
            self._ahead = float(shown) - time.monotonic()
            if counted:
                return contents, elsewhere
        raise ValueError("its clock does not stand still long enough for an exchange")

    def close(self) -> None:
        self._redis.close()
