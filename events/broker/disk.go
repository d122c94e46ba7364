package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/nats-io/nats-server/v2/server"
)

// Names in the store directory, beside the server's own "jetstream".
const (
	lockName  = "LOCK"
	probeName = "PROBE"
)

// memberStore reports whether a server has run on the store directory as a
// member of a cluster: below its system account, whatever that is called, it
// then keeps what the cluster knows of its streams.
func memberStore(dir string) (bool, error) {
	accounts, err := os.ReadDir(filepath.Join(dir, server.JetStreamStoreDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("inspect store directory: %w", err)
	}
	for _, a := range accounts {
		_, err := os.Stat(filepath.Join(dir, server.JetStreamStoreDir, a.Name(), "_js_", "_meta_"))
		if err == nil {
			return true, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("inspect store directory: %w", err)
		}
	}
	return false, nil
}

// openStore makes sure that this process, and no other, may write to dir, and
// returns the locked file that keeps it so until it is closed. The kernel drops
// the lock when a process dies, however it dies.
func openStore(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create store directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open store directory for writing: %w", err)
	}
	if err := lockFile(f); err != nil {
		_ = f.Close()
		if errors.Is(err, errLocked) {
			return nil, fmt.Errorf("store directory %s is in use by another broker", dir)
		}
		return nil, fmt.Errorf("lock store directory %s: %w", dir, err)
	}
	if err := inspectStore(dir); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// inspectStore refuses a cluster member's store, whose streams a standalone
// server would take for its own, and removes what a killed Probe left behind.
func inspectStore(dir string) error {
	if member, err := memberStore(dir); err != nil {
		return err
	} else if member {
		return fmt.Errorf("store directory %s belongs to a member of a NATS cluster", dir)
	}
	if err := os.Remove(filepath.Join(dir, probeName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open store directory for writing: %w", err)
	}
	return nil
}

// defaultMaxStore counts what the store holds already, because a limit below it
// would refuse every publish on a disk that others have filled meanwhile. One
// tenth of the free space stays out of it for indexes, staged batches and the
// garbage that compaction has not reached: meeting MaxStore is an error code,
// meeting the end of the disk is a dead stream.
func defaultMaxStore(dir string) (int64, error) {
	free, err := freeBytes(dir)
	if err != nil {
		return 0, err
	}
	var used int64
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		used += info.Size()
		return nil
	})
	if err != nil {
		return 0, err
	}
	free = min(free, math.MaxInt64/2)
	// nats-server takes 0 for "choose yourself".
	return max(used+int64(free/10*9), 1), nil
}

// FreeBytes is the space left to this process on the store's file system.
func (b *Broker) FreeBytes() (uint64, error) {
	n, err := freeBytes(b.cfg.StoreDir)
	if err != nil {
		return 0, fmt.Errorf("measure free space: %w", err)
	}
	return n, nil
}

// Probe writes a file of n bytes (n > 0) into the store directory, fsyncs it
// and removes it again. Nil means that the disk took the bytes, so that Restart
// can be expected to revive a stream that a full or failing disk has killed. It
// says nothing about the streams themselves. Not concurrent with Restart or
// Close; after Close it fails.
func (b *Broker) Probe(n int64) error {
	if n <= 0 {
		return fmt.Errorf("probe store: size %d is not positive", n)
	}
	b.ops.Lock()
	defer b.ops.Unlock()
	if b.closed {
		return fmt.Errorf("probe store: %w", errClosed)
	}
	if err := probe(filepath.Join(b.cfg.StoreDir, probeName), n); err != nil {
		return fmt.Errorf("probe store: %w", err)
	}
	return nil
}

func probe(path string, n int64) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close(), os.Remove(path))
	}()
	// Random, because a file system that compresses stores zeros for nothing.
	chunk := make([]byte, 64<<10)
	for i := range chunk {
		chunk[i] = byte(rand.Uint32())
	}
	for left := n; left > 0; left -= int64(len(chunk)) {
		if left < int64(len(chunk)) {
			chunk = chunk[:left]
		}
		if _, err := f.Write(chunk); err != nil {
			return err
		}
	}
	// Delayed allocation reports a full disk only here.
	return f.Sync()
}
