package cache

import (
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"reflect"
	"time"
)

// Restore reads what [Memory.Save] wrote and adds it to the cache, except for keys that have a
// value or are being loaded: those are newer. Call it before the cache is used: it does not know
// what was deleted since Save, nor which tags were invalidated before it began.
//
// TTLs went on since Save, by the wall clock; idle times start anew. If the cache cannot hold
// everything, Restore takes what Save ranked best. If the snapshot is damaged, of another version
// or [MemoryConfig.Schema], or of types whose names, packages, fields or their kinds and tags are
// not the same, the error wraps [ErrSnapshot] and says what differs, and the cache is as it was. An
// error of r is wrapped as it is. Restore only files of your own: see the security notes of
// [encoding/gob].
func (m *Memory[K, V]) Restore(r io.Reader) error {
	// As a load does: what is invalidated from now on is not brought back.
	m.tags.loading.Add(1)
	defer m.tags.loading.Add(-1)
	seq := m.tags.clock.Load()
	records, elapsed, err := m.readSnapshot(r)
	if err != nil {
		return err
	}
	// The best last: it is then the most recently used.
	for i := len(records) - 1; i >= 0; i-- {
		m.restore(records[i], elapsed, seq)
	}
	return nil
}

// readSnapshot returns the best records that fit, and the time since they were saved.
func (m *Memory[K, V]) readSnapshot(
	r io.Reader,
) (records []record[K, V], elapsed time.Duration, err error) {
	header := make([]byte, len(snapshotMagic)+2)
	if _, err := io.ReadFull(r, header); err != nil || !bytes.HasPrefix(header, []byte(snapshotMagic)) {
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return nil, 0, fmt.Errorf("cache: restore: %w", err)
		}
		return nil, 0, fmt.Errorf("%w: it does not begin with %q", ErrSnapshot, snapshotMagic)
	}
	if v := binary.BigEndian.Uint16(header[len(snapshotMagic):]); v != snapshotVersion {
		return nil, 0, fmt.Errorf(
			"%w: version %d, and this reads version %d", ErrSnapshot, v, snapshotVersion)
	}
	frames := &frameReader{r: r}
	dec := gob.NewDecoder(frames)
	decode := func(v any) error {
		err := dec.Decode(v)
		switch {
		case frames.err != nil && frames.err != io.EOF:
			return frames.err
		case err != nil && err != io.EOF:
			return fmt.Errorf("%w: %w", ErrSnapshot, err)
		}
		return err
	}
	var head snapshotHead
	if err := decode(&head); err == io.EOF {
		return nil, 0, fmt.Errorf("%w: it is empty", ErrSnapshot)
	} else if err != nil {
		return nil, 0, err
	}
	if key := reflect.TypeFor[K]().String(); head.Key != key {
		return nil, 0, fmt.Errorf("%w: its keys are %s, the cache's are %s", ErrSnapshot, head.Key, key)
	}
	if value := reflect.TypeFor[V]().String(); head.Value != value {
		return nil, 0, fmt.Errorf("%w: its values are %s, the cache's are %s", ErrSnapshot, head.Value, value)
	}
	if differs := difference(head.Structure, m.structure()); differs != "" {
		return nil, 0, fmt.Errorf("%w: %s", ErrSnapshot, differs)
	}
	if head.Schema != m.cfg.Schema {
		return nil, 0, fmt.Errorf(
			"%w: its schema is %q, the cache's is %q", ErrSnapshot, head.Schema, m.cfg.Schema)
	}
	// A clock that went back makes nothing older.
	elapsed = max(0, time.Since(time.Unix(0, head.Saved)))
	room := m.max
	for {
		var rec record[K, V]
		if err := decode(&rec); err == io.EOF {
			return records, elapsed, nil
		} else if err != nil {
			return nil, 0, err
		}
		// A record that does not fit is read all the same: it may be damaged.
		weight := m.weight(rec.Key, rec.Value)
		switch {
		case weight > m.heaviest || !findable(rec.Key): // would be refused
		case weight <= room:
			room -= weight
			records = append(records, rec)
		default:
			room = 0
		}
	}
}

func (m *Memory[K, V]) restore(r record[K, V], elapsed time.Duration, seq uint64) {
	hash := m.hash(r.Key)
	s := m.shard(hash)
	now := m.now()
	var until int64
	if r.Left != 0 {
		left := time.Duration(max(r.Left, -math.MaxInt64/2)) - min(elapsed, math.MaxInt64/2)
		until = orMinus1(after(now, left))
	}
	weight := m.weight(r.Key, r.Value)
	var d *details
	if len(r.Tags) > 0 {
		tags, ok := m.tags.acquire(r.Tags, seq)
		if !ok {
			return
		}
		d = &details{seq: seq, tags: tags}
	}
	e := m.newEntry(hash, r.Key, r.Value, now, until, d)
	if x := e.extended(); x != nil {
		x.took = r.Took
	}
	var events []MemoryEvent[K, V]
	s.mu.Lock()
	old := s.table.Load().find(hash, r.Key)
	newer := s.flights[r.Key] != nil || old != nil && m.condition(old, now) == fresh
	if newer || m.condition(e, now) == gone {
		m.tags.release(e.tags())
	} else if s.storeLocked(old, e, weight, now, &events) {
		s.policy.recall(e.tag, int(r.Frequency)-s.policy.frequency(e.tag)) // storing it may be a use
	}
	s.mu.Unlock()
	m.notify(m.loads.ctx, events)
}

// A frameReader reads frames. What is read from it has passed the check of its frame.
type frameReader struct {
	r   io.Reader
	buf []byte // checked and not yet read
	sum uint32
	n   int // number of the frame that is being read, from 1
	err error
}

func (f *frameReader) Read(p []byte) (int, error) {
	for len(f.buf) == 0 && f.err == nil {
		f.err = f.next()
	}
	if len(f.buf) == 0 {
		return 0, f.err
	}
	n := copy(p, f.buf)
	f.buf = f.buf[n:]
	return n, nil
}

func (f *frameReader) next() error {
	f.n++
	var word [4]byte
	if err := f.readFull(word[:]); err != nil {
		return err
	}
	length := binary.BigEndian.Uint32(word[:])
	if length > maxFrame {
		return fmt.Errorf("%w: frame %d claims %d bytes", ErrSnapshot, f.n, length)
	}
	payload := make([]byte, length)
	if err := f.readFull(payload); err != nil {
		return err
	}
	if err := f.readFull(word[:]); err != nil {
		return err
	}
	f.sum = crc32.Update(f.sum, castagnoli, payload)
	if f.sum != binary.BigEndian.Uint32(word[:]) {
		return fmt.Errorf("%w: frame %d is damaged", ErrSnapshot, f.n)
	}
	if length == 0 {
		return io.EOF
	}
	f.buf = payload
	return nil
}

func (f *frameReader) readFull(p []byte) error {
	_, err := io.ReadFull(f.r, p)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: it ends within frame %d", ErrSnapshot, f.n)
	}
	if err != nil {
		return fmt.Errorf("cache: restore: %w", err)
	}
	return nil
}
