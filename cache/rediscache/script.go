package rediscache

import (
	"context"

	"github.com/redis/go-redis/v9"

	"github.com/trivet-go/trivet/internal/redisguard"
)

const (
	maxTombstones = 16384 // purges that the server remembers; beyond them, entries older than these are gone
	pageSize      = 1024  // purges in one reply
	maxVariants   = 256   // of one entry's hash, besides which it is not ours
	maxTries      = 2     // again, after a call met a dead connection
)

// What was purged is a sorted set, so that one key has all: a server that evicts it, or is emptied,
// knows nothing any more, and begins a new epoch. Its first member is "!" and the epoch, whose
// score is the floor. The others are a letter (h: hard; s: soft; f: the first of several soft), one
// more (l: a label; p: a prefix) and the name; their score is the clock when it was purged. The
// clock is the server's time in microseconds, or the last one plus one.

// purgedLua defines open, which returns the epoch, the floor and the last clock. It begins a new
// epoch if there is none, or if the caller knows of later purges than the server: then some were
// lost.
const purgedLua = `
local function now()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end
local function text(n) return string.format('%.0f', n) end
local function open(key, since, known, fresh)
  local first, last = {}, {}
  if redis.call('TYPE', key).ok == 'zset' then
    first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    last = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
  end
  if #first > 0 and #first[1] <= 17 and string.match(first[1], '^![1-9a-f]%x*$') then
    local epoch, floor, clock = string.sub(first[1], 2), tonumber(first[2]), tonumber(last[2])
    local whole = floor >= 0 and clock < 9e15 and floor == math.floor(floor) and clock == math.floor(clock)
    if whole and clock >= since and (epoch == known or known == '0' or floor > since) then
      return epoch, floor, clock
    end
  end
  local clock = math.max(now(), since + 1)
  if last[2] and tonumber(last[2]) < 9e15 then clock = math.max(clock, math.ceil(tonumber(last[2])) + 1) end
  redis.call('DEL', key)
  redis.call('ZADD', key, text(clock), '!' .. fresh)
  return fresh, clock, clock
end
-- what was purged since, in pages; everything that is known if the caller knows another epoch. The first
-- part no other call has sent: a client that mixes replies up must not take another for its own
local function tell(key, epoch, floor, since, known, size)
  if epoch ~= known then since = floor end
  local list = redis.call('ZRANGEBYSCORE', key, '(' .. text(math.max(since, floor)), '+inf', 'WITHSCORES',
    'LIMIT', 0, size + 1)
  local more = 0
  if #list > 2 * size then
    more = 1
    list[#list] = nil
    list[#list] = nil
  end
  return {ARGV[3], epoch, text(floor), text(now()), more, list}
end
`

// sinceScript takes the caller's clock and epoch, an epoch to begin, and the size of a page.
var sinceScript = newScript(purgedLua + `
local since = tonumber(ARGV[1])
local epoch, floor = open(KEYS[1], since, ARGV[2], ARGV[3])
return tell(KEYS[1], epoch, floor, since, ARGV[2], tonumber(ARGV[4]))
`)

