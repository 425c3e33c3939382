// Command databus is the tool for everybody who works with Databus: it runs the whole of it on one machine, produces
// and reads events as JSON, and sets up and checks topics and schemas from the catalogue.
//
// Each command is a struct in a file of its own, with a method Run(context.Context, *Globals) error and a method
// Help() string that holds an example; [cli] lists them.
//
// Results go to standard output, everything else to standard error: an error is one line that names what failed and
// what to do next. Exit codes: 0 done; 1 failed, or a check found something; 2 the command line is wrong; 130
// interrupted.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"

	usageaggregator "databus/services/usage-aggregator"
)

// cli is the grammar: adding a command is adding a line.
type cli struct {
	Globals

	Demo       demoCmd       `cmd:"" help:"Play the whole main job once and print what came out."`
	Dev        devCmd        `cmd:"" help:"Run every service in this process, on embedded parts or real servers."`
	Init       initCmd       `cmd:"" help:"Prepare servers: topics, schemas, the first graph and the first database."`
	Produce    produceCmd    `cmd:"" help:"Produce events to a topic: JSON in, Avro out."`
	Consume    consumeCmd    `cmd:"" help:"Read events of a topic: Avro in, JSON out."`
	Import     importCmd     `cmd:"" help:"Load customer records from a CSV file through ingest's API."`
	Graph      graphCmd      `cmd:"" help:"Build, list and compare graph versions."`
	Databases  databasesCmd  `cmd:"" help:"List and compare database versions, and choose the one that serves."`
	Keys       keysCmd       `cmd:"" help:"List and rotate data keys, and shred accounts and records."`
	Usage      usageCmd      `cmd:"" help:"Produce usage events, print counts and explain them."`
	Limits     limitsCmd     `cmd:"" help:"Show where an account stands."`
	Groups     groupsCmd     `cmd:"" help:"Show consumer groups: members, partitions and lag."`
	Archive    archiveCmd    `cmd:"" help:"List, print, verify and restore the archive, and query it."`
	State      stateCmd      `cmd:"" help:"Look into the local state of a stopped service."`
	Topics     topicsCmd     `cmd:"" help:"Create, list and check the catalogue's topics."`
	Schemas    schemasCmd    `cmd:"" help:"Register and check the catalogue's schemas."`
	Topology   topologyCmd   `cmd:"" help:"Show which service reads and writes which topic."`
	Completion completionCmd `cmd:"" help:"Print the code that switches on completion in a shell."`
	Version    versionCmd    `cmd:"" help:"Print the version."`
}

const description = `The event backbone for identity resolution and usage limits.

Without --brokers and --registry, commands talk to the "databus dev" that runs on the directory of --dir.
Exit codes: 0 done; 1 failed, or a check found something; 2 the command line is wrong; 130 interrupted.`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// exit is how kong's wish to end the process (after --help) travels up to run.
type exit int

// run is main with everything that it touches passed in.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) (code int) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case exit:
			code = int(r)
		default:
			panic(r)
		}
	}()
	c := cli{Globals: Globals{In: in, Out: out, Err: errOut}}
	parser, err := newParser(ctx, &c)
	if err != nil {
		fmt.Fprintln(errOut, "databus: building the command line:", err)
		return 2
	}
	kongcompletion.Register(parser, predictors()...) // answers and exits when a shell asks for completions
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		command := "databus"
		var wrong *kong.ParseError
		if errors.As(err, &wrong) && wrong.Context.Selected() != nil {
			command = wrong.Context.Selected().FullPath()
		}
		fmt.Fprintf(errOut, "databus: %s; see `%s --help`\n", oneLine(err), command)
		return 2
	}
	switch err := parsed.Run(&c.Globals); {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		fmt.Fprintln(errOut, "databus: interrupted:", oneLine(err))
		return 130
	default:
		fmt.Fprintln(errOut, "databus:", oneLine(err))
		return 1
	}
}

func newParser(ctx context.Context, c *cli) (*kong.Kong, error) {
	return kong.New(c,
		kong.Name("databus"),
		kong.Description(description),
		kong.Writers(c.Out, c.Err),
		kong.Vars{"default_dir": defaultDir, "dedup_window": usageaggregator.Default().DedupWindow.String(), "keep_ended": usageaggregator.Default().KeepEnded.String()},
		kong.Exit(func(code int) { panic(exit(code)) }),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
	)
}

// oneLine joins the lines of joined errors.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
