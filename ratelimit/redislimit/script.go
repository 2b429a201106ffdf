package redislimit

import (
	"strconv"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
	"github.com/trivet-go/trivet/ratelimit"
)

// Lua's numbers are doubles, exact for integers up to 2^53. So a bucket's debt is counted in units
// of which one token takes a and one microsecond pays b, where a/b is Window/Limit in lowest terms:
// nothing is ever rounded, at any rate that maxUnits lets pass.
const (
	maxUnits  = 1 << 52
	maxDebtUS = int64(5 * 366 * 24 * time.Hour / time.Microsecond)
)

// The script's values: of a bucket "time debt b", of a sliding window "number previous current".
// ARGV: the mode, then for each key: kind, three numbers of the rate, the most debt, cost, and two
// that depend on the mode. The answer for each key: denied, remaining, retry and reset in
// microseconds, leased; in mode hold also the two numbers of a receipt: of a bucket the time and
// the debt after the charge, of a sliding window its number and zero.
//
//	take    decides and charges all keys or none; the two: what to lease, fraction and maximum
//	hold    the same, for a charge that may be refunded
//	peek    decides and charges nothing
//	charge  charges, whether it fits or not
//	refund  takes a charge back, as far as time has not paid it; the two: the receipt
//
// A quotient of doubles may round up to the next integer, so div corrects it by products, which are
// exact up to 2^53; of a sliding window with Limit × Window in microseconds beyond that, the last
// digits of a weight are not.
const (
	scriptClock = `
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
`
	scriptBody = `
local mode = ARGV[1]
local charge, refund, peek = mode == 'charge', mode == 'refund', mode == 'peek'
local floor, max, min = math.floor, math.max, math.min
local limit = 9007199254740992
local denied = false

local function div(a, b) -- rounded down
  local q = floor(a / b)
  if q * b > a then return q - 1 end
  if (q + 1) * b <= a then return q + 1 end
  return q
end
local function divup(a, b)
  local q = div(a, b)
  if q * b < a then return q + 1 end
  return q
end
local state, answer = {}, {}

for i, key in ipairs(KEYS) do
  local at = 2 + (i - 1) * 8
  local kind = ARGV[at]
  local x, y, z = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local cost = tonumber(ARGV[at + 5])
  local value = redis.call('GET', key)
  local p, q, r
  if value then
    p, q, r = string.match(value, '^(%d+) (%d+) (%d+)$')
    p, q, r = tonumber(p), tonumber(q), tonumber(r)
    if not r or p > limit or q > limit or r > limit then
      return redis.error_reply('TRIVET not a count')
    end
  end
  local s = {kind = kind, x = x, y = y, z = z, cost = cost}
  if kind == 'g' then
    -- x: units of a token, y: units paid in a microsecond, z: units of a burst
    local debt = 0
    if value and r > 0 then
      debt = q
      if r ~= y then debt = math.ceil(debt / r * y) end -- another rate: the time to pay stays
      local paid = max(now - p, 0) * y
      if paid >= debt then debt = 0 else debt = debt - paid end
    end
    local after = debt + cost * x
    s.used = debt
    s.after = min(after, tonumber(ARGV[at + 4]))
    if refund then -- debts are paid in the order in which they were made
      local unpaid = max(tonumber(ARGV[at + 7]) - max(now - tonumber(ARGV[at + 6]), 0) * y, 0)
      s.after = max(debt - min(cost * x, unpaid), 0)
    end
    s.ok = cost == 0 or refund or after <= z
    if not s.ok then
      s.retry = cost * x <= z and divup(after - z, y) or -1
    end
  else
    -- x: the window in microseconds, y: its limit
    local offset = now % x
    local k = (now - offset) / x
    local prev, cur = 0, 0
    if value then
      if p >= k then prev, cur = q, r -- later only if the clock was set back
      elseif p == k - 1 then prev = r end
    end
    if refund then
      local charged = tonumber(ARGV[at + 6])
      if charged == k then cur = max(cur - cost, 0)
      elseif charged == k - 1 then prev = max(prev - cost, 0) end
    end
    local used = divup(prev * (x - offset), x) + cur
    s.k, s.prev, s.cur, s.offset, s.used = k, prev, cur, offset, used
    s.ok = cost == 0 or refund or used + cost <= y
    if not s.ok then
      if cost > y then s.retry = -1
      elseif cur + cost <= y then s.retry = x - div((y - cur - cost) * x, prev) - offset
      else
        local wait = x - offset
        if cur > y - cost then wait = wait + x - div((y - cost) * x, cur) end
        s.retry = wait
      end
      if s.retry ~= -1 then s.retry = max(s.retry, 1) end
    end
  end
  denied = denied or not s.ok
  state[i] = s
end

for i, key in ipairs(KEYS) do
  local s = state[i]
  local at = 2 + (i - 1) * 8
  local leased = 0
  local lease = mode == 'take'
  local apply = s.cost > 0 and not peek and (charge or not denied)
  local remaining, reset, keep
  if s.kind == 'g' then
    local used = s.used
    if apply then
      used = s.after
      if lease then
        leased = floor(div(s.z - used, s.x) * tonumber(ARGV[at + 6]))
        leased = min(leased, tonumber(ARGV[at + 7]))
        used = used + leased * s.x
      end
      keep = string.format('%.0f %.0f %.0f', now, used, s.y)
    end
    remaining = div(max(s.z - used, 0), s.x)
    reset = divup(used, s.y)
  else
    local used, cur = s.used, s.cur
    if apply then
      if not refund then
        cur = min(cur + s.cost, limit / 4)
        used = used + s.cost
      end
      if lease then
        leased = min(floor((s.y - used) * tonumber(ARGV[at + 6])), tonumber(ARGV[at + 7]))
        cur = cur + leased
        used = used + leased
      end
      keep = string.format('%.0f %.0f %.0f', s.k, s.prev, cur)
    end
    remaining = max(s.y - used, 0)
    if cur > 0 then reset = 2 * s.x - s.offset
    elseif s.prev > 0 then reset = s.x - s.offset
    else reset = 0 end
  end
  if keep then
    redis.call('SET', key, keep, 'PX', string.format('%.0f', divup(reset, 1000) + 1))
  end
  answer[#answer + 1] = s.ok and 0 or 1
  answer[#answer + 1] = remaining
  answer[#answer + 1] = s.ok and 0 or s.retry
  answer[#answer + 1] = reset
  answer[#answer + 1] = leased
  if mode == 'hold' then
    answer[#answer + 1] = s.k or now
    answer[#answer + 1] = s.after or 0
  end
end
return answer
`
	answersPerKey = 5 // without a receipt
	maxExact      = 1 << 53
)

