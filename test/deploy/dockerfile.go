package deploy

import (
	"fmt"
	"os"
	"strings"
)

// A stage is one FROM of a Dockerfile with what follows it.
type stage struct {
	base, name string
	steps      []step
}

// A step is an instruction with its continuation lines joined.
type step struct{ instruction, rest string }

// parseDockerfile understands what deploy/Dockerfile needs: comments, continuation lines, instructions.
func parseDockerfile(path string) ([]stage, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var (
		stages  []stage
		pending string
	)
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if cut, ok := strings.CutSuffix(line, `\`); ok {
			pending += cut
			continue
		}
		line, pending = pending+line, ""
		word, rest, _ := strings.Cut(line, " ")
		rest = strings.TrimSpace(rest)
		if word == "FROM" {
			base, name, _ := strings.Cut(rest, " AS ")
			stages = append(stages, stage{base: base, name: name})
			continue
		}
		if len(stages) == 0 {
			return nil, fmt.Errorf("%s: %s before FROM", path, word)
		}
		last := &stages[len(stages)-1]
		last.steps = append(last.steps, step{word, rest})
	}
	return stages, nil
}

// args are the stage's build arguments: their defaults, overridden by given, each expanded with those before it.
func (s stage) args(given map[string]string) (map[string]string, error) {
	values := map[string]string{}
	for _, st := range s.steps {
		if st.instruction != "ARG" {
			continue
		}
		name, value, _ := strings.Cut(st.rest, "=")
		if v, ok := given[name]; ok {
			value = v
		}
		values[name] = os.Expand(value, func(n string) string { return values[n] })
	}
	for name := range given {
		if _, ok := values[name]; !ok {
			return nil, fmt.Errorf("build argument %s is given, but the Dockerfile has none of that name", name)
		}
	}
	return values, nil
}

// of returns the arguments of all steps of one instruction.
func (s stage) of(instruction string) []string {
	var all []string
	for _, st := range s.steps {
		if st.instruction == instruction {
			all = append(all, st.rest)
		}
	}
	return all
}
