-- Reads the newest turns of the session at KEYS[1] that fit a window, and one turn by its id.
-- Only what fits is sent: a window of bytes cannot be counted in list elements by the client.
-- ARGV: most turns, messages and bytes; the known epoch and turns, and the
-- header that was seen there, '' for unknown; the id to find.
local key = KEYS[1]
local most_turns, most_messages, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local known_epoch, known_turns, seen, find = ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7]

local pattern = '^1 (%d+) (%d+) (%d+) (%d+) %d+ (%x*)$'
local header = redis.call('LINDEX', key, -1)
if not header then return {} end
local epoch, turns, bytes, messages = string.match(header, pattern)
if not epoch then return {'', 0, {header}} end
turns = tonumber(turns)

local kept = turns > 0 and (redis.call('LLEN', key) - 1) / 3 or 0
local wanted = math.min(kept, most_turns)
if known_epoch == epoch and known_turns <= turns and turns - known_turns <= wanted then
  -- Unless the known turns were lost, and others took their places.
  local place = redis.call('LINDEX', key, 3 * (known_turns - turns) - 1)
  if seen == '' or not place or place == seen then wanted = turns - known_turns end
end

-- The newest always fits.
wanted = newest(key, 1, wanted, function(b, m)
  return bytes - b <= most_bytes and messages - m <= most_messages
end)

local found = ''
if find ~= '' then
  local at = redis.call('LPOS', key, find)
  if at then found = redis.call('LINDEX', key, at - 1) end
end
return {found, kept, redis.call('LRANGE', key, -3 * wanted - 1, -1)}
