"""The Lua scripts of the Redis label store. Redis runs a script alone, so each is a transaction.

Keys: 1 accounts, 2 progress of the scope, 3 outcomes, 4 requests by effective time, 5... the requests touched.
Numbers are doubles in Lua: times in microseconds and offsets are exact below 2^53.
"""

from __future__ import annotations

from dovetail.platform.stores.redis.ledger import ADVANCE

__all__ = ["INSERT", "MARK", "RETIRE"]

_SPLIT = r"""
local function split(text)
  local parts = {}
  for part in string.gmatch(text, '[^,]+') do parts[#parts + 1] = part end
  return parts
end
"""

#: Four fields of accounts, the number of labels that are kept by themselves, and each of these as: request number,
#: field, value, effective time. Then whether a row that follows the first of its key and happened after it is kept by
#: itself (1), and rows as: request number, field, kind, and the five numbers that order events of a key.
INSERT = (
    _SPLIT
    + ADVANCE
    + r"""
local inserted, duplicate = ARGV[at], ARGV[at + 1]
local new, kept, rows = 0, 0, at + 6 + 4 * tonumber(ARGV[at + 4])
for i = at + 5, rows - 2, 4 do
  local key = KEYS[4 + tonumber(ARGV[i])]
  kept = kept + redis.call('HSET', key, ARGV[i + 1], ARGV[i + 2])
  redis.call('ZADD', KEYS[4], 'LT', ARGV[i + 3], string.match(key, ':request:(.*)$'))
end
for i = rows, #ARGV, 8 do
  local key, field = KEYS[4 + tonumber(ARGV[i])], ARGV[i + 1]
  local old, outcome, earlier = redis.call('HGET', key, field), 'pending', true
  if old then
    local known = split(old)
    outcome, earlier = known[6], false
    for k = 1, 5 do
      local mine, theirs = tonumber(ARGV[i + 2 + k]), tonumber(known[k])
      if mine ~= theirs then earlier = mine < theirs break end
    end
    local given = {ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], ARGV[i + 6], ARGV[i + 7]}
    local first, second = known, given
    if earlier then first, second = given, known end
    if ARGV[rows - 1] == '1' and tonumber(second[2]) > tonumber(first[2]) then
      local alone = '\31' .. field .. '\31' .. table.concat(second, ',', 3, 5)
      kept = kept + redis.call('HSET', key, alone, second[1] .. ',' .. second[2] .. ',')
      redis.call('ZADD', KEYS[4], 'LT', second[1], string.match(key, ':request:(.*)$'))
    end
  else
    new = new + 1
    redis.call('HINCRBY', KEYS[3], ARGV[i + 2] .. '\31pending', 1)
  end
  if earlier then
    local numbers = table.concat(ARGV, ',', i + 3, i + 7)
    redis.call('HSET', key, field, numbers .. ',' .. outcome)
    redis.call('ZADD', KEYS[4], 'LT', ARGV[i + 3], string.match(key, ':request:(.*)$'))
  end
end
if kept > 0 then
  redis.call('HINCRBY', KEYS[1], ARGV[at + 2], kept)
  redis.call('HINCRBY', KEYS[1], ARGV[at + 3], kept)
end
redis.call('HINCRBY', KEYS[1], inserted, new)
if new > 0 then redis.call('HINCRBY', KEYS[1], duplicate, -new) end
return nil
"""
)

#: Rows as: request number, field, kind, outcome.
#: A row that is not there any more: Redis has lost it since it was looked up. Then nothing is marked, also where the
#: position, lost with it, is the expected one because that is 0.
MARK = (
    _SPLIT
    + r"""
local stored = redis.call('HMGET', KEYS[2], ARGV[2], ARGV[2] .. ':token')
if (stored[1] or '0') == ARGV[4] and stored[2] ~= ARGV[1] then
  for i = 8 + 2 * tonumber(ARGV[7]), #ARGV, 4 do
    if redis.call('HEXISTS', KEYS[4 + tonumber(ARGV[i])], ARGV[i + 1]) == 0 then return {1, '-1'} end
  end
end
"""
    + ADVANCE
    + r"""
for i = at, #ARGV, 4 do
  local key, field, kind, outcome = KEYS[4 + tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local known = split(redis.call('HGET', key, field))
  if known[6] == 'pending' then
    redis.call('HINCRBY', KEYS[3], kind .. '\31' .. known[6], -1)
    redis.call('HINCRBY', KEYS[3], kind .. '\31' .. outcome, 1)
    known[6] = outcome
    redis.call('HSET', key, field, table.concat(known, ','))
  else
    local stage = 'labels.' .. kind .. '.repeated\31' .. kind .. '\31' .. partition .. '\31'
    redis.call('HINCRBY', KEYS[1], stage .. 'read', 1)
    redis.call('HINCRBY', KEYS[1], stage .. outcome, 1)
  end
end
return nil
"""
)

#: Arguments: the boundary, then the request ids of keys 5... Returns outcome names and counts of what left.
RETIRE = (
    _SPLIT
    + r"""
local before, counts, gone = tonumber(ARGV[1]), {}, {}
for r = 5, #KEYS do
  local rows, smallest = redis.call('HGETALL', KEYS[r]), nil
  for i = 1, #rows, 2 do
    local known = split(rows[i + 1])
    local effective = tonumber(known[1])
    if effective < before then
      redis.call('HDEL', KEYS[r], rows[i])
      local kind = string.match(rows[i], '^[^\31]*')
      if kind ~= '' then
        local name = kind .. '\31' .. known[6]
        counts[name] = (counts[name] or 0) + 1
      else
        kind = string.match(rows[i], '^\31([^\31]*)')
        gone[kind] = (gone[kind] or 0) + 1
      end
    elseif not smallest or effective < smallest then
      smallest = effective
    end
  end
  if smallest then
    redis.call('ZADD', KEYS[4], string.format('%.0f', smallest), ARGV[r - 3])
  else
    redis.call('ZREM', KEYS[4], ARGV[r - 3])
  end
end
for kind, rows in pairs(gone) do
  local stage = 'labels.' .. kind .. '.let_go\31' .. kind .. '\0310\31'
  redis.call('HINCRBY', KEYS[1], stage .. 'read', rows)
  redis.call('HINCRBY', KEYS[1], stage .. 'let_go', rows)
end
local answer = {}
for name, rows in pairs(counts) do
  local kind, outcome = string.match(name, '^([^\31]*)\31(.*)$')
  local stage = 'labels.' .. kind .. '.retired\31' .. kind .. '\0310\31'
  redis.call('HINCRBY', KEYS[3], name, -rows)
  redis.call('HINCRBY', KEYS[1], stage .. 'read', rows)
  redis.call('HINCRBY', KEYS[1], stage .. outcome, rows)
  answer[#answer + 1] = name
  answer[#answer + 1] = tostring(rows)
end
return answer
"""
)
