package telemetry

import (
	"context"
	"fmt"
	"github.com/trivet-go/trivet/telemetry/internal/redact"
	"hash/maphash"
	"log/slog"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// Observer returns a function for the Observe field of another package's Config. It turns each
// event into metrics, an event of the current span, and fields of the access log's line. If t is nil,
// so is the function.
//
// What an event says is up to its LogValue, a group:
//
//   - the first attribute, "event", is a constant word; trivet.<package>.<event> counts the events,
//     where <package> is the one that declares E;
//   - strings and bools are its dimensions: attributes of the counter;
//   - durations are measurements: histograms trivet.<package>.<event>.<key> in seconds;
//   - everything else, above all a group "detail", reaches span and log only.
//
// name tells instances apart, such as "payments": it is the attribute "name" of the metrics and the name of
// the group in the log. If empty, the metrics have none and the group is called like the package.
func Observer[E slog.LogValuer](t *Telemetry, name string) func(context.Context, E) {
	if t == nil {
		return nil
	}
	o := newEventObserver(t, packageOf(reflect.TypeFor[E]()), name)
	return func(ctx context.Context, e E) {
		defer t.caught()
		o.observe(ctx, e.LogValue())
	}
}

// packageOf returns the name of the package that declares typ.
func packageOf(typ reflect.Type) string {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	dir, name := path.Split(typ.PkgPath())
	if len(name) > 1 && name[0] == 'v' && strings.Trim(name[1:], "0123456789") == "" {
		name = path.Base(dir) // a module's major version
	}
	return word(strings.TrimSuffix(name, "_test"))
}

// word returns s as a part of an instrument's name.
func word(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '_', r == '.':
			return r
		case 'A' <= r && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '_'
	}, redact.Clip(s, 64))
	if s == "" {
		return "unknown"
	}
	return s
}

// An eventObserver counts the events of one name.
type eventObserver struct {
	tel   *Telemetry
	pkg   string
	name  string
	group string // in the log
	seed  maphash.Seed

	current atomic.Pointer[map[uint64]*eventSeries]
	full    atomic.Bool

	mu sync.Mutex // serialises writers of current, and guards len
	n  int        // of all series
}

// An eventSeries is what events with the same dimensions share.
type eventSeries struct {
	event    string
	shape    []slog.Attr // dimensions and, with zero values, measurements
	count    metric.Int64Counter
	add      []metric.AddOption
	record   []metric.RecordOption
	measures []metric.Float64Histogram // of the measurements, in order
	next     *eventSeries              // of the same hash
}

func newEventObserver(t *Telemetry, pkg, name string) *eventObserver {
	o := &eventObserver{tel: t, pkg: pkg, name: name, group: name, seed: maphash.MakeSeed()}
	if name == "" {
		o.group = pkg
	}
	o.current.Store(&map[uint64]*eventSeries{})
	return o
}

func (o *eventObserver) observe(ctx context.Context, v slog.Value) {
	if v.Kind() != slog.KindGroup {
		v = v.Resolve()
	}
	event, attrs := splitEvent(v)
	if s := o.series(event, attrs); s != nil {
		s.count.Add(ctx, 1, s.add...)
		i := 0
		for _, a := range attrs {
			if a.Value.Kind() == slog.KindDuration && i < len(s.measures) {
				s.measures[i].Record(ctx, a.Value.Duration().Seconds(), s.record...)
				i++
			}
		}
	}
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		kv := spanFields(make([]attribute.KeyValue, 0, len(attrs)+4), "", attrs)
		if o.name != "" {
			kv = append(kv, attribute.String("name", o.name))
		}
		span.AddEvent(o.pkg+"."+redact.Escape(event), trace.WithAttributes(kv...))
	}
	if o.tel.cfg.AccessLog != nil {
		if x := exchangeFrom(ctx); x != nil {
			x.observe(o.group, event, attrs)
		}
	}
}

// splitEvent returns the event's word and what stands beside it.
func splitEvent(v slog.Value) (event string, attrs []slog.Attr) {
	if v.Kind() != slog.KindGroup {
		return "unknown", []slog.Attr{slog.GroupAttrs("detail", slog.Attr{Key: "value", Value: v})}
	}
	attrs = v.Group()
	if len(attrs) > 0 && attrs[0].Key == "event" && attrs[0].Value.Kind() == slog.KindString {
		return attrs[0].Value.String(), attrs[1:]
	}
	return "unknown", attrs
}

// series returns the series of an event, or nil if it is beyond all bounds.
func (o *eventObserver) series(event string, attrs []slog.Attr) *eventSeries {
	h := o.hash(event, attrs)
	if s := find((*o.current.Load())[h], event, attrs); s != nil {
		return s
	}
	if !o.full.Load() {
		if s := o.add(h, event, attrs, false); s != nil {
			return s
		}
	}
	o.tel.eventOverflow.Add(1)
	// Without dimensions, but each word still has its own count and measurements.
	measures := make([]slog.Attr, 0, 4)
	for _, a := range attrs {
		if a.Value.Kind() == slog.KindDuration {
			measures = append(measures, a)
		}
	}
	h = o.hash(event, measures)
	if s := find((*o.current.Load())[h], event, measures); s != nil {
		return s
	}
	return o.add(h, event, measures, true)
}

