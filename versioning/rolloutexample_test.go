package versioning_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"

	"github.com/trivet-go/trivet/versioning"
)

func ExampleNewRollout() {
	rollout, err := versioning.NewRollout(versioning.RolloutConfig{
		Name: "shop", Release: "v2",
		Key: func(r *http.Request) (string, bool) {
			user := r.Header.Get("User")
			return user, user != ""
		},
		Missing:  versioning.MissingStable,
		Steps:    []versioning.Step{{Weight: 0.1}, {Weight: 1}},
		TagField: "Surrogate-Key",
	})
	if err != nil {
		log.Fatal(err)
	}
	defer rollout.Close(context.Background())
	blue := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "blue") })
	green := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	handler := rollout.Handler(blue, green)
	ask := func(user int) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("User", strconv.Itoa(user))
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w
	}
	for user := 0; rollout.State().Phase == versioning.PhaseRunning; user++ {
		ask(user)
	}
	fmt.Println(rollout.State().Phase)
	fmt.Println(ask(1).Body, ask(1).Header().Get("Surrogate-Key"))
	// Output:
	// rolled_back
	// blue shop:v2:stable
}

// Blue-green: one step, taken by hand.
func ExampleRollout_Switch() {
	rollout, err := versioning.NewRollout(versioning.RolloutConfig{
		Name: "shop", Release: "v2", Manual: true,
		Key:     func(r *http.Request) (string, bool) { return r.RemoteAddr, true },
		Missing: versioning.MissingStable,
		Steps:   []versioning.Step{{Weight: 1}},
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	defer rollout.Close(ctx)
	say := func(word string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, word) })
	}
	handler := rollout.Handler(say("blue"), say("green"))
	ask := func() string {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		return w.Body.String()
	}
	before := ask()
	if err := rollout.Switch(ctx); err != nil {
		log.Fatal(err)
	}
	after := ask()
	if err := rollout.Drained(ctx); err != nil { // now blue may stop
		log.Fatal(err)
	}
	if err := rollout.Rollback(ctx, "we like blue better"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(before, after, ask())
	// Output:
	// blue green blue
}

func ExampleNewShadow() {
	price := func(cents int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"items":[{"name":"tea","price":%d}]}`, cents)
		})
	}
	shadow, err := versioning.NewShadow(versioning.ShadowConfig{
		Name: "shop", Candidate: price(251), Credentials: versioning.CredentialsStrip,
		Learn: -1, // these answers have nothing that is new in each of them
	})
	if err != nil {
		log.Fatal(err)
	}
	handler := shadow.Middleware(price(250))
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("GET", "/basket", nil))
	for shadow.Report().Compared == 0 {
		runtime.Gosched()
	}
	if err := shadow.Close(context.Background()); err != nil {
		log.Fatal(err)
	}
	fmt.Println(strings.TrimSpace(w.Body.String()))
	fmt.Printf("%+v\n", shadow.Report().Samples[0])
	// Output:
	// {"items":[{"name":"tea","price":250}]}
	// {Path:items[].price Method:GET Route: Primary:number Candidate:number}
}
