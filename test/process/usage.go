package process

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Usage is what a process has used so far.
type Usage struct {
	// CPU time of the process and of the children it has reaped: utime, stime, cutime and cstime of /proc/PID/stat, in
	// steps of 10 ms.
	CPU time.Duration
	// Peak is the largest resident set (VmHWM), in bytes.
	Peak int64
}

// Usage reads what the run has used.
func (p *Program) Usage() (Usage, error) {
	u, err := UsageOf(p.PID)
	if err != nil {
		if dead := p.Alive(); dead != nil {
			return u, dead
		}
	}
	return u, err
}

// UsageOf reads what a process of any owner has used.
func UsageOf(pid int) (Usage, error) {
	var u Usage
	fields, err := stat(pid)
	if err != nil {
		return u, fmt.Errorf("reading CPU time: %w", err)
	}
	const ticksPerSecond = 100 // USER_HZ, fixed by the kernel's interface
	for _, f := range fields[11:15] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return u, fmt.Errorf("reading CPU time of %d: %w", pid, err)
		}
		u.CPU += time.Duration(n) * time.Second / ticksPerSecond
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, fmt.Errorf("reading memory: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				return u, fmt.Errorf("reading memory of %d: %w", pid, err)
			}
			u.Peak = kb << 10
			return u, nil
		}
	}
	return u, fmt.Errorf("reading memory of %d: the kernel does not say how much it was", pid)
}

// Frozen says whether the process stands still behind a SIGSTOP.
func (p *Process) Frozen() bool {
	fields, err := stat(p.PID)
	return err == nil && fields[0] == "T"
}

// stat is the line of /proc/PID/stat behind the command, beginning with the state.
func stat(pid int) ([]string, error) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	// The second field is the command in brackets and may hold anything.
	_, rest, _ := strings.Cut(string(line[max(0, bytes.LastIndexByte(line, ')')):]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 15 {
		return nil, fmt.Errorf("the kernel's line of %d has %d fields", pid, len(fields))
	}
	return fields, nil
}
