-- The most of the newest turns, of `high` at most and `low` at least, that fit: `fits` is asked by the bytes
-- and messages that a life had before them. Headers count from its beginning, so the more turns, the less
-- came before: they are found by halving. `low` is taken to fit.
local function newest(key, low, high, fits)
  local function ok(count)
    local bytes, messages = string.match(redis.call('LINDEX', key, -3 * count - 1) or '', '^1 %d+ %d+ (%d+) (%d+) ')
    return bytes and fits(bytes, messages)
  end
  if high <= low or ok(high) then return high end
  while high - low > 1 do
    local middle = math.floor((low + high) / 2)
    if ok(middle) then low = middle else high = middle end
  end
  return low
end

