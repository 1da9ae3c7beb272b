-- Notes a session in its subject's index at KEYS[1], where the two live on different nodes.
local ttl = tonumber(ARGV[2])
local added = redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
-- The index lives as long as the longest-lived session in it.
if not ttl then
  redis.call('PERSIST', KEYS[1])
elseif added == 1 and redis.call('ZCARD', KEYS[1]) == 1 then
  redis.call('PEXPIRE', KEYS[1], ttl)
else
  redis.call('PEXPIRE', KEYS[1], ttl, 'GT')
end
return 1
