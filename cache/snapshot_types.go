package cache

import (
	"fmt"
	"reflect"
)

// structure describes what of a type a snapshot depends on, a part in each line: the names and
// kinds of exported fields, their tags, and the packages of named types. Gob matches fields by name
// and kind alone, and leaves what it does not find at zero: a release that has renamed a field
// would get keys that are too short, and prices of 0.
func structure(path string, t reflect.Type) []string {
	d := describer{seen: map[reflect.Type]bool{}}
	d.describe(path, t, "")
	return d.lines
}

type describer struct {
	lines []string
	seen  map[reflect.Type]bool
}

// describe adds the lines of t, which path leads to. The tag is that of the field.
func (d *describer) describe(path string, t reflect.Type, tag reflect.StructTag) {
	name := t.Kind().String()
	if t.Name() != "" && t.PkgPath() != "" {
		name += " " + t.PkgPath() + "." + t.Name()
	}
	own := encodesItself(t)
	if own {
		name += " that encodes itself"
	}
	if t.Kind() == reflect.Array {
		name += fmt.Sprintf(" of %d", t.Len())
	}
	if tag != "" {
		name += fmt.Sprintf(" `%s`", tag)
	}
	d.lines = append(d.lines, path+" "+name)
	if own || d.seen[t] { // what encodes itself knows its own versions
		return
	}
	d.seen[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		d.describe(path+"[]", t.Elem(), "")
	case reflect.Map:
		d.describe(path+"[key]", t.Key(), "")
		d.describe(path+"[]", t.Elem(), "")
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() {
				d.describe(path+"."+f.Name, f.Type, f.Tag)
			}
		}
	}
}

// difference tells the first part in which the structure of a snapshot is not that of the cache;
// it is empty if they are the same.
func difference(saved, own []string) string {
	part := func(lines []string, i int) string {
		if i < len(lines) {
			return lines[i]
		}
		return "nothing"
	}
	for i := range max(len(saved), len(own)) {
		if a, b := part(saved, i), part(own, i); a != b {
			return fmt.Sprintf("it has %s where the cache has %s", a, b)
		}
	}
	return ""
}
