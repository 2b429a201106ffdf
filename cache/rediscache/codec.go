package rediscache

import (
	"encoding/binary"
	"errors"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/trivet-go/trivet/cache"
)

// A value in Redis is one entry: a header of fixed length, with a checksum of what follows it, and
// then the entry's fields, each list preceded by its length and each text by its own. An entry is
// read only where it was written for: under its key, and in the epoch of its mark.

const (
	magic    = "TRC\x01" // the last byte is the version: an entry of another one is a miss
	sumAt    = len(magic)
	epochAt  = sumAt + 8
	keyAt    = epochAt + 8
	bodyAt   = keyAt + 32
	maxSlack = 256 << 10 // bytes of an entry besides its body

	maxLabels   = 4096
	maxVary     = 256
	maxFields   = 1024 // of a header
	maxValues   = 1024 // of a field
	maxSegments = 64
)

var (
	errTooMuch = errors.New("the entry has more parts than are read")
	errValue   = errors.New("not an entry of this release, or damaged")
	errOther   = errors.New("the entry of another key, or of another epoch")
)

// encode returns e as it is stored under key.
func encode(e *cache.Entry, key cache.Key, epoch uint64) ([]byte, error) {
	size := 1024
	for _, s := range e.Segments {
		size += len(s.Data) + 20
	}
	b := make([]byte, bodyAt, size)
	copy(b, magic)
	binary.LittleEndian.PutUint64(b[epochAt:], epoch)
	copy(b[keyAt:], key[:])
	b = binary.AppendUvarint(b, uint64(e.Mark))
	for _, s := range [...]string{e.Echo, e.URL, e.Variant, e.Pattern} {
		b = appendText(b, s)
	}
	if len(e.Labels) > maxLabels || len(e.Vary) > maxVary || len(e.Segments) > maxSegments {
		return nil, errTooMuch
	}
	b = binary.AppendUvarint(b, uint64(len(e.Labels)))
	for _, l := range e.Labels {
		b = appendText(b, l)
	}
	b = binary.AppendUvarint(b, uint64(len(e.Vary)))
	for _, v := range e.Vary {
		b = appendText(b, v.Name)
		b = appendText(b, v.Value)
		b = appendBool(b, v.None)
	}
	b = binary.AppendUvarint(b, uint64(e.Status))
	var err error
	for _, h := range [...]http.Header{e.Header, e.Trailer} {
		if b, err = appendFields(b, h); err != nil {
			return nil, err
		}
	}
	b = binary.AppendVarint(b, e.Size)
	b = appendBool(b, e.Loose)
	b = binary.AppendVarint(b, int64(e.Age))
	b = binary.AppendVarint(b, int64(e.Keep))
	b = binary.AppendVarint(b, int64(e.Received.Sub(e.Requested)))
	b = appendBool(b, !e.StaleSince.IsZero())
	if !e.StaleSince.IsZero() {
		b = binary.AppendVarint(b, int64(e.StaleSince.Sub(e.Received)))
	}
	b = binary.AppendUvarint(b, uint64(len(e.Segments)))
	for _, s := range e.Segments {
		b = binary.AppendUvarint(b, uint64(s.Offset))
		b = binary.AppendUvarint(b, uint64(len(s.Data)))
		b = append(b, s.Data...)
	}
	binary.LittleEndian.PutUint64(b[sumAt:], xxhash.Sum64(b[epochAt:]))
	return b, nil
}

