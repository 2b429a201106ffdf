package telemetry

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"path"
	"reflect"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/trivet-go/trivet/telemetry/internal/redact"
)

// Observer returns a function for the Observe field of another package's Config. It turns each
// event into metrics, an event of the current span, and fields of the access log's line. If t is
// nil, so is the function. The function is safe for concurrent use.
//
// What an event tells is up to its LogValue. The contract is a group:
//
//   - the first attribute, "event", is a constant word: trivet.<package>.<event> counts the events,
//     where <package> is the one that declares E;
//   - strings and bools beside it are bounded dimensions: attributes of the counter;
//   - a duration is a measurement, by custom called "duration": a histogram
//     trivet.<package>.<event>.duration, in seconds;
//   - whatever is unbounded or merely informative, such as keys, hosts of strangers, errors and
//     counts, stands in a subgroup "detail" and reaches span and log only.
//
// name tells instances apart, such as "payments": it is the attribute "name" of the metrics and the
// name of the group in the log. If empty, the metrics have no such attribute and the group has the
// name of the package.
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
	bounded[eventShape, uint64, eventSeries]
	tel   *Telemetry
	pkg   string
	name  string
	group string // in the log
	seed  maphash.Seed
}

// An eventShape is what decides to which series an event belongs: its word, its dimensions, and the
// keys of its measurements. What else is in attrs does not matter.
type eventShape struct {
	event    string
	attrs    []slog.Attr
	overflow bool // stands for all dimensions that found no room
}

// An eventSeries is what events of the same shape share.
type eventSeries struct {
	shape    eventShape // without what does not matter, and with measurements of zero
	count    metric.Int64Counter
	add      []metric.AddOption
	record   []metric.RecordOption
	measures []metric.Float64Histogram // of the measurements, in order
}

// maxWords bounds the series that events get beyond the ordinary ones: one for each word.
const maxWords = 64

func newEventObserver(t *Telemetry, pkg, name string) *eventObserver {
	o := &eventObserver{tel: t, pkg: pkg, name: name, group: name, seed: maphash.MakeSeed()}
	if name == "" {
		o.group = pkg
	}
	o.limit, o.lost = t.cfg.MaxSeries, &t.overflowed
	o.ordinary = o.limit - min(maxWords, o.limit/4)
	o.key, o.answers, o.shared = o.hash, (*eventSeries).fits, withoutDimensions
	o.build = func(e eventShape) (uint64, *eventSeries) { return o.hash(e), o.newSeries(e) }
	return o
}

func (o *eventObserver) observe(ctx context.Context, v slog.Value) {
	if v.Kind() != slog.KindGroup {
		v = v.Resolve()
	}
	event, attrs := splitEvent(v)
	span := trace.SpanFromContext(ctx)
	if s := o.get(eventShape{event: event, attrs: attrs}); s != nil {
		ctx := exemplar(ctx, span)
		s.count.Add(ctx, 1, s.add...)
		i := 0
		for _, a := range attrs {
			if a.Value.Kind() == slog.KindDuration && i < len(s.measures) {
				s.measures[i].Record(ctx, a.Value.Duration().Seconds(), s.record...)
				i++
			}
		}
	}
	if span.IsRecording() {
		kv := spanFields(make([]attribute.KeyValue, 0, len(attrs)+4), "", attrs)
		if o.name != "" {
			kv = append(kv, attribute.String("name", o.name))
		}
		span.AddEvent(o.pkg+"."+redact.Escape(event), trace.WithAttributes(kv...))
	}
	if o.tel.cfg.AccessLog != nil {
		if ex := exchangeFrom(ctx); ex != nil {
			ex.observe(o.group, event, attrs)
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

// withoutDimensions returns the shape for events whose own finds no room. Each word still has its
// own count and measurements.
func withoutDimensions(e eventShape) eventShape {
	measures := make([]slog.Attr, 0, 4)
	for _, a := range e.attrs {
		if a.Value.Kind() == slog.KindDuration {
			measures = append(measures, a)
		}
	}
	return eventShape{event: e.event, attrs: measures, overflow: true}
}

// hash is over the values of dimensions. The keys of one event are mostly the same: fits compares
// them.
func (o *eventObserver) hash(e eventShape) uint64 {
	h := maphash.String(o.seed, e.event)
	for i := range e.attrs {
		switch v := &e.attrs[i].Value; v.Kind() {
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

// fits reports whether events of shape e belong to s. An event whose own shape is the overflow's
// does too.
func (s *eventSeries) fits(e eventShape) bool {
	if s.shape.event != e.event {
		return false
	}
	n := 0
	for i := range e.attrs {
		a := &e.attrs[i]
		kind := a.Value.Kind()
		if kind != slog.KindString && kind != slog.KindBool && kind != slog.KindDuration {
			continue
		}
		if n == len(s.shape.attrs) {
			return false
		}
		b := &s.shape.attrs[n]
		n++
		if a.Key != b.Key || kind != b.Value.Kind() ||
			kind == slog.KindString && a.Value.String() != b.Value.String() ||
			kind == slog.KindBool && a.Value.Bool() != b.Value.Bool() {
			return false
		}
	}
	return n == len(s.shape.attrs)
}

func (o *eventObserver) newSeries(e eventShape) *eventSeries {
	s := &eventSeries{shape: eventShape{event: strings.Clone(e.event)}}
	instrument := "trivet." + o.pkg + "." + word(e.event)
	var kv []attribute.KeyValue
	for _, a := range e.attrs {
		key := strings.Clone(a.Key)
		switch a.Value.Kind() {
		case slog.KindString:
			value := strings.Clone(a.Value.String())
			s.shape.attrs = append(s.shape.attrs, slog.String(key, value))
			kv = append(kv, attribute.String(key, redact.Escape(redact.Clip(value, maxRoute))))
		case slog.KindBool:
			s.shape.attrs = append(s.shape.attrs, slog.Bool(key, a.Value.Bool()))
			kv = append(kv, attribute.Bool(key, a.Value.Bool()))
		case slog.KindDuration:
			s.shape.attrs = append(s.shape.attrs, slog.Duration(key, 0))
			s.measures = append(s.measures, o.histogram(instrument+"."+word(key)))
		}
	}
	if o.name != "" {
		kv = append(kv, attribute.String("name", o.name))
	}
	if e.overflow {
		kv = append(kv, attribute.Bool(attrOverflow, true))
	}
	set := metric.WithAttributeSet(attribute.NewSet(kv...))
	s.add, s.record = []metric.AddOption{set}, []metric.RecordOption{set}
	var err error
	s.count, err = o.tel.meter.Int64Counter(instrument, metric.WithUnit("{event}"),
		metric.WithDescription("Events "+redact.Escape(e.event)+" of package "+o.pkg+"."))
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

// spanFields appends attrs as attributes of a span event, without secrets. A group's name becomes a
// prefix of its attributes' keys.
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
