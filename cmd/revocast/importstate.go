package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// importHead is how much of a file says that it is the same as before.
const importHead = 64 << 10

// openInput opens the file and says which it is.
func (i *importer) openInput() error {
	i.state = importState{V: 1, File: "-"}
	if i.cmd.File == "-" {
		i.lines = bufio.NewReaderSize(i.e.stdin, 1<<20)
		return nil
	}
	f, err := os.Open(i.cmd.File)
	if err != nil {
		return &usageError{fmt.Errorf("open what is to be imported: %w", err)}
	}
	i.in = f
	i.lines = bufio.NewReaderSize(f, 1<<20)
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open what is to be imported: %w", err)
	}
	if !info.Mode().IsRegular() {
		if i.cmd.State != "" {
			return &usageError{fmt.Errorf("--state: %s is no regular file, and cannot be gone on with", i.cmd.File)}
		}
		return nil
	}
	head := sha256.New()
	if _, err := io.CopyN(head, f, importHead); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read %s: %w", i.cmd.File, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read %s: %w", i.cmd.File, err)
	}
	name, err := filepath.Abs(i.cmd.File)
	if err != nil {
		return fmt.Errorf("open what is to be imported: %w", err)
	}
	i.state.File, i.state.Size, i.state.Head = name, info.Size(), hex.EncodeToString(head.Sum(nil))
	return nil
}

// readState takes up how far it came, and reports whether that is known.
func (i *importer) readState() (known bool, err error) {
	if i.cmd.State == "" {
		return false, nil
	}
	b, err := os.ReadFile(i.cmd.State)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("read --state: %w", err)
	}
	var s importState
	if err := json.Unmarshal(b, &s); err != nil || s.V != 1 || s.Line < 0 || s.Offset < 0 {
		return false, &usageError{fmt.Errorf("--state: %s is not what an import wrote; remove it to begin anew", i.cmd.State)}
	}
	if s.Head != i.state.Head || s.Size > i.state.Size || (s.File == "-") != (i.state.File == "-") {
		return false, &usageError{fmt.Errorf("--state: %s is about another file (%s); remove it to begin anew", i.cmd.State, s.File)}
	}
	s.File, s.Size = i.state.File, i.state.Size
	i.state = s
	return true, nil
}