func appendText(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendFields(b []byte, h http.Header) ([]byte, error) {
	if len(h) > maxFields {
		return nil, errTooMuch
	}
	b = binary.AppendUvarint(b, uint64(len(h)))
	for name, values := range h {
		if len(values) > maxValues {
			return nil, errTooMuch
		}
		b = appendText(b, name)
		b = binary.AppendUvarint(b, uint64(len(values)))
		for _, v := range values {
			b = appendText(b, v)
		}
	}
	return b, nil
}

// decode reads what encode wrote. received is when the response came, by this process' clock.
// Nothing of the result refers to value.
func decode(value string, key cache.Key, epoch uint64, received time.Time) (*cache.Entry, error) {
	if len(value) < bodyAt || value[:sumAt] != magic ||
		binary.LittleEndian.Uint64([]byte(value[sumAt:epochAt])) != xxhash.Sum64String(value[epochAt:]) {
		return nil, errValue
	}
	if binary.LittleEndian.Uint64([]byte(value[epochAt:keyAt])) != epoch ||
		value[keyAt:bodyAt] != string(key[:]) {
		return nil, errOther
	}
	d := decoder{rest: value[bodyAt:]}
	e := &cache.Entry{Received: received}
	e.Mark = cache.Mark(d.number())
	e.Echo, e.URL, e.Variant, e.Pattern = d.text(), d.text(), d.text(), d.text()
	e.Labels = make([]string, 0, d.count(maxLabels))
	for range cap(e.Labels) {
		e.Labels = append(e.Labels, d.text())
	}
	e.Vary = make([]cache.Selecting, 0, d.count(maxVary))
	for range cap(e.Vary) {
		e.Vary = append(e.Vary, cache.Selecting{Name: d.text(), Value: d.text(), None: d.bool()})
	}
	e.Status = int(d.number() % 100_000)
	e.Header = d.fields()
	if e.Trailer = d.fields(); len(e.Trailer) == 0 {
		e.Trailer = nil
	}
	e.Size, e.Loose = d.signed(), d.bool()
	e.Age, e.Keep = time.Duration(d.signed()), time.Duration(d.signed())
	e.Requested = received.Add(-time.Duration(d.signed()))
	if d.bool() {
		e.StaleSince = received.Add(time.Duration(d.signed()))
	}
	e.Segments = make([]cache.Segment, 0, d.count(maxSegments))
	for range cap(e.Segments) {
		e.Segments = append(e.Segments, cache.Segment{Offset: int64(d.number()), Data: []byte(d.take())})
	}
	if len(e.Segments) == 0 {
		e.Segments = nil
	}
	if d.bad || d.rest != "" || !sound(e) {
		return nil, errValue
	}
	return e, nil
}

// sound reports whether e is one that a Cache stores. What reads its segments relies on that.
func sound(e *cache.Entry) bool {
	if e.Status < 200 || e.Status > 999 || e.Size < -1 || e.Age < 0 || e.Keep < 0 || len(e.Labels) == 0 {
		return false
	}
	end := int64(-1)
	for _, s := range e.Segments {
		if s.Offset <= end || len(s.Data) == 0 || s.Offset > math.MaxInt64-int64(len(s.Data)) {
			return false
		}
		end = s.Offset + int64(len(s.Data))
		if e.Size >= 0 && end > e.Size {
			return false
		}
	}
	return true
}

// A decoder reads a value from its beginning. Once something is wrong, it reads zeros.
type decoder struct {
	rest string
	bad  bool
}

func (d *decoder) fail() {
	d.bad, d.rest = true, ""
}

func (d *decoder) number() uint64 {
	head := d.rest[:min(len(d.rest), binary.MaxVarintLen64)]
	n, size := binary.Uvarint([]byte(head))
	if size <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[size:]
	return n
}

func (d *decoder) signed() int64 {
	n := d.number()
	return int64(n>>1) ^ -int64(n&1)
}

// count reads the length of a list of at most that many parts, each of which has a byte or more.
func (d *decoder) count(most int) int {
	n := d.number()
	if n > uint64(most) || n > uint64(len(d.rest)) {
		d.fail()
		return 0
	}
	return int(n)
}

// take returns the next text, which is part of the value.
func (d *decoder) take() string {
	n := d.number()
	if n > uint64(len(d.rest)) {
		d.fail()
		return ""
	}
	s := d.rest[:n]
	d.rest = d.rest[n:]
	return s
}

func (d *decoder) text() string { return strings.Clone(d.take()) }

func (d *decoder) bool() bool {
	if d.rest == "" || d.rest[0] > 1 {
		d.fail()
		return false
	}
	v := d.rest[0] == 1
	d.rest = d.rest[1:]
	return v
}

func (d *decoder) fields() http.Header {
	n := d.count(maxFields)
	h := make(http.Header, n)
	for range n {
		name := d.text()
		var values []string
		if n := d.count(maxValues); n > 0 {
			values = make([]string, 0, n)
			for range n {
				values = append(values, d.text())
			}
		}
		h[name] = values
	}
	return h
}

// whole reports whether the body of e is.
func whole(e *cache.Entry) bool {
	if e.Size == 0 || e.Size > 0 && len(e.Segments) == 1 {
		return e.Size == 0 || int64(len(e.Segments[0].Data)) == e.Size
	}
	return false
}

// bodySize returns how many bytes of the body e has.
func bodySize(e *cache.Entry) (n int64) {
	for _, s := range e.Segments {
		n += int64(len(s.Data))
	}
	return n
}

// strongTag returns the entity tag of e if it is a strong one, and otherwise nothing.
func strongTag(e *cache.Entry) string {
	values := e.Header["Etag"]
	if len(values) == 0 || slices.Contains([]string{"W/", "w/", ""}, values[0][:min(2, len(values[0]))]) {
		return ""
	}
	return values[0]
}
