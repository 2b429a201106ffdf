package versioning

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
)

// An Object is a JSON object whose members keep their order. Create one with [NewObject]. The
// values that its methods return are nil, bool, string, [json.Number], *Object and *[Array].
// Nothing is found in a nil Object, and Set on it panics.
//
// An Object is not safe for concurrent use, not even for reading: its text is read when a member is
// asked for, and what was read is kept.
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
