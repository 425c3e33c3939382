package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// adminDrain is how long the operators' port waits for running requests.
const adminDrain = 2 * time.Second

// supervise runs tasks until ctx is done or one of them ends, then waits for the others: no longer than drain, and not
// at all once force is closed or receives. onDrain is called once, when the waiting begins.
func supervise(ctx context.Context, force <-chan struct{}, drain time.Duration, onDrain func(), tasks []Task) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		task int
		err  error
	}
	results := make(chan result, len(tasks))
	running := map[int]string{}
	for i, t := range tasks {
		running[i] = t.Name
		go func() { results <- result{i, t.Runner.Run(ctx)} }()
	}
	var (
		errs     []error
		draining bool
		timeout  <-chan time.Time
	)
	stop := ctx.Done()
	for len(running) > 0 {
		select {
		case <-stop:
			stop, draining = nil, true
			timer := time.NewTimer(drain)
			defer timer.Stop()
			timeout = timer.C
			onDrain()
		case r := <-results:
			name := running[r.task]
			delete(running, r.task)
			switch {
			case r.err != nil && !(errors.Is(r.err, context.Canceled) && (draining || ctx.Err() != nil)):
				errs = append(errs, fmt.Errorf("%s: %w", name, r.err))
			case r.err == nil && ctx.Err() == nil:
				errs = append(errs, fmt.Errorf("%s: ended although nobody asked it to", name))
			}
			cancel()
		case <-timeout:
			return errors.Join(append(errs, fmt.Errorf("drain timeout of %v is over, still running: %s", drain, names(running)))...)
		case <-force:
			return errors.Join(append(errs, fmt.Errorf("second signal, still running: %s", names(running)))...)
		}
	}
	return errors.Join(errs...)
}

func names(running map[int]string) string {
	list := make([]string, 0, len(running))
	for _, n := range running {
		list = append(list, n)
	}
	slices.SortFunc(list, cmp.Compare[string])
	return strings.Join(list, ", ")
}
