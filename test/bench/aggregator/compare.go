package aggregator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"databus/test/measure"
	"databus/test/process"
	"databus/test/servers/fetch"
)

// side is everything measured of one contender in one variant.
type side struct {
	c         contender
	runs      []result
	restarts  restarts
	latencies []float64
}

func (s *side) median(of func(result) float64) float64 {
	var v []float64
	for _, r := range s.runs {
		v = append(v, of(r))
	}
	return measure.Median(v)
}

func (b *bench) compare(ctx context.Context) error {
	if err := fetch.Run(ctx, ".", nil, "go", "build", "-o", b.tool, "databus/test/bench/cmd/bench-aggregator"); err != nil {
		return err
	}
	var contenders []contender
	if b.o.Only != "streams" {
		o, err := newOurs(ctx, b)
		if err != nil {
			return err
		}
		o.extra = b.o.Set
		contenders = append(contenders, o)
	}
	if b.o.Only != "databus" {
		p, err := newPeer(ctx, b)
		if err != nil {
			return err
		}
		contenders = append(contenders, p)
	}
	var figures []measure.Figure
	for _, dedup := range []bool{false, true} {
		if b.o.Variant == "plain" && dedup || b.o.Variant == "dedup" && !dedup {
			continue
		}
		sides, ceilings, err := b.variant(ctx, contenders, dedup)
		if err != nil {
			return err
		}
		figures = append(figures, b.figures(sides, ceilings, dedup)...)
	}
	if !b.o.Quick {
		relayed, err := b.relays(ctx)
		if err != nil {
			return err
		}
		figures = append(figures, relayed...)
	}
	fmt.Fprintf(b.o.Out, "load average %s after\n", b.machine.Load())
	for _, f := range figures {
		f.Print(b.o.Out)
	}
	return nil
}

// variant measures every contender in turns.
func (b *bench) variant(ctx context.Context, contenders []contender, dedup bool) (sides []*side, ceilings []float64, err error) {
	if err := b.load(ctx); err != nil {
		return nil, nil, err
	}
	for _, c := range contenders {
		sides = append(sides, &side{c: c})
	}
	for pair := range b.o.Pairs {
		ceiling, err := b.ceiling(ctx)
		if err != nil {
			return nil, nil, err
		}
		ceilings = append(ceilings, ceiling)
		fmt.Fprintf(b.o.Out, "consume and decode: %.0f events per CPU second (load %s)\n", ceiling, b.machine.Load())
		for i := range sides {
			s := sides[(i+pair)%len(sides)] // who is first changes
			r, p, err := b.throughput(ctx, s.c, dedup)
			if err != nil {
				return nil, nil, ended(p, fmt.Errorf("%s, dedup %v: %w", s.c.name(), dedup, err))
			}
			s.runs = append(s.runs, r)
			fmt.Fprintf(b.o.Out, "%s, dedup %v, pair %d: %.1f CPU s, %.0f events per CPU second (%.0f over the last two thirds), %.1f s, %d MB, broker %.1f CPU s, %d outputs, exact (load %s)\n",
				s.c.name(), dedup, pair+1, r.cpu.Seconds(), r.perCPU, r.late, r.wall.Seconds(), r.peak>>20, r.broker.Seconds(), r.outputs, b.machine.Load())
			if pair < b.o.Pairs-1 || b.o.Quick {
				if err := p.Stop(); err != nil {
					return nil, nil, err
				}
				continue
			}
			if err := b.restarts(ctx, s, dedup, p); err != nil {
				return nil, nil, fmt.Errorf("%s, dedup %v: %w", s.c.name(), dedup, err)
			}
		}
	}
	if b.o.Quick {
		return sides, ceilings, nil
	}
	for _, s := range sides { // behind every other run: each event of it makes rows of its own
		if err := b.latencies(ctx, s, dedup); err != nil {
			return nil, nil, fmt.Errorf("%s, dedup %v: %w", s.c.name(), dedup, err)
		}
	}
	return sides, ceilings, nil
}

// ended makes sure that nothing runs on behind an error.
func ended(p *process.Program, err error) error {
	if p != nil && p.Running() {
		err = errors.Join(err, p.Kill())
	}
	return err
}

