package versioning_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/trivet-go/trivet/versioning"
)

// nameIsAnObject is what version 2 changed: a user's name was a text.
var nameIsAnObject = versioning.Change{
	Version: "2", Name: "name-is-an-object", Routes: []string{"GET /users/{id}"}, Messages: true,
	ResponseBody: versioning.JSON(func(user *versioning.Object) error {
		first, _ := user.Object("name").Text("first")
		last, _ := user.Object("name").Text("last")
		user.Set("name", first+" "+last)
		return nil
	}),
}

func newExample() *versioning.Versions {
	v, err := versioning.New(versioning.Config{
		Versions: []versioning.Version{
			{Name: "1", Sunset: time.Date(2199, 12, 31, 0, 0, 0, 0, time.UTC)}, {Name: "2"},
		},
		Sources: []versioning.Source{versioning.Path("/v"), versioning.Header("Api-Version")},
		Changes: []versioning.Change{nameIsAnObject},
	})
	if err != nil {
		log.Fatal(err)
	}
	return v
}

func Example() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /users/{id}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"id":%s,"name":{"first":"Ada","last":"Lovelace"}}`, r.PathValue("id"))
	})
	handler := newExample().Middleware(mux)
	for _, target := range []string{"/v1/users/7", "/v2/users/7", "/v3/users/7"} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", target, nil))
		body, _, _ := strings.Cut(w.Body.String(), `,"requested"`)
		fmt.Println(w.Code, w.Header().Get("Sunset"), body)
	}
	// Output:
	// 200 Tue, 31 Dec 2199 00:00:00 GMT {"id":7,"name":"Ada Lovelace"}
	// 200  {"id":7,"name":{"first":"Ada","last":"Lovelace"}}
	// 404  {"latest":"2"
}

// A webhook goes to a client in the version that its account is bound to.
func ExampleVersions_Down() {
	event := []byte(`{"id":7,"name":{"first":"Ada","last":"Lovelace"}}`)
	body, err := newExample().Down(context.Background(), "1", event)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(body))
	// Output: {"id":7,"name":"Ada Lovelace"}
}

// Versions that have little in common have a handler each.
func ExampleVersions_Select() {
	say := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Println(text,
				r.URL.Path)
		})
	}
	handler, err := newExample().Select(map[string]http.Handler{"1": say("old"), "2": say("new")})
	if err != nil {
		log.Fatal(err)
	}
	for _, target := range []string{"/v1/users", "/v2/users"} {
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", target, nil))
	}
	// Output:
	// old /users
	// new /users
}

// Removable never says yes before it has watched for long enough.
func ExampleVersions_Removable() {
	r := newExample().Removable("1")
	fmt.Println(r.Removable, r.Reason)
	// Output: false it is watched for too short a time
}
