-- What a life is set to: a little more than was asked for, so that not every append has to set it.
local function slack(ttl)
  return ttl + math.floor(ttl / 64)
end

-- Notes in a subject's index that the session at `key` was active. Advisory: no error leaves it.
-- It lives at least as long as any session in it, so this is called whenever a session's life is set.
local function note(index, key, at, ttl)
  redis.pcall('ZADD', index, at, string.match(key, '{(.*)}$'))
  local left = redis.pcall('PTTL', index)
  if type(left) ~= 'number' then return end
  if not ttl then
    redis.pcall('PERSIST', index)
    return
  end
  local least = slack(ttl)
  if left >= 0 and left < least or left == -1 and redis.pcall('ZCARD', index) == 1 then
    redis.pcall('PEXPIRE', index, 2 * least)
  end
end

