package telemetry

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// A seriesKey identifies a series by what varies between requests. It is the bound on
// cardinality: nothing that a client chooses freely may enter it.
type seriesKey struct {
	method   uint8  // index into Telemetry.methods; 0 is _OTHER
	proto    uint8  // index into protocols
	tls      bool   // the scheme is https
	overflow bool   // stands for all series that found no room
	status   uint16 // 0 if no response was sent or received
	port     uint16 // client side: server.port
	route    string // http.route, or url.template on the client side; "" if unknown
	host     string // server.address; "" leaves it out
	err      string // error.type; "" if none or if it is the status
}

// protocols are the values of network.protocol.version.
var protocols = [...]string{"", "1.0", "1.1", "2", "3"}

// protoIndex returns the index into protocols; 0 means unknown.
func protoIndex(major, minor int) uint8 {
	switch {
	case major == 1 && (minor == 0 || minor == 1):
		return uint8(1 + minor)
	case major == 2 || major == 3:
		return uint8(1 + major)
	}
	return 0
}

// A series is what all requests of one key share, made once.
type series struct {
	key    seriesKey
	record []metric.RecordOption
	end    []attribute.KeyValue // what a span learns at its end
	name   string               // of the span
}

// A seriesCache finds series without a lock. It never forgets: the SDK does not either.
type seriesCache struct {
	make     func(seriesKey) *series
	max      int // all series
	ordinary int // those that are not overflow
	current  atomic.Pointer[map[seriesKey]*series]
	full     atomic.Bool
	overflow *series
	lost     atomic.Uint64 // lookups that ended in an overflow series

	mu sync.Mutex // serialises writers of current
}

func newSeriesCache(maxSeries int, build func(seriesKey) *series) *seriesCache {
	c := &seriesCache{make: build, max: maxSeries, ordinary: maxSeries - maxSeries/8 - 1}
	k := seriesKey{overflow: true}
	c.overflow = build(k)
	c.current.Store(&map[seriesKey]*series{k: c.overflow})
	return c
}

func (c *seriesCache) len() int { return len(*c.current.Load()) }

func (c *seriesCache) get(k seriesKey) *series {
	if s := (*c.current.Load())[k]; s != nil {
		return s
	}
	if !c.full.Load() {
		if s := c.add(k); s != nil {
			return s
		}
	}
	c.lost.Add(1)
	// Status and error type are few and carry the error ratio: they keep their meaning
	// in the overflow as long as the room set aside for it lasts.
	k = seriesKey{overflow: true, status: k.status, err: k.err}
	if s := (*c.current.Load())[k]; s != nil {
		return s
	}
	if s := c.add(k); s != nil {
		return s
	}
	return c.overflow
}

// add returns the series of k, made if there is room, or else nil.
func (c *seriesCache) add(k seriesKey) *series {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := *c.current.Load()
	if s := old[k]; s != nil {
		return s
	}
	if k.overflow && len(old) >= c.max {
		return nil
	}
	if !k.overflow && len(old) >= c.ordinary {
		c.full.Store(true)
		return nil
	}
	// They may be parts of a long request that must not stay in memory for them.
	k.route, k.host, k.err = strings.Clone(k.route), strings.Clone(k.host), strings.Clone(k.err)
	s := c.make(k)
	grown := make(map[seriesKey]*series, len(old)+1)
	maps.Copy(grown, old)
	grown[k] = s
	c.current.Store(&grown)
	return s
}
