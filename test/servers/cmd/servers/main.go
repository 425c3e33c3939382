// Command servers runs real Kafka, Apicurio Registry, Cassandra and versitygw (S3) on 127.0.0.1.
//
//	servers                          start all, print their addresses as shell lines, wait for Ctrl-C
//	servers -only kafka,registry     start only these
//	servers run -- go test ./...     start all, run the command with their addresses in its environment, stop all;
//	                                 the exit code is the command's
//
// It stops what it started on SIGINT, SIGTERM and SIGHUP and when its parent process is gone; if it is killed, the kernel
// kills the servers. With STACK=external it starts nothing and only checks the servers that the environment names.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"databus/test/servers"
)

const parentPoll = time.Second

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "servers:", err)
	}
	os.Exit(code)
}

func run(args []string) (code int, err error) {
	flags := flag.NewFlagSet("servers", flag.ContinueOnError)
	only := flags.String("only", strings.Join(servers.Names(), ","), "the servers to start, comma-separated")
	dir := flags.String("dir", "", "keep data and logs in this directory over runs (default: a new one, its data removed at the end)")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: servers [flags]                   start servers and wait\n"+
			"       servers [flags] run -- CMD ARGS   start servers, run CMD, stop servers\n"+
			"example: servers -only kafka,registry run -- go test -tags servers ./servers/...\nflags:")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0, nil
	} else if err != nil {
		return 2, nil // flag has printed it
	}
	rest := flags.Args()
	var command []string
	if len(rest) > 0 {
		if rest[0] != "run" {
			return 2, fmt.Errorf("unknown command %q; the only one is run", rest[0])
		}
		command = rest[1:]
		if len(command) > 0 && command[0] == "--" {
			command = command[1:]
		}
		if len(command) == 0 {
			return 2, errors.New("run needs a command, for example `servers run -- make test-fast`")
		}
	}

	ctx, stop := untilEnd()
	defer stop()
	began := time.Now()
	set, err := servers.StartSet(ctx, strings.Split(*only, ","), servers.Options{Dir: *dir})
	if err != nil {
		return 1, err
	}
	defer set.Close()
	for _, p := range set.Processes {
		slog.Info("started "+p.Name, "address", p.Addr, "pid", p.PID(), "log", p.Log)
	}
	slog.Info("all servers answer", "after", time.Since(began).Round(100*time.Millisecond))

	if command != nil {
		code, err := servers.Exec(ctx, set, command)
		if code == 0 && err != nil {
			code = 1
		}
		return code, err
	}
	for _, v := range set.Env() {
		fmt.Println("export " + v)
	}
	fmt.Println("export " + servers.StackVariable + "=external")
	slog.Info("paste these lines into the shell that runs the tests; Ctrl-C here stops the servers")
	<-ctx.Done()
	return 0, nil
}

// untilEnd returns a context that ends when this process is asked to end or its parent is gone.
func untilEnd() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(ctx)
	parent := os.Getppid()
	go func() {
		for os.Getppid() == parent && ctx.Err() == nil {
			time.Sleep(parentPoll)
		}
		cancel()
	}()
	return ctx, func() { cancel(); stop() }
}