// purgeScript takes besides how to purge, the letter of what is purged and its name, how many are
// remembered and for how many microseconds, and what announce does.
var purgeScript = newScript(announceLua + purgedLua + `
local key, since = KEYS[1], tonumber(ARGV[1])
local epoch, floor, clock = open(key, since, ARGV[2], ARGV[3])
local time = now()
clock = math.max(time, clock + 1)
local name = ARGV[6] .. ARGV[7]
if ARGV[5] == 's' then
  local soft = redis.call('ZSCORE', key, 's' .. name)
  local first = redis.call('ZSCORE', key, 'f' .. name)
  if soft and (not first or clock - tonumber(first) >= 86400000000) then
    local hard = redis.call('ZSCORE', key, 'h' .. name)
    if first and (not hard or tonumber(hard) < tonumber(first)) then
      redis.call('ZADD', key, first, 'h' .. name)
    end
    redis.call('ZADD', key, soft, 'f' .. name)
  end
end
redis.call('ZADD', key, text(clock), ARGV[5] .. name)
local gone = 0
local most = tonumber(ARGV[8])
local count = redis.call('ZCARD', key) - 1
if count > most then gone = count - math.floor(most * 15 / 16) end
local from, to = '(' .. text(floor), text(math.min(time - tonumber(ARGV[9]), clock - 1))
local old = redis.call('ZRANGEBYSCORE', key, from, to, 'LIMIT', gone, 64)
gone = gone + #old
if gone > 0 and gone <= count then
  floor = tonumber(redis.call('ZRANGE', key, gone, gone, 'WITHSCORES')[2])
  redis.call('ZREMRANGEBYRANK', key, 1, gone)
  redis.call('ZADD', key, text(floor), '!' .. epoch)
end
announce(KEYS[2], ARGV[10], ARGV[11], ARGV[12], ARGV[13])
return tell(key, epoch, floor, since, ARGV[2], tonumber(ARGV[4]))
`)

// An entry's key is a hash. For each variant it has a field "b" with the value, and a field "m"
// with what putScript decides by: when the response came and when it was put, by the server's
// clock, the mark, the size, whether it is whole, its strong entity tag in hexadecimal, and a
// checksum of this.

// getScript takes the most bytes of one value and of all. It returns the server's time, and for
// each variant its id, the field "m" and the field "b".
var getScript = newScript(`
local t = redis.call('TIME')
local answer = {string.format('%.0f', tonumber(t[1]) * 1000000 + tonumber(t[2]))}
local key = KEYS[1]
if redis.call('TYPE', key).ok ~= 'hash' or redis.call('HLEN', key) > 2 * 256 then return answer end
local left = tonumber(ARGV[2])
for _, f in ipairs(redis.call('HKEYS', key)) do
  if string.sub(f, 1, 1) == 'm' and #f == 17 then
    local id = string.sub(f, 2)
    local size = redis.call('HSTRLEN', key, 'b' .. id)
    if size > 0 and size <= tonumber(ARGV[1]) and size <= left and redis.call('HSTRLEN', key, f) <= 1024 then
      left = left - size
      local v = redis.call('HMGET', key, f, 'b' .. id)
      answer[#answer + 1] = id
      answer[#answer + 1] = v[1]
      answer[#answer + 1] = v[2]
    end
  end
end
return answer
`)

// putScript takes the id, the value, for how many microseconds its response has been here, the
// mark, whether it is whole, its tag or "-", the most variants, the most bytes of all, for how many
// milliseconds it is of use, and when it came by this server's clock, as far as that is known: the
// command may have waited where a server that was stopped reads it later. It stores it unless the
// response that is there came later, and takes out what was put longest ago if that is too much. It
// returns 1 if it was stored.
var putScript = newScript(`
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000000 + tonumber(t[2])
local key, id, value = KEYS[1], ARGV[1], ARGV[2]
local received, mark = math.max(0, now - tonumber(ARGV[3])), tonumber(ARGV[4])
if tonumber(ARGV[10]) > 0 then received = math.min(received, tonumber(ARGV[10])) end
local kind = redis.call('TYPE', key).ok
if kind ~= 'none' and (kind ~= 'hash' or redis.call('HLEN', key) > 2 * 256) then
  redis.call('DEL', key)
  kind = 'none'
end
local others = {}
if kind == 'hash' then
  for _, f in ipairs(redis.call('HKEYS', key)) do
    local other = string.sub(f, 2)
    if string.sub(f, 1, 1) == 'm' then
      local r, p, k, size, whole, tag = string.match(redis.call('HGET', key, f),
        '^(%d+) (%d+) (%d+) (%d+) ([01]) (%S+) ')
      if not r or redis.call('HEXISTS', key, 'b' .. other) == 0 then
        redis.call('HDEL', key, f, 'b' .. other)
      elseif other ~= id then
        others[#others + 1] = {id = other, put = tonumber(p), size = tonumber(size)}
      elseif tonumber(r) > received and tonumber(r) <= now and tonumber(k) >= mark and
          (whole == '1' or ARGV[6] == '-' or tag ~= ARGV[6]) then
        return 0
      end
    elseif redis.call('HEXISTS', key, 'm' .. other) == 0 then
      redis.call('HDEL', key, f)
    end
  end
end
table.sort(others, function(a, b) return a.put > b.put end)
local count, size = 1, #value
for _, o in ipairs(others) do
  count, size = count + 1, size + o.size
  if count > tonumber(ARGV[7]) or size > tonumber(ARGV[8]) then
    redis.call('HDEL', key, 'm' .. o.id, 'b' .. o.id)
  end
end
local line = string.format('%.0f %.0f %.0f %d %s %s', received, now, mark, #value, ARGV[5], ARGV[6])
redis.call('HSET', key, 'b' .. id, value, 'm' .. id, line .. ' ' .. redis.sha1hex(key .. id .. line))
redis.call('PEXPIRE', key, string.format('%.0f', math.max(tonumber(ARGV[9]), redis.call('PTTL', key))))
return 1
`)

