-- Reads the newest turns of the session at KEYS[1] that fit a window, and one turn by its id.
-- Only what fits is sent: a window of bytes cannot be counted in list elements by the client.
local key = KEYS[1]
local most_turns, most_messages, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local known_epoch, known_turns, find = ARGV[4], tonumber(ARGV[5]), ARGV[6]

local header = redis.call('LINDEX', key, -1)
if not header then return {} end
local epoch, turns, base, bytes, messages = string.match(header,
  '^{"v":1,"epoch":(%d+),"turns":(%d+),"base":(%d+),"bytes":(%d+),"messages":(%d+),')
if not epoch then return {'', {header}} end
turns, base = tonumber(turns), tonumber(base)

local kept = turns - base
local wanted = math.min(kept, most_turns)
if known_epoch == epoch and known_turns <= turns then wanted = math.min(wanted, turns - known_turns) end
if tonumber(bytes) > most_bytes or tonumber(messages) > most_messages then
  local fitting = 0
  while fitting < wanted do
    local b, m = string.match(redis.call('LINDEX', key, -2 * (fitting + 1)) or '', '^(%d+) (%d+) ')
    if not b then break end
    most_bytes, most_messages = most_bytes - tonumber(b), most_messages - tonumber(m)
    if fitting > 0 and (most_bytes < 0 or most_messages < 0) then break end
    fitting = fitting + 1
  end
  wanted = fitting
end

local found = ''
if find ~= '' then
  local at = redis.call('LPOS', key, find)
  if at then found = redis.call('LINDEX', key, at + 1) end
end
return {found, redis.call('LRANGE', key, -2 * wanted - 1, -1)}
