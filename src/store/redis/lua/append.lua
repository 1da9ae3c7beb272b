-- Appends one turn to the session at KEYS[1]: decides and writes in one atomic step.
-- KEYS[2], where given, is the index of the subject's sessions: advisory, never decides anything.
-- ARGV: id, record, bytes, messages, expected epoch ('' for whatever is there) and turns, the lineage
-- that the caller has seen ('' for unknown), whether it is strict, whether it has searched,
-- time to live ('' for ever) and what it may be set to, the index's member, the time in milliseconds;
-- this append's lineage; where something is trimmed, most turns and most bytes.
local key, id = KEYS[1], ARGV[1]
local expected_epoch, expected_turns, seen = ARGV[5], tonumber(ARGV[6]), ARGV[7]
local ttl, now = tonumber(ARGV[10]), ARGV[13]

local header = redis.call('LINDEX', key, -1)
local life, epoch, reborn, turns, bytes, messages, lineage = '', '0', '0', 0, 0, 0, ''
if header then
  life, epoch, reborn, turns, bytes, messages, lineage =
    string.match(header, '^(1 (%d+) ([01])) (%d+) (%d+) (%d+) %d+ (%x*)$')
  if not life then return {'unreadable', header} end
  turns = tonumber(turns)
end

-- 1. Stored already? The search is LPOS, in C: ids are elements of their own.
if turns > 0 then
  local at
  if ARGV[9] == '0' or expected_epoch ~= epoch then
    at = redis.call('LPOS', key, id)
  elseif turns > expected_turns then
    at = redis.call('LPOS', key, id, 'RANK', -1, 'MAXLEN', 3 * (turns - expected_turns))
  end
  if at then
    -- A write in any case: WAIT and WAITAOF speak of what this connection wrote last.
    -- These need no memory, so a full server still answers a retry.
    redis.call('PEXPIRE', key, ttl and ARGV[11] or 100000000000000)
    if not ttl then redis.call('PERSIST', key) end
    local own = string.match(redis.call('LINDEX', key, at + 1) or '', '^1 %d+ [01] (%d+) ') or '0'
    return {'duplicate', epoch, turns, tonumber(own), redis.call('LINDEX', key, at - 1)}
  end
end

-- 2. to 4. May it be appended?
if expected_epoch ~= '' then
  local first_life_since = expected_epoch == '0' and expected_turns == 0 and reborn == '0'
  if epoch ~= expected_epoch then
    if not first_life_since then return {'gone'} end
  elseif turns < expected_turns then
    return {'rolled_back'}
  elseif seen ~= '' then
    -- Lost turns whose places others have taken since.
    local there = lineage
    if turns > expected_turns then
      local place = redis.call('LINDEX', key, 3 * (expected_turns - turns) - 1)
      there = place and string.match(place, '(%x*)$') or seen
    end
    if there ~= seen then return {'rolled_back'} end
  end
  if turns > expected_turns and ARGV[8] == '1' then return {'conflict'} end
end

-- Which whole oldest turns must go; never the new one. Headers count from the beginning of a life, so
-- what is kept is the difference of two.
local dropped = 0
if ARGV[15] then
  local kept = turns > 0 and (redis.call('LLEN', key) - 1) / 3 or 0
  local most_turns, most_bytes = tonumber(ARGV[15]), tonumber(ARGV[16])
  if most_turns and kept + 1 > most_turns then dropped = math.max(kept + 1 - math.max(most_turns, 1), 0) end
  while most_bytes and dropped < kept do
    local before = string.match(redis.call('LINDEX', key, 3 * dropped), '^1 %d+ [01] %d+ (%d+) ')
    if not before then return {'unreadable', ''} end
    if bytes + ARGV[3] - before <= most_bytes then break end
    dropped = dropped + 1
  end
end

-- 5. All that could be refused was refused: from here on every command succeeds, except that the
-- first write may run into `maxmemory`, with nothing written.
if epoch == '0' then
  local time = redis.call('TIME')
  epoch = string.format('%s%06d', time[1], time[2])
  life = '1 ' .. epoch .. ' 0'
end
local new = string.format('%s %d %d %d %s %s',
  life, turns + 1, bytes + ARGV[3], messages + ARGV[4], now, ARGV[14])
if header then
  redis.call('RPUSH', key, ARGV[2], id, new)
else
  redis.call('RPUSH', key, life .. ' 0 0 0 ' .. now .. ' ', ARGV[2], id, new)
end
if dropped > 0 then redis.call('LTRIM', key, 3 * dropped, -1) end
if not ttl then
  if header then redis.call('PERSIST', key) end
else
  -- A little more than was asked for, so that not every append has to set it.
  local left = redis.call('PTTL', key)
  if left < ttl or left > tonumber(ARGV[11]) then redis.call('PEXPIRE', key, ARGV[11]) end
end

-- The index lives at least as long as the longest-lived session in it.
if KEYS[2] then
  redis.pcall('ZADD', KEYS[2], now, ARGV[12])
  local left = redis.pcall('PTTL', KEYS[2])
  if type(left) == 'number' then
    if not ttl then
      redis.pcall('PERSIST', KEYS[2])
    elseif left >= 0 and left < tonumber(ARGV[11]) or left == -1 and redis.pcall('ZCARD', KEYS[2]) == 1 then
      redis.pcall('PEXPIRE', KEYS[2], 2 * ARGV[11])
    end
  end
end
-- The short answer, where the caller knows the rest.
if epoch == expected_epoch then return turns + 1 end
return {'stored', epoch, turns + 1}
