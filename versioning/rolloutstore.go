package versioning

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"
)

// A RolloutStore keeps the state of rollouts and what their replicas have seen. It must be safe for
// concurrent use. [NewMemoryRolloutStore] has one for one process, package redisrollout one for
// several.
type RolloutStore interface {
	// Sync replaces what a replica has seen and returns what is known of the rollout with that
	// name.
	Sync(ctx context.Context, name string, report RolloutReport) (RolloutShared, error)

	// Change replaces the state by next, with the revision after next.Revision, if the present one
	// has next.Revision; changed says whether it was so. It returns what is known then. If the
	// epoch changes, Age begins again and all evidence goes. If next.Attempt is not empty and that
	// of the present state, this change has been made already, by a call whose answer was lost:
	// then changed is true and nothing is replaced.
	Change(ctx context.Context, name string, next RolloutState) (now RolloutShared, changed bool, err error)
}

// A RolloutReport is what one replica has seen in an epoch.
type RolloutReport struct {
	Replica  string // names the replica as long as its process runs
	Epoch    uint64
	Evidence []byte // a few kilobytes
}

// RolloutShared is what a [RolloutStore] knows of a rollout.
type RolloutShared struct {
	State    RolloutState      // Revision is zero if there is none
	Age      time.Duration     // since the epoch began, by the store's clock
	Evidence map[string][]byte // of the state's epoch, by replica
}

// A MemoryRolloutStore is a [RolloutStore] for the rollouts of one process. Create one with
// [NewMemoryRolloutStore]. A MemoryRolloutStore is safe for concurrent use. It never forgets a
// rollout.
type MemoryRolloutStore struct {
	mu       sync.Mutex // guards the fields below
	rollouts map[string]*memoryRollout
}

// maxReplicas is how many replicas' evidence is kept; those that are gone count too.
const maxReplicas = 512

type memoryRollout struct {
	state    RolloutState
	since    time.Time
	evidence map[string][]byte
}

// NewMemoryRolloutStore returns an empty store.
func NewMemoryRolloutStore() *MemoryRolloutStore {
	return &MemoryRolloutStore{rollouts: map[string]*memoryRollout{}}
}

func (m *MemoryRolloutStore) rolloutLocked(name string) *memoryRollout {
	r := m.rollouts[name]
	if r == nil {
		r = &memoryRollout{evidence: map[string][]byte{}}
		m.rollouts[name] = r
	}
	return r
}

func (r *memoryRollout) shared() RolloutShared {
	s := RolloutShared{State: r.state, Evidence: maps.Clone(r.evidence)}
	if r.state.Revision > 0 {
		s.Age = time.Since(r.since)
	}
	return s
}

// Sync implements [RolloutStore].
func (m *MemoryRolloutStore) Sync(
	_ context.Context, name string, report RolloutReport,
) (RolloutShared, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.rolloutLocked(name)
	_, known := r.evidence[report.Replica]
	if report.Epoch == r.state.Epoch && (known || len(r.evidence) < maxReplicas) {
		r.evidence[report.Replica] = report.Evidence
	}
	return r.shared(), nil
}

// Change implements [RolloutStore].
func (m *MemoryRolloutStore) Change(
	_ context.Context, name string, next RolloutState,
) (RolloutShared, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.rolloutLocked(name)
	if next.Attempt != "" && next.Attempt == r.state.Attempt {
		return r.shared(), true, nil
	}
	if next.Revision != r.state.Revision {
		return r.shared(), false, nil
	}
	if next.Epoch != r.state.Epoch {
		r.since = time.Now()
		clear(r.evidence)
	}
	next.Revision++
	r.state = next
	return r.shared(), true, nil
}

var errBadState = errors.New("versioning: the store's state is not a rollout's")
