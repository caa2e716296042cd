"""The Lua scripts of the Redis online store. Redis runs a script alone, so each is a transaction."""

from __future__ import annotations

from dovetail.platform.stores.redis.ledger import ADVANCE

__all__ = ["COMMIT", "PROMOTE"]

#: After the ledger's keys: for each view its states and its ages. After the ledger's arguments, for each view: the age
#: its keys have now (empty: they have none), the age before which keys leave, how many may leave, the number of parts;
#: and for each part the lengths of keys and states (uint32, alternating) and their bytes. Parts and pieces are of 2,000
#: because `unpack` takes at most 8,000 values.
COMMIT = (
    ADVANCE
    + r"""
for v = 1, scopes do
  local states, ages = KEYS[scopes + 2 * v], KEYS[scopes + 2 * v + 1]
  local age, before, leaving = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local parts, ageless = tonumber(ARGV[at + 3]), age == '' and redis.call('EXISTS', ages) == 0
  at = at + 4
  for _ = 1, parts do
    local lengths, bytes, from = ARGV[at], ARGV[at + 1], 1
    local put, aged, gone, young = {}, {}, {}, {}
    at = at + 2
    for i = 1, #lengths, 8 do
      local k, s = struct.unpack('<I4I4', lengths, i)
      local key = string.sub(bytes, from, from + k - 1)
      if s > 0 then
        put[#put + 1] = key
        put[#put + 1] = string.sub(bytes, from + k, from + k + s - 1)
      else
        gone[#gone + 1] = key
      end
      if s > 0 and age ~= '' then
        aged[#aged + 1] = age
        aged[#aged + 1] = key
      else
        young[#young + 1] = key
      end
      from = from + k + s
    end
    if #put > 0 then redis.call('HSET', states, unpack(put)) end
    if #gone > 0 then redis.call('HDEL', states, unpack(gone)) end
    if #aged > 0 then redis.call('ZADD', ages, unpack(aged)) end
    if #young > 0 and not ageless then redis.call('ZREM', ages, unpack(young)) end
  end
  while age ~= '' and leaving > 0 do
    local old = redis.call('ZRANGE', ages, '-inf', '(' .. before, 'BYSCORE', 'LIMIT', 0, math.min(leaving, 2000))
    if #old == 0 then break end
    redis.call('HDEL', states, unpack(old))
    redis.call('ZREM', ages, unpack(old))
    leaving = leaving - #old
  end
end
return nil
"""
)

#: Keys: accounts, the positions of source and target, then for each partition the states and ages of source and those
#: of target. Arguments: token, the stages of source and target, then each partition and the target's expected offset.
#: Returns the partition whose position is another, and that position; nil when done, now or before.
PROMOTE = r"""
local token, from, to = ARGV[1], ARGV[2] .. '\31', ARGV[3] .. '\31'
if redis.call('HGET', KEYS[3], ':token') == token then return nil end
local known = {}
for i = 4, #ARGV, 2 do
  known[ARGV[i]] = true
  local found = redis.call('HGET', KEYS[3], ARGV[i]) or '0'
  if found ~= ARGV[i + 1] then return {ARGV[i], found} end
end
for side = 2, 3 do
  for _, field in ipairs(redis.call('HKEYS', KEYS[side])) do
    if not string.find(field, ':') and not known[field] then
      return {field, redis.call('HGET', KEYS[side], field)}
    end
  end
end
for i = 4, #KEYS, 4 do
  for kind = 0, 1 do
    redis.call('UNLINK', KEYS[i + 2 + kind])
    if redis.call('EXISTS', KEYS[i + kind]) == 1 then redis.call('RENAME', KEYS[i + kind], KEYS[i + 2 + kind]) end
  end
end
redis.call('UNLINK', KEYS[3])
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('RENAME', KEYS[2], KEYS[3]) end
redis.call('HSET', KEYS[3], ':token', token)
local accounts = redis.call('HGETALL', KEYS[1])
local moved = {}
for i = 1, #accounts, 2 do
  local field = accounts[i]
  if string.sub(field, 1, #to) == to then
    redis.call('HDEL', KEYS[1], field)
  elseif string.sub(field, 1, #from) == from then
    redis.call('HDEL', KEYS[1], field)
    moved[#moved + 1] = to .. string.sub(field, #from + 1)
    moved[#moved + 1] = accounts[i + 1]
  end
end
if #moved > 0 then redis.call('HSET', KEYS[1], unpack(moved)) end
return nil
"""
