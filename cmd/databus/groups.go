package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

type groupsCmd struct {
	Group  string `arg:"" optional:"" predictor:"group" help:"Show this consumer group only, with every partition."`
	Format string `enum:"text,json" default:"text" help:"text, or json with one object per group."`
}

func (groupsCmd) Help() string {
	return `Lists the consumer groups with their members, and of one group every member with its host, the partitions that it owns of
each input topic, and its lag in records: how far the log's end is ahead of the group's committed offset. Markers of
transactions count as records there, so that a group may seem to be behind by one or two when it is not.

A group is one sub-topology of its service: its inputs are consumed together, so that one member owns a partition of all
of them. Partitions with records that nobody owns are listed without a member.

Examples:

    databus groups

    databus groups usage-aggregator

    databus groups usage-aggregator --format json
`
}

// A groupView is what is known of a group; its JSON is the command's output.
type groupView struct {
	Group       string       `json:"group"`
	Service     string       `json:"service"` // "" for a group of nobody's topology
	Subtopology string       `json:"subtopology"`
	State       string       `json:"state"`
	Protocol    string       `json:"protocol"`
	Inputs      []string     `json:"inputs"`
	Lag         int64        `json:"lag_records"`
	Members     []memberView `json:"members"`
	Unowned     []topicView  `json:"unowned"`
}

type memberView struct {
	Member   string      `json:"member"`
	Instance string      `json:"instance"` // "" for a dynamic member
	Client   string      `json:"client"`
	Host     string      `json:"host"`
	Lag      int64       `json:"lag_records"`
	Topics   []topicView `json:"topics"`
}

type topicView struct {
	Topic      string          `json:"topic"`
	Partitions []partitionView `json:"partitions"`
}

type partitionView struct {
	Partition int32 `json:"partition"`
	Committed int64 `json:"committed"` // -1 before the first commit
	End       int64 `json:"end"`
	Lag       int64 `json:"lag_records"` // -1 where it cannot be known
}

