package versioning

import (
	"bytes"
	"encoding/json"
	"slices"
)

// items converts a stream item by item: lines, or events (HTML, section 9.2.6). An item goes out
// with the write that completes it. What is no item, such as a comment, goes out with its line.
type items struct {
	converter *converter
	events    bool
	partial   []byte // of a line
	out       []byte

	// Of events.
	data     []byte // the lines of data so far, joined
	hasData  bool
	after    []byte // lines of the event behind its data
	name     string
	wasCR    bool // the last byte was a carriage return, so that a line feed ends no other line
	selected []step
}

func (it *items) write(p []byte) (int, error) {
	it.out = it.out[:0]
	rest := p
	for len(rest) > 0 && it.converter.mode == itemizing {
		if it.wasCR {
			it.wasCR = false
			if rest[0] == '\n' {
				rest = rest[1:]
				continue
			}
		}
		end := bytes.IndexByte(rest, '\n')
		if it.events {
			if cr := bytes.IndexByte(rest, '\r'); cr >= 0 && (end < 0 || cr < end) {
				end, it.wasCR = cr, true
			}
		}
		if end < 0 {
			it.partial = append(it.partial, rest...)
			it.bound()
			break
		}
		line := rest[:end]
		if len(it.partial) > 0 {
			it.partial = append(it.partial, line...)
			line = it.partial
		}
		rest = rest[end+1:]
		it.line(line, true)
		it.partial = it.partial[:0]
		it.bound()
	}
	if err := it.flush(); err != nil {
		return 0, err
	}
	if it.converter.mode == broken {
		return 0, it.converter.err
	}
	return len(p), nil
}

// flush writes what is ready.
func (it *items) flush() error {
	if len(it.out) == 0 {
		return nil
	}
	_, err := it.converter.Recorder.Write(it.out)
	it.out = it.out[:0]
	return err
}

// bound gives up if an item is too large.
func (it *items) bound() {
	if int64(len(it.partial)+len(it.data)+len(it.after)) > it.converter.conversion.versions.cfg.MaxItem {
		it.fail(errItem)
	}
}

func (it *items) fail(err error) {
	it.converter.fail(err)
	it.partial, it.data, it.after = nil, nil, nil
}

// line takes one line without its end, which it had unless the stream broke off.
func (it *items) line(line []byte, ended bool) {
	if it.events {
		it.eventLine(line)
		return
	}
	text := line
	if len(bytes.TrimSpace(line)) > 0 {
		if int64(len(line)) > it.converter.conversion.versions.cfg.MaxItem {
			it.fail(errItem)
			return
		}
		var err error
		if text, err = convertText(line, it.converter.steps, it.converter.conversion.trace); err != nil {
			it.fail(err)
			return
		}
	}
	it.out = append(it.out, text...)
	if ended {
		it.out = append(it.out, '\n')
	}
}

func (it *items) eventLine(line []byte) {
	if len(line) == 0 {
		it.endEvent()
		it.out = append(it.out, '\n')
		return
	}
	field, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch string(field) {
	case "data":
		if it.hasData {
			it.data = append(it.data, '\n')
		}
		it.data, it.hasData = append(it.data, value...), true
		return
	case "event":
		it.name = string(value)
	}
	if it.hasData {
		it.after = append(append(it.after, line...), '\n')
	} else {
		it.out = append(append(it.out, line...), '\n')
	}
}

// endEvent writes the data of an event and what followed them.
func (it *items) endEvent() {
	if it.hasData {
		text := it.convertData()
		if it.converter.mode == broken {
			return
		}
		for {
			line, rest, more := bytes.Cut(text, []byte("\n"))
			it.out = append(append(append(it.out, "data: "...), line...), '\n')
			if !more {
				break
			}
			text = rest
		}
		it.out = append(it.out, it.after...)
	}
	it.data, it.after, it.hasData, it.name = it.data[:0], it.after[:0], false, ""
}

// convertData converts the data of an event, if they are a JSON object or array. Others, such as
// the mark of the end in use with many APIs, "[DONE]", are left alone.
func (it *items) convertData() []byte {
	text := bytes.TrimLeft(it.data, " \t\r\n")
	if len(text) == 0 || text[0] != '{' && text[0] != '[' || !json.Valid(text) {
		return it.data
	}
	name := it.name
	if name == "" {
		name = "message"
	}
	it.selected = it.selected[:0]
	for _, s := range it.converter.steps {
		if len(s.change.Events) == 0 || slices.Contains(s.change.Events, name) {
			it.selected = append(it.selected, s)
		}
	}
	if len(it.selected) == 0 {
		return it.data
	}
	out, err := convertText(it.data, it.selected, it.converter.conversion.trace)
	if err != nil {
		it.fail(err)
		return nil
	}
	return out
}

// finish ends the stream. An event that was not ended is converted too, in case someone reads it.
func (it *items) finish() {
	if len(it.partial) > 0 {
		it.line(it.partial, false)
	}
	if it.events && it.converter.mode == itemizing {
		it.endEvent()
	}
	_ = it.flush() // fails only if the client has left
}
