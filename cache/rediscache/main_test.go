package rediscache_test

import (
	"os"
	"testing"

	"github.com/redis/go-redis/v9/logging"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	logging.Disable() // of go-redis: tests take servers away
	if redis := os.Getenv(memberOf); redis != "" {
		serveFleet(redis, os.Getenv(memberOrigin))
		return
	}
	goleak.VerifyTestMain(m)
}
