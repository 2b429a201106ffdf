package versioning_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// withStatus is a change after which a response of the older version has another status.
func withStatus(from, to int) versioning.Change {
	return versioning.Change{Name: fmt.Sprint(from), Response: func(r *versioning.Response) error {
		if r.Status == from {
			r.Status = to
		}
		return nil
	}}
}

// noHeader is a change that takes all fields away.
var noHeader = versioning.Change{Name: "none", Response: func(r *versioning.Response) error {
	r.Header = nil
	return nil
}}

// An older version may have had an empty response where there is a body now, and the reverse.
func TestChangesOfTheStatus(t *testing.T) {
	for _, onError := range []versioning.OnError{versioning.Refuse, versioning.Pass} {
		v := chained(t, versioning.Config{OnError: onError}, rename("", "a", "b"), withStatus(200, 204),
			withStatus(201, 304), withStatus(202, 0), withStatus(203, 100), withStatus(205, 1000),
			withStatus(204, 200), noHeader)
		protocols(t, func(t *testing.T, h2 bool) {
			srv := server(t, h2, v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var code int
				_, err := fmt.Sscanf(r.URL.Path, "/%d", &code)
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("ETag", `"x"`)
				w.WriteHeader(code)
				if err == nil && code != 204 {
					_, err = io.WriteString(w, `{"b":`)
					_, err2 := io.Copy(w, strings.NewReader(`1}`))
					err = errors.Join(err, err2, http.NewResponseController(w).Flush())
				}
				if err != nil {
					w.Header().Set(http.TrailerPrefix+"Fault", err.Error())
				}
			})))
			for code, want := range map[int]int{200: 204, 201: 304, 204: 204} {
				resp, err := srv.Client().Get(fmt.Sprint(srv.URL, "/v1/", code))
				require.NoError(t, err)
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				require.NoError(t, err)
				require.Equal(t, want, resp.StatusCode)
				require.Empty(t, body)
				require.Empty(t, resp.Header.Get("Content-Type"))
				require.Empty(t, resp.Header.Get("Content-Length"))
				require.Empty(t, resp.Trailer)
			}
			for _, code := range []int{202, 203, 205} {
				resp, err := srv.Client().Get(fmt.Sprint(srv.URL, "/v1/", code))
				require.NoError(t, err, code)
				resp.Body.Close()
				if onError == versioning.Refuse {
					code = 500
				}
				require.Equal(t, code, resp.StatusCode)
			}
		})
	}
}

// A handler that copies from a server which fails leaves a body that is too short. net/http then
// breaks off, and so does Convert, which has another Content-Length or none.
func TestBodiesThatBreakOff(t *testing.T) {
	v := chained(t, versioning.Config{}, rename("", "a", "b"))
	passing := chained(t, versioning.Config{OnError: versioning.Pass}, rename("", "a", "b"))
	cut := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.URL.Query().Get("type"))
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, r.URL.Query().Get("text"))
	})
	protocols(t, func(t *testing.T, h2 bool) {
		for _, tt := range []struct {
			v           *versioning.Versions
			media, text string
			code        int // 0: the connection breaks off
		}{
			{v, "application/json", "", 500},
			{v, "application/json", "12", 500},
			{v, "application/json", `{"b":1}`, 500},
			{passing, "application/json", `{"b":1}`, 0},
			{v, "text/event-stream", "data: {\"b\":1}\n\n", 0},
			{v, "application/x-ndjson", "{\"b\":1}\n", 0},
			{v, "application/x-ndjson", "", 0},
			{v, "text/plain", "text", 0},
		} {
			srv := server(t, h2, tt.v.Middleware(cut))
			req, err := http.NewRequest("GET", srv.URL+"/v1/", nil)
			require.NoError(t, err)
			q := req.URL.Query()
			q.Set("type", tt.media)
			q.Set("text", tt.text)
			req.URL.RawQuery = q.Encode()
			resp, err := srv.Client().Do(req)
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			if tt.code == 0 {
				require.Error(t, err, "%v", tt)
				continue
			}
			require.NoError(t, err, "%v", tt)
			require.Equal(t, tt.code, resp.StatusCode, "%v", tt)
		}
	})
}

// A body that is longer than announced is none that a client could read.
func TestBodiesLongerThanAnnounced(t *testing.T) {
	v := chained(t, versioning.Config{}, rename("", "a", "b"))
	w := serve(v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "3")
		_, _ = io.WriteString(w, `{"b":1}`)
	})), request("GET", "/v1/"))
	require.Equal(t, 500, w.Code)
}

// Trailer fields of requests reach the handler, but for a digest of a body that it does not get.
func TestTrailersOfRequests(t *testing.T) {
	v := chained(t, versioning.Config{}, versioning.Change{
		Name: "x", RequestBody: rename("", "a", "b").RequestBody,
	})
	protocols(t, func(t *testing.T, h2 bool) {
		got := make(chan string, 1)
		srv := server(t, h2, v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, announced := r.Trailer["Checked"]
			body, _ := io.ReadAll(r.Body)
			got <- fmt.Sprint(announced, string(body), r.Trailer)
		})))
		for _, tt := range []struct{ target, media, text, want string }{
			{"/v1/", "application/json", `{"a":1}`, `true{"b":1}map[Checked:[yes]]`},
			{"/v1/", "application/x-ndjson", `{"a":1}`, `true{"b":1}map[Checked:[yes]]`},
			{"/v1/", "text/plain", "text", `truetextmap[Checked:[yes] Content-Digest:[x]]`},
			{"/v2/", "application/json", `{"b":1}`, `true{"b":1}map[Checked:[yes] Content-Digest:[x]]`},
		} {
			req, err := http.NewRequest("POST", srv.URL+tt.target, io.MultiReader(strings.NewReader(tt.text)))
			require.NoError(t, err)
			req.Header.Set("Content-Type", tt.media)
			req.Trailer = http.Header{"Checked": {"yes"}, "Content-Digest": {"x"}}
			resp, err := srv.Client().Do(req)
			require.NoError(t, err)
			resp.Body.Close()
			require.Equal(t, tt.want, <-got, "%v", tt)
		}
	})
}
