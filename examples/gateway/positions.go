package main

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// positions maps the parts of a document to lines, and back.
type positions struct {
	root   *yaml.Node
	lines  map[string]int    // by path; in a mapping the line of the key
	paths  map[[2]int]string // by line and column of a key or a value
	blocks map[[2]int]string // of mappings, which without braces begin where their first key does
	unsaid faults            // values that would silently become defaults
}

// Deeper or longer paths than these are not recorded: no configuration has any, so they can only be
// part of a fault above them, and a hostile file has so many that they would fill the memory.
const (
	maxDepth = 16
	maxPath  = 1000
)

func newPositions(root *yaml.Node) *positions {
	p := &positions{
		root: root, lines: map[string]int{}, paths: map[[2]int]string{}, blocks: map[[2]int]string{},
	}
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
		if _, ok := p.blocks[at]; !ok {
			p.blocks[at] = here
		}
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
		if err == nil && v == 0 && !mayBeZero(path) {
			p.unsaid.add("must not be zero: for the default, leave it out", path...)
		}
	}
}

// mayBeZero reports whether a zero means what it says: the default of a host's priority is zero,
// the weight of one that is drained, and the value of a header field.
func mayBeZero(path []any) bool {
	last := path[len(path)-1]
	return last == "priority" || last == "weight" && path[0] == "upstreams" ||
		len(path) == 6 && path[2] == "headers" && path[4] == "set"
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

// A located fault has its line in the file.
type located struct {
	line int
	text string
}

// locate returns the faults with their lines. A fault of a missing key has the line of the part
// that lacks it.
func (p *positions) locate(fs faults) []located {
	var all []located
	for _, f := range fs {
		line := 1
		for path := f.path; len(path) > 0; path = path[:len(path)-1] {
			if l, ok := p.lines[pathString(path)]; ok {
				line = l
				break
			}
		}
		all = append(all, located{line, pathString(f.path) + ": " + f.text})
	}
	return all
}

// inOrder returns a line of text for each fault, in the order of the file.
func inOrder(name string, all []located) []string {
	slices.SortStableFunc(all, func(a, b located) int {
		return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.text, b.text))
	})
	var lines []string
	for _, l := range all {
		lines = append(lines, fmt.Sprintf("%s:%d: %s", name, l.line, l.text))
	}
	return lines
}

var (
	unknownKey   = regexp.MustCompile("^field .* not found in type ")
	duplicateKey = regexp.MustCompile(`^mapping key .* already defined at line (\d+)`)
	wrongType    = regexp.MustCompile("^cannot construct !!(\\w+)( `.*`)? into (.*)$")
)

// loadFaults returns the faults that the YAML library found, in words without Go types, and the
// paths of the mappings and values that have them.
func (p *positions) loadFaults(err *yaml.LoadErrors) (all []located, paths []string) {
	for _, e := range err.Errors {
		text := e.Message
		path := p.paths[[2]int{e.Mark.Line, e.Mark.Column}]
		where := path
		if unknownKey.MatchString(text) {
			text = unknownKeyFault(p.root, e.Mark.Line, e.Mark.Column)
			where = parent(path) // another key may be missing now
		} else if m := duplicateKey.FindStringSubmatch(text); m != nil {
			text = "stands here twice, first in line " + m[1]
			where = parent(path) // which is not loaded
		} else if m := wrongType.FindStringSubmatch(text); m != nil {
			found := map[string]string{"seq": "a list", "map": "a mapping"}[m[1]]
			if block, ok := p.blocks[[2]int{e.Mark.Line, e.Mark.Column}]; ok && m[1] == "map" {
				path, where = block, block
			}
			text = "must be " + kindOf(m[3]) + ", not " + found + strings.TrimSpace(m[2])
			switch kind := kindOf(m[3]); {
			case found == "" && kind == "a list":
				text += ": put brackets around it"
			case m[1] == "bool" && kind == "a mapping":
				text += ": write {} for its defaults"
			}
		}
		if path != "" {
			text = path + ": " + text
		}
		all = append(all, located{e.Mark.Line, text})
		paths = append(paths, where)
	}
	return all, paths
}

// parent returns the path of the mapping that has the key path.
func parent(path string) string { return path[:max(strings.LastIndexByte(path, '.'), 0)] }

// standing returns those of fs that are not consequences of the faults at the given paths, of
// values and mappings that could not be loaded.
func (p *positions) standing(fs faults, at []string) faults {
	return slices.DeleteFunc(fs, func(f fault) bool {
		path := pathString(f.path)
		_, said := p.lines[path]
		return slices.ContainsFunc(at, func(bad string) bool {
			switch {
			case !strings.ContainsAny(bad, ".["): // a whole section, to which others refer
				return true
			case within(path, bad):
				return path == bad || !said
			default:
				return within(bad, path) // which may lack what could not be loaded
			}
		})
	})
}

// within reports whether path is outer or a part of it.
func within(path, outer string) bool {
	rest, ok := strings.CutPrefix(path, outer)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
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
