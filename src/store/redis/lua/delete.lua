-- Deletes the session at KEYS[1] and leaves a fence: a header alone, of a later epoch, that lives
-- ARGV[1] milliseconds, longer than any turn takes. KEYS[2], where given, is the subject's index.
local header = redis.call('LINDEX', KEYS[1], -1)
if not header then return {'deleted', 0} end
local epoch, turns = string.match(header, '^1 (%d+) (%d+) %d+ %d+ %d+ %x*$')
if not epoch then return {'unreadable', header} end

local kept = turns == '0' and 0 or (redis.call('LLEN', KEYS[1]) - 1) / 3
local time = redis.call('TIME')
-- Odd: of a life that follows another.
local next_epoch = math.max(tonumber(epoch) + 1, time[1] * 1000000 + time[2])
next_epoch = next_epoch + 1 - next_epoch % 2
local now = string.format('%s%03d', time[1], math.floor(time[2] / 1000))
-- The one write that memory limits can refuse comes first.
redis.call('LSET', KEYS[1], -1, string.format('1 %d 0 0 0 %s ', next_epoch, now))
redis.call('LTRIM', KEYS[1], -1, -1)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
if KEYS[2] then redis.pcall('ZREM', KEYS[2], ARGV[2]) end
return {'deleted', kept}
