package versioning

import (
	"bytes"
	"encoding/json"
	"errors"
	"iter"
	"slices"
	"strings"
	"unicode/utf8"
)

var errNotJSON = errors.New("not JSON")

// A raw is the text of one JSON value, which is valid and has no space around it. What no change
// looks into stays a raw and is copied byte for byte: numbers keep their digits, strings their
// escapes, and objects the order of their members.
type raw []byte

// An Object is a JSON object whose members keep their order. Create one with [NewObject]. It is
// read member by member as they are asked for. The values that its methods return are nil, bool,
// string, [json.Number], *Object and *[Array]; nothing is found in a nil Object.
type Object struct {
	src     raw // not nil: not read yet
	members []member
	index   map[string]int // of members, if there are many; nil: not made yet
}

type member struct {
	name  string
	value any // raw, or what Get returns or Set took
}

// manyMembers is how many members are found faster with an index.
const manyMembers = 16

// NewObject returns an Object without members.
func NewObject() *Object { return &Object{} }

// UnmarshalJSON implements [json.Unmarshaler].
func (o *Object) UnmarshalJSON(text []byte) error {
	if text = bytes.TrimSpace(text); len(text) == 0 || text[0] != '{' || !json.Valid(text) {
		return errors.New("versioning: not a JSON object")
	}
	*o = Object{src: raw(bytes.Clone(text))}
	return nil
}

// MarshalJSON implements [json.Marshaler].
func (o *Object) MarshalJSON() ([]byte, error) { return appendValue(nil, o) }

// read reads the members. Of several with one name the last counts, as encoding/json has it, and
// the others are gone: whoever reads the object later finds the same.
func (o *Object) read() {
	if o.src == nil {
		return
	}
	src := o.src
	o.src = nil
	for i := space(src, 1); src[i] != '}'; {
		end := valueEnd(src, i)
		name := decodeString(src[i:end])
		i = space(src, space(src, end)+1) // behind the colon
		end = valueEnd(src, i)
		value := src[i:end]
		if at := o.find(name); at >= 0 {
			o.members[at].value = value
		} else {
			o.add(name, value)
		}
		if i = space(src, end); src[i] == ',' {
			i = space(src, i+1)
		}
	}
}

// find returns the place of a member, or -1. The members have been read.
func (o *Object) find(name string) int {
	if len(o.members) <= manyMembers {
		for i := range o.members {
			if o.members[i].name == name {
				return i
			}
		}
		return -1
	}
	if o.index == nil {
		o.index = make(map[string]int, 2*len(o.members))
		for i := range o.members {
			o.index[o.members[i].name] = i
		}
	}
	if i, ok := o.index[name]; ok {
		return i
	}
	return -1
}

func (o *Object) add(name string, value any) {
	if o.index != nil {
		o.index[name] = len(o.members)
	}
	o.members = append(o.members, member{name, value})
}

// Len returns the number of members.
func (o *Object) Len() int {
	if o == nil {
		return 0
	}
	o.read()
	return len(o.members)
}

// Names returns the names of the members in their order.
func (o *Object) Names() []string {
	names := make([]string, o.Len())
	for i := range names {
		names[i] = o.members[i].name
	}
	return names
}

// Has reports whether there is a member with that name.
func (o *Object) Has(name string) bool {
	if o == nil {
		return false
	}
	o.read()
	return o.find(name) >= 0
}

// Get returns the value of a member; nil if it is null or there is none.
func (o *Object) Get(name string) any {
	if o == nil {
		return nil
	}
	o.read()
	i := o.find(name)
	if i < 0 {
		return nil
	}
	return inspect(&o.members[i].value)
}

// Text returns the value of a member that is a string.
func (o *Object) Text(name string) (s string, ok bool) {
	s, ok = o.Get(name).(string)
	return s, ok
}

// Object returns the value of a member that is an object, or nil.
func (o *Object) Object(name string) *Object {
	child, _ := o.Get(name).(*Object)
	return child
}

// Array returns the value of a member that is an array, or nil.
func (o *Object) Array(name string) *Array {
	child, _ := o.Get(name).(*Array)
	return child
}

