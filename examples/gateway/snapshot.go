package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/trivet-go/trivet/cache"
)

// snapshotEvery is how often the contents of the cache are written to a file: what a crash loses.
const snapshotEvery = time.Minute

// A snapshot is the file that keeps the contents of the cache over a restart. A nil snapshot keeps
// nothing.
type snapshot struct {
	file  string
	store *cache.MemoryStore
	log   *slog.Logger
	end   context.CancelFunc // nil before begin
	ended sync.WaitGroup

	mu     sync.Mutex // guards the field below and what has the name file
	purges int
}

// newSnapshot returns the snapshot of store in file, or nil if file is empty.
func newSnapshot(file string, store *cache.MemoryStore, log *slog.Logger) (*snapshot, error) {
	if file == "" {
		return nil, nil
	}
	if _, err := os.Stat(filepath.Dir(file)); err != nil {
		return nil, err
	}
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", file)
	}
	return &snapshot{file: file, store: store, log: log}, nil
}

// begin reads the file, and writes it every minute from then on.
func (s *snapshot) begin() {
	if s == nil {
		return
	}
	s.restore()
	ctx, end := context.WithCancel(context.Background())
	s.end = end
	s.ended.Go(func() {
		for sleep(ctx, snapshotEvery) {
			s.save()
		}
	})
}

// close writes the file a last time, if begin was called.
func (s *snapshot) close() {
	if s == nil || s.end == nil {
		return
	}
	s.end()
	s.ended.Wait()
	s.save()
}

// restore reads the file. A cache that begins empty is slower and not wrong, so nothing here stops
// the gateway.
func (s *snapshot) restore() {
	f, err := os.Open(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return // the first start
	}
	if err == nil {
		err = s.store.Restore(bufio.NewReader(f))
		f.Close()
	}
	if err != nil {
		s.log.Warn("the snapshot of the cache cannot be read: what it held is fetched anew",
			"file", s.file, "err", err)
		return
	}
	s.log.Info("the cache has its contents back", "file", s.file, "urls", s.store.Stats().Entries)
}

// purged removes the file, which holds what has been purged since: after a crash that would be
// back.
func (s *snapshot) purged() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.purges++
	if err := os.Remove(s.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Error("the cache.snapshot cannot be removed: a crash may bring back what has been purged",
			"file", s.file, "err", err)
	}
}

// save writes a new file and gives it the name of the old one, so that there is a whole one at
// every moment.
func (s *snapshot) save() {
	s.mu.Lock()
	purges := s.purges
	s.mu.Unlock()
	s.finish(purges, s.write(s.file+".new"))
}

// finish ends a save that began after so many purges, and wrote a new file if err is nil.
func (s *snapshot) finish(purges int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil:
	case s.purges != purges: // the new file may hold what has been purged
		err = os.Remove(s.file + ".new")
	default:
		err = os.Rename(s.file+".new", s.file)
	}
	if err != nil {
		s.log.Warn("the snapshot of the cache cannot be written", "file", s.file, "err", err)
	}
}

func (s *snapshot) write(file string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) // responses may be confidential
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	err = errors.Join(s.store.Save(w), w.Flush())
	if err == nil {
		err = f.Sync() // or a crash of the machine could leave the new name with nothing in it
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(file)
	}
	return err
}
