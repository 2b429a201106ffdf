package cache

import (
	"encoding"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"reflect"
	"time"
)

// ErrSnapshot reports that what [Memory.Restore] read is not a snapshot that it can use. The error
// that wraps it says why.
var ErrSnapshot = errors.New("cache: bad snapshot")

// A snapshot is the magic word, the version of the format, and frames: length, payload, and the
// CRC-32C of this payload and all before it. An empty frame is the end. The payloads together are a
// gob stream of one snapshotHead and any number of records, the one to keep longest first. Gob
// knows fields by their names, which must stay.
const (
	snapshotMagic   = "trivetMC"
	snapshotVersion = 2 // 1 did not tell the structure of types
	maxFrame        = 64 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type snapshotHead struct {
	Key, Value string   // types
	Structure  []string // of both: see structure
	Schema     string   // MemoryConfig.Schema
	Saved      int64    // Unix time in nanoseconds
}

type record[K comparable, V any] struct {
	Key       K
	Value     V
	Left      int64         // nanoseconds of the TTL, negative beyond its end; 0 means for ever
	Took      time.Duration // to load it; 0 if it was set
	Tags      []string
	Frequency uint8
}

// Save writes the values and what the cache knows about them to w. Write to a new file and rename
// it: an error leaves half a snapshot behind. The cache stays in use meanwhile: what is set,
// removed or invalidated after Save has begun may be in the snapshot as it was. Kept errors are
// not saved.
//
// The encoding is that of [encoding/gob], so K and V must be types that gob can encode.
// Unexported fields of values are lost, and pointers in them to zeros become nil. Save refuses
// keys that are or have pointers or unexported fields, and values that are pointers to anything
// but structs, unless their types encode themselves. The format is versioned and checksummed, and
// not encrypted. It tells the structure of both types, for [Memory.Restore] to compare; it cannot
// tell that of what is in an interface, nor what a value means: see [MemoryConfig.Schema].
func (m *Memory[K, V]) Save(w io.Writer) error {
	// Gob reports no error when it leaves out what it cannot encode, or zeros.
	if t := reflect.TypeFor[K](); ambiguous(t) {
		return fmt.Errorf("cache: save: keys of type %v cannot be encoded", t)
	}
	if t := reflect.TypeFor[V](); lost(t) {
		return fmt.Errorf("cache: save: values of type %v cannot be encoded", t)
	}
	header := binary.BigEndian.AppendUint16([]byte(snapshotMagic), snapshotVersion)
	if _, err := w.Write(header); err != nil {
		return fmt.Errorf("cache: save: %w", err)
	}
	frames := &frameWriter{w: w}
	enc := gob.NewEncoder(frames)
	head := snapshotHead{
		Key:       reflect.TypeFor[K]().String(),
		Value:     reflect.TypeFor[V]().String(),
		Structure: m.structure(),
		Schema:    m.cfg.Schema,
		Saved:     time.Now().UnixNano(),
	}
	if err := enc.Encode(head); err != nil {
		return fmt.Errorf("cache: save: %w", err)
	}
	now := m.now()
	shards := make([][]*entry[K, V], len(m.shards))
	frequencies := make([][]uint8, len(m.shards))
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		s.drainLocked()
		shards[i] = make([]*entry[K, V], 0, s.count)
		s.policy.order(func(slot uint32) {
			e := s.slots[slot]
			shards[i] = append(shards[i], e)
			frequencies[i] = append(frequencies[i], uint8(s.policy.frequency(e.tag)))
		})
		s.mu.Unlock()
	}
	// One entry of each shard after the other, so that the best of every shard comes first.
	for at, left := 0, true; left; at++ {
		left = false
		for i := range shards {
			if at >= len(shards[i]) {
				continue
			}
			left = true
			e := shards[i][at]
			if e.failed() || m.condition(e, now) == gone {
				continue
			}
			r := m.record(e, now)
			r.Frequency = frequencies[i][at]
			if err := enc.Encode(r); err != nil {
				return fmt.Errorf("cache: save: %w", err)
			}
		}
	}
	if err := frames.close(); err != nil {
		return fmt.Errorf("cache: save: %w", err)
	}
	return nil
}

// structure describes the types of keys and values.
func (m *Memory[K, V]) structure() []string {
	return append(structure("key", reflect.TypeFor[K]()), structure("value", reflect.TypeFor[V]())...)
}

// lost reports whether gob would encode nothing of a value of type t, or turn a pointer to zero
// into nil.
func lost(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Func, reflect.Chan:
		return !encodesItself(t)
	case reflect.Pointer:
		return t.Elem().Kind() != reflect.Struct && !encodesItself(t)
	}
	return false
}

// ambiguous reports whether two keys of type t may be the same once they were encoded: then one
// would get the other's value. Pointers are ambiguous, since a restored one equals no other.
func ambiguous(t reflect.Type) bool {
	if encodesItself(t) {
		return false
	}
	switch t.Kind() {
	case reflect.Func, reflect.Chan, reflect.Pointer:
		return true
	case reflect.Array:
		return ambiguous(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); !f.IsExported() || ambiguous(f.Type) {
				return true
			}
		}
	}
	return false
}

func encodesItself(t reflect.Type) bool {
	return t.Implements(reflect.TypeFor[gob.GobEncoder]()) ||
		t.Implements(reflect.TypeFor[encoding.BinaryMarshaler]())
}

func (m *Memory[K, V]) record(e *entry[K, V], now int64) record[K, V] {
	r := record[K, V]{Key: e.key, Value: e.load(m.storage)}
	x := e.extended()
	if x == nil {
		return r
	}
	r.Took = x.took
	until, _ := m.times(x)
	if x.details != nil {
		for _, t := range x.details.tags {
			r.Tags = append(r.Tags, t.name)
		}
		if soft, _ := x.details.invalidated(); soft != 0 && (until == 0 || soft < until) {
			until = soft
		}
	}
	if until != 0 {
		r.Left = orMinus1(until - now)
	}
	return r
}

// orMinus1 replaces a time that happens to be 0, which would mean for ever.
func orMinus1(t int64) int64 {
	if t == 0 {
		return -1
	}
	return t
}

// A frameWriter cuts what is written to it into frames.
type frameWriter struct {
	w   io.Writer
	buf []byte
	sum uint32
}

func (f *frameWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		take := min(len(p), maxFrame-len(f.buf))
		f.buf = append(f.buf, p[:take]...)
		p = p[take:]
		if len(f.buf) == maxFrame {
			if err := f.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (f *frameWriter) flush() error {
	f.sum = crc32.Update(f.sum, castagnoli, f.buf)
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(f.buf)))
	frame = append(frame, f.buf...)
	frame = binary.BigEndian.AppendUint32(frame, f.sum)
	f.buf = f.buf[:0]
	_, err := f.w.Write(frame)
	return err
}

// close writes the last payload and the empty frame. It does not close f.w.
func (f *frameWriter) close() error {
	if len(f.buf) > 0 {
		if err := f.flush(); err != nil {
			return err
		}
	}
	return f.flush()
}
