package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// maxConfigFile bounds a file: YAML's aliases let a small one describe a huge configuration.
const maxConfigFile = 1 << 20

// A ConfigError names everything that is wrong with a configuration file, one fault a line:
// "gateway.yaml:12: routes[0].upstream: ...".
type ConfigError struct{ Lines []string }

func (e *ConfigError) Error() string { return strings.Join(e.Lines, "\n") }

// loadConfig reads a configuration file. If the content is at fault, the error is a *ConfigError.
// more, if not nil, returns faults that the text alone does not show, of the configuration with its
// defaults.
func loadConfig(file string, more func(Config) faults) (Config, error) {
	f, err := os.Open(file)
	if err != nil {
		return Config{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfigFile+1)) // pipes have no size to check
	if err != nil {
		return Config{}, err
	}
	if len(text) > maxConfigFile {
		return Config{}, &ConfigError{[]string{fmt.Sprintf("%s: is larger than 1 MiB", file)}}
	}
	return parse(file, text, func(cfg Config) (Config, faults) {
		cfg = cfg.relativeTo(filepath.Dir(file))
		if more == nil {
			return cfg, nil
		}
		return cfg, more(cfg)
	})
}

// parseConfig is loadConfig without the file system. The errors call the text name.
func parseConfig(name string, text []byte) (Config, error) { return parse(name, text, nil) }

// parse makes a configuration of text. more, if not nil, completes it.
func parse(name string, text []byte, more func(Config) (Config, faults)) (Config, error) {
	var cfg Config
	var root yaml.Node
	if line := unreadable(text); line > 0 {
		fault := fmt.Sprintf("%s:%d: has bytes that are not text in UTF-8", name, line)
		return Config{}, &ConfigError{[]string{fault}}
	}
	if err := yaml.Load(text, &root); err != nil {
		return Config{}, &ConfigError{syntaxFaults(name, err)}
	}
	pos := newPositions(&root)
	var unloaded *yaml.LoadErrors
	var all []located
	var lost []string
	switch err := root.Load(&cfg, yaml.WithKnownFields()); {
	case errors.As(err, &unloaded):
		all, lost = pos.loadFaults(unloaded)
	case err != nil:
		return Config{}, &ConfigError{syntaxFaults(name, err)}
	}
	cfg, found := cfg.withDefaults()
	if more != nil {
		var others faults
		cfg, others = more(cfg)
		found = append(found, others...)
	}
	all = append(all, pos.locate(pos.standing(append(pos.unsaid, found...), lost))...)
	if len(all) > 0 {
		return Config{}, &ConfigError{inOrder(name, all)}
	}
	return cfg, nil
}

// unreadable returns the first line that is not UTF-8 or has control characters, or 0 if there is
// none. The YAML library would refuse the text without saying where.
func unreadable(text []byte) int {
	line := 1
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && size == 1,
			unicode.IsControl(r) && !strings.ContainsRune("\t\n\r\u0085", r):
			return line
		case r == '\n':
			line++
		}
		text = text[size:]
	}
	return 0
}

func syntaxFaults(name string, err error) []string {
	var one *yaml.LoadError
	if errors.As(err, &one) && one.Mark.Line > 0 {
		return []string{fmt.Sprintf("%s:%d: %s", name, one.Mark.Line, plainly(one.Message))}
	}
	text := err.Error()
	if i := strings.LastIndex(text, "yaml: "); i >= 0 {
		text = text[i+len("yaml: "):] // "no documents in stream"
	}
	return []string{name + ": " + plainly(text)}
}

// advice says what to do about a fault of YAML, whose library tells it in the words of a parser.
var advice = []struct{ fault, advice string }{
	{"did not find expected key", "is this line, or the one before it, indented too far or not far enough?"},
	{"mapping values are not allowed", "is the line indented as its neighbours are, and the value in " +
		"quotes if it has a colon?"},
	{"found character that cannot start any token", "indent with spaces and not with tabs, and put what " +
		"begins with @, % or ` in quotes"},
	{"found a tab character", "indent with spaces"},
	{"unknown anchor", "put what begins with a star in quotes"},
	{"did not find expected alphabetic or numeric", "put what begins with * or & in quotes"},
	{"found unexpected end of stream", "a quote is not closed"},
	{"expected single document", "leave out the line ---"},
	{"no documents in stream", "there is nothing in the file"},
}

func plainly(fault string) string {
	for _, known := range advice {
		if strings.HasPrefix(fault, known.fault) {
			return fault + ": " + known.advice
		}
	}
	return fault
}

var errZero = errors.New("must not be zero: for the default, leave it out")

// A Duration is written as time.ParseDuration reads it: "1.5s", "2m".
type Duration time.Duration

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil {
		return fmt.Errorf("must be a duration such as 500ms, 5s or 1m30s, not %s", describeNode(n))
	}
	if v == 0 {
		return errZero
	}
	*d = Duration(v)
	return nil
}

// A Size is a number of bytes, written with a unit: "512B", "32KiB", "10MiB", "1GiB".
type Size int64

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *Size) UnmarshalYAML(n *yaml.Node) error {
	for _, unit := range []struct {
		name  string
		bytes int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"B", 1}} {
		digits, ok := strings.CutSuffix(n.Value, unit.name)
		if !ok {
			continue
		}
		v, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 32)
		if err != nil {
			break
		}
		if v == 0 {
			return errZero
		}
		*s = Size(v * unit.bytes)
		return nil
	}
	return fmt.Errorf("must be a size such as 512B, 32KiB or 10MiB, not %s", describeNode(n))
}

// UnmarshalYAML implements yaml.Unmarshaler. It takes an address alone, too.
func (h *Host) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		h.Addr = n.Value
		return nil
	}
	type mapping Host
	return n.Load((*mapping)(h), yaml.WithKnownFields())
}

func describeNode(n *yaml.Node) string {
	switch n.Kind {
	case yaml.ScalarNode:
		return "`" + n.Value + "`"
	case yaml.SequenceNode:
		return "a list"
	default:
		return "a mapping"
	}
}
