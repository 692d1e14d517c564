-- Add behaviours to the sequences of their users, in the order given: as History.add and MemoryProfiles.put do.
--
-- KEYS  a user for each behaviour, and places of partitions as in redis_advance.lua; all of one shard
-- ARGV  bytes of a row, behaviours to keep, lifetime in ms, number of behaviours; then for each its origin and its row,
--       and for each place the offset that is known to be noted
-- A user is one byte that counts origins, the origins (partition 4 bytes, offset 8, n 4), and the rows (event time 8,
-- kind 8, keys) in the order of event time, then of arrival.
-- Returns 1 for each behaviour that changed a sequence, 0 for the others; or, with nothing written, -1, the number of a
-- place where less is noted than is known, and what is noted there, -1 for nothing.

local size, keep, lifetime, n_puts = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local sub, unpack, char = string.sub, struct.unpack, string.char
local ORIGIN, NEAR = 16, 32

-- bytes before the rows, or nothing if the origin is not behind the last one of its partition
local function note(user, origin)
  local head = redis.call('GETRANGE', user, 0, ORIGIN)
  if head == '' then
    redis.call('SET', user, char(1) .. origin)
    return 1 + ORIGIN
  end
  local n = string.byte(head)
  if n > 1 then head = redis.call('GETRANGE', user, 0, n * ORIGIN) end
  for i = 0, n - 1 do
    local from = i * ORIGIN + 2
    if sub(head, from, from + 3) == sub(origin, 1, 4) then
      local offset, number = unpack('<I8I4', head, from + 4)
      local new_offset, new_number = unpack('<I8I4', origin, 5)
      if new_offset < offset or (new_offset == offset and new_number <= number) then return nil end
      redis.call('SETRANGE', user, from - 1, origin)
      return 1 + n * ORIGIN
    end
  end
  if n == 255 then return redis.error_reply('ERR instep: a user of more than 255 partitions') end
  redis.call('SET', user, char(n + 1) .. sub(head, 2) .. origin .. redis.call('GETRANGE', user, 1 + n * ORIGIN, -1))
  return 1 + (n + 1) * ORIGIN
end

-- put a row in its place among the last of the sequence; false if it is there already
local function add(user, start, row)
  local stop = redis.call('STRLEN', user)
  local at = unpack('<i8', row)
  if stop == start or at > unpack('<i8', redis.call('GETRANGE', user, stop - size, stop - size + 7)) then
    redis.call('APPEND', user, row)
    return true
  end
  local from = math.max(start, stop - NEAR * size)
  local rows = redis.call('GETRANGE', user, from, -1)
  if from > start and unpack('<i8', rows) >= at then
    from, rows = start, redis.call('GETRANGE', user, start, -1)
  end
  local i = #rows
  while i > 0 and unpack('<i8', rows, i - size + 1) > at do i = i - size end
  local j = i
  while j > 0 and unpack('<i8', rows, j - size + 1) == at do
    if sub(rows, j - size + 1, j) == row then return false end
    j = j - size
  end
  redis.call('SETRANGE', user, from + i, row .. sub(rows, i + 1))
  return true
end

-- forget all but the most recent, in whole milliseconds: one of the last kept may come again and must be known
local function trim(user, start)
  local rows = redis.call('GETRANGE', user, start, -1)
  local first = #rows - keep * size
  local at = unpack('<i8', rows, first + 1)
  while first > 0 and unpack('<i8', rows, first - size + 1) == at do first = first - size end
  if first > 0 then
    redis.call('SET', user, redis.call('GETRANGE', user, 0, start - 1) .. sub(rows, first + 1))
  end
end

-- A shard that was emptied must not note origins again before it is read into from the beginning: what is not behind
-- them would be taken for known.
for i = 1, #KEYS - n_puts do
  local at = tonumber(redis.call('GET', KEYS[n_puts + i]) or -1)
  if at < tonumber(ARGV[4 + 2 * n_puts + i]) then return {-1, i, at} end
end

local changed = {}
for i = 1, n_puts do
  local user = KEYS[i]
  local start = note(user, ARGV[2 * i + 3])
  changed[i] = 0
  if type(start) == 'table' then return start end
  if start then
    if add(user, start, ARGV[2 * i + 4]) then
      changed[i] = 1
      if redis.call('STRLEN', user) - start > 2 * keep * size then trim(user, start) end
    end
    redis.call('PEXPIRE', user, lifetime)
  end
end
return changed
