package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// off is the value of a bound that the configuration switches off by the word off.
const off = -1

// A Timeout is a Duration, or off.
type Timeout time.Duration

// UnmarshalYAML implements yaml.Unmarshaler.
func (t *Timeout) UnmarshalYAML(n *yaml.Node) error {
	if n.Value == "off" {
		*t = off
		return nil
	}
	return (*Duration)(t).UnmarshalYAML(n)
}

// A Bound is how many of something there may be, or off.
type Bound int

// UnmarshalYAML implements yaml.Unmarshaler.
func (b *Bound) UnmarshalYAML(n *yaml.Node) error {
	if n.Value == "off" {
		*b = off
		return nil
	}
	v, err := strconv.ParseInt(n.Value, 10, 32)
	if err != nil || n.Kind != yaml.ScalarNode {
		return fmt.Errorf("must be a whole number or off, not %s", describeNode(n))
	}
	if v < 0 {
		return fmt.Errorf("must be positive, or off for no bound")
	}
	*b = Bound(v) // a zero is an unsaid fault
	return nil
}

// passed reports whether n is more than the bound.
func (b Bound) passed(n int64) bool { return b > 0 && n > int64(b) }

// A Weight is a number of 32 bits, or zero, which drains.
type Weight int64

const drained Weight = off

// UnmarshalYAML implements yaml.Unmarshaler.
func (w *Weight) UnmarshalYAML(n *yaml.Node) error {
	v, err := strconv.ParseUint(n.Value, 0, 32)
	if err != nil || n.Kind != yaml.ScalarNode {
		return fmt.Errorf("must be a whole number from 0, not %s", describeNode(n))
	}
	if *w = Weight(v); v == 0 {
		*w = drained
	}
	return nil
}

// A Pace is a number of bytes in a second, "240B/s", or off.
type Pace int64

// UnmarshalYAML implements yaml.Unmarshaler.
func (p *Pace) UnmarshalYAML(n *yaml.Node) error {
	if n.Value == "off" {
		*p = off
		return nil
	}
	text, ok := strings.CutSuffix(n.Value, "/s")
	size := Size(0)
	err := size.UnmarshalYAML(&yaml.Node{Kind: n.Kind, Tag: n.Tag, Value: text})
	switch {
	case ok && err == errZero:
		return err
	case !ok || err != nil:
		return fmt.Errorf("must be a rate such as 240B/s or 1KiB/s, or off, not %s", describeNode(n))
	case size < 0:
		return fmt.Errorf("must be positive, or off for no bound")
	}
	*p = Pace(size)
	return nil
}

func (f *faults) timeout(t *Timeout, def time.Duration, path ...any) {
	if *t != off {
		f.duration((*Duration)(t), def, path...)
	}
}

// orDefault fills in a default.
func (b *Bound) orDefault(def Bound) {
	if *b == 0 {
		*b = def
	}
}

// orDefault fills in a default.
func (p *Pace) orDefault(def Pace) {
	if *p == 0 {
		*p = def
	}
}
