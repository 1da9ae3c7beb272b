-- Appends one turn to the session at KEYS[1]: decides and writes in one atomic step.
-- KEYS[2], where given, is the index of the subject's sessions: advisory, never decides anything.
local key = KEYS[1]
local id, record, bytes, messages = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local expected_epoch, expected_turns = ARGV[5], tonumber(ARGV[6])
local strict, searched, ttl = ARGV[7] == '1', ARGV[8] == '1', tonumber(ARGV[9])
local most_turns, most_bytes = tonumber(ARGV[10]), tonumber(ARGV[11])

local epoch, turns, base, all_bytes, all_messages, reborn = '0', 0, 0, 0, 0, '0'
local header = redis.call('LINDEX', key, -1)
if header then
  local e, t, b, y, m, r = string.match(header,
    '^{"v":1,"epoch":(%d+),"turns":(%d+),"base":(%d+),"bytes":(%d+),"messages":(%d+),"reborn":([01]),"at":%d+}$')
  if not e then return {'unreadable', header} end
  epoch, turns, base, all_bytes, all_messages, reborn = e, tonumber(t), tonumber(b), tonumber(y), tonumber(m), r
end

-- 1. Stored already? The search is LPOS, in C: the id stands in front of each record as its own element.
if turns > base then
  local at
  if not searched or expected_epoch ~= epoch then
    at = redis.call('LPOS', key, id)
  elseif turns > expected_turns then
    at = redis.call('LPOS', key, id, 'RANK', -1, 'MAXLEN', 2 * (turns - expected_turns) + 1)
  end
  if at then
    -- A write in any case: WAIT and WAITAOF speak of what this connection wrote last.
    redis.call('LSET', key, -1, header)
    if ttl then redis.call('PEXPIRE', key, ttl) else redis.call('PERSIST', key) end
    return {'duplicate', epoch, turns, base + at / 2 + 1, redis.call('LINDEX', key, at + 1)}
  end
end

-- 2. to 4. May it be appended?
if expected_epoch ~= '' then
  local first_life_since = expected_epoch == '0' and expected_turns == 0 and reborn == '0'
  if epoch ~= expected_epoch and not first_life_since then return {'gone'} end
  if turns < expected_turns then return {'rolled_back'} end
  if turns > expected_turns and strict then return {'conflict'} end
end

-- Which whole oldest turns must go; never the new one.
local kept, dropped = turns - base + 1, 0
all_bytes, all_messages = all_bytes + bytes, all_messages + messages
while kept > 1 and ((most_turns and kept > most_turns) or (most_bytes and all_bytes > most_bytes)) do
  local oldest = redis.call('LINDEX', key, 2 * dropped + 1)
  local b, m = string.match(oldest or '', '^(%d+) (%d+) ')
  if not b then return {'unreadable', ''} end
  all_bytes, all_messages = all_bytes - tonumber(b), all_messages - tonumber(m)
  kept, dropped = kept - 1, dropped + 1
end

-- 5. All that could be refused was refused: from here on every command succeeds, except that the
-- first write may run into `maxmemory`, with nothing written.
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
if epoch == '0' then epoch = string.format('%.0f', time[1] * 1000000 + time[2]) end
local new_header = string.format(
  '{"v":1,"epoch":%s,"turns":%.0f,"base":%.0f,"bytes":%.0f,"messages":%.0f,"reborn":%s,"at":%s}',
  epoch, turns + 1, base + dropped, all_bytes, all_messages, reborn, now)
if header then
  redis.call('LSET', key, -1, id)
  redis.call('RPUSH', key, record, new_header)
else
  redis.call('RPUSH', key, id, record, new_header)
end
if dropped > 0 then redis.call('LTRIM', key, 2 * dropped, -1) end
if ttl then redis.call('PEXPIRE', key, ttl) elseif header then redis.call('PERSIST', key) end

-- The index lives as long as the longest-lived session in it.
if KEYS[2] then
  local added = redis.pcall('ZADD', KEYS[2], now, ARGV[12])
  if not ttl then
    redis.pcall('PERSIST', KEYS[2])
  elseif added == 1 and redis.pcall('ZCARD', KEYS[2]) == 1 then
    redis.pcall('PEXPIRE', KEYS[2], ttl)
  else
    redis.pcall('PEXPIRE', KEYS[2], ttl, 'GT')
  end
end
return {'stored', epoch, turns + 1}
