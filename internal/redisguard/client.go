package redisguard

import "github.com/redis/go-redis/v9"

// IsNil reports whether client is nil, or a nil pointer of one of go-redis's types.
func IsNil(client redis.UniversalClient) bool {
	switch c := client.(type) {
	case nil:
		return true
	case *redis.Client:
		return c == nil
	case *redis.ClusterClient:
		return c == nil
	case *redis.Ring:
		return c == nil
	}
	return false
}

// Once returns cmd as a command that go-redis sends once. What go-redis repeats it delays, within a
// time that is short here, and in the end it says that the time was over and not what has failed. A
// script that has run must not be run again by somebody who does not know what it does.
func Once(cmd *redis.Cmd) redis.Cmder { return once{cmd} }

type once struct{ *redis.Cmd }

// NoRetry implements redis.Cmder.
func (once) NoRetry() bool { return true }
