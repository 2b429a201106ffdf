package cache

import (
	"reflect"
	"sync/atomic"
	"unsafe"
)

// A storage is how an entry keeps its value. Numbers and pointers of 64 bits can be overwritten
// where they are, while readers read them; for anything else an overwrite takes a new entry.
//
// Only package unsafe lets a value of type V be read and written atomically. It is worth it for
// what BenchmarkMemoryOverwrite measures: 27 ns and no allocation instead of 600 ns and 32 bytes
// (int64, two processors).
type storage uint8

const (
	asValue storage = iota
	asWord
	asPointer
)

// storageFor chooses by the type and not by size alone: the garbage collector must know what is a
// pointer, and atomic operations need words that are aligned.
func storageFor[V any]() storage {
	t := reflect.TypeFor[V]()
	if t.Size() != 8 || t.Align() != 8 {
		return asValue
	}
	switch t.Kind() {
	case reflect.Int, reflect.Int64, reflect.Uint, reflect.Uint64, reflect.Uintptr, reflect.Float64:
		return asWord
	case reflect.Pointer:
		return asPointer
	}
	return asValue
}

func (e *entry[K, V]) load(as storage) V {
	switch p := unsafe.Pointer(&e.value); as {
	case asWord:
		word := atomic.LoadUint64((*uint64)(p))
		return *(*V)(unsafe.Pointer(&word))
	case asPointer:
		pointer := atomic.LoadPointer((*unsafe.Pointer)(p))
		return *(*V)(unsafe.Pointer(&pointer))
	}
	return e.value
}

// store overwrites the value of e. It must not be called if values are kept asValue.
func (e *entry[K, V]) store(as storage, value V) {
	p := unsafe.Pointer(&e.value)
	if as == asWord {
		atomic.StoreUint64((*uint64)(p), *(*uint64)(unsafe.Pointer(&value)))
		return
	}
	atomic.StorePointer((*unsafe.Pointer)(p), *(*unsafe.Pointer)(unsafe.Pointer(&value)))
}
