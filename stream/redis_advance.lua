-- Note how far partitions were read, unless less is noted than their reader knows of.
--
-- KEYS  a place for each partition; all of one shard
-- ARGV  for each the offset that is known to be noted, and the new one
-- Returns for each the offset that was noted; -1 for none.

local noted = {}
for i, place in ipairs(KEYS) do
  local at = tonumber(redis.call('GET', place) or -1)
  noted[i] = at
  if at >= tonumber(ARGV[2 * i - 1]) and at < tonumber(ARGV[2 * i]) then redis.call('SET', place, ARGV[2 * i]) end
end
return noted
