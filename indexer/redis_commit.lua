-- Put a new head in the place of the one that was read, and an update on the stream with it, or none of both.
--
-- KEYS  head, updates, last; parts of an update, the first of which is kept as the last
-- ARGV  head that was read ('' for none), new head, kind; id on the stream and what to put there, for an update
-- kind  head: nothing but the head changes; update; whole: the updates before it lead nowhere any more
-- Returns 1 if the new head is there, 0 if another one came between or a part is gone.

local head, kind = redis.call('GET', KEYS[1]) or '', ARGV[3]
if head == ARGV[2] then return 1 end
if head ~= ARGV[1] then return 0 end
for i = 4, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then return 0 end
end
if kind == 'update' then
  redis.call('XADD', KEYS[2], ARGV[4], 'u', ARGV[5])
  for i = 4, #KEYS do redis.call('PERSIST', KEYS[i]) end
elseif kind == 'whole' then
  redis.call('DEL', KEYS[2])
end
if kind ~= 'head' then
  redis.call('COPY', KEYS[4], KEYS[3], 'REPLACE')
  redis.call('PERSIST', KEYS[3])
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
