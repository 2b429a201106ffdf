package versioning

import (
	"iter"
	"slices"
)

// An Array is a JSON array. There is nothing in a nil Array, and Append on it panics. Like an
// [Object], an Array is not safe for concurrent use, not even for reading.
type Array struct {
	src      raw // not nil: not read yet
	elements []any
}

// NewArray returns an Array of values, each what [Object.Set] takes.
func NewArray(values ...any) *Array { return &Array{elements: slices.Clone(values)} }

func (a *Array) read() {
	if a.src == nil {
		return
	}
	src := a.src
	a.src = nil
	for i := space(src, 1); src[i] != ']'; {
		end := valueEnd(src, i)
		a.elements = append(a.elements, src[i:end])
		if i = space(src, end); src[i] == ',' {
			i = space(src, i+1)
		}
	}
}

// MarshalJSON implements [encoding/json.Marshaler].
func (a *Array) MarshalJSON() ([]byte, error) { return appendValue(nil, a) }

// Len returns the number of elements.
func (a *Array) Len() int {
	if a == nil {
		return 0
	}
	a.read()
	return len(a.elements)
}

// At returns the element with that index. It panics if there is none.
func (a *Array) At(i int) any {
	a.read()
	return inspect(&a.elements[i])
}

// Set sets the element with that index. It panics if there is none.
func (a *Array) Set(i int, value any) {
	a.read()
	a.elements[i] = value
}

// Append adds elements at the end.
func (a *Array) Append(values ...any) {
	a.read()
	a.elements = append(a.elements, values...)
}

// Objects returns those of the elements that are objects.
func (a *Array) Objects() iter.Seq[*Object] {
	return func(yield func(*Object) bool) {
		for i := range a.Len() {
			if o, ok := a.At(i).(*Object); ok && !yield(o) {
				return
			}
		}
	}
}

func (a *Array) append(dst []byte) ([]byte, error) {
	switch {
	case a == nil:
		return append(dst, "null"...), nil
	case a.src != nil:
		return append(dst, a.src...), nil
	}
	dst = append(dst, '[')
	for i := range a.elements {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		if dst, err = appendValue(dst, a.elements[i]); err != nil {
			return dst, err
		}
	}
	return append(dst, ']'), nil
}
