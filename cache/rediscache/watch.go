package rediscache

import (
	"context"

	"github.com/trivet-go/trivet/cache"
)

const (
	newsPurged  = "p"
	newsFetched = "f"
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
	var sub *subscription
	onMessage := func(body string) { news(parseNews(body)) }
	onGap := func(error) {
		if sub.connected() {
			news(cache.News{Kind: cache.NewsUp})
		} else {
			news(cache.News{Kind: cache.NewsDown})
		}
	}
	sub = newSubscription(s.announcer, defaultMaxSilence, onMessage, onGap)
	return sub.Run(ctx)
}
