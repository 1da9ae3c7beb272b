-- Notes a session in its subject's index at KEYS[1], where the two live on different nodes.
local ttl = tonumber(ARGV[2])
local left = redis.call('PTTL', KEYS[1])
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), ARGV[1])
if not ttl then
  if left ~= -1 then redis.call('PERSIST', KEYS[1]) end
elseif left == -2 or (left >= 0 and left < ttl) then
  redis.call('PEXPIRE', KEYS[1], ttl)
end
return 1
