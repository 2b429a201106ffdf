package rediscache_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if redis := os.Getenv(memberOf); redis != "" {
		serveFleet(redis, os.Getenv(memberOrigin))
		return
	}
	goleak.VerifyTestMain(m)
}
