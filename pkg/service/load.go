package service

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
)

// Sources are where a configuration comes from, each over the one before: the defaults, File, Environ, Set.
type Sources struct {
	// File is the path of a YAML file; empty means none. Shared keys are at its top, the service's own in a section
	// with its name; sections of other services are passed over.
	File string
	// Environ holds NAME=value pairs. DATABUS_KAFKA__BROKERS is kafka.brokers ("__" separates levels) for every service;
	// DATABUS_INGEST_KAFKA__BROKERS is the same for ingest alone and wins; DATABUS_INGEST_X is ingest's own key x.
	// Names that are none of these are errors when they begin with the service's prefix or name a shared section.
	Environ []string
	// Set holds key=value pairs with dotted keys: kafka.brokers=a:9092,b:9092 or ingest.listen=:8080.
	Set []string
}

// A Loaded is a whole configuration that was read and checked.
type Loaded struct {
	Config Config
	own    any
	svc    Service
}

// Load reads the configuration of a service. The error is everything that is wrong, joined.
func Load(svc Service, src Sources) (*Loaded, error) {
	tree := rootTree(DefaultConfig(), svc.Name(), svc.Summary(), svc.fields())
	others := otherServices(svc.Name())
	k := koanf.New("\x00") // no delimiter: keys of maps, such as topics, hold dots
	var errs []error
	merge := func(m map[string]any) error { return k.Load(confmap.Provider(m, ""), nil) }
	if err := merge(tree.defaults()); err != nil {
		return nil, err
	}
	if src.File != "" {
		f := koanf.New("\x00")
		if err := f.Load(file.Provider(src.File), yaml.Parser()); err != nil {
			if errors.Is(err, os.ErrNotExist) {
				return nil, fmt.Errorf("reading configuration: %w; --print-config prints one to start from", err)
			}
			return nil, fmt.Errorf("reading configuration %s: %w", src.File, err)
		}
		m := f.Raw()
		if err := tree.unknown(m, others); err != nil {
			errs = append(errs, inSource(src.File, err))
		}
		for _, o := range others {
			delete(m, o)
		}
		dropEmptySections(m)
		if err := merge(m); err != nil {
			return nil, fmt.Errorf("merging configuration: %w", err)
		}
	}
	fromEnv, err := readEnviron(tree, svc.Name(), src.Environ)
	if err != nil {
		errs = append(errs, inSource("environment", err))
	}
	if err := merge(fromEnv); err != nil {
		return nil, fmt.Errorf("merging environment: %w", err)
	}
	for _, pair := range src.Set {
		m, err := readSet(tree, pair)
		if err != nil {
			errs = append(errs, inSource("--set", err))
			continue
		}
		if err := merge(m); err != nil {
			return nil, fmt.Errorf("merging --set: %w", err)
		}
	}

	l := &Loaded{svc: svc}
	shared := knownOnly(tree, k.Raw())
	own, _ := shared[svc.Name()].(map[string]any)
	delete(shared, svc.Name())
	// What cannot be decoded keeps its default, so that the rest is validated too.
	l.Config = DefaultConfig()
	errs = append(errs, decode("", shared, &l.Config), l.Config.Validate())
	if l.own, err = svc.validate(own); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return l, nil
}

// YAML prints the configuration as loaded, secrets redacted.
func (l *Loaded) YAML() ([]byte, error) {
	tree := rootTree(l.Config, l.svc.Name(), l.svc.Summary(), describe(l.own))
	return tree.yaml()
}

func known(t fieldTree, key string) bool {
	for _, n := range t.nodes {
		if n.name == key {
			return true
		}
	}
	return false
}

// knownOnly drops unknown keys, which are reported already, so that decoding does not report them again.
func knownOnly(t fieldTree, m map[string]any) map[string]any {
	out := map[string]any{}
	for _, n := range t.nodes {
		v, ok := m[n.name]
		if !ok {
			continue
		}
		if sub, isMap := v.(map[string]any); isMap && n.nodes != nil {
			v = knownOnly(n, sub)
		}
		out[n.name] = v
	}
	return out
}

// dropEmptySections removes keys with nothing behind them ("kafka:" alone), which would wipe the defaults.
func dropEmptySections(m map[string]any) {
	for k, v := range m {
		if v == nil {
			delete(m, k)
		}
		if sub, ok := v.(map[string]any); ok {
			dropEmptySections(sub)
		}
	}
}

func inSource(source string, err error) error {
	var errs []error
	for _, e := range unjoin(err) {
		errs = append(errs, fmt.Errorf("%s: %w", source, e))
	}
	return errors.Join(errs...)
}

// envName is a path as an environment variable: kafka.max_message_bytes is KAFKA__MAX_MESSAGE_BYTES.
func envName(path []string) string {
	s := strings.ToUpper(strings.Join(path, "__"))
	return strings.NewReplacer("-", "_", ".", "_").Replace(s)
}

