package rediscache

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	maxBody      = 8<<10 + 16 // bytes of what is announced
	maxSequence  = 1 << 53    // a script's numbers are doubles
	idBytes      = 9
	idLength     = 12 // of an id's text
	keepSequence = 90 * 24 * time.Hour
)

// An announcer says things to all that subscribe to a channel, and numbers them, so that a
// subscriber knows when it has missed one.
type announcer struct {
	client  redis.UniversalClient
	key     string // of a hash: the number and the id of what was said last
	channel string
}

// newAnnouncer returns an announcer whose key and channel begin with prefix. What is in braces puts
// both into one slot of a Cluster: go-redis then subscribes at the node that runs the script.
func newAnnouncer(client redis.UniversalClient, prefix, name string) announcer {
	channel := prefix + "{" + prefix + name + "}"
	return announcer{client: client, key: channel + ":sequence", channel: channel}
}

// announceLua defines announce(key, channel, body, id, keep), for scripts that also do other
// things. The id is random: it takes the place of an epoch, since a server that has forgotten
// numbers, or that never got the last ones from a master that failed, gives the same ones to other
// messages.
const announceLua = `
local function announce(key, channel, body, id, keep)
  local before = redis.call('HGET', key, 'id') or ''
  local number = redis.call('HINCRBY', key, 'number', 1)
  redis.call('HSET', key, 'id', id)
  redis.call('PEXPIRE', key, keep)
  -- not string.format, whose %s ends at a zero byte
  local head = '1:' .. string.format('%.0f', number) .. ':' .. before .. ':' .. id .. ':'
  redis.call('PUBLISH', channel, head .. body)
  return number
end
`

// Both scripts return what no other call of them has sent: a client that mixes replies up must not
// take another one for its own.
var announceScript = redis.NewScript(announceLua + `
announce(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
return ARGV[3]
`)

// markScript returns the mark of the last message, and makes one if the server knows of none.
var markScript = redis.NewScript(`
local id = redis.call('HGET', KEYS[1], 'id')
if not id then
  id = ARGV[1]
  redis.call('HSET', KEYS[1], 'number', 0, 'id', id)
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) / 2 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return ARGV[1] .. ':' .. redis.call('HGET', KEYS[1], 'number') .. ':' .. id
`)

// announce sends body to all subscribers: to each or to none that is connected. It ends when client
// gives up, which may be later than ctx does.
func (a announcer) announce(ctx context.Context, body string) error {
	id := newID()
	reply, err := announceScript.Run(
		ctx, a.client, []string{a.key}, a.channel, body, id, keepSequence.Milliseconds(),
	).Text()
	if err == nil && reply != id {
		return errReply
	}
	return err
}

// last returns the mark of the last message.
func (a announcer) last(ctx context.Context) (mark, error) {
	id := newID()
	reply, err := markScript.Run(ctx, a.client, []string{a.key}, id, keepSequence.Milliseconds()).Text()
	if err != nil {
		return mark{}, err
	}
	text, ok := strings.CutPrefix(reply, id+":")
	if !ok {
		return mark{}, errReply
	}
	return parseMark(text)
}

func newID() string {
	var b [idBytes]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// A mark names one message: no other one has the same, on whatever server.
type mark struct {
	number uint64
	id     string
}

// A message is what comes out of a channel.
type message struct {
	mark
	before string // the id of the message before it
	body   string
}

var (
	errMalformed = errors.New("a message is malformed, or of another release")
	errReply     = errors.New("the script's answer makes no sense")
)

// parseMessage reads what announceLua wrote. Whoever may publish there can send anything.
func parseMessage(payload string) (m message, err error) {
	version, rest, ok1 := strings.Cut(payload, ":")
	number, rest, ok2 := strings.Cut(rest, ":")
	before, rest, ok3 := strings.Cut(rest, ":")
	id, body, ok4 := strings.Cut(rest, ":")
	if !ok1 || !ok2 || !ok3 || !ok4 || version != "1" || len(body) > maxBody ||
		!isID(id) || before != "" && !isID(before) {
		return m, errMalformed
	}
	n, ok := parseNumber(number)
	if !ok || n == 0 {
		return m, errMalformed
	}
	return message{mark: mark{number: n, id: id}, before: before, body: body}, nil
}

func parseMark(text string) (mark, error) {
	number, id, _ := strings.Cut(text, ":")
	n, ok := parseNumber(number)
	if !ok || !isID(id) {
		return mark{}, errReply
	}
	return mark{number: n, id: id}, nil
}

func isID(s string) bool {
	b, err := base64.RawURLEncoding.DecodeString(s)
	return err == nil && len(b) == idBytes && len(s) == idLength
}

func parseNumber(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil && n <= maxSequence && strconv.FormatUint(n, 10) == s
}
