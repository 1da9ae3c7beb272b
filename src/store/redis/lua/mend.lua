-- Mends a subject's index at KEYS[1], after a look at its sessions.
-- ARGV, in threes: a member, the score that was read, and the right one, '' for a session that is no
-- more. Whoever noted the session meanwhile knows better.
for at = 1, #ARGV, 3 do
  if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[at])) == tonumber(ARGV[at + 1]) then
    if ARGV[at + 2] == '' then
      redis.call('ZREM', KEYS[1], ARGV[at])
    else
      redis.call('ZADD', KEYS[1], ARGV[at + 2], ARGV[at])
    end
  end
end
return 1
