package main

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/telemetry"
	"github.com/trivet-go/trivet/versioning"
	"github.com/trivet-go/trivet/versioning/redisrollout"
)

// rolloutStores keep the states of rollouts. They outlive a reload, so that it gives no release
// that was rolled back another try.
type rolloutStores struct {
	memory *versioning.MemoryRolloutStore
	redis  *redisrollout.Store // nil without Redis
}

func newRolloutStores(cfg Redis, c *counts, tel *telemetry.Telemetry) (s rolloutStores, err error) {
	s.memory = versioning.NewMemoryRolloutStore()
	if c.client == nil {
		return s, nil
	}
	s.redis, err = redisrollout.New(c.client, redisrollout.Config{Prefix: cfg.Prefix + "rollout:"})
	if err == nil {
		_, err = telemetry.Register(tel, "", s.redis.Stats) // for as long as the gateway lasts
	}
	return s, err
}

// A split is the rollout of one route, made live. Until it begins, stable answers everything.
type split struct {
	settings       Rollout
	cfg            versioning.RolloutConfig
	stable, canary http.Handler
	rollout        *versioning.Rollout // set by begin
	next           http.Handler        // what answers; set by begin
	outer, decided http.Handler        // what stands before s, and that behind Decide; nil unless apart
}

// newSplit returns the split of a route, or nil if it has no rollout. It begins nothing, since the
// configuration may only be checked, or be refused.
func (g *gateway) newSplit(r Route, trusted trust) *split {
	if r.Rollout == nil {
		return nil
	}
	s := &split{settings: *r.Rollout, cfg: r.Rollout.config(trusted)}
	s.cfg.Store = g.rollouts.memory
	if s.settings.Store == redisStore {
		s.cfg.Store = g.rollouts.redis
	}
	label := r.label()
	report := telemetry.Observer[versioning.RolloutEvent](g.observer.tel, label)
	s.cfg.Observe = func(ctx context.Context, e versioning.RolloutEvent) {
		report(ctx, e)
		g.log.LogAttrs(ctx, slog.LevelInfo, "rollout", slog.String("route", label), inline(e))
	}
	if r.Cache != nil {
		if s.cfg.TagField == "" {
			s.cfg.TagField = "Surrogate-Key"
		}
		s.cfg.OnRollback = func(ctx context.Context, b versioning.Rollback) {
			if err := g.store.purger.PurgeTag(ctx, b.Tag, cache.Hard); err != nil {
				g.log.Error("a release that was rolled back is still cached", "route", label, "err", err)
			}
			g.store.snapshot.purged()
		}
	}
	return s
}

// wrap puts the split before a route's upstream. A nil split leaves it as it is.
func (s *split) wrap(stable http.Handler, upstreams map[string]*upstream) http.Handler {
	if s == nil {
		return stable
	}
	s.stable, s.canary, s.next = stable, upstreams[s.settings.Canary], stable
	return s
}

// decide puts the decision about the arm before a route's cache, if that needs it.
func (s *split) decide(next http.Handler) http.Handler {
	if s == nil || !s.settings.Apart {
		return next
	}
	s.outer, s.decided = next, next
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.decided.ServeHTTP(w, r) })
}

func (s *split) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.next.ServeHTTP(w, r) }

// begin starts the rollout, or lets that of old, the split with the same name before a reload, or
// nil, go on. It must be called before the first request.
func (s *split) begin(old *split, log *slog.Logger) {
	var err error
	if old != nil && old.rollout != nil && old.settings.Store == s.settings.Store {
		s.rollout, err = old.rollout, old.rollout.Reload(s.cfg)
	} else {
		s.rollout, err = versioning.NewRollout(s.cfg)
	}
	if err != nil { // cannot happen: the configuration was checked
		log.Error("rollout", "name", s.settings.Name, "err", err)
		return
	}
	s.next = s.rollout.Handler(s.stable, s.canary)
	if s.outer != nil {
		s.decided = s.rollout.Decide(s.outer)
	}
}

// retire ends the rollout if heir, the split of the same name after a reload, or nil, has not taken
// it over. Its state stays in the store.
func (s *split) retire(heir *split) {
	if s.rollout != nil && (heir == nil || heir.rollout != s.rollout) {
		_ = s.rollout.Close(context.Background())
	}
}

// closeNow ends a rollout that has served nothing.
func closeNow(r *versioning.Rollout) { _ = r.Close(context.Background()) }

// splitOf returns the split with that name, or nil. gen may be nil.
func (gen *generation) splitOf(name string) *split {
	if gen == nil {
		return nil
	}
	return gen.splits[name]
}
