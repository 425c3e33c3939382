package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	kongcompletion "github.com/jotaen/kong-completion"
	"github.com/posener/complete"

	"databus/pkg/usage"
	"databus/schemas"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

func (completionCmd) Help() string {
	return `Prints code for the shell's start file. Commands, flags, and the names of topics and services are completed; the
shell asks this program for them, so they are always those of the installed version.

Examples:

    databus completion bash >> ~/.bashrc

    databus completion zsh >> ~/.zshrc

    databus completion fish > ~/.config/fish/completions/databus.fish
`
}

// Run prints the code. The shell calls the program as it is installed now, by its full path.
func (c completionCmd) Run(g *Globals) error {
	path, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program's path: %w", err)
	}
	command := shellQuote(path)
	bash := "complete -o default -o bashdefault -C " + shellQuote(command) + " databus\n"
	code := map[string]string{
		"bash": bash,
		"zsh":  "autoload -U +X bashcompinit && bashcompinit\n" + bash,
		"fish": `function __complete_databus
    set -lx COMP_LINE (commandline -cp)
    test -z (commandline -ct)
    and set COMP_LINE "$COMP_LINE "
    ` + command + `
end
complete -f -c databus -a "(__complete_databus)"
`,
	}[c.Shell]
	_, err = fmt.Fprint(g.Out, code)
	return err
}

// shellQuote leaves text that no shell interprets as it is, and quotes everything else.
func shellQuote(s string) string {
	plain := strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+", r))
	}) < 0
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// predictors are what arguments tagged `predictor:"topic"` or "service" complete to.
func predictors() []kongcompletion.Option {
	return []kongcompletion.Option{
		kongcompletion.WithPredictor("topic", complete.PredictFunc(func(complete.Args) []string {
			var names []string
			for _, t := range schemas.WithDeadLetters() {
				names = append(names, t.Name)
			}
			return names
		})),
		kongcompletion.WithPredictor("service", complete.PredictFunc(func(complete.Args) []string {
			var names []string
			for _, t := range topologies() {
				names = append(names, t.Service)
			}
			return names
		})),
		kongcompletion.WithPredictor("group", predictGroup()),
		kongcompletion.WithPredictor("database", complete.PredictFunc(predictDatabase)),
		kongcompletion.WithPredictor("graph", complete.PredictFunc(predictGraph)),
		kongcompletion.WithPredictor("pack", complete.PredictSet("person", "lookup", "resolve", usage.AllPacks)),
		kongcompletion.WithPredictor("period", complete.PredictFunc(func(complete.Args) []string {
			return []string{usage.Total().ID, usage.CalendarMonth(time.Now(), time.UTC).ID}
		})),
		kongcompletion.WithPredictor("csv", complete.PredictFiles("*.csv")),
		kongcompletion.WithPredictor("dir", complete.PredictDirs("*")),
		kongcompletion.WithPredictor("file", complete.PredictFiles("*")),
	}
}
