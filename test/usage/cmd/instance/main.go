// Command instance runs usage-aggregator, limiter or usage-history, named by its first argument, exactly as their own programs do, but
// kills itself at a point of its protocol that databus/test/crash tells it. Where it is told none, it stops itself
// with SIGSTOP in the middle of a transaction, the next one behind a SIGUSR1.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"databus/pkg/stream"
	"databus/services/limiter"
	usageaggregator "databus/services/usage-aggregator"
	usagehistory "databus/services/usage-history"
	"databus/test/crash"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "instance: name a service")
		os.Exit(2)
	}
	name := os.Args[1]
	os.Args = append(os.Args[:1], os.Args[2:]...)
	switch name {
	case usageaggregator.Name:
		crash.Main(usageaggregator.Definition(), freezer())
	case limiter.Name:
		crash.Main(limiter.Definition(), freezer())
	case usagehistory.Name:
		crash.Main(usagehistory.Definition(), nil)
	default:
		fmt.Fprintf(os.Stderr, "instance: there is no service %q in the usage half\n", name)
		os.Exit(2)
	}
}

// freezer stops the process where everything is produced and nothing committed.
func freezer() func(string) error {
	asked, woken := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	signal.Notify(woken, syscall.SIGCONT)
	return func(at string) error {
		if at == string(stream.AfterFlush) {
			select {
			case <-asked:
				if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
					return err
				}
				<-woken // another thread may take the signal, and this one go on for a moment
			default:
			}
		}
		return nil
	}
}
