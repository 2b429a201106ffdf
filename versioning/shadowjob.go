package versioning

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"time"
)

// A shadowJob is a request to copy, and the answer that its client got.
type shadowJob struct {
	shadow *Shadow
	next   http.Handler // that gave the answer
	ctx    context.Context

	method, host, remote, route string
	url                         url.URL
	header                      http.Header
	body                        []byte
	size                        int64 // of what is neither of the bodies

	primary shadowAnswer
	room    [2]string // for primary's fields
}

// free gives back the memory that the job takes.
func (j *shadowJob) free() {
	j.primary.body.free()
	j.shadow.release(j.size + int64(cap(j.body)))
	j.body = nil
}

// A shadowAnswer is what is compared of an answer.
type shadowAnswer struct {
	status int
	fields []string
	coding string // Content-Encoding
	body   shadowBuffer
	took   time.Duration // until it began
}

// calmly calls f, in which Observe or Show may panic.
func (s *Shadow) calmly(f func()) {
	defer func() {
		if recover() != nil {
			s.panics.Add(1)
		}
	}()
	f()
}

// run sends a copy and compares the answers, or learns how answers of the handler in use differ.
func (s *Shadow) run(j *shadowJob) {
	defer j.free()
	learn := safeMethod(j.method) && s.cfg.Learn > 0 && rand.Float64() < s.cfg.Learn
	if learn {
		outcome := s.askAnd(j, j.next, func(again *shadowAnswer) ShadowOutcome {
			s.calmly(func() { s.differences.learn(s, j, again) })
			return ""
		})
		if outcome == ShadowPanic { // the request has another outcome, that of the candidate
			s.panics.Add(1)
		}
	}
	outcome := s.askAnd(j, nil, func(answer *shadowAnswer) ShadowOutcome {
		s.candidate.add(answer.took)
		outcome := ShadowPanic // unless Show returns
		s.calmly(func() { outcome = s.differences.compare(s, j, answer) })
		return outcome
	})
	s.count(j.ctx, outcome)
}

// askAnd sends a copy and gives the answer to f, in which Show may panic.
func (s *Shadow) askAnd(
	j *shadowJob, handler http.Handler, f func(a *shadowAnswer) ShadowOutcome,
) ShadowOutcome {
	a, failed := s.ask(j, handler)
	if failed != "" {
		return failed
	}
	defer a.body.free()
	return f(&a)
}

// ask sends a copy to a handler, or to the candidate if that is nil.
func (s *Shadow) ask(j *shadowJob, handler http.Handler) (a shadowAnswer, failed ShadowOutcome) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(j.ctx), s.cfg.Timeout)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	req := j.request(ctx)
	begun := s.now()
	w := &shadowWriter{shadow: s, begun: begun, answer: shadowAnswer{body: shadowBuffer{shadow: s}}}
	returned := false
	defer func() {
		p := recover() // nobody waits for this request
		switch {
		case !returned:
			failed = ShadowPanic
		case failed == "" && ctx.Err() != nil:
			failed = ShadowTimeout
		case failed == "":
			failed = w.answer.body.failed
		}
		if failed != "" {
			w.answer.body.free()
		}
		a = w.answer
		if !returned && p == nil { // the handler ends the goroutine, so that run cannot count this
			s.count(j.ctx, failed)
		}
	}()
	var err error
	switch {
	case handler != nil:
		handler.ServeHTTP(w, req)
	case s.cfg.Candidate != nil:
		s.cfg.Candidate.ServeHTTP(w, req)
	default:
		err = s.send(w, req)
	}
	returned = true
	if err != nil {
		return a, ShadowFailure
	}
	w.answers(http.StatusOK)
	return a, ""
}

// request returns the copy.
func (j *shadowJob) request(ctx context.Context) *http.Request {
	header := j.header.Clone()
	if j.shadow.cfg.Credentials == CredentialsStrip {
		for _, name := range secretFields {
			delete(header, name)
		}
		for _, name := range j.shadow.cfg.SecretFields {
			delete(header, name)
		}
	}
	dropOption(header, ShadowField) // or a proxy inside would take the mark off
	header[ShadowField] = []string{"1"}
	u := j.url
	req := &http.Request{
		Method: j.method, URL: &u, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header,
		Host: j.host, RemoteAddr: j.remote, RequestURI: u.RequestURI(), Body: http.NoBody,
		ContentLength: int64(len(j.body)),
	}
	if len(j.body) > 0 {
		req.Body = io.NopCloser(bytes.NewReader(j.body))
	}
	return req.WithContext(ctx)
}

// dropOption removes option from the fields Connection of header.
func dropOption(header http.Header, option string) {
	var kept []string
	for _, line := range header["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); !strings.EqualFold(name, option) {
				kept = append(kept, name)
			}
		}
	}
	delete(header, "Connection")
	if len(kept) > 0 {
		header["Connection"] = []string{strings.Join(kept, ", ")}
	}
}

// hopByHop are fields that end at this server, besides those that Connection names (RFC 9110,
// section 7.6.1).
var hopByHop = [...]string{
	"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// send sends the copy through Transport and writes the answer to w.
func (s *Shadow) send(w *shadowWriter, req *http.Request) error {
	req.RequestURI = ""
	req.URL.Scheme, req.URL.Host = s.cfg.Target.Scheme, s.cfg.Target.Host
	for _, field := range req.Header["Connection"] {
		for name := range strings.SplitSeq(field, ",") {
			delete(req.Header, textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)))
		}
	}
	for _, name := range hopByHop {
		delete(req.Header, name)
	}
	if req.ContentLength == 0 {
		req.Body = nil
	}
	resp, err := s.cfg.Transport.RoundTrip(req)
	if err != nil {
		return err
	}
	if resp == nil {
		return errors.New("versioning: no answer")
	}
	w.header = resp.Header
	w.WriteHeader(resp.StatusCode)
	if resp.Body == nil {
		return nil
	}
	defer resp.Body.Close()
	// What the comparison does not need is not read.
	_, err = io.Copy(w, io.LimitReader(resp.Body, s.cfg.MaxBody+1))
	return err
}

// A shadowWriter takes the candidate's answer.
type shadowWriter struct {
	shadow *Shadow
	begun  int64
	header http.Header
	sent   bool
	answer shadowAnswer
}

func (w *shadowWriter) Header() http.Header {
	if w.header == nil {
		w.header = http.Header{}
	}
	return w.header
}

func (w *shadowWriter) WriteHeader(code int) {
	if code >= 200 {
		w.answers(code)
	}
}

// answers notes the header.
func (w *shadowWriter) answers(code int) {
	if w.sent {
		return
	}
	w.sent = true
	w.answer.status = code
	w.answer.took = time.Duration(w.shadow.now() - w.begun)
	w.answer.fields = fieldValues(nil, w.header, w.shadow.cfg.Fields)
	w.answer.coding = w.header.Get("Content-Encoding")
}

func (w *shadowWriter) Write(p []byte) (int, error) {
	w.answers(http.StatusOK)
	w.answer.body.add(p)
	return len(p), nil
}

// Flush is for handlers that assert http.Flusher.
func (w *shadowWriter) Flush() { w.answers(http.StatusOK) }
