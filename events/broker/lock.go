package broker

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrInUse is returned for a file that another process, or another part of this
// one, has locked.
var ErrInUse = errors.New("the file is in use by another process")

// Lock keeps the file, which it makes when there is none, for the caller until
// the result is closed or the process ends, however it ends. It is for a data
// directory without a broker in it; Start locks its store by itself.
func Lock(file string) (io.Closer, error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock file: %w", err)
	}
	if err := lockFile(f); err != nil {
		_ = f.Close() // nothing was written through it
		if errors.Is(err, errLocked) {
			return nil, fmt.Errorf("lock %s: %w", file, ErrInUse)
		}
		return nil, fmt.Errorf("lock %s: %w", file, err)
	}
	return f, nil
}