// restarts measures those of a side, beginning with the process of its last throughput run.
func (b *bench) restarts(ctx context.Context, s *side, dedup bool, p *process.Program) (err error) {
	if s.restarts, p, err = b.restart(ctx, s.c, dedup, p); err != nil {
		return ended(p, err)
	}
	ids := ""
	if s.restarts.recalled > 0 {
		ids = fmt.Sprintf(" (%.2f s of it for ids)", s.restarts.recalled.Seconds())
	}
	fmt.Fprintf(b.o.Out, "%s, dedup %v: first output behind a clean restart %.2f s, kill -9 %.2f s%s, deleted state %.2f s; exact after each\n",
		s.c.name(), dedup, s.restarts.clean.Seconds(), s.restarts.killed.Seconds(), ids, s.restarts.wiped.Seconds())
	return p.Stop()
}

func (b *bench) latencies(ctx context.Context, s *side, dedup bool) (err error) {
	if s.latencies, err = b.latency(ctx, s.c, dedup); err != nil {
		return err
	}
	if len(s.latencies) == 0 {
		return errors.New("no latency was measured")
	}
	fmt.Fprintf(b.o.Out, "%s, dedup %v: produce to count at %d events/s, commit %v: p50 %.1f ms, p99 %.1f ms; exact\n",
		s.c.name(), dedup, b.o.Rate, commitForLatency, measure.Quantile(s.latencies, 0.5), measure.Quantile(s.latencies, 0.99))
	return nil
}

// figures of one variant; without a peer only those that need none.
func (b *bench) figures(sides []*side, ceilings []float64, dedup bool) []measure.Figure {
	suffix, share := "", 0.5
	if dedup {
		suffix, share = "_dedup", 0.4
	}
	perCPU := func(r result) float64 { return r.perCPU }
	peak := func(r result) float64 { return float64(r.peak) }
	broker := func(r result) float64 { return r.broker.Seconds() }
	late := func(r result) float64 { return r.late }
	var all []measure.Figure
	add := func(f measure.Figure) { f.Name += suffix; all = append(all, f) }
	for _, s := range sides {
		add(measure.Figure{Name: s.c.name() + "_events_per_cpu_second", Value: s.median(perCPU), Unit: "events/s", None: true})
		add(measure.Figure{Name: s.c.name() + "_max_rss", Value: s.median(peak) / (1 << 20), Unit: "MB", None: true})
		if b.o.Quick {
			continue
		}
		add(measure.Figure{Name: s.c.name() + "_restart_clean_seconds", Value: s.restarts.clean.Seconds(), Unit: "s", None: true})
		add(measure.Figure{Name: s.c.name() + "_restart_deleted_state_seconds", Value: s.restarts.wiped.Seconds(), Unit: "s", None: true})
		add(measure.Figure{Name: s.c.name() + "_latency_p50", Value: measure.Quantile(s.latencies, 0.5), Unit: "ms", None: true})
		add(measure.Figure{Name: s.c.name() + "_latency_p99", Value: measure.Quantile(s.latencies, 0.99), Unit: "ms", None: true})
		if s.c.name() != "databus" {
			add(measure.Figure{Name: s.c.name() + "_restart_after_kill_seconds", Value: s.restarts.killed.Seconds(), Unit: "s", None: true})
		}
	}
	us := sides[0]
	if us.c.name() != "databus" {
		return all
	}
	if len(sides) == 2 {
		them := sides[1]
		add(measure.Figure{Name: "events_per_cpu_second_ratio", Value: us.median(perCPU) / them.median(perCPU), Unit: "x", Goal: 6})
		add(measure.Figure{Name: "warm_events_per_cpu_second_ratio", Value: us.median(late) / them.median(late), Unit: "x", None: true})
		add(measure.Figure{Name: "rss_ratio", Value: us.median(peak) / them.median(peak), Unit: "x", Goal: 0.33, AtMost: true})
		add(measure.Figure{Name: "broker_cpu_ratio", Value: us.median(broker) / them.median(broker), Unit: "x", None: true})
		if !b.o.Quick {
			add(measure.Figure{Name: "latency_p99_ratio", Value: measure.Quantile(us.latencies, 0.99) / measure.Quantile(them.latencies, 0.99), Unit: "x", Goal: 0.2, AtMost: true})
		}
	}
	if !b.o.Quick {
		add(measure.Figure{Name: "restart_after_kill_seconds", Value: (us.restarts.killed - us.restarts.recalled).Seconds(), Unit: "s", Goal: time.Second.Seconds(), AtMost: true})
		if dedup {
			add(measure.Figure{Name: "recall_after_kill_seconds", Value: us.restarts.recalled.Seconds(), Unit: "s", None: true})
		}
	}
	add(measure.Figure{Name: "ceiling_share", Value: us.median(perCPU) / measure.Median(ceilings), Unit: "of consume and decode", Goal: share})
	return all
}
