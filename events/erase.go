package events

import (
	"context"
	"fmt"
	"slices"
)

// Eraser is an [Archive] of which something can be erased.
type Eraser interface {
	// Erase removes what matches the filter (NATS wildcards), and returns how many
	// entries that were. It MUST NOT remove anything else. A user who may not do
	// it gets ErrDenied.
	Erase(ctx context.Context, filter string) (entries int, err error)
}

// Erase implements [Eraser]. The servers forget at once; the space on their disks
// is written over later.
func (a *JetStreamArchive) Erase(ctx context.Context, filter string) (entries int, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var out struct {
		Purged int `json:"purged"`
	}
	err = a.api.once(ctx, "STREAM.PURGE."+a.name, struct {
		Filter string `json:"filter"`
	}{filter}, &out)
	if err != nil {
		return 0, fmt.Errorf("erase from %s: %w", a.name, err)
	}
	return out.Purged, nil
}

// Erase implements [Eraser].
func (l *MemoryLink) Erase(ctx context.Context, filter string) (entries int, err error) {
	err = l.reach(ctx, func() error {
		before := len(l.m.archive)
		// Who reads the archive now goes on with the old slice.
		l.m.archive = slices.DeleteFunc(slices.Clone(l.m.archive), func(a Archived) bool { return matchSubject(filter, a.Subject) })
		entries = before - len(l.m.archive)
		return nil
	})
	return entries, err
}

var (
	_ Eraser = (*JetStreamArchive)(nil)
	_ Eraser = (*Memory)(nil)
)
