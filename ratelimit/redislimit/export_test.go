package redislimit

import (
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/trivet-go/trivet/ratelimit"
)

// RecordHistory makes s's script append each admission to the list "history": the server's time in
// microseconds and the units charged, bought ones included.
func (s *Store) RecordHistory() {
	s.setScript(scriptClock + strings.Replace(scriptBody, "\nreturn answer", `
if not charge and not denied then
  redis.call('RPUSH', 'history', string.format('%.0f %.0f', now, state[1].cost + answer[5]))
end
return answer`, 1))
}

// ReadClock makes s's script read the time, in microseconds, from the string "clock". Keys then
// live for an hour of the server's real time.
func (s *Store) ReadClock() {
	body := strings.Replace(scriptBody, "string.format('%.0f', divup(reset, 1000) + 1)", "'3600000'", 1)
	s.setScript("local now = tonumber(redis.call('GET', 'clock'))\n" + body)
}

func (s *Store) setScript(source string) { s.script, s.source = redis.NewScript(source), source }

// Parse reads reply as the answer about one key of the given rate, and reports what it says.
func Parse(
	reply []int64, rate ratelimit.Rate, window ratelimit.Algorithm,
) (denied bool, numbers [4]int64, err error) {
	u, err := newUnitRate(rate, window)
	if err != nil {
		return false, numbers, err
	}
	answers, err := parse(reply, []request{{rate: u}}, answersPerKey)
	if err != nil {
		return false, numbers, err
	}
	a := answers[0]
	return a.denied, [4]int64{a.remaining, int64(a.retry), int64(a.reset), a.leased}, nil
}
