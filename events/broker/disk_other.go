//go:build !(linux || darwin || freebsd)

package broker

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// errLocked is what lockFile answers elsewhere when the lock is taken.
var errLocked = errors.New("locked")

// errSystem makes Start refuse: two servers on one store destroy it, so there
// is no broker where the store cannot be locked.
var errSystem = fmt.Errorf("embedded broker on %s: %w", runtime.GOOS, errors.ErrUnsupported)

func lockFile(*os.File) error { return errSystem }

func freeBytes(string) (uint64, error) { return 0, errSystem }
