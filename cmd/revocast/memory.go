package main

import (
	"io/fs"
	"math"
	"os"
	"path"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
)

// memoryLimit is how much memory the process may take, and who says so.
type memoryLimit struct {
	bytes uint64 // 0: not known
	from  string
}

// limitMemory finds out how much memory the process may take, and has garbage
// collected in time. The flag beats all else. Without it the least counts of
// GOMEMLIMIT, of the cgroups that the process is in, and of what the machine has:
// above those two the kernel ends it, whatever the runtime was told.
//
// The runtime is told to stay a tenth below, unless GOMEMLIMIT tells it already:
// what else the kernel counts, such as sockets and page tables, is not the runtime's.
func limitMemory(flag byteSize, root fs.FS) memoryLimit {
	env := os.Getenv("GOMEMLIMIT")
	limit := memoryLimit{bytes: uint64(flag), from: "--memory-limit"}
	if flag == 0 {
		var goes uint64
		if soft := debug.SetMemoryLimit(-1); env != "" && soft < math.MaxInt64 {
			goes = uint64(soft)
		}
		limit = leastMemory(goes, root)
	}
	if env == "" && limit.bytes > 0 {
		debug.SetMemoryLimit(int64(limit.bytes - limit.bytes/10))
	}
	return limit
}

// leastMemory is limitMemory without the flag; goes is GOMEMLIMIT, 0 without one.
func leastMemory(goes uint64, root fs.FS) memoryLimit {
	least := memoryLimit{from: "machine"}
	for _, l := range [...]memoryLimit{{goes, "GOMEMLIMIT"}, {cgroupMemory(root), "cgroup"}, {machineMemory(root), "machine"}} {
		if l.bytes > 0 && (least.bytes == 0 || l.bytes < least.bytes) {
			least = l
		}
	}
	return least
}

// noCgroupLimit: version 1 says that there is none by a number near 2^63.
const noCgroupLimit = 1 << 60

// cgroupMemory returns the least limit of the cgroups that the process is in, 0
// for none. In a container, what /proc names may lie outside of what is mounted:
// then the mounted root is the container's own cgroup.
func cgroupMemory(root fs.FS) (least uint64) {
	b, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		// "4:cpu,memory:/path" in version 1, "0::/path" in version 2
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, group, ok := strings.Cut(rest, ":")
		dir, file := "sys/fs/cgroup", "memory.max"
		if controllers != "" {
			dir, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		}
		if !ok || controllers != "" && !strings.Contains(","+controllers+",", ",memory,") {
			continue
		}
		for group = path.Clean("/" + group); ; group = path.Dir(group) {
			n := readBytes(root, path.Join(dir, group, file))
			if n > 0 && n < noCgroupLimit && (least == 0 || n < least) {
				least = n
			}
			if group == "/" {
				break
			}
		}
	}
	return least
}

// readBytes returns the number in a file, 0 when there is none ("max").
func readBytes(root fs.FS, name string) uint64 {
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// machineMemory returns how much memory the machine has, 0 where that is not
// known.
func machineMemory(root fs.FS) uint64 {
	b, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "MemTotal:" && f[2] == "kB" {
			if n, err := strconv.ParseUint(f[1], 10, 64); err == nil && n < math.MaxInt64>>10 {
				return n << 10
			}
		}
	}
	return 0
}

// memoryClasses are the parts of the runtime's memory, the live heap first.
var memoryClasses = []string{
	"/gc/heap/live:bytes",
	"/memory/classes/total:bytes",
	"/memory/classes/heap/objects:bytes",
	"/memory/classes/heap/unused:bytes",
	"/memory/classes/heap/free:bytes",
	"/memory/classes/heap/released:bytes",
}

// memoryReader returns what node.Config.Memory asks for. Taken is the heap that
// was live after the last collection, and what the runtime has beside its heap:
// stacks and its own books. Garbage does not count, nor what can be returned; so
// between two collections it says too little, but the runtime's limit has them
// follow one another the closer the less there is left. All else in the process,
// an embedded NATS server included, is in the heap; nothing is mapped beside it.
func memoryReader(limit memoryLimit) func() (used, limit uint64) {
	samples := make([]metrics.Sample, len(memoryClasses))
	for i, name := range memoryClasses {
		samples[i].Name = name
	}
	return func() (uint64, uint64) {
		metrics.Read(samples)
		used := samples[0].Value.Uint64() + samples[1].Value.Uint64()
		for _, s := range samples[2:] {
			used -= s.Value.Uint64()
		}
		return used, limit.bytes
	}
}
