package service

import (
	"cmp"
	"slices"
	"sync"
)

// Health is the set of a process's checks. It is ready when every check is.
type Health struct {
	parent *Health // a group adds its checks to its parent
	prefix string

	mu     sync.Mutex
	checks []*Check
}

// NewHealth returns an empty set, which is ready.
func NewHealth() *Health { return &Health{} }

// Group returns a view that adds "name/" before the names of its checks, for one of several services in a process.
func (h *Health) Group(name string) *Health { return &Health{parent: h, prefix: name + "/"} }

// A Check is one condition of readiness.
type Check struct {
	name string
	mu   sync.Mutex
	// ask computes the state at the time of asking; nil means that the last Set holds.
	ask    func() (bool, string)
	ready  bool
	reason string
}

// Register adds a check, not ready with the reason "starting". Registering a name again returns the check that is there.
func (h *Health) Register(name string) *Check { return h.add(name, nil) }

// Ask adds a check that is computed when somebody asks. f must not block and may be called from any goroutine.
func (h *Health) Ask(name string, f func() (ready bool, reason string)) *Check { return h.add(name, f) }

func (h *Health) add(name string, ask func() (bool, string)) *Check {
	if h.parent != nil {
		return h.parent.add(h.prefix+name, ask)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.checks {
		if c.name == name {
			if ask != nil {
				c.mu.Lock()
				c.ask = ask
				c.mu.Unlock()
			}
			return c
		}
	}
	c := &Check{name: name, ask: ask, reason: "starting"}
	h.checks = append(h.checks, c)
	return c
}

// Remove takes a check out, for something that is no longer there.
func (h *Health) Remove(name string) {
	if h.parent != nil {
		h.parent.Remove(h.prefix + name)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks = slices.DeleteFunc(h.checks, func(c *Check) bool { return c.name == name })
}

// Set says whether the check is ready and, when it is not, why. Reasons are shown to operators: no identifiers, no
// secrets.
func (c *Check) Set(ready bool, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ready, c.reason = ready, reason
}

// State is a check's state at one moment.
type State struct {
	Name   string `json:"name"`
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"`
}

func (c *Check) state() State {
	c.mu.Lock()
	ask, s := c.ask, State{Name: c.name, Ready: c.ready, Reason: c.reason}
	c.mu.Unlock()
	if ask != nil {
		s.Ready, s.Reason = ask()
	}
	return s
}

// Ready reports whether every check is ready, and each check's state by name; a group answers for the whole process.
func (h *Health) Ready() (bool, []State) {
	if h.parent != nil {
		return h.parent.Ready()
	}
	h.mu.Lock()
	checks := slices.Clone(h.checks)
	h.mu.Unlock()
	all := true
	states := make([]State, 0, len(checks))
	for _, c := range checks {
		s := c.state()
		all = all && s.Ready
		states = append(states, s)
	}
	slices.SortFunc(states, func(a, b State) int { return cmp.Compare(a.Name, b.Name) })
	return all, states
}