// A lock's value is its token and the name of the attempt that took it.

// lockScript takes for how many milliseconds, and the name of the attempt. It returns the token, or
// 0 and for how long the lock is another's. An attempt whose reply was lost, and is made again,
// finds its own lock.
var lockScript = newScript(`
local left = -2
if redis.call('TYPE', KEYS[1]).ok == 'string' then left = redis.call('PTTL', KEYS[1]) end
if left > 0 then
  local token, name = string.match(redis.call('GET', KEYS[1]), '^(%d+) (%S+)$')
  if name == ARGV[2] then return {token, 0} end
  return {'0', left}
end
redis.call('DEL', KEYS[1])
local t = redis.call('TIME')
local token = string.format('%.0f', tonumber(t[1]) * 1000000 + tonumber(t[2]))
redis.call('SET', KEYS[1], token .. ' ' .. ARGV[2], 'PX', ARGV[1])
return {token, 0}
`)

// extendScript takes the token and for how many milliseconds.
var extendScript = newScript(`
if string.match(redis.call('GET', KEYS[1]) or '', '^%d+') ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
`)

// unlockScript takes the token, or the name of the attempt.
var unlockScript = newScript(`
local token, name = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+) (%S+)$')
if not token or token ~= ARGV[1] and name ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
`)

// A script is run by its hash, and sent whole if the server has forgotten it.
type script struct {
	source, hash string
}

func newScript(source string) *script {
	return &script{source: source, hash: redis.NewScript(source).Hash()}
}

// A run is a script with its keys, of one slot, and its arguments.
type run struct {
	script *script
	key    string
	also   string // another key; may be empty
	args   []any
}

// do runs scripts in one round trip; in a second one only if the server has forgotten them. If a
// connection turns out to be dead, which says nothing about the server, it tries again.
func do(ctx context.Context, client redis.UniversalClient, runs ...run) ([]*redis.Cmd, error) {
	once := func(whole bool) ([]*redis.Cmd, error) {
		pipe := client.Pipeline()
		cmds := make([]*redis.Cmd, len(runs))
		for i, r := range runs {
			args := []any{"evalsha", r.script.hash, 1, r.key}
			if whole {
				args[0], args[1] = "eval", r.script.source
			}
			if r.also != "" {
				args[2] = 2
				args = append(args, r.also)
			}
			cmds[i] = redis.NewCmd(ctx, append(args, r.args...)...)
			cmds[i].SetFirstKeyPos(3)
			if err := pipe.Process(ctx, redisguard.Once(cmds[i])); err != nil {
				return cmds, err
			}
		}
		_, err := pipe.Exec(ctx)
		return cmds, err
	}
	for tries := 0; ; tries++ {
		cmds, err := once(false)
		for _, c := range cmds {
			if redis.HasErrorPrefix(c.Err(), "NOSCRIPT") {
				cmds, err = once(true)
				break
			}
		}
		if tries == maxTries || !redisguard.IsDead(err) || ctx.Err() != nil {
			return cmds, err
		}
	}
}
