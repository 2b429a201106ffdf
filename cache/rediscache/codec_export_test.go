package rediscache

var (
	Encode    = encode
	Decode    = decode
	ParsePage = parsePage
	ParseNews = parseNews
)

const (
	BodyAt  = bodyAt
	EpochAt = epochAt
	SumAt   = sumAt
)
