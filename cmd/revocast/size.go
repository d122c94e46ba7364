package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// byteSize is a number of bytes, in flags as "512MiB", "10G" or "1073741824".
type byteSize int64

var sizeUnits = []struct {
	name  string
	bytes int64
}{{"T", 1 << 40}, {"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}}

// UnmarshalText implements [encoding.TextUnmarshaler]. Units are powers of 1024.
func (s *byteSize) UnmarshalText(text []byte) error {
	digits := strings.ToUpper(strings.TrimSpace(string(text)))
	digits = strings.TrimSuffix(strings.TrimSuffix(digits, "B"), "I")
	unit := int64(1)
	for _, u := range sizeUnits {
		if d, ok := strings.CutSuffix(digits, u.name); ok {
			digits, unit = strings.TrimSpace(d), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return fmt.Errorf("size %q: want a number of bytes such as 512MiB or 10GiB", text)
	}
	*s = byteSize(n * unit)
	return nil
}

// String returns the size in the largest unit that leaves at least 1, with one
// decimal.
func (s byteSize) String() string {
	for _, u := range sizeUnits {
		if int64(s) >= u.bytes {
			return strconv.FormatFloat(float64(s)/float64(u.bytes), 'f', 1, 64) + " " + u.name + "iB"
		}
	}
	return strconv.FormatInt(int64(s), 10) + " B"
}
