-- Deletes the session at KEYS[1] and leaves a fence: a header alone, of a later epoch, that lives
-- ARGV[1] milliseconds, longer than any turn takes. KEYS[2], where given, is the subject's index.
local header = redis.call('LINDEX', KEYS[1], -1)
if not header then return {'deleted', 0} end
local epoch, turns, base = string.match(header, '^{"v":1,"epoch":(%d+),"turns":(%d+),"base":(%d+),')
if not epoch then return {'unreadable', header} end

local time = redis.call('TIME')
local next_epoch = math.max(tonumber(epoch) + 1, time[1] * 1000000 + time[2])
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- The one write that memory limits can refuse comes first.
redis.call('LSET', KEYS[1], -1, string.format(
  '{"v":1,"epoch":%.0f,"turns":0,"base":0,"bytes":0,"messages":0,"reborn":1,"at":%.0f}', next_epoch, now))
redis.call('LTRIM', KEYS[1], -1, -1)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
if KEYS[2] then redis.pcall('ZREM', KEYS[2], ARGV[2]) end
return {'deleted', turns - base}
