package service

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// Main runs a service as a process and ends it: exit code 0 after an orderly end, 1 after a failure, 2 for a wrong
// command line. A service's main.go calls nothing else.
func Main[C any](def Definition[C]) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	os.Exit(run(def.Service(), os.Args[1:], os.Environ(), signals, os.Stdout, os.Stderr))
}

type setFlags []string

func (s *setFlags) String() string     { return strings.Join(*s, " ") }
func (s *setFlags) Set(v string) error { *s = append(*s, v); return nil }

// run is Main without globals.
func run(svc Service, args, environ []string, signals <-chan os.Signal, stdout, stderr io.Writer) int {
	var (
		src             = Sources{Environ: environ}
		set             setFlags
		validate, print bool
		probe           bool
		showVersion     bool
	)
	flags := flag.NewFlagSet(svc.Name(), flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&src.File, "config", "", "read the configuration from this YAML `file`")
	flags.Var(&set, "set", "override `key=value`, such as kafka.brokers=a:9092,b:9092; may be repeated")
	flags.BoolVar(&validate, "validate", false, "check the configuration, print ok or all that is wrong, and end")
	flags.BoolVar(&print, "print-config", false, "print the configuration as it would be used, secrets redacted, and end")
	flags.BoolVar(&probe, "probe", false, "ask the running process with this configuration whether it is ready, print its answer, and end; for containers without a shell")
	flags.BoolVar(&showVersion, "version", false, "print the version and end")
	flags.Usage = func() {
		fmt.Fprintf(stderr, "%s: %s\n\nConfiguration: defaults, then --config, then environment (DATABUS_KAFKA__BROKERS for kafka.brokers,\nDATABUS_%s_... for this service alone), then --set.\n\n",
			svc.Name(), svc.Summary(), envName([]string{svc.Name()}))
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "%s: unexpected argument %q; --help lists the flags\n", svc.Name(), flags.Arg(0))
		return 2
	}
	if showVersion {
		fmt.Fprintln(stdout, svc.Name(), version())
		return 0
	}
	src.Set = set
	loaded, err := Load(svc, src)
	if err != nil {
		for _, e := range unjoin(err) {
			fmt.Fprintf(stderr, "%s: %v\n", svc.Name(), e)
		}
		return 1
	}
	switch {
	case print:
		text, err := loaded.YAML()
		if err != nil {
			fmt.Fprintf(stderr, "%s: printing configuration: %v\n", svc.Name(), err)
			return 1
		}
		_, _ = stdout.Write(text)
		return 0
	case validate:
		fmt.Fprintln(stdout, "ok")
		return 0
	case probe:
		if err := askReady(loaded.Config.HTTP.Listen, stdout); err != nil {
			fmt.Fprintf(stderr, "%s: %v\n", svc.Name(), err)
			return 1
		}
		return 0
	}

	log := NewLogger(loaded.Config.Log, stderr).With("service", svc.Name(), "instance", loaded.Config.Instance.ID)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	force := make(chan struct{})
	go func() {
		if s, ok := <-signals; ok {
			log.Info("stopping", "signal", s.String())
			cancel()
			if _, ok := <-signals; ok {
				close(force)
			}
		}
	}()
	if err := serve(ctx, force, loaded, ProcessOptions{Log: NewLogger(loaded.Config.Log, stderr)}); err != nil {
		attrs := []any{"error", err}
		var hinted interface{ Hint() string }
		if errors.As(err, &hinted) {
			attrs = append(attrs, "hint", hinted.Hint())
		}
		log.Error("ended", attrs...)
		return 1
	}
	log.Info("ended")
	return 0
}

// serve runs one service from its configuration to its end.
func serve(ctx context.Context, force <-chan struct{}, loaded *Loaded, o ProcessOptions) (err error) {
	p, err := NewProcess(ctx, loaded.svc.Name(), loaded.Config, o)
	if err != nil {
		return err
	}
	stop, addr, err := p.ServeAdmin(ctx)
	if err != nil {
		return err
	}
	defer stop()
	defer func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err = errors.Join(err, p.Close(bounded))
	}()
	if addr != nil {
		p.Log.Info("starting", "service", loaded.svc.Name(), "instance", loaded.Config.Instance.ID, "version", version(), "operators_port", addr.String())
	}
	if err := p.Prepare(ctx, loaded.svc.needs(loaded.own)); err != nil {
		if ctx.Err() != nil {
			return nil // asked to stop while waiting
		}
		return err
	}
	runner, err := loaded.svc.start(ctx, p.Env(loaded.svc.Name()), loaded.own)
	if err != nil {
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	}
	return p.Run(ctx, force, Task{loaded.svc.Name(), runner})
}
