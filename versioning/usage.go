package versioning

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"
)

// clientOf returns whose request r is. counts is false if it does not count as use.
func (v *Versions) clientOf(r *http.Request) (client string, counts bool) {
	if v.cfg.Internal != nil && v.cfg.Internal(r) {
		return "", false
	}
	if v.cfg.Client != nil {
		if key, ok := v.cfg.Client(r); ok {
			// Text, since a snapshot could not keep anything else.
			client = strings.ToValidUTF8(key[:min(len(key), maxClient)], "\uFFFD")
		}
	}
	return client, true
}

// use records that client has used a version on a route until now.
func (v *Versions) use(index int, route, client string, now time.Time) {
	at := now.UnixNano()
	v.ledger.of(usageKey{index, route, client}).see(1, at, at)
}

// A Removal says whether a version may be removed, as far as this process knows.
type Removal struct {
	Version   string    `json:"version"`
	Removable bool      `json:"removable"`
	Reason    string    `json:"reason"`    // why it is not; "" if it is
	Since     time.Time `json:"since"`     // since when its use is watched
	LastSeen  time.Time `json:"last_seen"` // the last use; zero if there was none
	Requests  uint64    `json:"requests"`
	Clients   []string  `json:"clients"` // that used it within Config.Watch; "" has no name
}

// Removable says whether version may be removed: nobody has used it for [Config].Watch. It never is
// while the version was watched for less, nor if there were more clients and routes than MaxKeys,
// since then nobody knows who used what. It knows of this process only, and of those whose ledgers
// were restored: ask the metrics of the fleet too. Requests that were refused because the version
// has ended are use: someone still sends them.
func (v *Versions) Removable(version string) Removal { return v.removable(version, time.Now()) }

func (v *Versions) removable(version string, now time.Time) Removal {
	r := Removal{Version: version, Since: v.ledger.begun(), Clients: []string{}}
	index := v.table.index(version)
	if index < 0 {
		r.Reason = "there is no such version"
		return r
	}
	r.Since = time.Unix(0, v.ledger.since[index].Load())
	// First what is in flight, then what has been seen: a request that ends meanwhile is in one of
	// the two, since it is recorded before it leaves.
	inFlight := v.ledger.inFlight[index].Load()
	begin := now.Add(-v.cfg.Watch)
	var last int64
	v.ledger.each(func(key usageKey, u *usage) {
		if key.version != index {
			return
		}
		r.Requests += u.requests.Load()
		at := u.last.Load()
		last = max(last, at)
		if at > begin.UnixNano() && !slices.Contains(r.Clients, key.client) {
			r.Clients = append(r.Clients, key.client)
		}
	})
	over := &v.ledger.overflow[index]
	r.Requests += over.requests.Load()
	if last = max(last, over.last.Load()); last != 0 {
		r.LastSeen = time.Unix(0, last)
	}
	slices.Sort(r.Clients)
	switch {
	case index == v.head():
		r.Reason = "it is the head version"
	case v.ledger.overflowed():
		r.Reason = "there are more keys than MaxKeys"
	case r.Since.After(begin):
		r.Reason = "it is watched for too short a time"
	case inFlight > 0:
		r.Reason = "requests are in flight"
	case r.LastSeen.After(begin):
		r.Reason = "it is in use"
	default:
		r.Removable = true
	}
	return r
}

// A Report is what is known of all versions.
type Report struct {
	Since      time.Time       `json:"since"`      // since when some version's use is watched
	Keys       int             `json:"keys"`       // that are counted
	Overflowed bool            `json:"overflowed"` // there were more than MaxKeys
	Versions   []VersionReport `json:"versions"`   // oldest first
}

// A VersionReport is what is known of one version.
type VersionReport struct {
	Removal

	Status     Status     `json:"status"`
	Deprecated *time.Time `json:"deprecated,omitempty"`
	Sunset     *time.Time `json:"sunset,omitempty"`
	Successor  string     `json:"successor,omitempty"`
	Usage      []Usage    `json:"usage"` // the latest first
}

// A Usage is one client's use of a version on a route.
type Usage struct {
	Route    string    `json:"route"` // a pattern; "" if none matched, or the request was refused
	Client   string    `json:"client"`
	Requests uint64    `json:"requests"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
}

// Report returns what is known of all versions and their use.
func (v *Versions) Report() Report {
	now := time.Now()
	r := Report{
		Since: v.ledger.begun(), Keys: int(v.ledger.keys.Load()),
		Overflowed: v.ledger.overflowed(), Versions: make([]VersionReport, len(v.versions)),
	}
	for i := range r.Versions {
		d := &v.versions[i]
		status, _ := v.status(i, now)
		r.Versions[i] = VersionReport{
			Removal: v.removable(d.Name, now), Status: status, Successor: d.Successor,
			Deprecated: pointer(d.Deprecated), Sunset: pointer(d.Sunset), Usage: []Usage{},
		}
	}
	v.ledger.each(func(key usageKey, u *usage) {
		list := &r.Versions[key.version].Usage
		*list = append(*list, Usage{
			Route: key.route, Client: key.client, Requests: u.requests.Load(),
			First: time.Unix(0, u.first.Load()), Last: time.Unix(0, u.last.Load()),
		})
	})
	for i := range r.Versions {
		slices.SortFunc(r.Versions[i].Usage, func(a, b Usage) int {
			return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Client, b.Client), cmp.Compare(a.Route,
				b.Route))
		})
	}
	return r
}

func pointer(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// ReportHandler returns a handler that answers GET with [Versions.Report] as JSON. It names
// clients, so it is for operators only.
func (v *Versions) ReportHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
			return
		}
		body, err := json.MarshalIndent(v.Report(), "", "  ")
		if err != nil { // a time beyond the year 9999
			http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write(append(body, '\n')) // fails only if the client has left
	})
}
