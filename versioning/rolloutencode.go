package versioning

import (
	"encoding/binary"
	"math"
)

// tallyFormat is the first byte of a tally as replicas send it. A change of the format changes it.
const tallyFormat = 1

// maxCount bounds a count that another replica sends, so that sums cannot overflow.
const maxCount = 1 << 48

// encode returns t for other replicas: the format, the epoch, the sets of buckets as they are, and
// all counts as varints, of which zero durations are left out.
func (t *tally) encode(epoch uint64) []byte {
	b := make([]byte, 0, 2*8*setWords+512)
	b = append(b, tallyFormat)
	b = binary.AppendUvarint(b, epoch)
	for _, test := range [...]*testTally{&t.errors, &t.slow} {
		for _, word := range test.buckets {
			b = binary.LittleEndian.AppendUint64(b, word)
		}
		b = binary.AppendUvarint(b, test.singles[0])
		b = binary.AppendUvarint(b, test.singles[1])
	}
	for i := range t.arms {
		a := &t.arms[i]
		for _, n := range [...]uint64{a.requests, a.failed, a.shed, a.canceled} {
			b = binary.AppendUvarint(b, n)
		}
		last := -1
		for bin, n := range a.durations {
			if n > 0 {
				b = binary.AppendUvarint(b, uint64(bin-last))
				b = binary.AppendUvarint(b, n)
				last = bin
			}
		}
		b = append(b, 0) // no distance is 0
	}
	return b
}

// decodeTally returns what encode has made in that epoch. ok is false for anything else.
func decodeTally(b []byte, epoch uint64) (t *tally, ok bool) {
	r := tallyReader{b: b}
	if len(b) == 0 || b[0] != tallyFormat {
		return nil, false
	}
	r.b = b[1:]
	if r.uvarint(math.MaxUint64) != epoch {
		return nil, false
	}
	t = &tally{}
	for _, test := range [...]*testTally{&t.errors, &t.slow} {
		for i := range test.buckets {
			test.buckets[i] = r.word()
		}
		if test.buckets[setWords-1]>>(fullWeight%64) != 0 { // buckets that do not exist
			return nil, false
		}
		test.singles[0], test.singles[1] = r.uvarint(maxCount), r.uvarint(maxCount)
	}
	for i := range t.arms {
		a := &t.arms[i]
		for _, n := range [...]*uint64{&a.requests, &a.failed, &a.shed, &a.canceled} {
			*n = r.uvarint(maxCount)
		}
		for bin := -1; ; {
			distance := r.uvarint(bins)
			if distance == 0 {
				break
			}
			if bin += int(distance); bin >= bins {
				return nil, false
			}
			a.durations[bin] = r.uvarint(maxCount)
		}
	}
	return t, !r.bad && len(r.b) == 0
}

// A tallyReader reads a text that may be anything. After its end all it reads is zero.
type tallyReader struct {
	b   []byte
	bad bool
}

func (r *tallyReader) uvarint(most uint64) uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 || n > most {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *tallyReader) word() uint64 {
	if len(r.b) < 8 {
		r.bad, r.b = true, nil
		return 0
	}
	n := binary.LittleEndian.Uint64(r.b)
	r.b = r.b[8:]
	return n
}
