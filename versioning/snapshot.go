package versioning

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

// ErrSnapshot reports that what [Versions.Restore] read is not a snapshot that it can use. The
// error that wraps it says why.
var ErrSnapshot = errors.New("versioning: bad snapshot")

// A snapshot is the magic word, the version of the format, a ledgerSnapshot as JSON, and the
// CRC-32C of all before it.
const (
	snapshotMagic   = "trivetVU"
	snapshotVersion = 1
	maxSnapshot     = 1 << 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type ledgerSnapshot struct {
	Saved      int64                    `json:"saved"` // times are Unix times in nanoseconds
	Since      map[string]int64         `json:"since"` // by version
	Seen       []usageSnapshot          `json:"seen"`
	Overflowed map[string]usageSnapshot `json:"overflowed"` // by version
}

type usageSnapshot struct {
	Version  string `json:"version"`
	Route    string `json:"route"`
	Client   string `json:"client"`
	Requests uint64 `json:"requests"`
	First    int64  `json:"first"`
	Last     int64  `json:"last"`
}

func (u *usage) snapshot() usageSnapshot {
	return usageSnapshot{Requests: u.requests.Load(), First: u.first.Load(), Last: u.last.Load()}
}

// Save writes who has used which version to w, for [Versions.Restore] after a restart. Write to a
// new file and rename it: an error leaves half a snapshot behind. What is used meanwhile may be in
// the snapshot or not. The format is versioned and checksummed, and not encrypted.
func (v *Versions) Save(w io.Writer) error {
	s := ledgerSnapshot{
		Saved: time.Now().UnixNano(), Since: map[string]int64{}, Overflowed: map[string]usageSnapshot{},
	}
	for i := range v.versions {
		s.Since[v.versions[i].Name] = v.ledger.since[i].Load()
	}
	v.ledger.each(func(key usageKey, u *usage) {
		row := u.snapshot()
		row.Version, row.Route, row.Client = v.versions[key.version].Name, key.route, key.client
		s.Seen = append(s.Seen, row)
	})
	for i := range v.ledger.overflow {
		if row := v.ledger.overflow[i].snapshot(); row.Requests > 0 {
			s.Overflowed[v.versions[i].Name] = row
		}
	}
	payload, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("versioning: save: %w", err)
	}
	out := binary.BigEndian.AppendUint16([]byte(snapshotMagic), snapshotVersion)
	out = append(out, payload...)
	out = binary.BigEndian.AppendUint32(out, crc32.Checksum(out, castagnoli))
	if _, err := w.Write(out); err != nil {
		return fmt.Errorf("versioning: save: %w", err)
	}
	return nil
}

// Restore reads what [Versions.Save] wrote and adds it to what has been seen since: requests are
// summed, and each version is watched since the earlier of the two. A version that the snapshot
// does not know is watched since New, and so are all if nobody watched for more than a thirtieth of
// [Config].Watch between Save and New. Versions that there are no longer are left out.
//
// Restore a snapshot once: a second time its requests count again. If it is damaged, or of another
// format, the error wraps [ErrSnapshot] and nothing is added; an error of r is wrapped as it is.
func (v *Versions) Restore(r io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(r, maxSnapshot+1))
	if err != nil {
		return fmt.Errorf("versioning: restore: %w", err)
	}
	rest, ok := bytes.CutPrefix(text, []byte(snapshotMagic))
	switch {
	case !ok:
		return fmt.Errorf("%w: it does not begin with %q", ErrSnapshot, snapshotMagic)
	case len(rest) < 6 || len(text) > maxSnapshot:
		return fmt.Errorf("%w: it has %d bytes", ErrSnapshot, len(text))
	}
	if version := binary.BigEndian.Uint16(rest); version != snapshotVersion {
		return fmt.Errorf("%w: version %d, and this reads version %d", ErrSnapshot, version, snapshotVersion)
	}
	body := text[:len(text)-4]
	if binary.BigEndian.Uint32(text[len(body):]) != crc32.Checksum(body, castagnoli) {
		return fmt.Errorf("%w: it is damaged", ErrSnapshot)
	}
	var s ledgerSnapshot
	if err := json.Unmarshal(rest[2:len(rest)-4], &s); err != nil {
		return fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	v.ledger.restore(&s, &v.table, time.Now().UnixNano())
	return nil
}

// restore adds what was saved. A clock that went back makes nothing newer than now.
func (l *ledger) restore(s *ledgerSnapshot, t *table, now int64) {
	for _, row := range s.Seen {
		if i := t.index(row.Version); i >= 0 && row.Requests > 0 {
			l.of(usageKey{i, row.Route, row.Client}).see(row.Requests, min(row.First, now),
				min(row.Last, now))
		}
	}
	for version, row := range s.Overflowed {
		if i := t.index(version); i >= 0 && row.Requests > 0 {
			l.overflow[i].see(row.Requests, min(row.First, now), min(row.Last, now))
		}
	}
	for version, saved := range s.Since {
		i := t.index(version)
		for i >= 0 {
			since := l.since[i].Load()
			if saved >= since || since-s.Saved > l.maxGap || l.since[i].CompareAndSwap(since, saved) {
				break
			}
		}
	}
}