// hash is over the values of dimensions. The keys of one event are mostly the same: fits compares them.
func (o *eventObserver) hash(event string, attrs []slog.Attr) uint64 {
	h := maphash.String(o.seed, event)
	for i := range attrs {
		switch v := &attrs[i].Value; v.Kind() {
		case slog.KindString:
			h = h*31 + maphash.String(o.seed, v.String())
		case slog.KindBool:
			h *= 31
			if v.Bool() {
				h++
			}
		}
	}
	return h
}

// find returns the series of the chain s that fits, or nil.
func find(s *eventSeries, event string, attrs []slog.Attr) *eventSeries {
	for ; s != nil; s = s.next {
		if s.fits(event, attrs) {
			return s
		}
	}
	return nil
}

func (s *eventSeries) fits(event string, attrs []slog.Attr) bool {
	if s.event != event {
		return false
	}
	n := 0
	for i := range attrs {
		a := &attrs[i]
		kind := a.Value.Kind()
		if kind != slog.KindString && kind != slog.KindBool && kind != slog.KindDuration {
			continue
		}
		if n == len(s.shape) {
			return false
		}
		b := &s.shape[n]
		n++
		if a.Key != b.Key || kind != b.Value.Kind() ||
			kind == slog.KindString && a.Value.String() != b.Value.String() ||
			kind == slog.KindBool && a.Value.Bool() != b.Value.Bool() {
			return false
		}
	}
	return n == len(s.shape)
}

// maxWords bounds the series that events get beyond the ordinary ones: one for each word.
const maxWords = 64

// add returns the series of an event, made if there is room, or else nil.
func (o *eventObserver) add(h uint64, event string, attrs []slog.Attr, overflow bool) *eventSeries {
	o.mu.Lock()
	defer o.mu.Unlock()
	old := *o.current.Load()
	if s := find(old[h], event, attrs); s != nil {
		return s
	}
	reserve := min(maxWords, o.tel.cfg.MaxSeries/4)
	switch {
	case !overflow && o.n >= o.tel.cfg.MaxSeries-reserve:
		o.full.Store(true)
		return nil
	case o.n >= o.tel.cfg.MaxSeries:
		return nil
	}
	s := o.make(event, attrs, overflow)
	s.next = old[h]
	grown := maps.Clone(old)
	grown[h] = s
	o.current.Store(&grown)
	o.n++
	return s
}

func (o *eventObserver) make(event string, attrs []slog.Attr, overflow bool) *eventSeries {
	s := &eventSeries{event: strings.Clone(event)}
	instrument := "trivet." + o.pkg + "." + word(event)
	var kv []attribute.KeyValue
	for _, a := range attrs {
		key := strings.Clone(a.Key)
		switch a.Value.Kind() {
		case slog.KindString:
			value := strings.Clone(a.Value.String())
			s.shape = append(s.shape, slog.String(key, value))
			kv = append(kv, attribute.String(key, redact.Escape(redact.Clip(value, maxRoute))))
		case slog.KindBool:
			s.shape = append(s.shape, slog.Bool(key, a.Value.Bool()))
			kv = append(kv, attribute.Bool(key, a.Value.Bool()))
		case slog.KindDuration:
			s.shape = append(s.shape, slog.Duration(key, 0))
			s.measures = append(s.measures, o.histogram(instrument+"."+word(key)))
		}
	}
	if o.name != "" {
		kv = append(kv, attribute.String("name", o.name))
	}
	if overflow {
		kv = append(kv, attribute.Bool(attrOverflow, true))
	}
	set := metric.WithAttributeSet(attribute.NewSet(kv...))
	s.add, s.record = []metric.AddOption{set}, []metric.RecordOption{set}
	var err error
	s.count, err = o.tel.meter.Int64Counter(instrument, metric.WithUnit("{event}"),
		metric.WithDescription("Events "+redact.Escape(event)+" of package "+o.pkg+"."))
	if err != nil {
		panic(fmt.Errorf("instrument %s: %w", instrument, err)) // reported by caught
	}
	return s
}

func (o *eventObserver) histogram(name string) metric.Float64Histogram {
	h, err := o.tel.meter.Float64Histogram(name, metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(eventBuckets...))
	if err != nil {
		panic(fmt.Errorf("instrument %s: %w", name, err))
	}
	return h
}

// eventBuckets reach lower than those of requests: waits and lookups take microseconds.
var eventBuckets = slices.Concat([]float64{0.00001, 0.0001, 0.0005, 0.001, 0.0025}, durationBuckets)

// spanFields appends attrs as attributes of a span event, without secrets. Groups become prefixes.
func spanFields(kv []attribute.KeyValue, prefix string, attrs []slog.Attr) []attribute.KeyValue {
	for _, a := range attrs {
		key := prefix + a.Key
		switch v := a.Value.Resolve(); v.Kind() {
		case slog.KindString:
			kv = append(kv, attribute.String(key, safeText(a.Key, v.String(), prefix != "")))
		case slog.KindBool:
			kv = append(kv, attribute.Bool(key, v.Bool()))
		case slog.KindInt64:
			kv = append(kv, attribute.Int64(key, v.Int64()))
		case slog.KindUint64:
			kv = append(kv, attribute.Int64(key, int64(min(v.Uint64(), 1<<63-1))))
		case slog.KindFloat64:
			kv = append(kv, attribute.Float64(key, v.Float64()))
		case slog.KindDuration:
			kv = append(kv, attribute.Float64(key, v.Duration().Seconds()))
		case slog.KindGroup:
			kv = spanFields(kv, key+".", v.Group())
		default:
			if v.Any() != nil {
				kv = append(kv, attribute.String(key, safeText(a.Key, v.String(), true)))
			}
		}
	}
	return kv
}
