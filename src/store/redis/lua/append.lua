-- Appends one turn to the session at KEYS[1]: decides and writes in one atomic step.
-- KEYS[2], where given, is the index of the subject's sessions: advisory, never decides anything.
-- ARGV: the turn's record and id; the newest header that the caller has seen, '' for unknown; the header
-- to write behind that one, '' where more has to be looked at; time to live in milliseconds, '' for ever;
-- what else there is to decide by, in one text, as every argument costs; '1' where the index is to be
-- told; where something is trimmed, most turns and most bytes.
local key, id, seen, new, ttl = KEYS[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local answer, first = 0, nil

local header = redis.call('LINDEX', key, -1)
-- No two headers are alike: with this one at the end, nothing has happened since the caller looked.
if new == '' or header ~= seen then
  local expected_epoch, expected_turns, own_bytes, own_messages, at, strict, searched, number =
    string.match(ARGV[6], '^(%d*) (%d+) (%d+) (%d+) (%d+) ([01]) ([01]) (%x+)$')
  expected_turns = tonumber(expected_turns)
  local epoch, turns, bytes, messages = '0', 0, 0, 0
  if header then
    epoch, turns, bytes, messages = string.match(header, '^1 (%d+) (%d+) (%d+) (%d+) %d+ %x*$')
    if not epoch then return {'unreadable', header} end
    turns = tonumber(turns)
  end

  -- 1. Stored already? The search is LPOS, in C: ids are elements of their own.
  local place
  if turns > 0 then
    if searched == '0' or expected_epoch ~= epoch then
      place = redis.call('LPOS', key, id)
    elseif turns > expected_turns then
      place = redis.call('LPOS', key, id, 'RANK', -1, 'MAXLEN', 3 * (turns - expected_turns))
    end
  end

  -- 2. to 4. May it be appended? A first life has an even epoch, one after a delete an odd one.
  local refused
  if expected_epoch ~= '' then
    if epoch ~= expected_epoch and (expected_epoch ~= '0' or epoch % 2 == 1) then
      refused = 'gone'
    elseif turns < expected_turns then
      refused = 'rolled_back'
    else
      if turns > expected_turns and strict == '1' then refused = 'conflict' end
      if seen ~= '' then
        -- Lost turns whose places others have taken since; nobody knows where theirs were trimmed.
        local there = redis.call('LINDEX', key, 3 * (expected_turns - turns) - 1)
        if there and there ~= seen then refused = 'rolled_back' end
      end
    end
  end
  -- The turns that were searched are not those that are here: this one may have been stored again.
  if refused == 'rolled_back' and not place then place = redis.call('LPOS', key, id) end

  if place then
    -- A write in any case: WAIT and WAITAOF speak of what this connection wrote last.
    -- These need no memory, so a full server still answers a retry.
    redis.call('PEXPIRE', key, ttl and slack(ttl) or 100000000000000)
    if not ttl then redis.call('PERSIST', key) end
    if KEYS[2] then note(KEYS[2], key, string.match(header, '(%d+) %x*$'), ttl) end
    local own = string.match(redis.call('LINDEX', key, place + 1) or '', '^1 %d+ (%d+) ') or '0'
    return {'duplicate', epoch, turns, tonumber(own), redis.call('LINDEX', key, place - 1)}
  end
  if refused then return {refused} end

  if epoch == '0' then
    local time = redis.call('TIME')
    epoch = string.format('%d', 2 * math.floor((time[1] * 1000000 + time[2]) / 2))
    first = '1 ' .. epoch .. ' 0 0 0 ' .. at .. ' '
  end
  turns, bytes, messages = turns + 1, bytes + own_bytes, messages + own_messages
  new = string.format('1 %s %d %d %d %s %s', epoch, turns, bytes, messages, at, number)
  answer = {'stored', epoch, turns, bytes, messages}
end

-- Which whole oldest turns must go; never the new one.
local dropped = 0
if ARGV[8] and header then
  local kept = (redis.call('LLEN', key) - 1) / 3
  local stay = math.min(kept, math.max(tonumber(ARGV[8]) or kept + 1, 1) - 1)
  local bytes, most_bytes = string.match(new, '^1 %d+ %d+ (%d+) '), tonumber(ARGV[9])
  if most_bytes then stay = newest(key, 0, stay, function(before) return bytes - before <= most_bytes end) end
  dropped = kept - stay
end

-- 5. All that could be refused was refused: from here on every command succeeds, except that the
-- first write may run into `maxmemory`, with nothing written.
if first then
  redis.call('RPUSH', key, first, ARGV[1], id, new)
else
  redis.call('RPUSH', key, ARGV[1], id, new)
end
if dropped > 0 then redis.call('LTRIM', key, 3 * dropped, -1) end
local set = ARGV[7] == '1'
if not ttl then
  set = header and redis.call('PERSIST', key) == 1 or set
else
  local left, most = redis.call('PTTL', key), slack(ttl)
  if left < ttl or left > most then
    redis.call('PEXPIRE', key, most)
    set = true
  end
end
if set and KEYS[2] then note(KEYS[2], key, string.match(new, '(%d+) %x+$'), ttl) end
return answer
