package redisrollout

import (
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	keep        = 90 * 24 * time.Hour // after the last call
	maxReplicas = 512                 // whose evidence is kept; those that are gone count too
)

// A script is run by its hash, and sent whole if the server has forgotten it.
type script struct {
	source, hash string
}

func newScript(source string) script {
	return script{source: source, hash: redis.NewScript(source).Hash()}
}

// KEYS[1] is a hash: revision, epoch, since (the server's time in microseconds when the epoch
// began), state, and attempt, which names the change that made it. KEYS[2] is what replicas have
// seen in the epoch. ARGV ends with the time to keep both, in milliseconds, and the number of
// replicas.
const answer = `
local function now()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end
local function answer(changed, time)
  local have = redis.call('HMGET', KEYS[1], 'since', 'state')
  redis.call('PEXPIRE', KEYS[1], ARGV[#ARGV - 1])
  redis.call('PEXPIRE', KEYS[2], ARGV[#ARGV - 1])
  local age = '0'
  if have[1] then age = string.format('%.0f', time - tonumber(have[1])) end
  return {changed, have[2] or '', age, redis.call('HGETALL', KEYS[2])}
end
`

// syncScript takes the replica, its epoch and what it has seen, which is empty if it has no part in
// the epoch.
var syncScript = newScript(answer + `
local time = now()
if ARGV[3] ~= '' and redis.call('HGET', KEYS[1], 'epoch') == ARGV[2] then
  local most = tonumber(ARGV[#ARGV])
  if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 or redis.call('HLEN', KEYS[2]) < most then
    redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
  end
end
return answer(0, time)
`)

// changeScript takes the revision that the new state was made of, its own, its epoch, itself, and
// the name of the attempt. An attempt whose reply was lost, and is made again, finds its own state.
var changeScript = newScript(answer + `
local time = now()
if redis.call('HGET', KEYS[1], 'attempt') == ARGV[5] then
  return answer(1, time)
end
if (redis.call('HGET', KEYS[1], 'revision') or '0') ~= ARGV[1] then
  return answer(0, time)
end
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[3] then
  redis.call('HSET', KEYS[1], 'since', string.format('%.0f', time))
  redis.call('DEL', KEYS[2])
end
redis.call('HSET', KEYS[1], 'revision', ARGV[2])
redis.call('HSET', KEYS[1], 'epoch', ARGV[3])
redis.call('HSET', KEYS[1], 'state', ARGV[4])
redis.call('HSET', KEYS[1], 'attempt', ARGV[5])
return answer(1, time)
`)
