package cache

import (
	"bytes"
	"encoding"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"reflect"
	"time"
)

// ErrSnapshot reports that what [Memory.Restore] read is not a snapshot that it
// can use. The error that wraps it says why.
var ErrSnapshot = errors.New("cache: bad snapshot")

// A snapshot is the magic word, the version of the format, and frames: length,
// payload, and the CRC-32C of this payload and all before it. An empty
// frame is the end. The payloads together are a gob stream of one
// snapshotHead and any number of records, the one to keep longest first.
const (
	snapshotMagic   = "trivetMC"
	snapshotVersion = 1
	maxFrame        = 64 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type snapshotHead struct {
	Key, Value string // types
	Saved      int64  // Unix time in nanoseconds
}

type record[K comparable, V any] struct {
	Key       K
	Value     V
	Left      int64 // nanoseconds of the TTL, negative beyond its end; 0 is for ever
	Took      time.Duration
	Tags      []string
	Frequency uint8
}

// Save writes the values and what the cache knows about them to w, in the
// encoding of [encoding/gob]: so K and V must be types that gob can encode; unexported
// fields of values are lost, and pointers in them to zeros become nil. It refuses keys that are or have pointers or unexported fields,
// and values that are pointers to anything but structs, unless their types encode themselves. Kept errors are not saved. The cache stays in use
// meanwhile: what is set, removed or invalidated after Save has begun may be in the
// snapshot as it was. The format is versioned and checksummed, and not encrypted. Write
// to a new file and rename it, for an error leaves half of one behind.
func (m *Memory[K, V]) Save(w io.Writer) error {
	// Gob leaves out what it cannot encode, and zeros, without a word.
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
	head := snapshotHead{reflect.TypeFor[K]().String(), reflect.TypeFor[V]().String(), time.Now().UnixNano()}
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
	// By turns, so that the best of every shard comes first.
	for at, more := 0, true; more; at++ {
		more = false
		for i := range shards {
			if at >= len(shards[i]) {
				continue
			}
			more = true
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

// lost reports whether gob would encode nothing of a value of type t, or make nil of a pointer to zero.
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
// would get the other's value. Nobody can have a pointer that is restored.
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
	return t.Implements(reflect.TypeFor[gob.GobEncoder]()) || t.Implements(reflect.TypeFor[encoding.BinaryMarshaler]())
}

// record returns what is to be saved of e.
func (m *Memory[K, V]) record(e *entry[K, V], now int64) record[K, V] {
	r := record[K, V]{Key: e.key, Value: e.load(m.storage)}
	f := e.full()
	if f == nil {
		return r
	}
	r.Took = f.took
	until, _ := m.times(f)
	if f.more != nil {
		for _, t := range f.more.tags {
			r.Tags = append(r.Tags, t.name)
		}
		if soft, _ := f.more.invalidated(); soft != 0 && (until == 0 || soft < until) {
			until = soft
		}
	}
	if until != 0 {
		r.Left = orMinus1(until - now)
	}
	return r
}

// orMinus1 keeps a time that happens to be 0 from meaning for ever.
func orMinus1(t int64) int64 {
	if t == 0 {
		return -1
	}
	return t
}

// Restore reads what [Memory.Save] wrote and adds it to the cache, except for keys
// that have a value or are being loaded: those are newer. TTLs went on
// while the snapshot lay about, by the wall clock; idle times start anew. Of more
// than the cache can hold it takes the best. If the snapshot is damaged, or of
// another version or other types, the error wraps [ErrSnapshot] and the
// cache is as it was; an error of r is wrapped as it is. Call it before the cache is used: it
// does not know what was deleted since Save, nor which tags were invalidated before it began. Restore is for files of one's own, not for those of
// strangers: see the security notes of [encoding/gob].
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

// readSnapshot returns the best records that fit, and for how long they have lain about.
func (m *Memory[K, V]) readSnapshot(r io.Reader) (records []record[K, V], elapsed time.Duration, err error) {
	header := make([]byte, len(snapshotMagic)+2)
	if _, err := io.ReadFull(r, header); err != nil || !bytes.HasPrefix(header, []byte(snapshotMagic)) {
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return nil, 0, fmt.Errorf("cache: restore: %w", err)
		}
		return nil, 0, fmt.Errorf("%w: it does not begin with %q", ErrSnapshot, snapshotMagic)
	}
	if v := binary.BigEndian.Uint16(header[len(snapshotMagic):]); v != snapshotVersion {
		return nil, 0, fmt.Errorf("%w: version %d, and this reads version %d", ErrSnapshot, v, snapshotVersion)
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
		// What does not fit is read all the same: it may be damaged.
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

// restore adds one record.
func (m *Memory[K, V]) restore(r record[K, V], elapsed time.Duration, seq uint64) {
	hash := m.hash(r.Key)
	s := m.shard(hash)
	now := m.now()
	var until int64
	if r.Left != 0 {
		until = orMinus1(after(now, time.Duration(max(r.Left, -math.MaxInt64/2))-min(elapsed, math.MaxInt64/2)))
	}
	weight := m.weight(r.Key, r.Value)
	var more *details
	if len(r.Tags) > 0 {
		tags, ok := m.tags.acquire(r.Tags, seq)
		if !ok {
			return
		}
		more = &details{seq: seq, tags: tags}
	}
	e := m.newEntry(hash, r.Key, r.Value, now, until, more)
	if f := e.full(); f != nil {
		f.took = r.Took
	}
	var events []MemoryEvent[K, V]
	s.mu.Lock()
	old := s.table.Load().find(hash, r.Key)
	if s.flights[r.Key] != nil || old != nil && m.condition(old, now) == fresh || m.condition(e, now) == gone {
		m.tags.release(e.tags())
	} else if s.storeLocked(old, e, weight, now, &events) {
		s.policy.recall(e.tag, int(r.Frequency)-1) // storing it was one use
	}
	s.mu.Unlock()
	m.notify(m.loads.ctx, events)
}

// A frameWriter cuts what it is given into frames.
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

// close writes what is left, and the empty frame.
func (f *frameWriter) close() error {
	if len(f.buf) > 0 {
		if err := f.flush(); err != nil {
			return err
		}
	}
	return f.flush()
}

// A frameReader reads frames, and gives out only what it has checked.
type frameReader struct {
	r   io.Reader
	buf []byte // checked and not yet read
	sum uint32
	n   int // frames
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
	if err := f.full(word[:]); err != nil {
		return err
	}
	length := binary.BigEndian.Uint32(word[:])
	if length > maxFrame {
		return fmt.Errorf("%w: frame %d claims %d bytes", ErrSnapshot, f.n, length)
	}
	payload := make([]byte, length)
	if err := f.full(payload); err != nil {
		return err
	}
	if err := f.full(word[:]); err != nil {
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

// full reads all of p.
func (f *frameReader) full(p []byte) error {
	_, err := io.ReadFull(f.r, p)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: it ends within frame %d", ErrSnapshot, f.n)
	}
	if err != nil {
		return fmt.Errorf("cache: restore: %w", err)
	}
	return nil
}