// A unitRate is a Rate in the script's terms.
type unitRate struct {
	kind        string // "g" or "w"
	x, y, z     int64
	mostDebt    int64
	costsOfMost int64 // the greatest cost that can ever be admitted
}

// newUnitRate returns r for the script. The error names the field of r that the script cannot
// count.
func newUnitRate(r ratelimit.Rate, a ratelimit.Algorithm) (unitRate, error) {
	us := int64(r.Window / time.Microsecond)
	if r.Window%time.Microsecond != 0 {
		return unitRate{}, rateFault(
			"Window", "%v is not in whole microseconds, which is what Redis counts", r.Window,
		)
	}
	if a == ratelimit.SlidingWindow {
		return unitRate{kind: "w", x: us, y: r.Limit, costsOfMost: r.Limit}, nil
	}
	g := gcd(us, r.Limit)
	u := unitRate{kind: "g", x: us / g, y: r.Limit / g, costsOfMost: r.Burst}
	const inexact = "is more than 2^52: the script could not count it exactly; " +
		"choose a Limit with more factors in common with Window"
	if u.x > maxUnits/r.Burst {
		return unitRate{}, rateFault("Burst", "times Window in microseconds, "+
			"over the common divisor of Window and Limit, "+inexact+", or a smaller Burst")
	}
	if u.y > maxUnits {
		return unitRate{}, rateFault("Limit", "over its common divisor with Window in microseconds, "+inexact)
	}
	u.z = r.Burst * u.x
	u.mostDebt = maxUnits
	if maxDebtUS < (maxUnits-u.z)/u.y {
		u.mostDebt = u.z + maxDebtUS*u.y
	}
	return u, nil
}

func rateFault(field, format string, args ...any) error {
	f := settings.Of("redislimit", "Rate")
	f.Add(field, format, args...)
	return f.Err()
}

// earned returns the time in which a bucket's tokens are earned, rounded up; at most a burst's.
func (u *unitRate) earned(tokens int64) time.Duration {
	tokens = min(tokens, u.costsOfMost) // so that the product is at most maxUnits
	return time.Duration((tokens*u.x+u.y-1)/u.y) * time.Microsecond
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// args appends u's part of ARGV; last are the two numbers of the mode.
func (u *unitRate) args(args []any, cost int64, last [2]any) []any {
	return append(args, u.kind, u.x, u.y, u.z, u.mostDebt, cost, last[0], last[1])
}

// leasing returns the two numbers that say how much to lease.
func (terms LeaseConfig) leasing() [2]any {
	most := terms.Max
	if most == 0 {
		most = maxUnits
	}
	return [2]any{strconv.FormatFloat(terms.Fraction, 'g', -1, 64), most}
}
