package cache

import (
	"context"
	"net/http"
)

type policyOf struct{}
type rendering struct{}
type fillTable struct{}

func (fillTable) init() {}

type work struct{}

func (work) init()                           {}
func (work) close(ctx context.Context) error { return nil }
func (c *Cache) rulesOf(plain string) []searchRule {
	return nil
}
func splitList(s string, sep byte) []string { return nil }
func (e *Entry) clone() *Entry              { return &Entry{} }

type middleware struct {
	cache *Cache
	next  http.Handler
}

func (m *middleware) ServeHTTP(w http.ResponseWriter, r *http.Request) { m.next.ServeHTTP(w, r) }

type transport struct {
	cache *Cache
	next  http.RoundTripper
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) { return t.next.RoundTrip(r) }
