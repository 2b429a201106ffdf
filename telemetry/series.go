package telemetry

import (
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// A seriesKey identifies a series by what varies between requests. It is the bound on cardinality:
// nothing that a client chooses freely may enter it.
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

// A series is what all requests of one key share.
type series struct {
	key    seriesKey
	record []metric.RecordOption
	end    []attribute.KeyValue // what a span learns at its end
	name   string               // of the server's span
}

// place returns the key of all requests to k's route, and on the client side its host: what the
// program chooses. What strangers choose (method, protocol, scheme, Host) is left out.
func (k seriesKey) place(client bool) seriesKey {
	p := seriesKey{overflow: true, route: k.route}
	if client {
		p.host, p.port = k.host, k.port
	}
	return p
}

// errFailed is the error.type of failures whose kind found no room. SLO counts it like a status.
const errFailed = "5xx"

// A seriesCache has a series for each key, within a bound. When room gets scarce it gives up first
// what strangers choose, then the kinds of answers, and the routes last: room is kept for each
// route that has been seen, to count what failed and what did not.
type seriesCache struct {
	bounded[seriesKey, seriesKey, series]
	client bool
	rest   *series // for keys that find no room even in the overflow

	crowded atomic.Bool // no room for whole keys
	packed  atomic.Bool // none for a route's kinds of answers either

	// Guarded by bounded.mu.
	places map[seriesKey]bool // for which room is kept: two series each
	kept   int                // of that room, what is used
	bare   int                // series without a place
}

func (t *Telemetry) newSeriesCache(build func(seriesKey) *series, client bool) *seriesCache {
	c := &seriesCache{client: client, places: map[seriesKey]bool{}}
	c.limit, c.lost = t.cfg.MaxSeries, &t.overflowed
	c.key = func(k seriesKey) seriesKey { return k }
	c.answers = func(*series, seriesKey) bool { return true }
	c.build = func(k seriesKey) (seriesKey, *series) {
		// These may be parts of a long request that must not stay in memory for them.
		k.route, k.host, k.err = strings.Clone(k.route), strings.Clone(k.host), strings.Clone(k.err)
		return k, build(k)
	}
	c.rest = c.add(seriesKey{overflow: true}, c.limit)
	return c
}

// of returns the series of k.
func (c *seriesCache) of(k seriesKey) *series {
	if s := c.find(k); s != nil {
		return s
	}
	if !c.crowded.Load() {
		// An eighth is for routes that are not seen yet, another for requests without a route.
		if s := c.insert(k, k, c.limit-2*(c.limit/8)); s != nil {
			return s
		}
		c.crowded.Store(true)
	}
	c.lost.Add(1)
	if place := k.place(c.client); place != c.rest.key {
		kind := place
		kind.status, kind.err = k.status, k.err
		if s := c.find(kind); s != nil {
			return s
		}
		if !c.packed.Load() {
			if s := c.insert(kind, k, c.limit-c.limit/8-c.limit/16); s != nil {
				return s
			}
			c.packed.Store(true)
		}
		if c.failed(k) {
			place.err = errFailed
		}
		if s := c.find(place); s != nil {
			return s
		}
		if s := c.insertKept(place, k); s != nil {
			return s
		}
	}
	// Status and error type are few and carry the error ratio.
	bare := seriesKey{overflow: true, status: k.status, err: k.err}
	if s := c.find(bare); s != nil {
		return s
	}
	if s := c.insertBare(bare); s != nil {
		return s
	}
	return c.rest
}

// failed reports whether k is a failure that alerts are about.
func (c *seriesCache) failed(k seriesKey) bool {
	return c.client && k.errorType(true) != "" || !c.client && k.serverFault()
}

// insert makes the series of key for a request of k, if there are fewer than limit, the room that
// is kept for routes included.
func (c *seriesCache) insert(key, k seriesKey, limit int) *series {
	return c.addIf(key, func(n int) bool {
		c.keepLocked(n, k.place(c.client))
		return n-c.kept+2*len(c.places) < limit
	})
}

// insertKept makes the series of key in the room that is kept for the route of k.
func (c *seriesCache) insertKept(key, k seriesKey) *series {
	return c.addIf(key, func(n int) bool {
		place := k.place(c.client)
		if c.keepLocked(n, place); !c.places[place] {
			return false
		}
		c.kept++
		return true
	})
}

func (c *seriesCache) insertBare(key seriesKey) *series {
	return c.addIf(key, func(int) bool {
		ok := c.bare < c.limit/8
		if ok {
			c.bare++
		}
		return ok
	})
}

// keepLocked keeps room for place, if there is some and place is one.
func (c *seriesCache) keepLocked(n int, place seriesKey) {
	if place != c.rest.key && !c.places[place] && n-c.kept+2*(len(c.places)+1) <= c.limit-c.limit/8 {
		place.route, place.host = strings.Clone(place.route), strings.Clone(place.host)
		c.places[place] = true
	}
}
