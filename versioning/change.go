package versioning

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/trivet-go/trivet/internal/settings"
)

// A Change is one difference between a version and the one before it: how a request of the older
// version becomes one of the newer, and a response of the newer one of the older. Its functions run
// on the goroutines of requests and must be safe for concurrent use.
type Change struct {
	// Version is the newer one of the two. Required: one of Config.Versions, and not the oldest.
	Version string

	// Name names the change in events and errors. Required: as a version's name, and unique.
	Name string

	// Doc says what changed, for people.
	Doc string

	// Routes are patterns of [http.ServeMux] for the requests that the change is about, as they are
	// when they come to it: in the older version's paths, without the segment that names the
	// version. Empty means all requests.
	Routes []string

	// Request, if not nil, changes the header, the URL or the method of a request. It must leave
	// the body alone; a change with no more than this never waits for one. An error answers 400.
	Request func(r *http.Request) error

	// Response, if not nil, changes the status or the header of a response. It must set no
	// Content-Length; with the status 204 or 304 the response loses its body. An error, or a status
	// that no response can end with, is treated as [Config].OnError says.
	Response func(r *Response) error

	// RequestBody and ResponseBody convert bodies.
	RequestBody, ResponseBody Body

	// Events are the names of the events whose data ResponseBody converts, where a response is a
	// stream of events. Events without a name are called "message". Empty means all.
	Events []string

	// Errors applies ResponseBody also to responses whose status is 400 or more.
	Errors bool

	// Messages lets [Versions.Down] apply ResponseBody although the change has Routes.
	Messages bool

	// Schema, if not nil, turns an OpenAPI 3 document of the newer version into one of the older,
	// for [Versions.Document].
	Schema func(doc *Object) error
}

// A Response is the part of a response that comes before its body.
type Response struct {
	Status  int
	Header  http.Header   // what the handler set; fields of middleware outside are not there
	Request *http.Request // as the handler got it; not to be changed
}

// A change is a Change and what requests need of it.
type change struct {
	Change
	index  int            // of its version
	routes *http.ServeMux // nil: all requests
}

// matched is the handler in the muxes of routes. It tells a match from a redirection.
type matched struct{}

func (matched) ServeHTTP(http.ResponseWriter, *http.Request) {}

// applies reports whether c is about r.
func (c *change) applies(r *http.Request) bool {
	if c.routes == nil {
		return true
	}
	h, _ := c.routes.Handler(r)
	_, ok := h.(matched)
	return ok
}

// newChanges returns the changes in the order in which requests go through them, and adds their
// faults to f.
func newChanges(f *settings.Faults, t *table, changes []Change) []change {
	list := make([]change, 0, len(changes))
	for i, c := range changes {
		field := fmt.Sprintf("Changes[%d]", i)
		c.Routes, c.Events = slices.Clone(c.Routes), slices.Clone(c.Events)
		d := change{Change: c, index: t.index(c.Version)}
		switch {
		case d.index < 0:
			f.Add(field+".Version", "%q is not one of Versions", c.Version)
		case d.index == 0:
			f.Add(field+".Version", "%q is the oldest, so nothing comes before the change", c.Version)
		}
		if !validName(c.Name) {
			f.Add(field+".Name", "%q is not 1 to 64 letters, digits, '.', '_' and '-'", c.Name)
		}
		if slices.ContainsFunc(list, func(other change) bool { return other.Name == c.Name }) {
			f.Add(field+".Name", "%q is taken", c.Name)
		}
		if c.Request == nil && c.Response == nil && !c.RequestBody.Converts() &&
			!c.ResponseBody.Converts() && c.Schema == nil {
			f.Add(field, "changes nothing")
		}
		if len(c.Routes) > 0 {
			d.routes = http.NewServeMux()
			for j, pattern := range c.Routes {
				if err := handle(d.routes, pattern); err != nil {
					f.Add(fmt.Sprintf("%s.Routes[%d]", field, j), "%w", err)
				}
			}
		}
		list = append(list, d)
	}
	slices.SortStableFunc(list, func(a, b change) int { return a.index - b.index })
	return list
}

// handle registers pattern and returns the panic of a bad one as an error.
func handle(mux *http.ServeMux, pattern string) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%v", v)
		}
	}()
	mux.Handle(pattern, matched{})
	return nil
}

// A chain is the changes between a version and the head.
type chain struct {
	changes []change // from the version's own to the head's
	bodies  bool     // some of them convert bodies of responses
}

func newChains(versions int, changes []change) []chain {
	chains := make([]chain, versions)
	for i := range chains {
		first := slices.IndexFunc(changes, func(c change) bool { return c.index > i })
		if first < 0 {
			continue
		}
		chains[i].changes = changes[first:]
		chains[i].bodies = slices.ContainsFunc(chains[i].changes, func(c change) bool {
			return c.ResponseBody.Converts()
		})
	}
	return chains
}
