package versioning

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// operations are the members of a path item that are operations (OpenAPI 3.1, section 4.8.9).
var operations = [...]string{"get", "put", "post", "delete", "options", "head", "patch", "trace"}

// Document returns the OpenAPI 3 document of a version, made of base, that of the head version, in
// JSON: the Schema of each change since runs on it, the latest first. info.version becomes the
// version's name. If the version is deprecated or has a sunset, its operations are marked as
// deprecated, and have x-sunset with the day of the sunset. Whatever no Schema touches stays as it
// is, in its order. The error names the change that failed.
func (v *Versions) Document(base []byte, version string) ([]byte, error) {
	index := v.table.index(version)
	if index < 0 {
		return nil, fmt.Errorf("%w %q", ErrUnsupported, shorten(version))
	}
	doc := NewObject()
	if err := doc.UnmarshalJSON(base); err != nil {
		return nil, fmt.Errorf("versioning: document: %w", err)
	}
	changes := v.chains[index].changes
	for i := len(changes) - 1; i >= 0; i-- {
		if d := &changes[i]; d.Schema != nil {
			if err := d.Schema(doc); err != nil {
				return nil, fmt.Errorf("versioning: document: %w", &stepError{d.Name, err})
			}
		}
	}
	info := doc.Object("info")
	if info == nil {
		return nil, fmt.Errorf("versioning: document: it has no info")
	}
	info.Set("version", version)
	markDeprecated(doc, &v.versions[index])
	text, err := doc.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("versioning: document: %w", err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", "  "); err != nil {
		return nil, fmt.Errorf("versioning: document: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// markDeprecated marks the operations of doc if d has dates.
func markDeprecated(doc *Object, d *version) {
	if d.Deprecated.IsZero() && d.Sunset.IsZero() {
		return
	}
	paths := doc.Object("paths")
	for _, path := range paths.Names() {
		item := paths.Object(path)
		for _, name := range operations {
			operation := item.Object(name)
			if operation == nil {
				continue
			}
			operation.Set("deprecated", true)
			if !d.Sunset.IsZero() {
				operation.Set("x-sunset", d.Sunset.UTC().Format(time.DateOnly))
			}
		}
	}
}
