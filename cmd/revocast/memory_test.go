package main

import (
	"maps"
	"runtime"
	"testing"
	"testing/fstest"
)

func files(all map[string]string) fstest.MapFS {
	f := fstest.MapFS{}
	for name, text := range all {
		f[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return f
}

func TestCgroupMemory(t *testing.T) {
	const none = "9223372036854771712\n" // as version 1 says it
	tests := map[string]struct {
		files map[string]string
		want  uint64
	}{
		"no cgroups": {map[string]string{"proc/meminfo": "MemTotal: 1 kB\n"}, 0},
		"version 2, own": {map[string]string{
			"proc/self/cgroup": "0::/system.slice/revocast.service\n",
			"sys/fs/cgroup/system.slice/revocast.service/memory.max": "536870912\n",
			"sys/fs/cgroup/system.slice/memory.max":                  "max\n",
		}, 512 << 20},
		"version 2, an ancestor has less": {map[string]string{
			"proc/self/cgroup":               "0::/a/b/c\n",
			"sys/fs/cgroup/a/b/c/memory.max": "max\n", "sys/fs/cgroup/a/b/memory.max": "1000\n", "sys/fs/cgroup/a/memory.max": "900\n",
		}, 900},
		"version 2, none": {map[string]string{
			"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n",
		}, 0},
		"version 2, in a container": {map[string]string{
			"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "268435456\n",
		}, 256 << 20},
		"version 2, moved within its namespace": {map[string]string{
			"proc/self/cgroup": "0::/../../other\n", "sys/fs/cgroup/memory.max": "77\n",
		}, 77},
		"version 1": {map[string]string{
			"proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n1:name=systemd:/y\n",
			"sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "1073741824\n",
			"sys/fs/cgroup/memory/docker/memory.limit_in_bytes":     none,
			"sys/fs/cgroup/memory/memory.limit_in_bytes":            none,
			"sys/fs/cgroup/memory/x/memory.limit_in_bytes":          "5\n",
		}, 1 << 30},
		"version 1, in a container that has only its own mounted": {map[string]string{
			"proc/self/cgroup":                           "4:hugetlb,memory:/docker/abc\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "2097152\n",
		}, 2 << 20},
		"version 1, none": {map[string]string{
			"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": none,
		}, 0},
		"both": {map[string]string{
			"proc/self/cgroup": "4:memory:/m\n0::/u\n",
			"sys/fs/cgroup/memory/m/memory.limit_in_bytes": "4096\n",
			"sys/fs/cgroup/u/memory.max":                   "max\n",
		}, 4096},
		"rubbish": {map[string]string{
			"proc/self/cgroup":         "\n::\nx\n0::/a\n",
			"sys/fs/cgroup/memory.max": "-5\n", "sys/fs/cgroup/a/memory.max": "lots\n",
		}, 0},
	}
	for name, test := range tests {
		if got := cgroupMemory(files(test.files)); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

// The least counts of what Go and the kernel hold the process to, and of what
// the machine has.
func TestLeastMemory(t *testing.T) {
	machine := map[string]string{"proc/meminfo": "MemTotal:       16000000 kB\nMemFree:  5 kB\n"}
	grouped := maps.Clone(machine)
	grouped["proc/self/cgroup"], grouped["sys/fs/cgroup/a/memory.max"] = "0::/a\n", "1000\n"
	tests := map[string]struct {
		goes  uint64
		files map[string]string
		want  memoryLimit
	}{
		"nothing is known":             {0, nil, memoryLimit{0, "machine"}},
		"the machine":                  {0, machine, memoryLimit{16_000_000 << 10, "machine"}},
		"a cgroup":                     {0, grouped, memoryLimit{1000, "cgroup"}},
		"GOMEMLIMIT":                   {500, machine, memoryLimit{500, "GOMEMLIMIT"}},
		"GOMEMLIMIT below a cgroup":    {500, grouped, memoryLimit{500, "GOMEMLIMIT"}},
		"a cgroup below GOMEMLIMIT":    {5000, grouped, memoryLimit{1000, "cgroup"}},
		"meminfo of another kernel":    {0, map[string]string{"proc/meminfo": "MemTotal: many kB\n"}, memoryLimit{0, "machine"}},
		"GOMEMLIMIT above the machine": {1 << 62, machine, memoryLimit{16_000_000 << 10, "machine"}},
	}
	for name, test := range tests {
		if got := leastMemory(test.goes, files(test.files)); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// What is taken is a plausible part of what the process has.
func TestMemoryReader(t *testing.T) {
	read := memoryReader(memoryLimit{bytes: 7})
	before, limit := read()
	if limit != 7 || before == 0 || before > 1<<40 {
		t.Fatalf("%d of %d bytes", before, limit)
	}
	held := make([]byte, 64<<20)
	for i := range held {
		held[i] = 1
	}
	runtime.GC()
	if after, _ := read(); after < before+32<<20 {
		t.Errorf("64 MiB more were taken, and it went from %d to %d", before, after)
	}
	if held[0] != 1 {
		t.Error("it is still held")
	}
	runtime.GC()
	if after, _ := read(); after > before+32<<20 {
		t.Errorf("64 MiB were freed, and it is %d, was %d", after, before)
	}
}
