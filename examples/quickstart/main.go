// Quickstart wraps one handler and one client, each in the packages that belong around it. Three
// servers, one of them broken, provide greetings. A site in front of them limits its clients,
// caches pages and greetings, still answers clients of an older version and logs what it does.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/breaker"
	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/pacer"
	"github.com/trivet-go/trivet/retry"
	"github.com/trivet-go/trivet/telemetry"
	"github.com/trivet-go/trivet/versioning"
)

func main() {
	if err := run(os.Stdout, 100); err != nil {
		log.Fatal(err)
	}
}

func run(out io.Writer, sampleEvery int) error {
	// There are three servers of one service. "b" fails every request, and does so faster than the
	// others succeed.
	var addrs []string
	for _, name := range []string{"a", "b", "c"} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if name == "b" {
				http.Error(w, "broken", http.StatusServiceUnavailable)
				return
			}
			time.Sleep(time.Millisecond) // its work
			fmt.Fprintf(w, "hello %s, says %s", r.URL.Query().Get("name"), name)
		}))
		defer server.Close()
		addrs = append(addrs, server.Listener.Addr().String())
	}

	// Telemetry observes all packages. Here it writes an access log. With OpenTelemetry's providers
	// it would also export metrics and traces.
	lines, err := telemetry.NewAccessLog(telemetry.AccessLogConfig{
		Handler: slog.NewTextHandler(out, nil), SampleEvery: sampleEvery,
	})
	if err != nil {
		return err
	}
	tel, err := telemetry.New(telemetry.Config{
		AccessLog: lines, Public: true, RequestID: "X-Request-Id", ResendCount: retry.Attempts,
	})
	if err != nil {
		return err
	}

	// The balancer is the client's transport: it sends each request to one of the three servers,
	// and learns to leave "b" out. The pacer sends each server at most 1000 requests a second, and
	// the breaker none while it keeps failing.
	pace, err := pacer.New(pacer.Config{Rate: ratelimit.PerSecond(1000)})
	if err != nil {
		return err
	}
	breakers, err := breaker.New(breaker.Config{
		Observe: telemetry.Observer[breaker.Event](tel, "breaker"),
	})
	if err != nil {
		return err
	}
	lb, err := balancer.New(balancer.Config{
		Resolver: balancer.Static(addrs...),
		Targets:  []string{"greetings.internal"},
		Wrap: func(e balancer.Endpoint, next http.RoundTripper) http.RoundTripper {
			return pace.TransportFor(e.Addr, breakers.TransportFor(e.Addr, tel.Transport(next)))
		},
		Observe: telemetry.Observer[balancer.Event](tel, "greetings"),
	})
	if err != nil {
		return err
	}
	defer lb.Close(context.Background())

	// The retrier sends a request that "b" has failed to another server, within a budget. No user
	// sees the broken one.
	retrier, err := retry.New(retry.Config{
		Scope:   balancer.Avoid,
		Observe: telemetry.Observer[retry.Event](tel, "retry"),
	})
	if err != nil {
		return err
	}
	client := &http.Client{Transport: retrier.Transport(lb)}

	// The cache keeps a greeting for a minute. Users that ask for a greeting while it is fetched
	// wait for that fetch.
	greetings, err := cache.NewMemory(cache.MemoryConfig[string, string]{
		MaxEntries: 1000,
		TTL:        func(string, string) time.Duration { return time.Minute },
		Observe:    telemetry.Observer[cache.MemoryEvent[string, string]](tel, "cache"),
	})
	if err != nil {
		return err
	}
	fetch := func(ctx context.Context, name string) (string, error) {
		from := "http://greetings.internal/?name=" + url.QueryEscape(name)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
		if err != nil {
			return "", err
		}
		resp, err := client.Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("greetings: %s", resp.Status)
		}
		return string(body), err
	}

	// The limiter admits 500 requests at once from each address, and then one a second.
	limiter, err := ratelimit.New(ratelimit.Config{
		Policies: []ratelimit.Policy{{
			Name:    "address",
			Rate:    ratelimit.PerMinute(60).WithBurst(500),
			Key:     ratelimit.ByPeer,
			Missing: ratelimit.MissingReject,
		}},
		Observe: telemetry.Observer[ratelimit.Event](tel, "limit"),
	})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello/{name}", func(w http.ResponseWriter, r *http.Request) {
		greeting, err := greetings.Load(r.Context(), r.PathValue("name"), fetch)
		if err != nil {
			http.Error(w, "no greeting today", http.StatusBadGateway)
			return
		}
		fmt.Fprintln(w, greeting)
	})
	mux.HandleFunc("GET /about", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		fmt.Fprintln(w, "This site greets you.")
	})

	// The mux above speaks version 2. In version 1, which some clients still speak, the path was
	// another: the change between the two converts their requests.
	versions, err := versioning.New(versioning.Config{
		Versions: []versioning.Version{{Name: "1"}, {Name: "2"}},
		Sources:  []versioning.Source{versioning.Path("/v")},
		Default:  versioning.Current,
		Changes: []versioning.Change{{Version: "2", Name: "hello", Request: func(r *http.Request) error {
			r.URL.Path = strings.Replace(r.URL.Path, "/greet/", "/hello/", 1)
			return nil
		}}},
		Observe: telemetry.Observer[versioning.Event](tel, "versions"),
	})
	if err != nil {
		return err
	}

	// The shared cache answers with what a handler has marked as fresh, here the page "about". It
	// stands where the version is known and nothing is converted yet.
	pages, err := cache.New(cache.Config{
		KeyExtra: versioning.Key,
		Observe:  telemetry.Observer[cache.Event](tel, "pages"),
	})
	if err != nil {
		return err
	}
	defer pages.Close(context.Background())
	site := httptest.NewServer(tel.Middleware(limiter.Middleware(
		versions.Resolve(pages.Middleware(versions.Convert(telemetry.Route(mux)))))))
	defer site.Close()

	// Four users ask for more than the limit, one of them in version 1. Each tenth request is for
	// the page.
	var statuses [600]int
	var errs [4]error
	var users sync.WaitGroup
	for u := range errs {
		users.Go(func() {
			path := "/hello/"
			if u == 0 {
				path = "/v1/greet/"
			}
			for i := u; i < len(statuses); i += len(errs) {
				target := fmt.Sprintf("%s%suser%d", site.URL, path, i%200)
				if i%10 == 9 {
					target = site.URL + "/about"
				}
				resp, err := site.Client().Get(target)
				if err != nil {
					errs[u] = err
					return
				}
				resp.Body.Close()
				statuses[i] = resp.StatusCode
			}
		})
	}
	users.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	answers := map[int]int{}
	for _, s := range statuses {
		answers[s]++
	}
	fmt.Fprintf(out, "%d answered, %d failed, %d refused by the limit, "+
		"%d greetings and %d pages from the caches\n",
		answers[http.StatusOK], answers[http.StatusBadGateway], answers[http.StatusTooManyRequests],
		greetings.Stats().Hits, pages.Stats().Requests[cache.Hit])
	fmt.Fprintf(out, "%d attempts for %d requests to the servers\n", retrier.Stats().Attempts,
		retrier.Stats().Requests)
	fmt.Fprintf(out, "%d requests in version 1\n", versions.Stats().Requests["1"])
	for _, e := range lb.Endpoints("http://greetings.internal") {
		fmt.Fprintf(out, "%s: %d requests, %s %s\n", e.Addr, e.Requests, e.State, e.Reason)
	}
	return nil
}
