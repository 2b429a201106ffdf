package benchmarks_test

import (
	"os"
	"testing"

	"github.com/trivet-go/trivet/internal/backend"
)

func TestMain(m *testing.M) {
	backend.Main() // does not return in a process that backend.StartProcess has started
	cacheServer()  // does not return in a process that startCacheServer has started
	os.Exit(m.Run())
}
