package cache

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
)

const (
	defaultNearTTL = 2 * time.Second
	defaultFarWait = 2 * time.Second

	reachedMarks = 1024 // a power of two
)

// TieredConfig configures a [Tiered].
type TieredConfig struct {
	// Near is what this process keeps. Required. It is the Tiered's alone.
	Near *MemoryStore

	// Far is what all processes share. Required.
	Far FarStore

	// NearTTL is for how long a response in Near is used after it was stored or confirmed. While
	// [Tiered.Run] runs and Far can be reached, all are confirmed again and again. Zero means 2
	// seconds. Negative is invalid.
	NearTTL time.Duration

	// Wait is for how long a request waits while another process fetches what it asks for; then it
	// is fetched here too. Zero means 2 seconds: most origins have answered then, and if the other
	// process has died, its lock has ended after half of this. Negative means not at all.
	Wait time.Duration
}

// A Tiered is a [Store] of two tiers: a near one in this process, and a far one that several
// processes share. What one process has fetched, all have, and a purge reaches all of them. Create
// one with [NewTiered]. It is safe for concurrent use.
//
// [Tiered.Run] must run, started by the caller. Without it, responses in the near tier are used for
// TieredConfig.NearTTL only, and each process fetches for itself.
//
// A purge that has returned nil is one that all processes whose Run runs and that reach Far learn
// of at once, and the others within NearTTL. Without Far, what is purged is purged in this process,
// and the purge is an error: it must be repeated. Run repeats it too, when Far can be reached
// again, so that an unsafe request that came meanwhile is not forgotten; a purge that is still to
// be repeated is lost when the process ends.
//
// Since the processes know different things about the URLs of one path, a Cache on a Tiered obeys
// no No-Vary-Search, and keeps no response to POST.
type Tiered struct {
	near *MemoryStore
	far  FarStore
	ttl  time.Duration
	wait time.Duration
	base time.Time // NearTTL before the Tiered was made

	// What Far had purged at this time since base is purged in near.
	confirmed atomic.Int64
	running   atomic.Bool // Run runs
	up        atomic.Bool // the announcements are heard
	failing   atomic.Bool // what far was asked last failed

	mu      sync.Mutex // guards the fields below; orders purges
	reached [reachedMarks]reachedMark
	last    Mark // of far, that is purged in near

	turns turns
	owed  owed

	pullsMu sync.Mutex // guards the field below
	pulls   map[Key]*pull

	farHits, misses, failures, unreached atomic.Uint64
}

// A reachedMark tells what was purged in far at the latest when the near tier's clock had a value.
type reachedMark struct{ near, far Mark }

// NewTiered returns a Tiered. The error, if any, names every invalid field of cfg.
func NewTiered(cfg TieredConfig) (*Tiered, error) {
	f := settings.Of("cache", "TieredConfig")
	if cfg.Near == nil {
		f.Add("Near", "is required")
	}
	if cfg.Far == nil {
		f.Add("Far", "is required")
	}
	settings.Positive(f, "NearTTL", &cfg.NearTTL, defaultNearTTL)
	settings.Default(f, "Wait", &cfg.Wait, defaultFarWait)
	if err := f.Err(); err != nil {
		return nil, err
	}
	t := &Tiered{near: cfg.Near, far: cfg.Far, ttl: cfg.NearTTL, wait: cfg.Wait, pulls: make(map[Key]*pull)}
	t.base = time.Now().Add(-t.ttl) // so that zero, as in what was restored, is too long ago
	near := Mark(t.near.purges.clock.Load())
	t.reached[near%reachedMarks].near = near // what far has purged before is not known to be purged here
	t.turns.init()
	t.far.Follow(t.learn)
	return t, nil
}

// Run keeps the near tier confirmed until ctx ends, and returns the cause of that, or an error of
// Far that does not pass: that its client was closed, say. Call it on a goroutine of its own; when
// it has returned it may be called again. While it runs, another call is an error.
func (t *Tiered) Run(ctx context.Context) error {
	if !t.running.CompareAndSwap(false, true) {
		return errRunning
	}
	defer t.running.Store(false)
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	wake := make(chan struct{}, 1)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		defer t.up.Store(false)
		err := errors.New("cache: TieredConfig.Far: Watch ended its goroutine, or panicked")
		defer func() {
			recover()
			end(err)
		}()
		err = t.far.Watch(ctx, func(n News) { t.hear(n, wake) })
	}()
	defer func() {
		end(nil) // Sync may have panicked
		<-watched
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-wake:
		case <-timer.C:
		}
		t.sync(ctx)
		// Processes that were started together do not ask together.
		timer.Reset(t.ttl/4 - rand.N(t.ttl/16+1))
	}
}

