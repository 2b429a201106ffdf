package rediscache

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/trivet-go/trivet/cache"
)

const (
	newsPurged  = "p"
	newsFetched = "f"

	firstPause = 50 * time.Millisecond // between attempts to connect, at most; doubled for each failure
	lastPause  = 2 * time.Second       // up to here
)

// fetchedNews returns what is announced when a fetch has ended.
func fetchedNews(key cache.Key, stored bool) string {
	text := newsFetched + string(key[:])
	if stored {
		return text + "1"
	}
	return text + "0"
}

// parseNews reads an announcement. Whoever may publish there can send anything: what makes no sense
// makes a Tiered ask what was purged, which costs a round trip.
func parseNews(text string) cache.News {
	var key cache.Key
	if len(text) != len(newsFetched)+len(key)+1 || text[:1] != newsFetched {
		return cache.News{Kind: cache.NewsPurged}
	}
	copy(key[:], text[1:])
	return cache.News{Kind: cache.NewsFetched, Key: key, Stored: text[len(text)-1] == '1'}
}

// Watch implements [cache.FarStore]. What is announced only makes things quick: what was purged is
// known from Sync, and locks end by themselves.
func (s *Store) Watch(ctx context.Context, news func(cache.News)) error {
	for failures := 0; ; failures++ {
		if s.listen(ctx, news) {
			failures = 0
		}
		pause := time.NewTimer(rand.N(min(lastPause, firstPause<<min(failures, 10))))
		select {
		case <-ctx.Done():
			pause.Stop()
			return context.Cause(ctx)
		case <-pause.C:
		}
	}
}

// listen hears what is announced until the connection is lost. It reports whether there was one.
func (s *Store) listen(ctx context.Context, news func(cache.News)) (connected bool) {
	ps := s.client.Subscribe(ctx)
	defer ps.Close()
	defer context.AfterFunc(ctx, func() { ps.Close() })()
	if ps.Subscribe(ctx, s.channel()) != nil {
		return false
	}
	defer func() {
		if connected {
			news(cache.News{Kind: cache.NewsDown})
		}
	}()
	for {
		received, err := ps.Receive(ctx)
		if err != nil {
			return connected
		}
		switch r := received.(type) {
		case *redis.Subscription:
			if connected {
				return true // PubSub has connected anew, and what was announced meanwhile is lost
			}
			connected = true
			news(cache.News{Kind: cache.NewsUp})
		case *redis.Message:
			news(parseNews(r.Payload))
		}
	}
}
