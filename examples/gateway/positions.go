package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// positions knows where each part of a document stands.
type positions struct {
	lines  map[string]int    // of a field, by its path; of the key in a mapping
	paths  map[[2]int]string // the path that begins, or whose key begins, at line and column
	unsaid faults            // values that would silently become defaults
}

// Paths of more parts or bytes than any configuration has are not told apart, since all of them would fill the memory: what
// stands deeper is wrong as a whole.
const (
	maxDepth = 16
	maxPath  = 1000
)

func newPositions(root *yaml.Node) *positions {
	p := &positions{lines: map[string]int{}, paths: map[[2]int]string{}}
	p.walk(root, nil)
	return p
}

func (p *positions) walk(n *yaml.Node, path []any) {
	here := pathString(path)
	if len(path) > maxDepth || len(here) > maxPath {
		return
	}
	at := [2]int{n.Line, n.Column}
	if _, ok := p.paths[at]; !ok {
		p.paths[at] = here
	}
	if _, ok := p.lines[here]; !ok {
		p.lines[here] = n.Line
	}
	switch n.Kind {
	case yaml.ScalarNode:
		if len(path) > 0 {
			p.scalar(n, path)
		}
	case yaml.DocumentNode:
		for _, c := range n.Content {
			p.walk(c, path)
		}
	case yaml.SequenceNode:
		for i, c := range n.Content {
			p.walk(c, append(slices.Clone(path), i))
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			if key.ShortTag() == "!!null" {
				p.unsaid.add("has an empty key", path...)
			}
			child := append(slices.Clone(path), key.Value)
			p.paths[[2]int{key.Line, key.Column}] = pathString(child)
			p.lines[pathString(child)] = key.Line
			p.walk(n.Content[i+1], child)
		}
	}
}

// scalar refuses a value that says nothing and a zero, which would silently mean a field's default.
func (p *positions) scalar(n *yaml.Node, path []any) {
	switch n.ShortTag() {
	case "!!null":
		p.unsaid.add("has no value: without one, leave it out", path...)
	case "!!int", "!!float":
		v, err := strconv.ParseFloat(n.Value, 64)
		if i, bad := strconv.ParseInt(n.Value, 0, 64); bad == nil { // 0x0, too
			v, err = float64(i), nil
		}
		if err == nil && v == 0 && path[len(path)-1] != "priority" { // there, it is the default
			p.unsaid.add("must not be zero: for the default, leave it out", path...)
		}
	}
}

// pathString renders keys and indices as in "routes[0].methods[1]".
func pathString(path []any) string {
	var b strings.Builder
	for _, part := range path {
		switch part := part.(type) {
		case int:
			fmt.Fprintf(&b, "[%d]", part)
		default:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			fmt.Fprint(&b, part)
		}
	}
	return b.String()
}

// describe renders faults in the order of the file. What is missing stands where it should be.
func (p *positions) describe(name string, fs faults) []string {
	type located struct {
		line int
		text string
	}
	var all []located
	for _, f := range fs {
		line := 1
		for path := f.path; len(path) > 0; path = path[:len(path)-1] {
			if l, ok := p.lines[pathString(path)]; ok {
				line = l
				break
			}
		}
		all = append(all, located{line, fmt.Sprintf("%s:%d: %s: %s", name, line, pathString(f.path), f.text)})
	}
	slices.SortStableFunc(all, func(a, b located) int {
		if a.line != b.line {
			return a.line - b.line
		}
		return strings.Compare(a.text, b.text)
	})
	var lines []string
	for _, l := range all {
		lines = append(lines, l.text)
	}
	return lines
}

var (
	unknownKey   = regexp.MustCompile("^field .* not found in type ")
	duplicateKey = regexp.MustCompile(`^mapping key .* already defined at line (\d+)`)
	wrongType    = regexp.MustCompile("^cannot construct !!(\\w+)( `.*`)? into (.*)$")
)

// loadFaults renders what the YAML library found, in words that name no Go type.
func (p *positions) loadFaults(name string, err error) []string {
	var all *yaml.LoadErrors
	if !errors.As(err, &all) {
		return syntaxFaults(name, err)
	}
	var lines []string
	for _, e := range all.Errors {
		text := e.Message
		if unknownKey.MatchString(text) {
			text = "unknown key"
		} else if m := duplicateKey.FindStringSubmatch(text); m != nil {
			text = "stands here twice, first in line " + m[1]
		} else if m := wrongType.FindStringSubmatch(text); m != nil {
			text = "must be " + kindOf(m[3]) + ", not " + map[string]string{"seq": "a list", "map": "a mapping"}[m[1]] + strings.TrimSpace(m[2])
		}
		line := fmt.Sprintf("%s:%d: ", name, e.Mark.Line)
		if path := p.paths[[2]int{e.Mark.Line, e.Mark.Column}]; path != "" {
			line += path + ": "
		}
		lines = append(lines, line+text)
	}
	return lines
}

// kindOf says in YAML's words what a Go type is.
func kindOf(goType string) string {
	switch {
	case strings.HasPrefix(goType, "[]"):
		return "a list"
	case goType == "string":
		return "a string"
	case goType == "bool":
		return "true or false"
	case strings.HasPrefix(goType, "int"):
		return "a whole number"
	case strings.HasPrefix(goType, "uint"):
		return "a whole number from 0"
	default:
		return "a mapping"
	}
}
