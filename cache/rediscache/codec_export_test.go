package rediscache

import "time"

var (
	Encode    = encode
	Decode    = decode
	ParsePage = parsePage
	ParseNews = parseNews
)

// RememberPurges sets how many purges the server remembers, and for how long.
func (s *Store) RememberPurges(n int, keep time.Duration) { s.tombstones, s.keepPurges = n, keep }

const (
	BodyAt  = bodyAt
	EpochAt = epochAt
	SumAt   = sumAt
)

const MaxSlack = maxSlack
