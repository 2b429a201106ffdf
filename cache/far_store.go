package cache

import (
	"context"
	"errors"
	"time"
)

// ErrTooLarge is what Put of a [FarStore] returns for a response that is too large for it. A
// [Tiered] keeps such a one in its near tier, and no process waits for another's.
var ErrTooLarge = errors.New("cache: the response is too large for the store")

// A FarStore is a [Store] that several processes share, and that a [Tiered] can have as its far
// tier. rediscache.Store is one. A Mark of it is the number of purges in all processes, or grows
// with it: purges are told in the order of their marks.
//
// What Get returns belongs to its caller, who may change everything but bodies.
type FarStore interface {
	Store

	// Follow has told called for each purge that this process learns of, in order, before Purged
	// counts it. It is called with a lock held: it must be quick, and calls nobody. It is called
	// once, before the store is used.
	Follow(told func(FarPurge))

	// Sync returns when told has been called for all that was purged before Sync was called.
	Sync(ctx context.Context) error

	// Watch calls news for what this and other processes announce, one at a time, until ctx ends;
	// it returns the cause of that. It connects again when a connection is lost.
	Watch(ctx context.Context, news func(News)) error

	// Lock makes its caller the one that fetches what belongs under key, for as long as limit,
	// unless somebody else is.
	Lock(ctx context.Context, key Key, limit time.Duration) (FarLock, error)

	// Extend lets a lock last for as long as limit from now on. It reports whether it is still
	// held.
	Extend(ctx context.Context, key Key, token uint64, limit time.Duration) (held bool, err error)

	// Unlock ends a lock if it is still held, and announces that: stored tells whether what was
	// fetched is in the store.
	Unlock(ctx context.Context, key Key, token uint64, stored bool) error
}

// A FarPurge is a purge that this process has learned of.
type FarPurge struct {
	Purge      // of everything, if what was purged is not known
	Mark  Mark // once it is counted
	At    time.Time
}

// A FarLock is the state of a lock after an attempt to take it.
type FarLock struct {
	Token uint64        // of the caller, whose lock it is; zero if another has it. Later ones are greater
	Left  time.Duration // until the other's lock ends by itself
}

// News is what processes tell each other, at once but not surely: whoever is not connected misses
// it.
type News struct {
	Kind   NewsKind
	Key    Key  // of NewsFetched
	Stored bool // of NewsFetched: it is in the store
}

// A NewsKind says what a [News] is about.
type NewsKind string

// The kinds of News.
const (
	NewsPurged  NewsKind = "purged"  // something may have been purged: Sync tells
	NewsFetched NewsKind = "fetched" // a fetch has ended, and its lock too
	NewsUp      NewsKind = "up"      // what is announced from now on is heard
	NewsDown    NewsKind = "down"    // the connection is lost
)
