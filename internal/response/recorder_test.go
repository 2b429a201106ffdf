package response_test

import (
	"errors"
	"io"
	"net/http/httptest"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/response"
)

func TestRecorderSourceFailsBeforeFirstByte(t *testing.T) {
	w := httptest.NewRecorder()
	rec := response.NewRecorder(w, httptest.NewRequest("GET", "/", nil))
	_, err := io.Copy(rec, iotest.ErrReader(errors.New("no source")))
	require.Error(t, err)
	rec.WriteHeader(500)
	require.Equal(t, 500, rec.Status)
	require.Equal(t, 500, w.Code)
}