// Run prints the groups.
func (c groupsCmd) Run(ctx context.Context, g *Globals) error {
	cl, err := g.kafka(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	listed, err := adm.ListGroups(ctx)
	if err != nil {
		return fmt.Errorf("listing the groups: %w", err)
	}
	names := listed.Groups()
	if c.Group != "" {
		if !slices.Contains(names, c.Group) {
			slices.Sort(names)
			return fmt.Errorf("the brokers know no group %s: there are %s", c.Group, cmp.Or(strings.Join(names, ", "), "none"))
		}
		names = []string{c.Group}
	}
	if len(names) == 0 {
		fmt.Fprintln(g.Err, "databus: the brokers know no group: no service has run yet")
		return nil
	}
	lags, err := adm.Lag(ctx, names...)
	if err != nil {
		return fmt.Errorf("asking for the groups: %w", err)
	}
	var views []groupView
	var failed []error
	for _, l := range lags.Sorted() {
		if err := l.Error(); err != nil && !errors.Is(err, kerr.GroupIDNotFound) { // it may have ended just now
			failed = append(failed, fmt.Errorf("asking for group %s: %w", l.Group, err))
			continue
		}
		views = append(views, viewGroup(l))
	}
	switch {
	case c.Format == "json":
		for _, v := range views {
			printJSON(g.Out, v)
		}
	case c.Group != "":
		for _, v := range views {
			v.text(g)
		}
	default:
		w := tabwriter.NewWriter(g.Out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "GROUP\tSERVICE\tSTATE\tMEMBERS\tLAG\tINPUTS")
		for _, v := range views {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\n", v.Group, cmp.Or(v.Service, "-"), v.State, len(v.Members), v.Lag, cmp.Or(strings.Join(v.Inputs, ", "), "-"))
		}
		failed = append(failed, w.Flush())
	}
	return errors.Join(failed...)
}

// viewGroup puts a group's description and lag together.
func viewGroup(l kadm.DescribedGroupLag) groupView {
	v := groupView{Group: l.Group, State: l.State, Protocol: l.Protocol, Members: []memberView{}, Inputs: []string{}}
	v.Service, v.Subtopology = owner(l.Group)
	owned := map[string]map[string][]partitionView{} // by member and topic; "" is nobody
	inputs := map[string]bool{}
	for _, p := range l.Lag.Sorted() {
		member := ""
		if p.Member != nil {
			member = p.Member.MemberID
		}
		view := partitionView{Partition: p.Partition, Committed: p.Commit.At, End: p.End.Offset, Lag: p.Lag}
		if p.Err != nil {
			view.Lag = -1
		}
		if member == "" && view.Committed < 0 && view.Lag <= 0 {
			continue // nobody's and empty
		}
		if owned[member] == nil {
			owned[member] = map[string][]partitionView{}
		}
		owned[member][p.Topic] = append(owned[member][p.Topic], view)
		inputs[p.Topic] = true
		v.Lag += max(view.Lag, 0)
	}
	v.Inputs = append(v.Inputs, slices.Sorted(maps.Keys(inputs))...)
	for _, m := range l.Members {
		mv := memberView{Member: m.MemberID, Client: m.ClientID, Host: strings.TrimPrefix(m.ClientHost, "/")}
		if m.InstanceID != nil {
			mv.Instance = *m.InstanceID
		}
		mv.Topics, mv.Lag = topicViews(owned[m.MemberID])
		v.Members = append(v.Members, mv)
	}
	v.Unowned, _ = topicViews(owned[""])
	return v
}

func topicViews(byTopic map[string][]partitionView) ([]topicView, int64) {
	views, lag := []topicView{}, int64(0)
	for _, topic := range slices.Sorted(maps.Keys(byTopic)) {
		views = append(views, topicView{topic, byTopic[topic]})
		for _, p := range byTopic[topic] {
			lag += max(p.Lag, 0)
		}
	}
	return views, lag
}

// owner is the service that declares a group, and what the group is called within it. Groups that are made for each
// database version begin with their service's name.
func owner(group string) (service, subtopology string) {
	for _, t := range services() {
		for _, e := range t.Edges {
			if e.Group == group {
				return t.Service, cmp.Or(strings.TrimPrefix(strings.TrimPrefix(group, t.Service), "."), "main")
			}
		}
	}
	for _, t := range services() {
		if rest, ok := strings.CutPrefix(group, t.Service+"."); ok {
			return t.Service, rest
		}
	}
	return "", ""
}

// text prints one group for people.
func (v groupView) text(g *Globals) {
	what := "of no service's topology"
	if v.Service != "" {
		what = "sub-topology " + v.Subtopology + " of " + v.Service
	}
	fmt.Fprintf(g.Out, "group %s, %s: %s, %d members, %s, lag %d records\n", v.Group, what, v.State, len(v.Members), cmp.Or(v.Protocol, "no protocol"), v.Lag)
	w := tabwriter.NewWriter(g.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MEMBER\tHOST\tTOPIC\tPARTITIONS\tLAG\tCOMMITTED/END")
	for _, m := range v.Members {
		printTopics(w, cmp.Or(m.Instance, m.Member), m.Host, m.Topics)
	}
	if len(v.Unowned) > 0 {
		printTopics(w, "nobody", "-", v.Unowned)
	}
	_ = w.Flush() // standard output: a reader that went away is noticed by the operating system
}

func printTopics(w *tabwriter.Writer, member, host string, topics []topicView) {
	if len(topics) == 0 {
		fmt.Fprintf(w, "%s\t%s\t-\t-\t0\t-\n", member, host)
	}
	for _, t := range topics {
		var numbers []int32
		var ends []string
		lag := int64(0)
		for _, p := range t.Partitions {
			numbers = append(numbers, p.Partition)
			lag += max(p.Lag, 0)
			ends = append(ends, fmt.Sprintf("%d:%s/%d", p.Partition, committedText(p.Committed), p.End))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", member, host, t.Topic, runs(numbers), lag, strings.Join(ends, " "))
	}
}

func committedText(at int64) string {
	if at < 0 {
		return "-"
	}
	return strconv.FormatInt(at, 10)
}

// runs prints sorted numbers as 0-3,5.
func runs(numbers []int32) string {
	var parts []string
	for i := 0; i < len(numbers); {
		j := i
		for j+1 < len(numbers) && numbers[j+1] == numbers[j]+1 {
			j++
		}
		if i == j {
			parts = append(parts, fmt.Sprint(numbers[i]))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", numbers[i], numbers[j]))
		}
		i = j + 1
	}
	return strings.Join(parts, ",")
}

// knownGroups are the groups that topologies declare, for completion.
func knownGroups() []string {
	names := map[string]bool{}
	for _, t := range services() {
		for _, e := range t.Edges {
			if e.Group != "" && !strings.Contains(e.Group, "<") { // one for each database version
				names[e.Group] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}
