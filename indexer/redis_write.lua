-- Write rows and take rows away, in buckets of one shard. The layout is that of redis_rows.py.
--
-- KEYS  at, then codes and vectors of each bucket
-- ARGV  step of the update; bytes of a record with a code, with a vector;
--       for each bucket 2 bytes: how many rows are written, and 2: how many go;
--       records with codes, records with vectors, rests of the keys that go (7 bytes each): by bucket
-- Returns how many rows were newer than what is held, and how many the fullest bucket has that got new ones;
-- -1 and nothing happens if the base is gone (so is `at`) or the rows of a later update are there already.

local at = redis.call('GET', KEYS[1])
if not at or tonumber(at) > tonumber(ARGV[1]) then return {-1, 0} end
if at ~= ARGV[1] then redis.call('SET', KEYS[1], ARGV[1]) end

local call, sub, find, unpack = redis.call, string.sub, string.find, struct.unpack
local width, wide = tonumber(ARGV[2]), tonumber(ARGV[3])
local sizes, codes, vectors, gone = ARGV[4], ARGV[5], ARGV[6], ARGV[7]

-- where the record of a key begins in a bucket; chance may show the same bytes elsewhere
local function place(held, rest)
  local i = find(held, rest, 1, true)
  while i and (i - 1) % width ~= 0 do i = find(held, rest, i + 1, true) end
  return i
end

-- the bucket without record i: the last one takes its place
local function without(held, i, size)
  local from, last = i * size, #held - size
  if from == last then return sub(held, 1, last) end
  return sub(held, 1, from) .. sub(held, last + 1) .. sub(held, from + size + 1, last)
end

local written, fullest, row, out = 0, 0, 0, 0
for j = 1, (#KEYS - 1) / 2 do
  local codes_key, vectors_key = KEYS[2 * j], KEYS[2 * j + 1]
  local n, n_gone = unpack('<I2I2', sizes, 4 * j - 3)
  local held = call('GET', codes_key) or ''
  local new, new_vectors
  for _ = 1, n do
    local from = row * width
    local i = place(held, sub(codes, from + 1, from + 7))
    if not i then
      new, new_vectors = new or {}, new_vectors or {}
      new[#new + 1] = sub(codes, from + 1, from + width)
      new_vectors[#new_vectors + 1] = sub(vectors, row * wide + 1, (row + 1) * wide)
      written = written + 1
    elseif unpack('<I5', codes, from + width - 4) > unpack('<I5', held, i + width - 5) then
      call('SETRANGE', codes_key, i + 6, sub(codes, from + 8, from + width))
      call('SETRANGE', vectors_key, (i - 1) / width * wide, sub(vectors, row * wide + 1, (row + 1) * wide))
      written = written + 1
    end
    row = row + 1
  end
  if new then
    -- SET takes as much memory as there is to hold, where APPEND would take twice that
    call('SET', codes_key, (call('GET', codes_key) or '') .. table.concat(new))
    call('SET', vectors_key, (call('GET', vectors_key) or '') .. table.concat(new_vectors))
    fullest = math.max(fullest, #held / width + #new)
  end
  if n_gone > 0 then
    local now, now_vectors = call('GET', codes_key) or '', call('GET', vectors_key) or ''
    local before = #now
    for _ = 1, n_gone do
      local i = place(now, sub(gone, out * 7 + 1, out * 7 + 7))
      if i then
        i = (i - 1) / width
        now, now_vectors = without(now, i, width), without(now_vectors, i, wide)
      end
      out = out + 1
    end
    if #now == 0 then
      call('DEL', codes_key, vectors_key)
    elseif #now < before then
      call('SET', codes_key, now)
      call('SET', vectors_key, now_vectors)
    end
  end
end
return {written, fullest}