// readEnviron picks a service's variables through koanf's provider.
func readEnviron(tree fieldTree, service string, environ []string) (map[string]any, error) {
	prefix := "DATABUS_" + envName([]string{service}) + "_"
	shared, special := map[string][]string{}, map[string][]string{}
	tree.leaves(func(path []string, leaf fieldTree) {
		if path[0] == service {
			special[prefix+envName(path[1:])] = path
			return
		}
		shared["DATABUS_"+envName(path)] = path
		special[prefix+envName(path)] = path
	})
	var errs []error
	pick := func(names map[string][]string, unknown func(name string) bool) map[string]any {
		out := map[string]any{}
		p := env.Provider("", env.Opt{Prefix: "DATABUS_", EnvironFunc: func() []string { return environ },
			TransformFunc: func(name, value string) (string, any) {
				if path, ok := names[name]; ok {
					nest(out, path, value)
				} else if unknown(name) {
					errs = append(errs, unknownVariable(name, shared, special))
				}
				return "", nil
			}})
		if _, err := p.Read(); err != nil {
			errs = append(errs, err)
		}
		return out
	}
	all := pick(shared, func(name string) bool {
		section, _, nested := strings.Cut(strings.TrimPrefix(name, "DATABUS_"), "__")
		return nested && known(tree, strings.ToLower(section))
	})
	mine := pick(special, func(name string) bool { return strings.HasPrefix(name, prefix) })
	merged, err := overlay(all, mine)
	return merged, errors.Join(append(errs, err)...)
}

func unknownVariable(name string, names ...map[string][]string) error {
	best, bestDistance := "", len(name)/2
	for _, m := range names {
		for candidate := range m {
			d := distance(name, candidate)
			if d < bestDistance || d == bestDistance && candidate < best {
				best, bestDistance = candidate, d
			}
		}
	}
	if best == "" {
		return fmt.Errorf("%s: unknown variable; --print-config lists all keys", name)
	}
	return fmt.Errorf("%s: unknown variable; did you mean %s?", name, best)
}

func readSet(tree fieldTree, pair string) (map[string]any, error) {
	key, value, ok := strings.Cut(pair, "=")
	if !ok {
		return nil, fmt.Errorf("%q: write --set key=value", pair)
	}
	path, ok := tree.find(key)
	if !ok {
		return nil, tree.unknownKey(key)
	}
	out := map[string]any{}
	nest(out, path, value)
	return out, nil
}

func nest(m map[string]any, path []string, value any) {
	for _, p := range path[:len(path)-1] {
		sub, ok := m[p].(map[string]any)
		if !ok {
			sub = map[string]any{}
			m[p] = sub
		}
		m = sub
	}
	m[path[len(path)-1]] = value
}

// decode fills a struct from nested maps. Errors name the key and never a secret's value.
func decode(section string, m map[string]any, into any) error {
	d, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result:           into,
		TagName:          "koanf",
		ErrorUnused:      true,
		WeaklyTypedInput: true,
		ZeroFields:       true, // lists and maps replace what into holds; the defaults are in m already
		MatchName:        func(key, field string) bool { return key == field || key == snake(field) },
		DecodeHook: mapstructure.ComposeDecodeHookFunc(
			strictly,
			mapstructure.StringToTimeDurationHookFunc(),
			splitList,
		),
	})
	if err != nil {
		return err
	}
	err = d.Decode(m)
	if err == nil {
		return nil
	}
	var errs []error
	for _, e := range unjoin(err) {
		var de *mapstructure.DecodeError
		if errors.As(e, &de) {
			path := strings.Join(snakes(strings.Split(de.Name(), ".")), ".")
			e = fmt.Errorf("%s: %w", path, de.Unwrap())
		}
		if section != "" {
			e = fmt.Errorf("%s.%w", section, e)
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}

func snakes(parts []string) []string {
	for i, p := range parts {
		parts[i] = snake(p)
	}
	return parts
}

// strictly refuses two conversions that weak typing would make silently: a bare number as nanoseconds and an empty
// text as zero.
func strictly(from, to reflect.Type, v any) (any, error) {
	if to == durationType && from != durationType && from.Kind() != reflect.String {
		return nil, fmt.Errorf("%v is no duration; write a unit, such as \"10s\"", v)
	}
	if s, ok := v.(string); ok && s == "" {
		switch to.Kind() {
		case reflect.String, reflect.Slice, reflect.Map, reflect.Struct, reflect.Interface:
		default:
			return nil, fmt.Errorf("empty; a %s is needed", to.Kind())
		}
	}
	return v, nil
}

// splitList turns "a, b" into a list.
func splitList(from, to reflect.Type, v any) (any, error) {
	s, ok := v.(string)
	if !ok || to.Kind() != reflect.Slice || to.Elem().Kind() == reflect.Uint8 {
		return v, nil
	}
	list := []string{}
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list, nil
}

func callValidate(cfg any) error {
	if v, ok := cfg.(interface{ Validate() error }); ok {
		return v.Validate()
	}
	return nil
}

// text is how a scalar is written in YAML.
func text(v any) string {
	switch v := v.(type) {
	case time.Duration:
		return v.String()
	case Secret:
		return v.String()
	case nil:
		return ""
	}
	return fmt.Sprint(v)
}