// Set sets a member, in its place if there is one with that name, otherwise at the end. value is
// what Get returns, or anything that [json.Marshal] takes. An Object must not become a part of
// itself.
func (o *Object) Set(name string, value any) {
	o.read()
	if i := o.find(name); i >= 0 {
		o.members[i].value = value
		return
	}
	o.add(name, value)
}

// Delete removes a member and reports whether there was one.
func (o *Object) Delete(name string) bool {
	if o == nil {
		return false
	}
	o.read()
	i := o.find(name)
	if i < 0 {
		return false
	}
	o.members = slices.Delete(o.members, i, i+1)
	o.index = nil
	return true
}

// Rename gives a member another name in its place, and reports whether there was one. A member that
// has the other name already is removed.
func (o *Object) Rename(name, to string) bool {
	if !o.Has(name) || name == to {
		return o.Has(name)
	}
	o.Delete(to)
	o.members[o.find(name)].name = to
	o.index = nil
	return true
}

// An Array is a JSON array. There is nothing in a nil Array.
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

// MarshalJSON implements [json.Marshaler].
func (a *Array) MarshalJSON() ([]byte, error) { return appendValue(nil, a) }

// Len returns the number of elements.
func (a *Array) Len() int {
	if a == nil {
		return 0
	}
	a.read()
	return len(a.elements)
}

// At returns the element with that index.
func (a *Array) At(i int) any {
	a.read()
	return inspect(&a.elements[i])
}

// Set sets the element with that index.
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

// inspect returns what users see of *v. Objects and arrays take the place of their text, since they
// may be changed; other values leave it.
func inspect(v *any) any {
	text, ok := (*v).(raw)
	if !ok {
		return *v
	}
	switch text[0] {
	case '{':
		*v = &Object{src: text}
		return *v
	case '[':
		*v = &Array{src: text}
		return *v
	case '"':
		return decodeString(text)
	case 't', 'f':
		return text[0] == 't'
	case 'n':
		return nil
	}
	return json.Number(text)
}

// space returns the index of the first byte from i on that is not white space.
func space(src []byte, i int) int {
	for src[i] == ' ' || src[i] == '\n' || src[i] == '\t' || src[i] == '\r' {
		i++
	}
	return i
}

// valueEnd returns the index behind the value that begins at i. src is valid.
func valueEnd(src []byte, i int) int {
	switch src[i] {
	case '"':
		return stringEnd(src, i)
	case '{', '[':
	default:
		for i < len(src) && strings.IndexByte(",}] \n\t\r", src[i]) < 0 {
			i++
		}
		return i
	}
	depth := 0
	for {
		switch src[i] {
		case '"':
			i = stringEnd(src, i) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
		i++
	}
}

func stringEnd(src []byte, i int) int {
	for i++; ; {
		end := i + bytes.IndexByte(src[i:], '"')
		escapes := 0
		for src[end-1-escapes] == '\\' {
			escapes++
		}
		if i = end + 1; escapes%2 == 0 {
			return i
		}
	}
}

// decodeString returns the string that text, which is one in JSON, stands for.
func decodeString(text []byte) string {
	inner := text[1 : len(text)-1]
	if bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return string(inner)
	}
	var s string
	_ = json.Unmarshal(text, &s) // is valid
	return s
}

// appendValue appends v as JSON.
func appendValue(dst []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case raw:
		return append(dst, v...), nil
	case nil:
		return append(dst, "null"...), nil
	case string:
		return appendString(dst, v), nil
	case *Object:
		return v.append(dst)
	case *Array:
		return v.append(dst)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return dst, err
	}
	return append(dst, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...), nil
}

func (o *Object) append(dst []byte) ([]byte, error) {
	switch {
	case o == nil:
		return append(dst, "null"...), nil
	case o.src != nil:
		return append(dst, o.src...), nil
	}
	dst = append(dst, '{')
	for i := range o.members {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, o.members[i].name), ':')
		var err error
		if dst, err = appendValue(dst, o.members[i].value); err != nil {
			return dst, err
		}
	}
	return append(dst, '}'), nil
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

func appendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			var b bytes.Buffer
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			_ = enc.Encode(s) // any string can be encoded
			return append(dst, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}
