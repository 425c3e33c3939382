package measure

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Machine tells how quiet the machine is, so that a reader can judge the figures.
type Machine struct{ ticks, stolen uint64 }

// Watch begins to look.
func Watch() *Machine {
	m := &Machine{}
	m.look()
	return m
}

// Load is the machine's load average as the kernel prints it, and the share of its time that its host gave to others since
// Watch or the last Load: what a process then needs of its own varies as well.
func (m *Machine) Load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	load := strings.Join(strings.Fields(string(b))[:3], " ")
	was := *m
	if m.look(); m.ticks == was.ticks {
		return load
	}
	return fmt.Sprintf("%s, %.0f %% stolen", load, 100*float64(m.stolen-was.stolen)/float64(m.ticks-was.ticks))
}

// look reads the first line of /proc/stat: ticks of user, nice, system, idle, iowait, irq, softirq, steal. Those of guests, behind
// them, are in user already.
func (m *Machine) look() {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return
	}
	line, _, _ := strings.Cut(string(b), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return
	}
	m.ticks = 0
	for i, field := range fields[1:9] {
		n, _ := strconv.ParseUint(field, 10, 64)
		m.ticks += n
		if i == 7 {
			m.stolen = n
		}
	}
}

// Warm touches memory that nobody uses, size bytes or half of it. The host of a virtual machine takes such memory back, and who uses
// it first afterwards pays for that: three times the time of a write to a file, for instance. So every contender of a benchmark
// finds it touched.
func (m *Machine) Warm(size int) error {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return fmt.Errorf("asking for free memory: %w", err)
	}
	size = min(size, int(info.Freeram*uint64(info.Unit)/2))
	memory, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE|syscall.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("touching %d bytes of memory: %w", size, err)
	}
	return syscall.Munmap(memory)
}
