package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/trivet-go/trivet/cache"
)

// adminToken returns the token that actions on the admin server ask for: that of the environment
// variable with the given name, or a new one if the name is empty.
func adminToken(env string) (string, error) {
	if env == "" {
		return rand.Text(), nil
	}
	token := os.Getenv(env)
	if len(token) < 16 {
		return "", fmt.Errorf("admin.token_env: %s must hold a token of 16 characters or more", env)
	}
	return token, nil
}

// withToken lets requests pass that have the token in their field Authorization. Others get 401.
func withToken(token string, next http.Handler) http.Handler {
	want := sha256.Sum256([]byte("Bearer " + token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got := sha256.Sum256([]byte(r.Header.Get("Authorization")))
		if subtle.ConstantTimeCompare(want[:], got[:]) == 0 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			writeProblem(w, http.StatusUnauthorized, "this needs the token of the admin server")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// A purge says what is to leave the cache: exactly one of URL, Prefix, Tag and Group.
type purge struct {
	URL    string `json:"url"`
	Prefix string `json:"prefix"` // of URLs
	Tag    string `json:"tag"`    // of Surrogate-Key or Cache-Tag
	Group  string `json:"group"`  // of Cache-Groups (RFC 9875), with Origin
	Origin string `json:"origin"` // "https://shop.example.com"
	Hard   bool   `json:"hard"`   // it is gone; otherwise it is stale
}

const maxAction = 64 << 10

// readAction reads the body of an action, which must be one JSON object with no other fields than v
// has.
func readAction(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAction))
	if err != nil {
		return err
	}
	in := json.NewDecoder(bytes.NewReader(body))
	in.DisallowUnknownFields()
	if err = in.Decode(v); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, more := in.Token(); more != io.EOF {
		return errors.New("more than one value")
	}
	return nil
}

// purge answers POST /purge.
func (g *gateway) purge(w http.ResponseWriter, r *http.Request) {
	var p purge
	if err := readAction(w, r, &p); err != nil {
		writeProblem(w, http.StatusBadRequest, "the body must be one JSON object with url, prefix, tag or "+
			"group: "+err.Error())
		return
	}
	field, err := g.purgeOne(r.Context(), p)
	switch {
	case field != "":
		writeProblem(w, http.StatusBadRequest, field+": "+err.Error())
	case errors.Is(err, cache.ErrUnreached):
		writeProblem(w, http.StatusServiceUnavailable, "what this gateway holds is purged, but Redis did "+
			"not take the purge: the other gateways may use what they hold. Repeat it")
	case err != nil:
		writeProblem(w, http.StatusServiceUnavailable, "the store did not take the purge")
	default:
		g.store.snapshot.purged()
		w.WriteHeader(http.StatusNoContent)
	}
}

// purgeURL purges a URL as each route knows it, whose cache may ignore some of its parameters.
func (g *gateway) purgeURL(ctx context.Context, url string, how cache.Invalidation) error {
	errs := []error{g.store.purger.PurgeURL(ctx, url, how)}
	gen := g.acquire()
	defer gen.release()
	for _, rt := range gen.parts {
		if rt.cache == nil || len(rt.cache.settings.IgnoreQuery) == 0 {
			continue
		}
		errs = append(errs, rt.cache.cache.PurgeURL(ctx, url, how))
	}
	return errors.Join(errs...)
}

// purgeOne purges what p says. If p is at fault, field names what is wrong.
func (g *gateway) purgeOne(ctx context.Context, p purge) (field string, err error) {
	set := map[string]string{}
	for name, value := range map[string]string{
		"url": p.URL, "prefix": p.Prefix, "tag": p.Tag, "group": p.Group,
	} {
		if value != "" {
			set[name] = value
		}
	}
	how := cache.Soft
	if p.Hard {
		how = cache.Hard
	}
	switch {
	case len(set) != 1:
		return "url, prefix, tag, group", errors.New("exactly one of them is required")
	case p.Origin != "" && p.Group == "":
		return "origin", errors.New("has a meaning only with group")
	case p.Group != "" && p.Origin == "":
		return "origin", errors.New("is required with group, such as https://shop.example.com")
	case p.URL != "":
		field, err = "url", g.purgeURL(ctx, p.URL, how)
	case p.Prefix != "":
		field, err = "prefix", g.store.purger.PurgePrefix(ctx, p.Prefix, how)
	case p.Tag != "":
		field, err = "tag", g.store.purger.PurgeTag(ctx, p.Tag, how)
	default:
		field, err = "group", g.store.purger.PurgeGroup(ctx, p.Origin, p.Group, how)
	}
	if !errors.Is(err, cache.ErrPurge) {
		field = ""
	}
	return field, err
}
