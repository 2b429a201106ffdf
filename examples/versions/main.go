// Versions is an API with three versions, of which the handler knows the last. Two changes say how
// it was before. The program asks it as clients of each version do, sends a webhook, and tells who
// still uses what.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/trivet-go/trivet/versioning"
)

//go:embed openapi.json
var openAPI []byte // of the head version

func main() {
	if err := run(os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// newVersions returns the API's versions with the changes between them.
func newVersions(changes []versioning.Change) (*versioning.Versions, error) {
	return versioning.New(versioning.Config{
		Versions: []versioning.Version{
			{
				Name:       january,
				Deprecated: time.Date(2026, 1, 15, 0, 0, 0, 0, time.UTC),
				Sunset:     time.Date(2199, 12, 31, 0, 0, 0, 0, time.UTC),
				Info:       "https://api.example.com/changes",
			},
			{Name: september},
			{Name: june},
		},
		Sources: []versioning.Source{versioning.Path("/v"), versioning.Header("Api-Version")},
		Pin: func(r *http.Request) (string, bool) {
			version, ok := accounts[r.Header.Get("Authorization")]
			return version, ok
		},
		Default: versioning.Current, Match: versioning.Floor, Echo: "Api-Version",
		Changes: changes,
		Client: func(r *http.Request) (string, bool) {
			name, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			return name, ok
		},
	})
}

// accounts are bound to the version that they began with.
var accounts = map[string]string{"Bearer acme": january}

type name struct {
	First string `json:"first"`
	Last  string `json:"last"`
}

type user struct {
	ID   int  `json:"id"`
	Name name `json:"name"`
}

// A directory answers in the head version, and knows no other.
type directory struct {
	mu    sync.Mutex // guards the field below
	users []user
}

func (d *directory) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /users", func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		write(w, http.StatusOK, map[string]any{"data": d.users, "total": len(d.users)})
	})
	mux.HandleFunc("POST /users", func(w http.ResponseWriter, r *http.Request) {
		var u user
		if err := json.NewDecoder(r.Body).Decode(&u); err != nil {
			http.Error(w, "no user", http.StatusBadRequest)
			return
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		u.ID = len(d.users) + 1
		d.users = append(d.users, u)
		w.Header().Set("Location", fmt.Sprintf("/users/%d", u.ID))
		write(w, http.StatusCreated, u)
	})
	mux.HandleFunc("GET /users/{id}", func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		id, err := strconv.Atoi(r.PathValue("id"))
		if err != nil || id < 1 || id > len(d.users) {
			http.NotFound(w, r)
			return
		}
		write(w, http.StatusOK, d.users[id-1])
	})
	return mux
}

func write(w http.ResponseWriter, code int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(body) // fails only if the client has left
}

func run(out io.Writer) error {
	versions, err := newVersions(changes())
	if err != nil {
		return err
	}
	server := httptest.NewServer(versions.Middleware((&directory{}).handler()))
	defer server.Close()

	for _, ask := range []struct{ method, target, body, version, account string }{
		{"POST", "/v2025-01-15/people", `{"name":"Ada Lovelace"}`, "", "acme"},
		{"GET", "/people/1", "", "", "acme"}, // its pin says which version
		{"GET", "/people", "", "2025-12-24", "globex"},
		{"GET", "/users", "", june, "initech"},
		{"GET", "/v2024-01-01/people", "", "", "acme"},
		{"GET", "/v2025-01-15/people", "", june, "acme"},
	} {
		req, err := http.NewRequest(ask.method, server.URL+ask.target, strings.NewReader(ask.body))
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+ask.account)
		if ask.body != "" {
			req.Header.Set("Content-Type", "application/json")
		}
		if ask.version != "" {
			req.Header.Set("Api-Version", ask.version)
		}
		resp, err := server.Client().Do(req)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s asks %s %s: %d in version %q", ask.account, ask.method, ask.target,
			resp.StatusCode, resp.Header.Get("Api-Version"))
		if sunset := resp.Header.Get("Sunset"); sunset != "" {
			fmt.Fprintf(out, ", until %s", sunset)
		}
		if location := resp.Header.Get("Location"); location != "" {
			fmt.Fprintf(out, ", at %s", location)
		}
		fmt.Fprintf(out, "\n  %s\n", strings.TrimSpace(string(body)))
	}

	// A webhook goes out in the version of the account that gets it.
	event := []byte(`{"id":1,"name":{"first":"Ada","last":"Lovelace"}}`)
	hook, err := versions.Down(context.Background(), january, event)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "acme's webhook: %s\n", hook)

	document, err := versions.Document(openAPI, january)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "the first version's document has %d bytes\n", len(document))
	removal := versions.Removable(january)
	fmt.Fprintf(out, "may %s be removed? %t, %s; used by %v\n", january, removal.Removable, removal.Reason,
		removal.Clients)
	return nil
}
