package pacer_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/pacer"
)

func BenchmarkPacerWait(b *testing.B) {
	for _, keys := range []int{1, 256} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			wide := ratelimit.PerSecond(1_000_000_000).WithBurst(1_000_000_000)
			p := newPacer(b, pacer.Config{Rate: wide})
			names := make([]string, keys)
			for i := range names {
				names[i] = fmt.Sprintf("host%d.example", i)
			}
			var next atomic.Uint32
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				i := int(next.Add(97))
				for pb.Next() {
					i++
					if err := p.Wait(context.Background(), names[i%keys]); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
