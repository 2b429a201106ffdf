package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/cache/rediscache"
	"github.com/trivet-go/trivet/telemetry"
)

// A cacheStore is what the caches of all routes share. It outlives reloads.
type cacheStore struct {
	cache.Store                    // near, or tiers
	near        *cache.MemoryStore // of this process
	tiers       *cache.Tiered      // near and redis; nil without Redis
	redis       *rediscache.Store  // of all gateways; nil without Redis
	snapshot    *snapshot          // of near; nil without one
	purger      *cache.Cache       // purges, and does nothing else

	end   context.CancelFunc // nil before begin
	ended sync.WaitGroup
}

// newCacheStore makes the store of the caches. It calls nobody before begin.
func (g *gateway) newCacheStore(cfg Config) (s *cacheStore, err error) {
	s = &cacheStore{}
	s.near, err = cache.NewMemoryStore(cache.MemoryStoreConfig{MaxBytes: int64(cfg.Cache.Size)})
	if err != nil {
		return nil, fmt.Errorf("cache.size: %w", err)
	}
	s.Store = s.near
	if cfg.Cache.Store == redisStore {
		if err = s.share(g.counts, cfg.Redis); err != nil {
			return nil, fmt.Errorf("cache.store: %w", err)
		}
	}
	if s.purger, err = cache.New(cache.Config{Store: s.Store}); err != nil {
		return nil, err
	}
	if s.snapshot, err = newSnapshot(cfg.Cache.Snapshot, s.near, g.log); err != nil {
		return nil, fmt.Errorf("cache.snapshot: %w", err)
	}
	return s, nil
}

// share puts the store of all gateways behind that of this process.
func (s *cacheStore) share(c *counts, cfg Redis) (err error) {
	s.redis, err = rediscache.New(c.client, rediscache.Config{
		Prefix: cfg.Prefix + "cache", Timeout: time.Duration(cfg.Timeout),
	})
	if err != nil {
		return err
	}
	s.tiers, err = cache.NewTiered(cache.TieredConfig{Near: s.near, Far: s.redis})
	s.Store = s.tiers
	return err
}

// begin reads the snapshot, and keeps the store in step with those of other gateways.
func (s *cacheStore) begin() {
	s.snapshot.begin()
	if s.tiers == nil {
		return
	}
	ctx, end := context.WithCancel(context.Background())
	s.end = end
	s.ended.Go(func() { _ = s.tiers.Run(ctx) }) // the error is ctx's
}

// close ends what begin has begun.
func (s *cacheStore) close() {
	s.snapshot.close()
	if s.end != nil {
		s.end()
		s.ended.Wait()
	}
}

// register exports the statistics. add gets the functions that end the exports.
func (s *cacheStore) register(tel *telemetry.Telemetry, add func(func() error, error)) {
	if s.tiers == nil {
		add(telemetry.Register(tel, "", s.near.Stats))
		return
	}
	add(telemetry.Register(tel, "", s.tiers.Stats))
	add(telemetry.Register(tel, "", s.redis.Stats))
}

// status is what GET /cache shows of the store.
func (s *cacheStore) status() map[string]any {
	if s.tiers == nil {
		return map[string]any{"store": s.near.Stats()}
	}
	return map[string]any{"store": s.tiers.Stats(), "redis": s.redis.Stats()}
}
