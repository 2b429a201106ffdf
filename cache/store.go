package cache

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"
)

// A Store keeps responses for a [Cache]. [NewMemoryStore] has one. Implementations are safe for
// concurrent use.
//
// A Store knows nothing of HTTP: which response answers a request, and whether it is fresh, is the
// Cache's business. What was purged is the Store's.
type Store interface {
	// Get returns what is stored under key, nil if nothing is, and a [Mark] that was read before.
	// What was purged hard may be among it. Nobody changes what Get returns. An error makes the
	// request a miss.
	Get(ctx context.Context, key Key) (*Resource, Mark, error)

	// Put stores e under key, in place of the entry with the same Variant, unless that was received
	// later: a slow fetch must not bring back an older version. Beyond max entries, the ones that
	// were put longest ago leave. What was purged since e.Mark is not stored, or is found
	// by Purged later.
	Put(ctx context.Context, key Key, e *Entry, max int) error

	// Purged tells whether e was purged since e.Mark. It is called for every entry that is about to
	// be used, and for responses that are still being fetched: it must be quick, and calls nobody.
	// If the answer is Soft, since is when.
	Purged(e *Entry) (how Invalidation, since time.Time)

	// Purge purges what p tells, in every process that shares the store. When it returns nil, no
	// response that was fetched before is used any more by those who call Purged.
	Purge(ctx context.Context, p Purge) error

	// Capacity returns the store's bound in bytes.
	Capacity() int64
}

// A Key is the SHA-256 of all that tells one resource from another. Each [Entry] echoes what was
// hashed.
type Key [32]byte

// A Mark is a reading of a store's count of purges. What was fetched after a Mark was read knows
// all earlier purges.
type Mark uint64

// A Purge tells a [Store] what is purged: the entries with Label, or those whose URL begins with
// Prefix if Label is empty.
type Purge struct {
	Label  string
	Prefix string
	How    Invalidation
}

// A Resource is all that is stored under one [Key]: the variants of one URL, the latest first.
type Resource struct {
	Entries []*Entry
}

// An Entry is one stored response, whole or in parts. It is not changed once it is stored: an
// update is another Entry that may share the body. Its fields are what a Store that is not in
// memory must keep.
type Entry struct {
	Echo    string      // what was hashed into the Key; compared when the entry is read
	URL     string      // for purges by prefix: without scheme, see Purge
	Labels  []string    // for purges: of the URL, of its tags and groups
	Mark    Mark        // read before the response was fetched
	Variant string      // what tells it from other variants of the same Key
	Vary    []Selecting // the request's fields that the response depends on
	Pattern string      // of the route that answered, http.Request.Pattern

	Status   int
	Header   http.Header
	Trailer  http.Header
	Size     int64     // of the whole body in bytes; negative: not known
	Segments []Segment // the parts of the body that are there, in order, none next to another
	Loose    bool      // parts of it cannot be joined with others

	Age       time.Duration // the corrected initial age of RFC 9111, section 4.2.3, at Received
	Received  time.Time
	Requested time.Time

	Keep time.Duration // for how long after Received it may be of use, stale times included

	StaleSince time.Time // of a soft purge, if the store knows of it no more

	policy  atomic.Pointer[policyOf] // derived from the above
	checked atomic.Uint64            // MemoryStore's count of purges when this was found valid
	softAt  atomic.Int64             // Unix nanoseconds at which a soft purge was first noticed
	held    []*label                 // MemoryStore's labels, while the entry is stored
	uses    atomic.Int32             // MemoryStore's resources that the entry is in
	kept    time.Duration            // since Tiered.base, when it was stored or confirmed
}

// A Segment is a part of a body.
type Segment struct {
	Offset int64
	Data   []byte
}

// A Selecting is a request field that a response depends on, in normal form. Values of Cookie and
// Authorization are hashed.
type Selecting struct {
	Name  string
	Value string
	None  bool // the request did not have the field

	raw string // the value as it was, which is quicker to compare
}
