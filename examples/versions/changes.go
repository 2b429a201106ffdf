package main

import (
	"errors"
	"net/http"
	"strings"

	"github.com/trivet-go/trivet/versioning"
)

// The versions of the API, oldest first.
const (
	january   = "2025-01-15"
	september = "2025-09-01"
	june      = "2026-06-01"
)

// changes are all that the handler does not know: how it was before.
func changes() []versioning.Change {
	return []versioning.Change{nameIsAnObject(), peopleAreUsers()}
}

// nameIsAnObject: until September 2025 a name was a text, "Ada Lovelace".
func nameIsAnObject() versioning.Change {
	return versioning.Change{
		Version: september, Name: "name-is-an-object", Messages: true,
		Doc:    "A name has a first and a last part.",
		Routes: []string{"/people", "/people/{id}"},
		RequestBody: versioning.JSON(func(user *versioning.Object) error {
			text, ok := user.Text("name")
			if !ok {
				return errors.New("the name is no text")
			}
			first, last, _ := strings.Cut(text, " ")
			name := versioning.NewObject()
			name.Set("first", first)
			name.Set("last", last)
			user.Set("name", name)
			return nil
		}),
		ResponseBody: versioning.JSON(func(user *versioning.Object) error {
			first, _ := user.Object("name").Text("first")
			last, _ := user.Object("name").Text("last")
			user.Set("name", strings.TrimSpace(first+" "+last))
			return nil
		}),
		Schema: func(doc *versioning.Object) error {
			schemas := doc.Object("components").Object("schemas")
			text := versioning.NewObject()
			text.Set("type", "string")
			for _, schema := range []string{"User", "NewUser"} {
				schemas.Object(schema).Object("properties").Set("name", text)
			}
			schemas.Delete("Name")
			return nil
		},
	}
}

// peopleAreUsers: until June 2026 the path was /people, and a list was an array.
func peopleAreUsers() versioning.Change {
	return versioning.Change{
		Version: june, Name: "people-are-users",
		Doc:    "/people is /users, and a list has a total.",
		Routes: []string{"/people", "/people/{id}"},
		Request: func(r *http.Request) error {
			r.URL.Path = "/users" + strings.TrimPrefix(r.URL.Path, "/people")
			return nil
		},
		Response: func(r *versioning.Response) error {
			if rest, ok := strings.CutPrefix(r.Header.Get("Location"), "/users"); ok {
				r.Header.Set("Location", "/people"+rest)
			}
			return nil
		},
		ResponseBody: versioning.JSONValue(func(v any) (any, error) {
			if list, ok := v.(*versioning.Object); ok && list.Has("data") {
				return list.Get("data"), nil
			}
			return v, nil
		}),
		Schema: func(doc *versioning.Object) error {
			paths := doc.Object("paths")
			paths.Rename("/users", "/people")
			paths.Rename("/users/{id}", "/people/{id}")
			media := paths.Object("/people").Object("get").Object("responses").Object("200").
				Object("content").Object("application/json")
			media.Set("schema", media.Object("schema").Object("properties").Get("data"))
			return nil
		},
	}
}
