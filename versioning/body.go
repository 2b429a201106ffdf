package versioning

import (
	"bytes"
	"encoding/json"
	"errors"
)

// A Body is how a [Change] converts bodies. [JSON], [JSONValue] and [Pair] make one; the zero Body
// leaves bodies alone. Bodies are converted if they are JSON (application/json or any type that
// ends in +json), or streams of JSON: events of text/event-stream and lines of
// application/x-ndjson, application/ndjson and application/jsonl, each by itself as it comes.
type Body struct {
	convert func(root any) (any, error)
}

// Converts reports whether b does anything.
func (b Body) Converts() bool { return b.convert != nil }

// JSON returns the Body that calls f with the JSON object that a body or item is, and with each
// object in it if it is an array. Others are left alone. An error fails the request.
func JSON(f func(o *Object) error) Body {
	return Body{func(root any) (any, error) {
		switch v := inspect(&root).(type) {
		case *Object:
			return root, f(v)
		case *Array:
			for o := range v.Objects() {
				if err := f(o); err != nil {
					return nil, err
				}
			}
		}
		return root, nil
	}}
}

// JSONValue returns the Body that puts what f returns in the place of any JSON value. f gets and
// returns what [Object.Get] does.
func JSONValue(f func(v any) (any, error)) Body {
	return Body{func(root any) (any, error) { return f(inspect(&root)) }}
}

// Pair returns the bodies that convert between two types: up for requests, down for responses. Each
// value is decoded and encoded by [encoding/json] as usual, so fields that the types lack are lost,
// and each Pair costs what that costs. If up or down is nil, so is its Body.
func Pair[Old, New any](up func(Old) (New, error), down func(New) (Old, error)) (request, response Body) {
	return typed(up), typed(down)
}

func typed[From, To any](f func(From) (To, error)) Body {
	if f == nil {
		return Body{}
	}
	return Body{func(root any) (any, error) {
		text, err := appendValue(nil, root)
		if err != nil {
			return nil, err
		}
		var from From
		if err := json.Unmarshal(text, &from); err != nil {
			return nil, err
		}
		to, err := f(from)
		if err != nil {
			return nil, err
		}
		text, err = appendValue(nil, to)
		return raw(text), err
	}}
}

// A step is a Body of a change that is to be run.
type step struct {
	change *change
	body   *Body
}

// A stepError says in which change err happened.
type stepError struct {
	change string
	err    error
}

func (e *stepError) Error() string { return "change " + e.change + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// convertText converts one JSON text: it is read once, goes through all steps, and is written once.
func convertText(text []byte, steps []step, ran func(*change)) ([]byte, error) {
	if !json.Valid(text) {
		return nil, errNotJSON
	}
	inner := bytes.Trim(text, " \t\r\n")
	before, after, _ := bytes.Cut(text, inner)
	var root any = raw(inner)
	for _, s := range steps {
		if ran != nil {
			ran(s.change)
		}
		var err error
		if root, err = s.body.convert(root); err != nil {
			return nil, &stepError{s.change.Name, err}
		}
	}
	out := append(make([]byte, 0, len(text)+len(text)/8+64), before...)
	out, err := appendValue(out, root)
	if err != nil {
		return nil, err
	}
	return append(out, after...), nil
}

// changeOf returns the name of the change that failed with err, or "".
func changeOf(err error) string {
	var failed *stepError
	if errors.As(err, &failed) {
		return failed.change
	}
	return ""
}
