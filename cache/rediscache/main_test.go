package rediscache_test

import (
	"testing"

	"github.com/redis/go-redis/v9/logging"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	logging.Disable() // of go-redis: tests take servers away
	goleak.VerifyTestMain(m)
}
