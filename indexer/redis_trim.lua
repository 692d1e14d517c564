-- Forget updates on the stream, with their parts.
--
-- KEYS  updates; parts that go
-- ARGV  the first id that stays

redis.call('XTRIM', KEYS[1], 'MINID', ARGV[1])
for i = 2, #KEYS do redis.call('UNLINK', KEYS[i]) end
return 1
