package main

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v4"
)

// unknownKeyFault says of a key that the configuration does not have which it could have been. The
// key stands in root at the given line and column.
func unknownKeyFault(root *yaml.Node, line, column int) string {
	key, valid := keysBeside(root, reflect.TypeFor[Config](), line, column, 0)
	if len(valid) == 0 {
		return "unknown key"
	}
	text := "unknown key: "
	above := keyWithoutValue(root, line)
	switch near, homes := nearest(key, valid), homesOf(key); {
	case strings.ContainsFunc(key, looksLikeNothing):
		text += "it has a character that only looks like a space: "
	case near != "":
		text += "did you mean " + near + "? "
	case above != "":
		text += "if it belongs to " + above + ", indent it: "
	case len(homes) > 0:
		text += "it is a key of " + strings.Join(homes, " and ") + ": "
	}
	slices.Sort(valid)
	return text + "the keys here are " + strings.Join(valid, ", ")
}

// keysBeside finds the key at the given line and column below n, which is loaded into a t. It
// returns the key, and the keys that its mapping may have.
func keysBeside(n *yaml.Node, t reflect.Type, line, column, depth int) (key string, valid []string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if depth > maxDepth {
		return "", nil
	}
	switch {
	case n.Kind == yaml.DocumentNode && len(n.Content) == 1:
		return keysBeside(n.Content[0], t, line, column, depth+1)
	case n.Kind == yaml.SequenceNode && t.Kind() == reflect.Slice:
		for _, c := range n.Content {
			if key, valid = keysBeside(c, t.Elem(), line, column, depth+1); valid != nil {
				return key, valid
			}
		}
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Map:
		for i := 1; i < len(n.Content); i += 2 {
			if key, valid = keysBeside(n.Content[i], t.Elem(), line, column, depth+1); valid != nil {
				return key, valid
			}
		}
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Struct:
		types := map[string]reflect.Type{}
		for f := range t.Fields() {
			if name, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); name != "" {
				types[name] = f.Type
				valid = append(valid, name)
			}
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			name := n.Content[i]
			if name.Line == line && name.Column == column {
				return name.Value, valid
			}
			if t := types[name.Value]; t != nil {
				if key, valid := keysBeside(n.Content[i+1], t, line, column, depth+1); valid != nil {
					return key, valid
				}
			}
		}
	}
	return "", nil
}

// looksLikeNothing reports whether r is a blank or a mark that YAML takes for a letter.
func looksLikeNothing(r rune) bool {
	return r > unicode.MaxASCII && (unicode.IsSpace(r) || unicode.Is(unicode.Cf, r))
}

// keyWithoutValue returns the key of the file that stands above line and has nothing below it, or
// "".
func keyWithoutValue(root *yaml.Node, line int) string {
	if len(root.Content) != 1 || root.Content[0].Kind != yaml.MappingNode {
		return ""
	}
	keys := root.Content[0].Content
	for i := 2; i+1 < len(keys); i += 2 {
		if keys[i].Line == line && keys[i-1].ShortTag() == "!!null" {
			return keys[i-2].Value
		}
	}
	return ""
}

// homesOf returns the sections of the file that have a key of that name.
func homesOf(key string) (homes []string) {
	has := func(t reflect.Type) bool {
		for f := range t.Fields() {
			if name, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); name == key {
				return true
			}
		}
		return false
	}
	config := reflect.TypeFor[Config]()
	if has(config) {
		homes = append(homes, "the file itself, not indented")
	}
	for f := range config.Fields() {
		section, t := f.Tag.Get("yaml"), f.Type
		switch t.Kind() {
		case reflect.Map:
			section, t = "each of the "+section, t.Elem()
		case reflect.Slice:
			section, t = "each of the "+section, t.Elem()
		}
		if t.Kind() == reflect.Struct && has(t) {
			homes = append(homes, section)
		}
	}
	return homes
}

// nearest returns which of words somebody meant who wrote key, or "" if that is like none of them:
// a third of its letters may be wrong.
func nearest(key string, words []string) string {
	if len(key) > 64 {
		return ""
	}
	best := slices.MinFunc(words, func(a, b string) int {
		return cmp.Compare(distance(key, a), distance(key, b))
	})
	if distance(key, best) > max(2, len(key)/3) || distance(key, best) >= len(key) {
		return ""
	}
	return best
}

// distance is how many letters must be added, left out or replaced to turn a into b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