var errRunning = errors.New("cache: Tiered.Run runs already")

// sync confirms what is in the near tier.
func (t *Tiered) sync(ctx context.Context) {
	t.repay(ctx)
	now := time.Since(t.base) // before far is asked
	if t.failed(t.far.Sync(ctx)) {
		return
	}
	t.confirmed.Store(int64(now))
}

// hear takes in what is announced. It must not block: what comes next waits.
func (t *Tiered) hear(n News, wake chan<- struct{}) {
	switch n.Kind {
	case NewsFetched:
		t.turns.tell(n)
		return
	case NewsUp:
		t.up.Store(true)
		t.turns.tellAll(n) // the end of a fetch may have been announced and not heard
	case NewsDown:
		t.up.Store(false)
		t.turns.tellAll(n)
	}
	select {
	case wake <- struct{}{}:
	default:
	}
}

// learn takes in a purge that far knows of.
func (t *Tiered) learn(p FarPurge) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = p.Mark
	t.purgeLocked(p.Purge, p.At)
}

func (t *Tiered) purgeLocked(p Purge, at time.Time) {
	t.near.purges.add(p, at)
	near := t.near.purges.clock.Load()
	t.reached[near%reachedMarks] = reachedMark{near: Mark(near), far: t.last}
}

// farMark returns the mark of far for one of the near tier. It reports false if that is not known
// any more.
func (t *Tiered) farMark(near Mark) (Mark, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.reached[near%reachedMarks]
	return r.far, r.near == near
}

// Get implements [Store].
func (t *Tiered) Get(ctx context.Context, key Key) (*Resource, Mark, error) {
	if r, mark := t.getHere(key); r != nil {
		return r, mark, nil
	}
	return t.pull(ctx, key)
}

// sure reports whether what is in the near tier may be used.
func (t *Tiered) sure(r *Resource) bool {
	now := time.Since(t.base)
	if now < time.Duration(t.confirmed.Load())+t.ttl {
		return true
	}
	for _, e := range r.Entries {
		if now >= e.kept+t.ttl {
			return false
		}
	}
	return true
}

// Put implements [Store].
func (t *Tiered) Put(ctx context.Context, key Key, e *Entry, most int) error {
	far := e.clone() // first: e is shared once it is in the near tier
	if err := t.putHere(ctx, key, e, most); err != nil {
		return err
	}
	var known bool
	if far.Mark, known = t.farMark(e.Mark); !known {
		return errNearOnly // too much was purged meanwhile
	}
	how, since := t.near.Purged(e)
	switch how {
	case Hard:
		return nil
	case Soft:
		far.StaleSince = since
	default:
		// A label that nothing stored had at that moment knows nothing of a purge.
		if t.near.purges.recently(e) {
			return nil
		}
	}
	err := t.far.Put(ctx, key, far, most)
	if errors.Is(err, ErrTooLarge) {
		return errNearOnly
	}
	t.failed(err)
	return err
}

// errNearOnly is what Put returns for what is in the near tier and is not meant for far.
var errNearOnly = errors.New("cache: stored in this process only")

// failed reports whether err is one, and accounts for it. While far fails, nobody waits for what it
// would announce.
func (t *Tiered) failed(err error) bool {
	failing := err != nil
	if failing {
		t.failures.Add(1)
	}
	if failing != t.failing.Load() && t.failing.Swap(failing) != failing && failing {
		t.turns.tellAll(News{Kind: NewsDown})
	}
	return failing
}

// Purged implements [Store].
func (t *Tiered) Purged(e *Entry) (how Invalidation, since time.Time) { return t.near.purges.of(e) }

// ErrUnreached reports that a purge has reached this process and not the others: it must be
// repeated.
var ErrUnreached = errors.New("cache: purged in this process only")

// Purge implements [Store].
func (t *Tiered) Purge(ctx context.Context, p Purge) error {
	t.purgeNear(p)
	if err := t.far.Purge(ctx, p); err != nil {
		t.unreached.Add(1)
		t.purgeHere(p) // again: far may have been asked for it meanwhile
		return errors.Join(ErrUnreached, err)
	}
	return nil
}

// Capacity implements [Store]. It is that of the near tier.
func (t *Tiered) Capacity() int64 { return t.near.Capacity() }
