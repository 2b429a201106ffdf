package response_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/response"
)

// Clients leave while they are informed. The race detector, or the runtime, sees a header that the
// server still reads.
func TestInformLeavesTheHeaderToTheCaller(t *testing.T) {
	overBoth(t, func(t *testing.T, proto string) {
		s := serve(t, proto, func(rec *response.Recorder, r *http.Request) {
			for i := range 100 {
				for name := range 10 {
					rec.Header().Set("X-"+strconv.Itoa(name), strconv.Itoa(i))
				}
				rec.WriteHeader(http.StatusEarlyHints)
			}
			rec.Header().Set("Content-Length", "0")
		})
		for i := range 100 {
			ctx, leave := context.WithCancel(t.Context())
			hints := 0
			req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
				Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
					require.NotContains(t, h, "Content-Length")
					if hints++; hints == i {
						leave()
					}
					return nil
				},
			}), "GET", s.URL, nil)
			require.NoError(t, err)
			resp, err := s.Client().Do(req)
			if err == nil {
				err = resp.Body.Close()
			} else if errors.Is(err, context.Canceled) {
				err = nil
			}
			require.NoError(t, err)
			leave()
			s.record(t)
		}
	})
}

func TestInformKeepsTheLengthOfTheAnswer(t *testing.T) {
	for _, length := range [][]string{nil, {"3"}} {
		w := httptest.NewRecorder()
		if length != nil {
			w.Header()["Content-Length"] = length
		}
		response.Inform(w, http.StatusEarlyHints)
		require.Equal(t, length, w.Header()["Content-Length"])
		require.Len(t, w.Header(), len(length))
	}
}
