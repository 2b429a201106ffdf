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

// positions maps the parts of a document to lines, and back.
type positions struct {
	lines  map[string]int    // by path; in a mapping the line of the key
	paths  map[[2]int]string // by line and column of a key or a value
	unsaid faults            // values that would silently become defaults
}

// Deeper or longer paths than these are not recorded: no configuration has any, so they can only be
// part of a fault above them, and a hostile file has so many that they would fill the memory.
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

// scalar refuses a missing value and a zero. Both would silently stand for the default.
func (p *positions) scalar(n *yaml.Node, path []any) {
	switch n.ShortTag() {
	case "!!null":
		p.unsaid.add("has no value: without one, leave it out", path...)
	case "!!int", "!!float":
		v, err := strconv.ParseFloat(n.Value, 64)
		if i, bad := strconv.ParseInt(n.Value, 0, 64); bad == nil { // ParseFloat does not take 0x0
			v, err = float64(i), nil
		}
		if err == nil && v == 0 && path[len(path)-1] != "priority" { // whose default is zero
			p.unsaid.add("must not be zero: for the default, leave it out", path...)
		}
	}
}

// pathString returns keys and indices in the form "routes[0].methods[1]".
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

// describe returns a line for each fault, in the order of the file. A fault of a missing key has
// the line of the part that lacks it.
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

// loadFaults returns a line for each fault that the YAML library found, in words without Go types.
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
			found := map[string]string{"seq": "a list", "map": "a mapping"}[m[1]]
			text = "must be " + kindOf(m[3]) + ", not " + found + strings.TrimSpace(m[2])
		}
		line := fmt.Sprintf("%s:%d: ", name, e.Mark.Line)
		if path := p.paths[[2]int{e.Mark.Line, e.Mark.Column}]; path != "" {
			line += path + ": "
		}
		lines = append(lines, line+text)
	}
	return lines
}

// kindOf returns the name that a Go type has in YAML.
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
