package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/trivet-go/trivet/telemetry/internal/redact"
)

// maxDepth bounds how deep Register looks into a Stats: deeper than any sensible one goes, so that
// it comes to an end in one that contains itself.
const maxDepth = 8

// Register exports what stats returns whenever metrics are collected, until unregister is called. S
// is a struct, such as the Stats of another package. Its fields become instruments
// trivet.<package>.<field>, named by their json tag or in snake case. A type that is not just
// called Stats adds its name: the fields of cache.MemoryStats are trivet.cache.memory.<field>.
//
//   - a uint64 is a counter;
//   - other numbers, durations (in seconds) and bools (0 or 1) are gauges;
//   - a struct adds its name as a prefix;
//   - a map adds its keys as the attribute "key": they must be few. At most [Config.MaxSeries] are
//     exported.
//
// Strings, slices, functions and fields tagged "-" are left out. name becomes the attribute "name";
// if empty, there is none. A second Stats of one type and name is an error: give them names. A
// panic of stats leaves its metrics out of that collection. stats must be safe for concurrent use.
func Register[S any](t *Telemetry, name string, stats func() S) (unregister func() error, err error) {
	typ := reflect.TypeFor[S]()
	if t == nil || stats == nil {
		return nil, errors.New("telemetry: Register: nil argument")
	}
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct {
		return nil, fmt.Errorf("telemetry: Register: %v is no struct", typ)
	}
	g := &gatherer{tel: t, name: name}
	prefix := "trivet." + packageOf(typ)
	if part := strings.TrimSuffix(typ.Name(), "Stats"); part != "" {
		prefix += "." + word(snake(part))
	}
	g.plan(prefix, typ, nil, false, 0)
	if g.err != nil {
		return nil, fmt.Errorf("telemetry: Register: %w", g.err)
	}
	if len(g.all) == 0 {
		return nil, fmt.Errorf("telemetry: Register: %v has nothing to export", typ)
	}
	id := registration{prefix, name}
	if !t.register(id) {
		return nil, fmt.Errorf("telemetry: Register: %v is registered with the name %q already", typ, name)
	}
	reg, err := t.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		defer t.caught()
		v := reflect.ValueOf(stats())
		for v.Kind() == reflect.Pointer {
			if v.IsNil() {
				return nil
			}
			v = v.Elem()
		}
		g.observe(o, v)
		return nil
	}, g.all...)
	if err != nil {
		t.registered.Delete(id)
		return nil, fmt.Errorf("telemetry: Register: %w", err)
	}
	return func() error {
		t.registered.Delete(id)
		return reg.Unregister()
	}, nil
}

// A registration is what two Stats may not share: they would be one set of metrics, of which each
// collection shows either.
type registration struct{ prefix, name string }

// register reports whether id is new.
func (t *Telemetry) register(id registration) bool {
	_, taken := t.registered.LoadOrStore(id, true)
	return !taken
}

// A gatherer knows where the numbers of a Stats are.
type gatherer struct {
	tel    *Telemetry
	name   string
	fields []gathered
	all    []metric.Observable
	err    error
}

// gathered is one number: the path of field indexes to it, where -1 means each element of a map.
type gathered struct {
	path    []int
	observe observeFunc
}

type observeFunc func(metric.Observer, reflect.Value, metric.ObserveOption)

var durationType = reflect.TypeFor[time.Duration]()

// plan adds the instruments of typ under prefix.
func (g *gatherer) plan(prefix string, typ reflect.Type, path []int, inMap bool, depth int) {
	if depth > maxDepth {
		return
	}
	add := func(instrument metric.Observable, err error, observe observeFunc) {
		if err != nil {
			g.err = cmp.Or(g.err, err)
			return
		}
		g.all = append(g.all, instrument)
		g.fields = append(g.fields, gathered{slices.Clone(path), observe})
	}
	meter := g.tel.meter
	switch kind := typ.Kind(); {
	case typ == durationType:
		i, err := meter.Float64ObservableGauge(prefix, metric.WithUnit("s"))
		add(i, err, func(o metric.Observer, v reflect.Value, opt metric.ObserveOption) {
			o.ObserveFloat64(i, time.Duration(v.Int()).Seconds(), opt)
		})
	case kind == reflect.Uint64:
		i, err := meter.Int64ObservableCounter(prefix)
		add(i, err, func(o metric.Observer, v reflect.Value, opt metric.ObserveOption) {
			o.ObserveInt64(i, int64(v.Uint()), opt)
		})
	case typ.ConvertibleTo(reflect.TypeFor[float64]()) && kind != reflect.String:
		i, err := meter.Float64ObservableGauge(prefix)
		float := reflect.TypeFor[float64]()
		add(i, err, func(o metric.Observer, v reflect.Value, opt metric.ObserveOption) {
			o.ObserveFloat64(i, v.Convert(float).Float(), opt)
		})
	case kind == reflect.Bool:
		i, err := meter.Float64ObservableGauge(prefix)
		add(i, err, func(o metric.Observer, v reflect.Value, opt metric.ObserveOption) {
			n := 0.0
			if v.Bool() {
				n = 1
			}
			o.ObserveFloat64(i, n, opt)
		})
	case kind == reflect.Struct:
		for f := range typ.Fields() {
			tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if !f.IsExported() || tag == "-" {
				continue
			}
			name := prefix + "." + word(cmp.Or(tag, snake(f.Name)))
			g.plan(name, f.Type, append(slices.Clip(path), f.Index[0]), inMap, depth+1)
		}
	case kind == reflect.Map && typ.Key().Kind() == reflect.String && !inMap:
		g.plan(prefix, typ.Elem(), append(slices.Clip(path), -1), true, depth+1)
	}
}

func (g *gatherer) observe(o metric.Observer, v reflect.Value) {
	plain := g.attributes("")
	byKey := map[string]metric.ObserveOption{}
	for _, f := range g.fields {
		g.follow(o, v, f, f.path, plain, byKey)
	}
}

// follow goes from v along path and reports the number at its end, or in a map all of them.
func (g *gatherer) follow(o metric.Observer, v reflect.Value, f gathered, path []int,
	opt metric.ObserveOption, byKey map[string]metric.ObserveOption,
) {
	for i, step := range path {
		if step >= 0 {
			v = v.Field(step)
			continue
		}
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return cmp.Compare(a.String(), b.String()) })
		for _, k := range keys[:min(len(keys), g.tel.cfg.MaxSeries)] {
			opt, ok := byKey[k.String()]
			if !ok {
				opt = g.attributes(k.String())
				byKey[k.String()] = opt
			}
			g.follow(o, v.MapIndex(k), f, path[i+1:], opt, byKey)
		}
		return
	}
	f.observe(o, v, opt)
}

func (g *gatherer) attributes(key string) metric.MeasurementOption {
	var kv []attribute.KeyValue
	if g.name != "" {
		kv = append(kv, attribute.String("name", g.name))
	}
	if key != "" {
		kv = append(kv, attribute.String("key", redact.Escape(redact.Clip(key, maxRoute))))
	}
	return metric.WithAttributeSet(attribute.NewSet(kv...))
}

// snake returns a Go name in snake case: InFlight is in_flight, P99Ms is p99_ms.
func snake(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		if i > 0 && unicode.IsUpper(r) {
			endsAcronym := i+1 < len(runes) && unicode.IsLower(runes[i+1])
			if !unicode.IsUpper(runes[i-1]) || endsAcronym {
				b.WriteByte('_')
			}
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
