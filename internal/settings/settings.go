// Package settings checks configurations: it fills in defaults and collects every fault, so that a
// user sees all of them at once and a program can tell which field each is about.
package settings

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"time"
)

// A Fault is one invalid field of a configuration.
type Fault struct {
	prefix string // of the text: the package and the struct, "cache: MemoryConfig"
	field  string // below the struct, "Health.Path" or "Policies[0].Rate.Limit"
	reason error
}

func (f *Fault) Error() string {
	if f.field == "" {
		return f.prefix + ": " + f.reason.Error()
	}
	return f.prefix + "." + f.field + ": " + f.reason.Error()
}

// Field returns the path of the invalid field below the struct; "" if the fault is the whole's.
func (f *Fault) Field() string { return f.field }

// Reason returns what is wrong with the field, without its name.
func (f *Fault) Reason() string { return f.reason.Error() }

// Unwrap returns the error that the reason wraps, if any.
func (f *Fault) Unwrap() error { return errors.Unwrap(f.reason) }

// Faults collects the faults of one configuration. It is not safe for concurrent use.
type Faults struct {
	pkg, name string  // joined only for a fault: some settings are checked for each request
	list      []error // of *Fault
}

// Of returns an empty collection for the struct name of the package pkg.
func Of(pkg, name string) *Faults { return &Faults{pkg: pkg, name: name} }

func (f *Faults) add(field string, reason error) {
	f.list = append(f.list, &Fault{prefix: f.pkg + ": " + f.name, field: field, reason: reason})
}

// Add adds a fault of field. The format and its arguments are [fmt.Errorf]'s.
func (f *Faults) Add(field, format string, args ...any) {
	f.add(field, fmt.Errorf(format, args...))
}

// Nest adds the faults that err holds of a struct which stands in field. An error that holds none
// is a fault of the field as a whole; nil adds nothing.
func (f *Faults) Nest(field string, err error) {
	if err == nil {
		return
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			f.Nest(field, e)
		}
		return
	}
	if inner, ok := err.(*Fault); ok {
		path := field
		if inner.field != "" {
			path += "." + inner.field
		}
		f.add(path, inner.reason)
		return
	}
	f.add(field, err)
}

// Err returns all faults as one error, or nil if there are none.
func (f *Faults) Err() error { return errors.Join(f.list...) }

// A number is what a setting can be.
type number interface {
	int | int64 | float64 | time.Duration
}

// Positive sets *v to def if it is zero. A negative value, NaN and infinity are faults.
func Positive[N number](f *Faults, field string, v *N, def N) {
	NotNegative(f, field, *v)
	*v = cmp.Or(*v, def)
}

// Default sets *v to def if it is zero. Negative values have a meaning of their own; NaN and
// infinity are faults.
func Default[N number](f *Faults, field string, v *N, def N) {
	finite(f, field, *v)
	*v = cmp.Or(*v, def)
}

// NotNegative adds a fault if v is negative, NaN or infinite.
func NotNegative[N number](f *Faults, field string, v N) {
	if finite(f, field, v) && v < 0 {
		f.Add(field, "%v is negative", v)
	}
}

// Share is Default for a setting that is a share of a whole: more than 1 is a fault too.
func Share(f *Faults, field string, v *float64, def float64) {
	if finite(f, field, *v) && *v > 1 {
		f.Add(field, "%v is more than 1", *v)
	}
	*v = cmp.Or(*v, def)
}

func finite[N number](f *Faults, field string, v N) bool {
	if x := float64(v); math.IsNaN(x) || math.IsInf(x, 0) {
		f.Add(field, "%v is not a finite number", v)
		return false
	}
	return true
}
